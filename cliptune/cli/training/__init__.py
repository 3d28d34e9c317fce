"""Commands from a table to a trained run."""
