"""What the first command shows."""
