"""Several texts a picture and several pictures a text: columns with weights, templates, groups."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from docarray import DocList

from cliptune.data.equivalence import KeyedDocs, same_labels, word_keys
from cliptune.data.source import read_documents
from cliptune.data.tables.options import CsvOptions
from cliptune.data.tables.reader import read_csv
from cliptune.data.validation import PAIR
from cliptune.documents import ClipDoc
from cliptune.errors import BadData, BadInput

ROWS = [
    {"title": "Red shoe", "description": "Leather, size 40", "brand": "Ada", "colour": "red",
     "image": "a.png", "sku": "1"},
    {"title": "Red shoe", "description": "", "brand": "", "colour": "red", "image": "b.png",
     "sku": "1"},
    {"title": "", "description": "Cotton", "brand": "Bo", "colour": "", "image": "c.png",
     "sku": "2"},
]  # fmt: skip


def table(folder: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    (folder / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "t.jsonl"


def read(path: Path, **options: Any) -> DocList[ClipDoc]:
    return read_documents(path, csv_options=options, needs=PAIR).docs


def test_columns_with_weights(tmp_path: Path) -> None:
    docs = read(table(tmp_path), text_column=["title:2", "Description:0.3"])
    assert [doc.text for doc in docs] == ["Red shoe", "Red shoe", "Cotton"]
    assert [doc.texts for doc in docs] == [{"Red shoe": 2, "Leather, size 40": 0.3}, None, None]
    assert "description" not in docs[0].tags
    said = str(read_documents(table(tmp_path), csv_options={"text_column": ["title", "brand:0.5"]},
                              needs=PAIR).summary)  # fmt: skip
    assert "titles: title, brand (weight 0.5)" in said
    with pytest.raises(BadData, match=r"no column 'descriptor' \(text_column\): .*description"):
        read(table(tmp_path), text_column=["title", "descriptor:0.5"])
    # A column may be called so.
    rows = [{"price:2": "cheap", "image": "a.png"}, {"price:2": "dear", "image": "b.png"}]
    assert [doc.text for doc in read(table(tmp_path, rows), text_column="price:2")] == [
        "cheap", "dear",
    ]  # fmt: skip


def test_templates(tmp_path: Path) -> None:
    docs = read(table(tmp_path), text_template="{brand} {Title}, {colour}")
    assert [doc.text for doc in docs] == ["Ada Red shoe, red", "Red shoe, red", "Bo"]
    assert docs[0].tags["title"] == "Red shoe"
    docs = read(table(tmp_path), text_template="{brand}: {title}", text_column="description:0.5")
    assert docs[0].texts == {"Ada: Red shoe": 1, "Leather, size 40": 0.5}
    with pytest.raises(BadData, match=r"text_template '\{maker\}' names a column that .*'maker'"):
        read(table(tmp_path), text_template="{maker}")
    with pytest.raises(BadInput, match="names no column"):
        read(table(tmp_path), text_template="a photo")
    with pytest.raises(BadData, match="0.__class__"):
        read(table(tmp_path), text_template="{title} {0.__class__}")


def test_a_column_of_several_captions(tmp_path: Path) -> None:
    rows = [{"captions": ["one", " two ", None, "one"], "image": "a.png"},
            {"captions": ["three"], "image": "b.png"},
            {"captions": [], "image": "c.png"}]  # fmt: skip
    found = read_documents(table(tmp_path, rows), csv_options={"text_column": "captions:3"},
                           needs=PAIR)  # fmt: skip
    assert [doc.text for doc in found.docs] == ["one", "three"]
    assert found.docs[0].texts == pytest.approx({"one": 2, "two": 1})
    assert [one.reason for one in found.summary.left_out] == ["no title"]


def test_groups_are_right_answers_and_stay_tags(tmp_path: Path) -> None:
    docs = read(table(tmp_path), group_column="SKU", text_column="colour")
    assert [doc.label for doc in docs] == ["1", "1"]
    assert [doc.tags["sku"] for doc in docs] == [1, 1]  # as numbers, where they are such
    assert same_labels(KeyedDocs.of(docs, word_keys, [None] * 2)) == [["1", "1"]]
    assert "sku" not in read(table(tmp_path), label_column="sku", text_column="colour")[0].tags


def test_a_runs_texts_are_taken_where_a_table_has_such_columns(tmp_path: Path) -> None:
    for given in ({"text_column": ("brand", "description:0.3"), "group_column": "sku"},
                  {"text_template": "{brand} {title}"}):  # fmt: skip
        kept = json.loads(json.dumps(CsvOptions(**given).to_keep()))
        later = read_csv(table(tmp_path), CsvOptions().after(kept))
        now = read_csv(table(tmp_path), CsvOptions(**given))
        assert [(doc.text, doc.texts, doc.label) for doc in later] == [
            (doc.text, doc.texts, doc.label) for doc in now
        ]
    over = CsvOptions(label_column="colour").after({"group_column": "sku"})
    assert [doc.label for doc in read_csv(table(tmp_path), over)] == ["red", "red", None]
    assert "group_column" not in over.to_keep()
