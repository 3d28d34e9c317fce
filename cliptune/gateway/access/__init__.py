"""Who may ask, how much and how fast; keys and certificates that are renewed meanwhile."""
