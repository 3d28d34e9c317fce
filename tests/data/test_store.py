"""Data sets by name: what was pushed comes back, safely."""

from __future__ import annotations

import gzip
import pickle
from pathlib import Path

import numpy as np
import pytest
from docarray import DocList

from cliptune.data.store import delete_pushed, list_pushed, parse_documents, pull, push
from cliptune.documents import ClipDoc
from cliptune.errors import AlreadyExists, BadData, BadInput, NotFound


def documents() -> DocList[ClipDoc]:
    return DocList[ClipDoc](
        ClipDoc(
            id=f"d{i}",
            text=f"text {i} ü",
            image=bytes([i, 255]) * 50,
            tags={"price": i + 0.5, "nested": {"a": [1, "b"]}},
            embedding=np.arange(4, dtype=np.float32),
        )
        for i in range(30)
    )


def test_a_round_trip(cliptune_home: Path) -> None:
    assert push(documents(), "shoes-v1") == "shoes-v1"
    assert list_pushed() == ["shoes-v1"]
    for found, doc in zip(pull("shoes-v1"), documents(), strict=True):
        assert (found.id, found.text, found.image) == (doc.id, doc.text, doc.image)
        assert found.tags == doc.tags
        np.testing.assert_array_equal(found.embedding, doc.embedding)
    by_docarray = DocList[ClipDoc].load_binary(
        cliptune_home / "data" / "shoes-v1.docs", protocol="protobuf", compress="gzip"
    )
    assert [doc.text for doc in by_docarray] == [doc.text for doc in documents()]
    with pytest.raises(AlreadyExists, match="shoes-v1"):
        push(documents(), "shoes-v1")
    push(documents()[:2], "shoes-v1", replace=True)
    assert len(pull("shoes-v1")) == 2
    with pytest.raises(NotFound, match="'shoes-v2'.*'shoes-v1'"):
        pull("shoes-v2")
    delete_pushed("shoes-v1")
    assert list_pushed() == []


@pytest.mark.parametrize("name", ["../evil", "a/b", "", ".hidden", "a b", "x" * 200, "a..b"])
def test_names_that_could_leave_the_folder(name: str) -> None:
    with pytest.raises(BadInput, match="data set name"):
        push(documents(), name)


class Evil:
    def __reduce__(self) -> tuple:
        return (print, ("code ran",))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"nonsense",
        pickle.dumps(Evil()),
        gzip.compress(pickle.dumps(Evil())),
        b"\x02" + (1).to_bytes(8, "big") + (2**31).to_bytes(4, "big") + b"abc",
        b"\x02" + (1).to_bytes(8, "big") + (3).to_bytes(4, "big") + b"abc",
        b"\x02" + (2**60).to_bytes(8, "big"),
    ],
)
def test_damaged_and_foreign_files(data: bytes, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(BadData, match="not a data set"):
        parse_documents(data, "some file")
    assert "code ran" not in capsys.readouterr().out


def test_a_truncated_file(cliptune_home: Path) -> None:
    push(documents(), "a")
    path = cliptune_home / "data" / "a.docs"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(BadData, match="a.docs"):
        pull("a")
