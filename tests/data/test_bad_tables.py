"""Tables that are none, or that hold what no table should: each says so, and nothing is lost."""

from __future__ import annotations

import base64
import gzip
import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cliptune.data.source import read_documents, stream_documents
from cliptune.data.tables.rows import MAX_TEXT
from cliptune.data.validation import PAIR
from cliptune.documents import MAX_DEPTH
from cliptune.errors import BadData
from cliptune.protocol import tags as wire_tags
from tests.data.test_formats import N, digests, png, product, structs, workbook

PAGE = b"<!DOCTYPE html>\n<html><body>403 Forbidden</body></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 5\n"
NAMES = (
    "t.csv", "t.tsv", "t.jsonl", "t.parquet", "t.arrow", "t.feather", "t.xlsx", "t.tar", "t.tar.gz"
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("content", "said"),
    [(PAGE, "a web page"), (POINTER, "a Git LFS pointer"), (b"", "is empty"), (b" \n", "is empty")],
)
def test_what_was_saved_instead_of_a_table(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadData, match=said) as raised:
        read_documents(tmp_path / name, needs=PAIR)
    assert str(tmp_path / name) in str(raised.value)


@pytest.mark.parametrize("name", ["t.parquet", "t.arrow", "t.feather", "t.tar", "t.tar.gz"])
def test_an_error_message_under_the_name_of_a_typed_table(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('{"error": "rate limit exceeded"}')
    with pytest.raises(BadData, match=r"is no \w+ file, it begins with .*rate limit"):
        read_documents(tmp_path / name, needs=PAIR)


def lines(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(rows))
    return path


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ('{"title": "a", "title": "b", "image": "0.png"}', "line 2: 'title' is there twice"),
        ('{"title": "a", "image": "0.p', "line 2: not JSON"),
        ("[1, 2]", "line 2: not a JSON object but"),
        ('{"title": "a", "x": ' + "[" * 10_000 + "]" * 10_000 + "}", "line 2: not JSON"),
        ('{"title": "a", "x": ' + "[" * 40 + "]" * 40 + ', "image": "0.png"}',
         f"line 2: column 'x' is nested deeper than {MAX_DEPTH} levels"),
        (json.dumps({"title": "x" * (MAX_TEXT + 1), "image": "0.png"}),
         f"line 2: column 'title' has a cell of {MAX_TEXT + 1} characters"),
    ],
)  # fmt: skip
def test_lines_that_are_refused(tmp_path: Path, row: str, said: str) -> None:
    path = lines(tmp_path / "t.jsonl", '{"title": "a", "image": "0.png"}', row)
    with pytest.raises(BadData, match=said) as raised:
        read_documents(path, needs=PAIR)
    assert len(str(raised.value)) < 1000
    # Of a file that begins with such a line, too.
    said = "is a JSON list" if row.startswith("[") else said.replace("line 2", "line 1")
    with pytest.raises(BadData, match=said):
        read_documents(lines(path, row), needs=PAIR)


def test_objects_and_numbers_in_place_of_titles_and_pictures(tmp_path: Path) -> None:
    good = [json.dumps({"title": f"t{i}", "image": f"{i}.png"}) for i in range(6)]
    path = lines(
        tmp_path / "t.jsonl",
        *good,
        '{"title": {"en": "a"}, "image": "6.png"}',
        '{"title": "b", "image": 5}',
        '{"title": "c", "image": {"url": "x"}}',
        '{"title": "d", "image": true}',
        '{"title": NaN, "image": "7.png"}',
    )
    reasons = [one.reason for one in read_documents(path, needs=PAIR).summary.left_out]
    assert reasons == [
        "no title but an object", "no picture: 5 is no picture's path",
        "no picture: an object with url but neither a path nor bytes",
        "no picture: True is no picture's path", "no title",
    ]  # fmt: skip


def test_halves_of_characters_are_mended_and_told(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "t.jsonl",
        r'{"title": "cut \ud83d", "image": "0.png", "tag": "\udcff"}',
        r'{"title": "whole \ud83d\ude00", "image": "1.png"}',
    )
    found = read_documents(path, needs=PAIR)
    assert [doc.text for doc in found.docs] == ["cut \ufffd", "whole \U0001f600"]
    assert "1 lines have half of a character, the first is line 1" in str(found.summary)
    for doc in found.docs:
        doc.to_protobuf()


