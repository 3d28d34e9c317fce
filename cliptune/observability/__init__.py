"""Logs, metrics and traces of a Flow."""
