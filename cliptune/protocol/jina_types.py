"""The types of what is used of Jina: `jina_types.pyi`, for type checkers alone."""
