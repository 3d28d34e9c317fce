"""What an index can say of its tags: which there are, and how often each value occurs."""
