"""From one model to another, under a running service."""
