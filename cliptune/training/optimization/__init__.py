"""What of the towers is trained, and by which steps."""
