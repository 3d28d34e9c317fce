"""An index of each store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from index_helpers import STORES

from cliptune.index import Index


@pytest.fixture(params=sorted(STORES))
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Index]]:
    """Opens the test's one index, as often as it is called."""
    opened: list[Index] = []

    def open_it(**options: object) -> Index:
        opened.append(STORES[request.param](tmp_path, **options))
        return opened[-1]

    yield open_it
    for index in opened:
        index.close()


@pytest.fixture
def index(open_store: Callable[..., Index]) -> Index:
    return open_store()
