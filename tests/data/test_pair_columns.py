"""Weights, grades and wrong answers of pairs, from the columns that are named for them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from docarray import DocList
from PIL import Image
from pydantic import ValidationError

from cliptune.data.equivalence import KeyedDocs, same_labels, word_keys
from cliptune.data.source import load_documents, read_documents, stream_documents
from cliptune.data.split import split_table
from cliptune.data.validation import PAIR, QUERY
from cliptune.documents import ClipDoc
from cliptune.errors import BadData

COLOURS = ("red", "green", "blue", "yellow")


def table(folder: Path, columns: dict[str, list[Any]], name: str = "t.csv") -> Path:
    """Four products with further `columns`."""
    for number, colour in enumerate(COLOURS):
        Image.new("RGB", (32, 32), colour).save(folder / f"{number}.png")
    rows = [
        {"id": f"p{n}", "title": f"a {colour} thing", "image": f"{n}.png"}
        | {column: cells[n] for column, cells in columns.items()}
        for n, colour in enumerate(COLOURS)
    ]
    path = folder / name
    if path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    return path


def read(path: Path, needs: frozenset[str] = PAIR, **options: Any) -> DocList[ClipDoc]:
    return read_documents(path, csv_options=options, needs=needs).docs


def test_weights_and_grades_are_read_where_they_are_named(tmp_path: Path) -> None:
    path = table(tmp_path, {"weight": [250, "", 12.5, 1], "how good": [3, 2, "", "0"]})
    docs = read(path)
    assert {doc.weight for doc in docs} == {doc.grade for doc in docs} == {None}  # grams, perhaps
    docs = read(path, weight_column="Weight", grade_column="how_good")
    assert [doc.weight for doc in docs] == [250, None, 12.5, 1]
    assert [doc.grade for doc in docs] == [3, 2, None, 0]
    assert docs[0].tags["weight"] == 250  # and still to filter by
    said = str(read_documents(path, csv_options={"weight_column": "weight"}, needs=PAIR).summary)
    assert "weights: weight" in said
    with pytest.raises(BadData, match=r"no column 'wait' \(grade_column\)"):
        read(path, grade_column="wait")
    # What a run keeps is taken where another table has it; an index has no use for it.
    kept = {"csv_options": {"weight_column": "clicks"}}
    assert [doc.weight for doc in stream_documents(path, **kept)] == [None] * 4


@pytest.mark.parametrize(
    ("option", "cell", "words"),
    [
        ("weight", "-1", "the weight -1 is no finite number above 0"),
        ("weight", "0", "the weight 0 is no"),
        ("weight", "inf", "the weight inf is no"),
        ("weight", "nan", "the weight nan is no"),
        ("weight", "many", "the weight 'many' is no"),
        ("grade", "4", "the grade 4 is no whole number from 0 to 3"),
        ("grade", "1.5", "the grade 1.5 is no"),
        ("grade", "good", "the grade 'good' is no"),
    ],
)
def test_a_row_with_an_impossible_weight_or_grade_is_named_and_left_out(
    tmp_path: Path, option: str, cell: str, words: str
) -> None:
    path = table(tmp_path, {"said": ["1", "2", cell, "3"]})
    for needs in (PAIR, QUERY):
        given = read_documents(path, csv_options={f"{option}_column": "said"}, needs=needs)
        assert [doc.id for doc in given.docs] == ["p0", "p1", "p3"]
        [problem] = given.summary.left_out
        assert problem.place == "line 4"
        assert f"column 'said': {words}" in problem.reason
    # An index is not weighed.
    options = {f"{option}_column": "said"}
    assert len(stream_documents(path, csv_options=options)) == 4


def test_most_rows_of_weight_zero_are_no_table(tmp_path: Path) -> None:
    path = table(tmp_path, {"clicks": [0, 0, 0, 7]})
    with pytest.raises(BadData, match="3 of 4 documents are incomplete.*weight 0"):
        read(path, weight_column="clicks")


def test_a_document_is_as_strict() -> None:
    for wrong in ({"weight": 0}, {"weight": float("inf")}, {"grade": 4}, {"grade": -1}):
        with pytest.raises(ValidationError):
            ClipDoc(text="a", **wrong)
    doc = ClipDoc(text="a", weight=2.5, grade=1, negatives=["x", "y"])
    assert ClipDoc.from_protobuf(doc.to_protobuf()) == doc


def test_wrong_answers_by_their_ids(tmp_path: Path) -> None:
    lists = [["p1", "p2"], [], None, ["p0"]]
    docs = read(table(tmp_path, {"not": lists}, "t.jsonl"), negative_column="not")
    assert [doc.negatives for doc in docs] == [["p1", "p2"], None, None, ["p0"]]
    assert "not" not in docs[0].tags
    cells = ['["p1", "p2"]', "", "", "p0"]
    docs = read(table(tmp_path, {"not": cells}), negative_column="not")
    assert [doc.negatives for doc in docs] == [["p1", "p2"], None, None, ["p0"]]


def test_wrong_pictures_are_documents_of_grade_0(tmp_path: Path) -> None:
    cells = ["1.png", '["2.png", "3.png"]', "", "0.png"]
    path = table(tmp_path, {"not": cells, "label": ["a", "b", "c", "d"]})
    docs = read(path, negative_column="not")
    wrong = [doc for doc in docs if doc.grade == 0]
    assert [(doc.id, doc.text, Path(doc.uri or "").name) for doc in wrong] == [
        ("p0-wrong-1", "a red thing", "1.png"),
        ("p1-wrong-1", "a green thing", "2.png"),
        ("p1-wrong-2", "a green thing", "3.png"),
        ("p3-wrong-1", "a yellow thing", "0.png"),
    ]
    assert {doc.label for doc in wrong} == {None}
    # The table that is pushed has them too; the one that is indexed or asked has not.
    assert len(load_documents(path, csv_options={"negative_column": "not"})) == 8
    assert len(stream_documents(path, csv_options={"negative_column": "not"})) == 4
    assert len(read(path, QUERY, negative_column="not")) == 4
    with pytest.raises(BadData, match="holds pictures, and those of the rows are no column"):
        read(path, negative_column="not", image_template="{id}.png")


def test_a_wrong_answer_joins_nothing() -> None:
    docs = DocList[ClipDoc](
        [
            ClipDoc(text="red", image=b"1"),
            ClipDoc(text="green", image=b"2"),
            ClipDoc(text="red", image=b"2", grade=0, label="red"),
            ClipDoc(text="red", image=b"3", grade=0),
        ]
    )
    [labels] = same_labels(KeyedDocs.of(docs, word_keys, ["1", "2", "2", "3"]))
    assert labels == ["red", "green", "green", "picture 3"]


def test_a_split_keeps_titles_together_and_not_their_wrong_pictures(tmp_path: Path) -> None:
    """Each product has its neighbour's picture as a wrong answer: joined, all would be one."""
    for n in range(40):
        Image.new("RGB", (8, 8), (n, 0, 0)).save(tmp_path / f"{n}.png")
    rows = ["title,image,grade"]
    for n in range(40):
        rows += [f"thing number {n},{n}.png,3", f"thing number {n},{(n + 1) % 40}.png,0"]
    (tmp_path / "t.csv").write_text("\n".join(rows))
    done = split_table(
        tmp_path / "t.csv", {"grade_column": "grade"}, text_keys=word_keys_of_tokens, held_out=0.4
    )
    assert done.train.groups + done.held_out.groups == 40
    assert done.train.rows == 2 * done.train.groups


def word_keys_of_tokens(texts: list[str]) -> list[bytes]:
    """As `token_keys`: four bytes a token."""
    return [text.encode("utf-32-le") for text in texts]
