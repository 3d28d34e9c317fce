"""Tables of real life: encodings, dialects, columns by name, half rows, ids that stay."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
from docarray import DocList
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cliptune.data.equivalence import KeyedDocs, same_labels, word_keys
from cliptune.data.source import (
    DataSet,
    load_documents,
    read_documents,
    stream_documents,
)
from cliptune.data.tables.formats.encodings import decode_text
from cliptune.data.tables.options import CsvOptions
from cliptune.data.tables.reader import read_csv
from cliptune.data.validation import ANSWER, PAIR, QUERY, is_blank
from cliptune.documents import ClipDoc
from cliptune.errors import BadData

N = 6


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for number in range(N):
        image = Image.new("RGB", (4, 4), (number * 30, 10, 20))
        image.save(tmp_path / "images" / f"{number}.png")
    return tmp_path


def table(
    folder: Path, lines: list[str] | str, name: str = "t.csv", encoding: str = "utf-8"
) -> Path:
    path = folder / name
    text = lines if isinstance(lines, str) else "\n".join(lines)
    path.write_bytes(text.encode(encoding))
    return path


def digest(shop: Path, number: int) -> str:
    return hashlib.sha256((shop / "images" / f"{number}.png").read_bytes()).hexdigest()


def rows(title: str = "product {i}", cells: str = "{title},images/{i}.png") -> list[str]:
    return [cells.format(title=title.format(i=i), i=i) for i in range(N)]


def read(path: Path, needs: frozenset[str] = PAIR, **options: Any) -> DataSet:
    return read_documents(path, csv_options=CsvOptions(**options), needs=needs)


# Half rows


def test_half_rows_are_left_out_counted_and_named(shop: Path) -> None:
    lines = ["title,image", "red,images/0.png", " ,images/1.png", "None,images/2.png", "blue,",
             "", "\u200b,images/3.png", "green,images/4.png", "nan,images/5.png"]  # fmt: skip
    found = read(table(shop, lines))
    assert [doc.text for doc in found.docs] == ["red", "None", "green", "nan"]
    assert [(one.place, one.reason) for one in found.summary.left_out] == [
        ("line 3", "no title"), ("line 5", "no picture"), ("line 7", "no title"),
    ]  # fmt: skip
    said = str(found.summary)
    assert "7 documents, 4 used, 3 left out" in said
    assert "line 5 (id text-" in said


def test_half_documents_of_a_call_are_left_out_alike(shop: Path) -> None:
    picture = (shop / "images" / "0.png").read_bytes()
    texts = ["red", None, "", "\u00a0", "blue", "green", "white", "black"]
    docs = [ClipDoc(id=str(i), text=text, image=picture) for i, text in enumerate(texts)]
    docs += [ClipDoc(id="x", text="grey"), ClipDoc(id="y", text="pink", image=b"")]
    found = read_documents(docs, needs=PAIR)
    assert [doc.text for doc in found.docs] == ["red", "blue", "green", "white", "black"]
    assert [one.position for one in found.summary.left_out] == [1, 2, 3, 8, 9]
    with pytest.raises(BadData, match=r"train_data: 3 of 4 .*document 1 \(id 1\): no title"):
        read_documents(docs[:4], needs=PAIR, role="train_data")


def test_a_blank_label_is_none(shop: Path) -> None:
    docs = DocList[ClipDoc]([ClipDoc(text="a", label=""), ClipDoc(label=" "), ClipDoc(text=" ")])
    assert same_labels(KeyedDocs.of(docs, word_keys)) == [["a", None, None]]
    lines = ["title,image,label", "a,images/0.png,", "b,images/1.png,", "c,images/2.png,7"]
    assert [doc.label for doc in read_csv(table(shop, lines))] == [None, None, "7"]


def test_what_pandas_has_for_nothing_is_nothing() -> None:
    class Product:
        def __init__(self, text: Any) -> None:
            self.text, self.image, self.id = text, b"1", None

    found = read_documents([Product(text) for text in ("a", "b", float("nan"))], needs=PAIR)
    assert [doc.text for doc in found.docs] == ["a", "b"]


def test_an_index_keeps_the_untitled_where_it_is_told_so(shop: Path) -> None:
    path = table(shop, ["title,image", *rows()[:-1], ",images/5.png"])
    assert len(list(stream_documents(path))) == len(stream_documents(path)) == N - 1
    assert [one.reason for one in stream_documents(path).summary.left_out] == ["no title"]
    assert len(list(stream_documents(path, keep_untitled=True))) == N
    untitled = table(shop, ["image", *rows(cells="images/{i}.png")], "pictures.csv")
    assert len(list(stream_documents(untitled))) == N


# Columns


@pytest.mark.parametrize(
    ("header", "options"),
    [
        ("title,image", {}),
        ("Title,Image", {"text_column": "title", "image_column": "IMAGE"}),
        ("Product Name,Image_Path", {}),
        ("productDisplayName,file_name", {}),
        ("whatever,else", {}),  # one of two columns has pictures: the other one is of titles
        ("caption,url", {}),
    ],
)
def test_columns_are_found_by_their_names(shop: Path, header: str, options: dict[str, str]) -> None:
    found = read(table(shop, [header, *rows()]), **options)
    assert [doc.text for doc in found.docs] == [f"product {i}" for i in range(N)]
    title, picture = header.split(",")
    assert found.summary.columns == {"titles": title, "pictures": picture}


@pytest.mark.parametrize(
    ("header", "cells", "needs", "words"),
    [
        ("title,caption,image", "{title},x,images/{i}.png", PAIR,
         "titles may be 'title' or 'caption': say which by --text-column"),
        ("title,image,photo", "{title},images/{i}.png,images/{i}.png", PAIR,
         "pictures may be 'image' or 'photo': say which by --image-column"),
        ("heading,price,image", "{title},3,images/{i}.png", PAIR,
         r"no column of titles .*heading, price, image.*--text-column"),
        ("title,price", "{title},3", PAIR, "holds pictures.*--image-column.*--image-template"),
        ("title,label", "{title},1", ANSWER, "holds pictures"),
    ],
)  # fmt: skip
def test_unclear_columns_are_asked_for_by_the_options_at_hand(
    shop: Path, header: str, cells: str, needs: frozenset[str], words: str
) -> None:
    path = table(shop, [header, *rows(cells=cells)])
    with pytest.raises(BadData, match=words):
        read(path, needs, as_flags=True)
    with pytest.raises(BadData) as error:
        read(path, needs)
    assert "--" not in str(error.value)


def test_names_that_differ_in_case_alone(shop: Path) -> None:
    path = table(shop, ["Title,title,image", *rows(cells="x{i},{title},images/{i}.png")])
    assert read(path, text_column="title").docs[0].text == "product 0"
    with pytest.raises(BadData, match="'TITLE' may be 'Title' or 'title'"):
        read(path, text_column="TITLE")


def test_one_set_of_options_for_a_table_of_queries_and_one_of_pictures(shop: Path) -> None:
    queries = table(shop, ["asked,sku", "red,1", "blue,2"], "queries.csv")
    index = table(shop, ["sku,file", "1,images/0.png", "2,images/1.png"], "index.csv")
    options = {"text_column": "asked", "image_column": "file", "label_column": "sku"}
    assert [doc.label for doc in read(queries, QUERY, **options).docs] == ["1", "2"]
    assert [doc.label for doc in read(index, ANSWER, **options).docs] == ["1", "2"]


def test_a_runs_columns_are_taken_where_a_table_has_them(shop: Path) -> None:
    kept = {"text_column": "heading", "image_column": "shot", "label_column": "sku"}
    lines = ["heading,shot,sku", *rows(cells="{title},images/{i}.png,{i}")]
    found = read_documents(table(shop, lines), csv_options=CsvOptions().after(kept), needs=PAIR)
    assert [doc.label for doc in found.docs] == [str(i) for i in range(N)]
    other = table(shop, ["title,image", *rows()], "other.csv")
    assert len(read_documents(other, csv_options=CsvOptions().after(kept), needs=PAIR).docs) == N


# How tables are written


@pytest.mark.parametrize(
    ("title", "encoding", "is_said"),
    [
        ("größe, Bluse {i}", "utf-8", False),
        ("größe, Bluse {i}", "utf-8-sig", False),
        ("größe, Bluse {i}", "cp1252", True),
        ("Kleid – 20 €, {i}", "cp1252", True),
        ("Żółta sukienka, {i}", "cp1250", True),
        ("красное платье, {i}", "cp1251", True),
        ("赤いドレス, {i}", "cp932", True),
        ("größe, Bluse {i}", "utf-16", True),
        ("größe, Bluse {i}", "utf-16-le", True),
        ("größe, Bluse {i}", "utf-32-be", True),
        ("größe, Bluse {i}", "utf-32", True),
        ("赤いドレス, {i}", "utf-16-be", True),
    ],
)
def test_encodings(shop: Path, title: str, encoding: str, is_said: bool) -> None:
    lines = ["title,image", *rows(title, '"{title}",images/{i}.png')]
    found = read(table(shop, lines, encoding=encoding))
    assert [doc.text for doc in found.docs] == [title.format(i=i) for i in range(N)]
    assert any("read as" in note for note in found.summary.notes) == is_said
    if encoding != "utf-8-sig":
        assert read(table(shop, lines, encoding=encoding), encoding=encoding).docs == found.docs


def test_damaged_utf8_is_not_another_encoding(shop: Path) -> None:
    path = shop / "t.csv"
    path.write_bytes("title,image\nGröße,images/0.png\nÜber,images/1.png\n".encode()
                     + "größe,images/2.png\n".encode("latin-1"))  # fmt: skip
    with pytest.raises(BadData, match="but for .* the first on line 4"):
        read(path)


def test_what_excel_writes(shop: Path) -> None:
    lines = [
        "sep=;",
        "Title;Image;Preis;Lager;",
        *rows(cells="Kleid, {title};images\\{i}.png;12,{i}0;1.000;"),
    ]
    path = table(shop, "\r\n".join(lines), encoding="cp1252")
    found = read(path)
    assert [doc.text for doc in found.docs] == [f"Kleid, product {i}" for i in range(N)]
    assert all(Path(str(doc.uri)).is_file() for doc in found.docs)
    assert found.docs[5].tags["Preis"] == 12.5
    assert set(found.docs[0].tags) == {"Preis", "Lager"}


@pytest.mark.parametrize(
    ("delimiter", "prices", "expected"),
    [
        (",", ["12.50", "3", "0.25"], [12.5, 3, 0.25]),
        (";", ["12,50", "3", "1.234,5"], [12.5, 3, 1234.5]),
        (";", ["12,50", "", "3"], [12.5, "", 3]),
        (";", ["1,250", "2,500", "3"], ["1,250", "2,500", 3]),  # thousands, or parts of one?
        (";", ["12,50", "about 3", "4"], ["12,50", "about 3", 4]),
        (",", ["007", "12.50", "x"], ["007", "12.50", "x"]),
    ],
)
def test_numbers(shop: Path, delimiter: str, prices: list[str], expected: list[Any]) -> None:
    lines = [f"{i},b{delimiter}images/{i}.png{delimiter}{price}" for i, price in enumerate(prices)]
    if delimiter == ",":
        lines = [f'"{i},b",images/{i}.png,{price}' for i, price in enumerate(prices)]
    docs = read(table(shop, [delimiter.join(["title", "image", "price"]), *lines])).docs
    assert [doc.tags["price"] for doc in docs] == expected
    assert [doc.text for doc in docs] == ["0,b", "1,b", "2,b"]


@pytest.mark.parametrize(
    ("text", "titles"),
    [
        ("title;image\nRed, big;images/0.png\nBlue, small;images/1.png\n",
         ["Red, big", "Blue, small"]),
        ("Red, big;images/0.png\nBlue, small;images/1.png\n", ["Red, big", "Blue, small"]),
        ("images/0.png,a;b\nimages/1.png,c;d\n", ["a;b", "c;d"]),
        ("title|image\na,b;c|images/0.png\nd,e;f|images/1.png\n", ["a,b;c", "d,e;f"]),
        ('title\timage\n"Best" shirt\timages/0.png\n24" tv\timages/1.png\n',
         ['"Best" shirt', '24" tv']),
        ('title,image\n24" tv,images/0.png\n"a ""b"", c",images/1.png\n', ['24" tv', 'a "b", c']),
        ('title,image\n"a \\"b\\", c",images/0.png\nd,images/1.png\n', ['a "b", c', "d"]),
        ("title,image\ra,images/0.png\rb,images/1.png\r", ["a", "b"]),
        (",title,image\n0,a,images/0.png\n1,b,images/1.png\n", ["a", "b"]),
        ('title,image\n\n"two\nlines",images/0.png\n , \nb,images/1.png\n', ["two\nlines", "b"]),
        ("images/0.png,a,\nimages/1.png,b,\n", ["a", "b"]),
        ("no picture,\na,images/0.png\nb,images/1.png\n", ["a", "b"]),
    ],
)  # fmt: skip
def test_dialects(shop: Path, text: str, titles: list[str]) -> None:
    docs = read(table(shop, text)).docs
    assert [doc.text for doc in docs] == titles
    assert [Path(str(doc.uri)).name for doc in docs] == ["0.png", "1.png"]


CELLS = st.text(
    st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=("Cs", "Cc")),
    min_size=1, max_size=12,
).map(lambda text: f"t{text}")  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    titles=st.lists(CELLS, min_size=2, max_size=6),
    delimiter=st.sampled_from(",;\t|"),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    end=st.sampled_from(["\n", "\r\n"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]),
)
def test_what_the_csv_module_writes_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    titles: list[str],
    delimiter: str,
    quoting: Any,
    end: str,
    encoding: str,
) -> None:
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=delimiter, quoting=quoting, lineterminator=end)
    writer.writerow(["title", "image", "note"])
    writer.writerows([t, f"{number}.jpg", t[::-1]] for number, t in enumerate(titles))
    path = tmp_path_factory.mktemp("t") / "t.csv"
    path.write_bytes(file.getvalue().encode(encoding))
    docs = read_csv(path)
    assert [doc.text for doc in docs] == [title.strip() for title in titles]
    assert [Path(str(doc.uri)).name for doc in docs] == [f"{n}.jpg" for n in range(len(titles))]


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1), st.booleans())
def test_utf8_is_never_taken_for_anything_else(text: str, has_mark: bool) -> None:
    data = text.encode("utf-8-sig" if has_mark else "utf-8")
    assert decode_text(data, "t", None, "encoding").text == text.removeprefix("\ufeff")


# What is no table


def some_files(shop: Path) -> dict[str, tuple[bytes, str]]:
    import gzip
    import zipfile

    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("t.csv", "title,image\n")
    jpeg = io.BytesIO()
    Image.new("RGB", (4, 4)).save(jpeg, "JPEG")
    return {
        "a zip archive": (packed.getvalue(), "unpack"),
        "a gzip file": (gzip.compress(b"title,image\n"), "unpack"),
        "a JPEG picture": (jpeg.getvalue(), "give the folder"),
        "a PNG picture": ((shop / "images" / "0.png").read_bytes(), "give the folder"),
        "a web page": (b"<!DOCTYPE html><html>", "login"),
    }


def test_other_files_are_called_what_they_are(shop: Path) -> None:
    for kind, (data, advice) in some_files(shop).items():
        (shop / "t.csv").write_bytes(data)
        with pytest.raises(BadData, match=f"not a table but {kind}: .*{advice}"):
            read(shop / "t.csv")


def test_pictures_on_other_machines_are_refused_before_anything_starts(shop: Path) -> None:
    path = table(shop, ["title,image", *rows(cells="{title},https://shop.example/{i}?w=3")])
    for call in (lambda: read(path), lambda: stream_documents(path)):
        with pytest.raises(BadData, match="line 2 is at 'https://shop.example/0"):
            call()
    docs = [ClipDoc(text="a", uri=f"https://shop.example/{i}.jpg") for i in range(3)]
    with pytest.raises(BadData, match="document 0 is at 'https://shop.example/0.jpg'"):
        read_documents(docs, needs=PAIR)


# Pictures' metadata


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_folders_metadata_is_read(shop: Path, kind: str) -> None:
    entries = [{"file_name": f"images/{i}.png", "text": f"title {i}", "price": i} for i in range(4)]
    entries.append({"file_name": "images/4.png", "text": None, "price": 4})  # type: ignore[dict-item]
    if kind == "jsonl":
        text = "\n".join(json.dumps(entry) for entry in entries)
    else:
        text = "file_name,text,price\n" + "\n".join(
            f"{e['file_name']},{e['text'] or ''},{e['price']}" for e in entries
        )
    table(shop, text, f"metadata.{kind}")
    found = read(shop)
    assert [(doc.text, doc.tags) for doc in found.docs] == [
        (f"title {i}", {"price": i}) for i in range(4)
    ]
    assert [one.reason for one in found.summary.left_out] == ["no title"]
    assert "1 pictures of the folder are not named in its metadata" in str(found.summary)
    assert len(stream_documents(shop)) == 4
    inner = shop / "images" / "metadata.csv"  # names are relative to the metadata's own folder
    inner.write_text("file_name,text\n5.png,inner\n")
    assert "inner" in [doc.text for doc in read(shop).docs]


def test_a_table_beside_pictures_is_told_of(shop: Path) -> None:
    table(shop, ["title,image", *rows()], "products.csv")
    assert "not read: products.csv" in str(read(shop).summary)


# Ids


def test_ids_stay_when_a_row_is_inserted(shop: Path) -> None:
    before = {doc.text: doc.id for doc in read_csv(table(shop, ["title,image", *rows()[1:]]))}
    after = {doc.text: doc.id for doc in read_csv(table(shop, ["title,image", *rows()], "u.csv"))}
    assert before.items() <= after.items()
    assert after["product 0"] == digest(shop, 0)


def test_one_picture_with_several_titles(shop: Path) -> None:
    lines = ["a,images/0.png", "b,images/0.png", "c,images/1.png", "a,images/0.png"]
    there = {doc.text: doc.id for doc in read_csv(table(shop, ["title,image", *lines]))}
    back = {doc.text: doc.id for doc in read_csv(table(shop, ["title,image", *lines[::-1]]))}
    assert there == back
    assert there["c"] == digest(shop, 1)
    assert there["a"] != there["b"]
    assert all(there[text].startswith(digest(shop, 0) + "-") for text in "ab")
    found = read(table(shop, ["title,image", *lines]))
    assert (len(found.docs), found.summary.duplicates) == (3, 1)


def test_a_column_called_id_is_taken_if_its_ids_are_distinct(shop: Path) -> None:
    path = table(shop, ["ID,title,image", *rows(cells="p{i},{title},images/{i}.png")])
    assert [doc.id for doc in read_csv(path)] == [f"p{i}" for i in range(N)]
    assert [doc.id for doc in stream_documents(path)] == [f"p{i}" for i in range(N)]
    same = table(shop, ["id,title,image", *rows(cells="p,{title},images/{i}.png")], "same.csv")
    found = read(same)
    assert [doc.id for doc in found.docs] == [digest(shop, i) for i in range(N)]
    assert found.docs[0].tags == {"id": "p"}
    assert "isn't taken for the ids" in str(found.summary)
    with pytest.raises(BadData, match="'p' is on line 2 and on line 3.*id_column"):
        stream_documents(same)
    none = stream_documents(same, csv_options={"id_column": "none"})
    assert [doc.id for doc in none] == [digest(shop, i) for i in range(N)]


def test_a_row_without_id_has_its_pictures(shop: Path) -> None:
    path = table(shop, ["id,title,image", "7,a,images/0.png", ",b,images/1.png"])
    assert [doc.id for doc in read_csv(path)] == ["7", digest(shop, 1)]


def test_streamed_documents_are_those_that_are_read(shop: Path) -> None:
    path = table(shop, ["title,image,price", *rows(cells="{title},images/{i}.png,{i}")])
    assert list(stream_documents(path)) == list(load_documents(path))


def test_blank_texts() -> None:
    assert all(map(is_blank, [None, "", " \t\n", "\u00a0", "\u200b\ufeff"]))
    assert not any(map(is_blank, ["None", "0", "-", "赤"]))
