"""An index of each store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cliptune.index import Index, open_index


# A new store joins the suite here.
@pytest.fixture(params=["lance", pytest.param("milvus", marks=pytest.mark.e2e)])
def store(request: pytest.FixtureRequest) -> str:
    """The name of the store under test."""
    return str(request.param)


@pytest.fixture
def open_store(
    store: str, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Callable[..., Index]]:
    """Opens the test's one index, as often as it is called."""
    if store == "lance":
        uri: str | Path = tmp_path / "index"
        defaults = {"fsync": False}
    else:
        uri = request.getfixturevalue("milvus").new_uri()
        defaults = {"pictures": tmp_path / "pictures"}
    opened: list[Index] = []

    def open_it(**options: object) -> Index:
        opened.append(open_index(uri, **{**defaults, **options}))
        return opened[-1]

    yield open_it
    for index in opened:
        index.close()
    if store == "milvus":  # a collection costs the server memory
        with open_index(uri) as index:
            index.clear()


@pytest.fixture
def index(open_store: Callable[..., Index]) -> Index:
    return open_store()
