"""The command line: `cliptune --help`."""

from cliptune.cli.app import main

__all__ = ["main"]