def test_tags_are_what_can_be_sent_and_kept(tmp_path: Path) -> None:
    """A table that is understood must not fail when it is indexed."""
    table = structs().append_column("large", pa.array([2**63 + i for i in range(N)], pa.uint64()))
    table = table.append_column("infinite", pa.array([float("inf")] * N))
    table = table.append_column("vector", pa.array([[1.5, float("nan")]] * N))
    table = table.append_column("when", pa.array([2**62 + 1] * N, pa.timestamp("ns")))
    table = table.append_column("never", pa.array([2**30] * (N - 1) + [0], pa.date32()))
    zone = pa.array([1] * N, pa.timestamp("us", tz="Nowhere/Land"))
    pq.write_table(table.append_column("zone", zone), tmp_path / "t.parquet")
    found = read_documents(tmp_path / "t.parquet", needs=PAIR)
    wire_tags.check(found.docs)
    tags = found.docs[0].tags
    assert tags["large"] == str(2**63)
    assert tags["vector"] == [1.5, None]
    assert str(tags["when"]).startswith("2116-02-20T")
    assert "never" not in tags
    assert found.docs[N - 1].tags["never"] == "1970-01-01"
    for name in ("never", "zone"):
        assert f"column '{name}' has times that no calendar" in str(found.summary)
    path = lines(tmp_path / "t.csv", "title,image,code", f"a,0.png,{10**20}", f"b,1.png,{10**21}")
    docs = read_documents(path, needs=PAIR).docs
    assert [doc.tags["code"] for doc in docs] == [str(10**20), str(10**21)]
    path = lines(tmp_path / "t.csv", "title,image,code", "a,0.png,inf", "b,1.png,nan")
    docs = read_documents(path, needs=PAIR).docs
    assert [doc.tags["code"] for doc in docs] == ["inf", "nan"]


def test_texts_that_a_database_wrote_as_bytes(tmp_path: Path) -> None:
    table = structs()
    for place, name in enumerate(("title", "colour")):
        column = pa.array([str(product(i)[name]).encode() for i in range(N)])
        table = table.set_column(place, name, column)
    pq.write_table(table, tmp_path / "t.parquet")
    docs = read_documents(tmp_path / "t.parquet", needs=PAIR).docs
    assert [doc.text for doc in docs] == [product(i)["title"] for i in range(N)]
    assert docs[1].tags["colour"] == "green"


@pytest.mark.parametrize("kind", [pa.dictionary(pa.int32(), pa.binary()), pa.large_binary()])
def test_pictures_kept_once_for_several_rows(tmp_path: Path, kind: pa.DataType) -> None:
    table = structs().set_column(3, "image", pa.array([png(i % 3) for i in range(N)]).cast(kind))
    pq.write_table(table, tmp_path / "t.parquet")
    docs = read_documents(tmp_path / "t.parquet", needs=PAIR).docs
    assert len(set(digests(docs))) == 3


def test_structs_that_hold_no_picture(tmp_path: Path) -> None:
    text = base64.b64encode(png(0)).decode()
    for cell in ({"url": "x"}, {"bytes": text, "path": None}):
        pictures = pa.array([cell] * N)
        pq.write_table(structs().set_column(3, "image", pictures), tmp_path / "t.parquet")
        with pytest.raises(BadData, match="neither a path nor bytes"):
            read_documents(tmp_path / "t.parquet", needs=PAIR)


def test_columns_without_names_and_very_many(tmp_path: Path) -> None:
    table = structs().append_column("", pa.array(["x"] * N))
    pq.write_table(table, tmp_path / "t.parquet")
    found = read_documents(tmp_path / "t.parquet", needs=PAIR)
    assert "" not in found.docs[0].tags
    assert "a column without a name is not read" in str(found.summary)
    header = ",".join(f"column{i}" + "x" * 500 for i in range(500))
    path = lines(tmp_path / "t.csv", header, ",".join(["1"] * 500))
    with pytest.raises(BadData, match="and 470 more") as raised:
        read_documents(path, needs=PAIR)
    assert len(str(raised.value)) < 3000


