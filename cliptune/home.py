"""Where cliptune keeps runs, data sets and caches: `CLIPTUNE_HOME`, by default `~/.cliptune`."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """The folder that holds all that cliptune stores; read from the environment at every call."""
    return Path(os.environ.get("CLIPTUNE_HOME") or Path.home() / ".cliptune").expanduser()


def runs_dir() -> Path:
    """One folder a run below it, by experiment: `runs/<experiment>/<run>`."""
    return home() / "runs"


def data_dir() -> Path:
    """Data sets that were pushed by name."""
    return home() / "data"


def cache_dir() -> Path:
    """What can be made again: decoded pictures, the drawn catalogue, unzipped artifacts."""
    return home() / "cache"
