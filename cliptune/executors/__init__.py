"""The four executors and the work that they do."""
