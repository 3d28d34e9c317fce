"""Where the Flows' files are: in a checkout, or in the installed wheel."""

from __future__ import annotations

from pathlib import Path

import cliptune
from cliptune.errors import NotFound


def flows_dir() -> Path:
    """The folder of `search.yml` and `train.yml`; `executors` is beside it.

    Raises:
        NotFound: the installation is incomplete.
    """
    package = Path(cliptune.__file__).resolve().parent
    # A checkout first: what lies there is what its owner edits.
    for root in (package.parent, package / "_services"):
        if (root / "flows" / "search.yml").is_file() and (root / "executors").is_dir():
            return root / "flows"
    raise NotFound(f"no flows beside or in {package}: install cliptune again")


def flow_file(name: str) -> Path:
    """The YAML of the Flow `name`: `search` or `train`."""
    return flows_dir() / f"{name}.yml"