def test_large_pictures_are_read_few_at_once(tmp_path: Path) -> None:
    """A row group of fifty pictures of 8 MB, each a page: not all of them are in memory."""
    cells = [bytes([i]) * 2**23 for i in range(50)]
    table = pa.table({"title": [f"t{i}" for i in range(50)], "image": pa.array(cells)})
    pq.write_table(table, tmp_path / "t.parquet", compression="zstd", use_dictionary=False,
                   write_batch_size=1)  # fmt: skip
    del cells, table
    pa.default_memory_pool().release_unused()
    before = pa.total_allocated_bytes()
    rows = stream_documents(tmp_path / "t.parquet").rows  # type: ignore[attr-defined]
    most = 0
    for _ in rows.read():
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < 25 * 2**23


def add(archive: tarfile.TarFile, name: str, data: bytes, **more: Any) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for key, value in more.items():
        setattr(member, key, value)
    archive.addfile(member, io.BytesIO(data))


def test_tars_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "t.tar"
    with tarfile.open(path, "w") as archive:
        for name, data in (("a.png", png(0)), ("a.txt", b"A"), ("a.caption", b"B"),
                           ("b.png", png(1)), ("b.txt", b"C")):  # fmt: skip
            add(archive, name, data)
    docs = read_documents(path, needs=PAIR).docs
    assert docs[0].texts == {"A": 0.5, "B": 0.5}
    with tarfile.open(path, "w") as archive:
        for name, data in (("a.png", png(0)), ("b.png", png(1)), ("a.txt", b"A"), ("b.txt", b"B")):
            add(archive, name, data)
    with pytest.raises(BadData, match="the files of 'a' are not next to each other: .* --sort"):
        read_documents(path, needs=PAIR)


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_a_name_of_two_gigabytes_in_a_tar_is_not_read(tmp_path: Path, kind: bytes) -> None:
    member = tarfile.TarInfo("././@LongLink")
    member.type, member.size = kind, 2**31
    path = tmp_path / "t.tar"
    with path.open("wb") as file:
        file.write(member.tobuf())
        file.truncate(2**31 + 2048)  # sparse
    with pytest.raises(BadData, match="name or attributes have 2147483648 bytes"):
        read_documents(path, needs=PAIR)
    with gzip.open(tmp_path / "t.tar.gz", "wb") as packed:
        packed.write(member.tobuf())
    with pytest.raises(BadData, match="name or attributes have 2147483648 bytes"):
        read_documents(tmp_path / "t.tar.gz", needs=PAIR)


def test_a_cell_of_two_gigabytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    with path.open("wb") as file:
        file.write(b"title,image\na,0.png\nb")
        file.truncate(2**31)  # sparse: of NUL bytes
    with pytest.raises(BadData, match="not UTF-8 or with NUL characters"):
        read_documents(path, needs=PAIR)
    with tarfile.open(tmp_path / "t.tar", "w") as archive:
        add(archive, "b.png", png(0))
        add(archive, "b.txt", b"b")
    whole = (tmp_path / "t.tar").read_bytes()
    member = tarfile.TarInfo("a.png")
    member.size = 2**31
    with (tmp_path / "t.tar").open("wb") as file:
        file.write(member.tobuf())
        file.seek(2**31, io.SEEK_CUR)
        file.write(whole)
    [problem] = stream_documents(tmp_path / "t.tar", keep_untitled=True).summary.left_out
    assert "a picture of 2147483648 bytes, the limit is" in problem.reason


def test_a_workbook_with_a_cell_far_away(tmp_path: Path) -> None:
    """The library would take half a terabyte for it, and end the process."""
    path = tmp_path / "t.xlsx"
    workbook(path, [["a", "b", 1, "0.png"]])
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    sheet = "xl/worksheets/sheet2.xml"
    far = b'<row r="1048576"><c r="XFD1048576"><v>1</v></c></row></sheetData>'
    parts[sheet] = parts[sheet].replace(b"</sheetData>", far)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    with pytest.raises(BadData, match="takes more than .* is a cell far away from the others"):
        read_documents(path, needs=PAIR)
