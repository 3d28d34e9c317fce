"""Tables: Finetuner's rules, named columns, and each way in which a table can be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from cliptune.data.tables.options import CsvOptions
from cliptune.data.tables.reader import read_csv
from cliptune.errors import BadData, BadInput


def table(folder: Path, text: str, name: str = "t.csv", encoding: str = "utf-8") -> Path:
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("image_first", [True, False])
@pytest.mark.parametrize("header", [True, False])
def test_two_columns_in_either_order(
    tmp_path: Path, delimiter: str, image_first: bool, header: bool
) -> None:
    rows = [("a.jpg", "red shirt"), ("sub/b.PNG", "blue jeans"), ("c.webp", "red shirt")]
    ordered = [row if image_first else row[::-1] for row in rows]
    lines = [delimiter.join(row) for row in ([("one", "two")] if header else []) + ordered]
    docs = read_csv(table(tmp_path, "\n".join(lines)))
    assert [doc.text for doc in docs] == ["red shirt", "blue jeans", "red shirt"]
    assert [doc.uri for doc in docs] == [str(tmp_path / image) for image, _ in rows]
    assert {doc.label for doc in docs} == {None}, "no label is made up"


def test_a_label_column_alone_says_what_belongs_together(tmp_path: Path) -> None:
    path = table(tmp_path, "file,title,sku\na.jpg,red,1\na.jpg,red,2\nb.jpg,blue,1\n")
    columns = {"text_column": "title", "image_column": "file", "label_column": "sku"}
    assert [doc.label for doc in read_csv(path, columns)] == ["1", "2", "1"]


def test_named_columns_tags_quotes_and_a_mark_at_the_start(tmp_path: Path) -> None:
    text = (
        '\ufeffsku,title,price,size,zip\n1,"a ""red"", big\nshirt",9.5,12,007\n2,blue jeans,20,x,\n'
    )
    docs = read_csv(
        table(tmp_path, text),
        {"text_column": "title", "image_template": "img/{sku}.jpg", "id_column": "sku"},
    )
    assert docs[0].text == 'a "red", big\nshirt'
    assert docs[0].uri == str(tmp_path / "img/1.jpg")
    assert docs[0].id == "1"
    assert docs[0].tags == {"price": 9.5, "size": 12, "zip": "007"}
    assert docs[1].tags == {"price": 20, "size": "x", "zip": ""}


def test_real_products(shared_dir: Path) -> None:
    docs = read_csv(
        shared_dir / "fashion" / "products.csv",
        CsvOptions(text_column="productDisplayName", image_template="images/{id}.jpg"),
    )
    assert len(docs) == 2015
    assert all(Path(str(doc.uri)).is_file() for doc in docs)
    assert docs[0].tags["gender"] == "Men"
    assert {doc.label for doc in docs} == {None}


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("", {}, "is empty"),
        ("\n\n", {}, "is empty"),
        ("title,image\n", {"text_column": "title"}, "a header and no rows"),
        ("title,image\na,b.jpg\n", {"text_column": "titel"}, "no column 'titel'.*'title'"),
        ("a,b\n1,2\n", {"text_column": "a", "image_template": "{id}.jpg"}, "image_template"),
        ("a,b\n1,2,3\n", {"text_column": "a"}, "line 2: 3 cells"),
        ("a,a\n1,2\n", {"text_column": "a"}, "'a' twice"),
        ("x,y,z\n1,2,3\n", {}, "its columns: x, y, z.*text_column and image_column"),
        ("x,1.jpg,z\n1,2,3\n", {}, "line 1: 3 cells.*text_column"),
        ("one,two\nthree,four\n", {}, "none of its columns holds pictures"),
        (
            "i,t\n1,a\n2,b\n1,c\n",
            {"text_column": "t", "id_column": "i"},
            "'1' is on line 2 and.* 4",
        ),
        ('a.jpg,"open\n', {}, "line 1: unexpected end"),
        ("a\0b,c.jpg\n", {}, "NUL"),
    ],
)
def test_wrong_tables_are_named(
    tmp_path: Path, text: str, options: dict[str, str], words: str
) -> None:
    with pytest.raises(BadData, match=words):
        read_csv(table(tmp_path, text), options)


def test_wrong_encoding_and_wrong_options(tmp_path: Path) -> None:
    path = table(tmp_path, "a.jpg,größe\n", encoding="latin-1")
    with pytest.raises(BadData, match="byte 8 can't be read"):
        read_csv(path, {"encoding": "utf-8"})
    with pytest.raises(BadInput, match="encoding is 'utf8x'.*cp1252"):
        read_csv(path, {"encoding": "utf8x"})
    assert read_csv(path, {"encoding": "latin-1"})[0].text == "größe"
    with pytest.raises(BadInput, match="'text_colum'.*'text_column'"):
        read_csv(path, {"text_colum": "x"})
    with pytest.raises(BadInput, match="exclude each other"):
        CsvOptions(image_column="a", image_template="{b}")


def test_a_template_reaches_nothing_but_columns(tmp_path: Path) -> None:
    path = table(tmp_path, "t,i\nx,{i.__class__}\n")
    docs_error = {"text_column": "t", "image_template": "{i.__class__}.jpg"}
    with pytest.raises(BadData, match="image_template"):
        read_csv(path, docs_error)
