"""What names a data set: ids of its documents, and data sets that are too small."""

from __future__ import annotations

from pathlib import Path

import pytest
from docarray import BaseDoc, DocList
from PIL import Image

from cliptune.data.source import load_documents
from cliptune.documents import ClipDoc
from cliptune.errors import BadData, BadInput


def test_an_id_given_twice_is_named_with_its_positions() -> None:
    docs = DocList[ClipDoc]([ClipDoc(id=i, text="t") for i in ("a", "b", "a", "c", "b", "a")])
    with pytest.raises(
        BadData,
        match=r"eval data: 2 id\(s\).*'a' \(documents 0, 2, 5\), 'b' \(documents 1, 4\)$",
    ):
        load_documents(docs, role="eval data")
    many = [ClipDoc(id=str(i % 5), text="t") for i in range(50)]
    with pytest.raises(BadData, match=r"5 id\(s\).*'0' \(documents 0, 5, 10, 15, 20, …\).*, …$"):
        load_documents(many)
    one = ClipDoc(text="t")
    with pytest.raises(BadData, match=r"\(documents 0, 1\)"):
        load_documents([one, one])


def test_ids_that_nobody_gave_are_distinct() -> None:
    class Product(BaseDoc):
        text: str

    assert len(load_documents([ClipDoc(text="t") for _ in range(200)])) == 200
    docs = load_documents([Product(text="t") for _ in range(200)])
    assert len({doc.id for doc in docs}) == 200
    assert len(load_documents([ClipDoc(id=None, text="t") for _ in range(3)])) == 3


@pytest.mark.parametrize("data", [[], DocList[ClipDoc](), ()])
def test_no_documents(data: object) -> None:
    with pytest.raises(BadData, match="index has no documents"):
        load_documents(data, role="index")


def test_what_is_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="data is a int"):
        load_documents(3)
    with pytest.raises(BadData, match="no pictures in the folder"):
        load_documents(tmp_path)
    (tmp_path / "empty.csv").write_text("\n")
    with pytest.raises(BadData, match="empty"):
        load_documents(tmp_path / "empty.csv")


def test_a_folder_with_files_of_one_name(tmp_path: Path) -> None:
    for name in ("red_dress/1.png", "hat/1.png"):
        (tmp_path / name).parent.mkdir()
        Image.new("RGB", (2, 2)).save(tmp_path / name)
    docs = load_documents(tmp_path)
    assert [(doc.id, doc.text) for doc in docs] == [
        ("hat/1.png", "hat"),
        ("red_dress/1.png", "red dress"),
    ]
