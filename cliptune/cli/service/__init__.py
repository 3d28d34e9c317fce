"""Commands of the services: starting and asking them, their indexes and their keys."""
