"""What people searched for, were shown and chose: a log of it, and pairs to train on made of it."""
