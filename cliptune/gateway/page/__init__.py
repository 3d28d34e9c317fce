"""The search page: files without a build step, and how they are given out."""
