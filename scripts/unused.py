"""Code that nobody uses, by vulture: functions, classes, imports, constants.

    python scripts/unused.py

What is found is printed, and ends it with status 1; pyproject.toml says where it looks, and which
names frameworks and users call. Attributes, and the fields of classes, are left out: whoever reads
them (a JSON parser's caller, a library) often isn't Python code, and is never seen.
"""

from __future__ import annotations

import sys

from vulture.config import make_config
from vulture.core import Item, Vulture


def is_told(item: Item) -> bool:
    """Whether `item` is of a kind of which it can be known that nobody uses it."""
    kind, name = str(item.typ), str(item.name)
    return kind != "attribute" and (kind != "variable" or name.isupper())


def main() -> None:
    """Print what is unused."""
    config = make_config(["--config", "pyproject.toml"])
    names, decorators = config["ignore_names"], config["ignore_decorators"]
    vulture = Vulture(ignore_names=names, ignore_decorators=decorators)
    vulture.scavenge(config["paths"], exclude=config["exclude"])
    unused = [item for item in vulture.get_unused_code(config["min_confidence"]) if is_told(item)]
    for item in unused:
        print(item.get_report())
    sys.exit(bool(unused))


if __name__ == "__main__":
    main()
