"""The slowest files begin first, so that no process of the tests is left alone with one at the end.

How long each took is noted by every run that ran it whole, in pytest's cache; a fresh checkout goes
by `seconds.json`, which `make test-seconds` writes anew. A file that neither knows begins first.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
COMMITTED = TESTS / "seconds.json"
CACHED = "cliptune/seconds"


class Seconds:
    """What each file takes, by its path below the tests' folder."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.cache: pytest.Cache | None = getattr(config, "cache", None)
        cached = self.cache.get(CACHED, {}) if self.cache else {}
        self.known: dict[str, float] = {**json.loads(COMMITTED.read_text("utf-8")), **cached}
        self.taken: Counter[str] = Counter()

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Put the slowest files first; within a file all stays as it is."""
        items.sort(key=lambda item: -self.known.get(name_of(str(item.path)), float("inf")))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count what one test took, its fixtures included."""
        self.taken[name_of(report.nodeid.split("::")[0])] += report.duration

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        """Note what the files took, if they were run whole."""
        option = self.config.option
        in_part = option.keyword or option.markexpr or any("::" in a for a in self.config.args)
        if in_part or exitstatus != pytest.ExitCode.OK or hasattr(self.config, "workerinput"):
            return
        if self.cache is not None:
            self.cache.set(CACHED, {**self.known, **self.taken})
        if option.write_seconds:
            rounded = {name: round(seconds) for name, seconds in self.taken.most_common()}
            COMMITTED.write_text(json.dumps(rounded, indent=1) + "\n", "utf-8")


def name_of(path: str) -> str:
    """A file's path below the tests' folder."""
    whole = TESTS.parent / path
    return whole.relative_to(TESTS).as_posix() if whole.is_relative_to(TESTS) else path


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-seconds", action="store_true", help="write tests/seconds.json after a whole run"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Seconds(config))
