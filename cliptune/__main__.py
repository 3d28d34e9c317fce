"""`python -m cliptune` is the `cliptune` command."""

from cliptune.cli import main

main()
