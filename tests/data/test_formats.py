"""One table in every format that it can have: the same documents, and the same words for faults."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from docarray import DocList
from PIL import Image

from cliptune.data.pictures.images import image_bytes
from cliptune.data.source import load_documents, read_documents, stream_documents
from cliptune.data.split import split_table
from cliptune.data.tables.options import CsvOptions
from cliptune.data.validation import PAIR
from cliptune.documents import ClipDoc
from cliptune.errors import BadData, BadImage, BadInput, NotFound, Unavailable
from cliptune.models.tokenizers import clip_keys

N = 12
COLOURS = ("red", "green", "blue")


def png(number: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (5, 4), (number * 20, 10, 200 - number)).save(file, "PNG")
    return file.getvalue()


def product(number: int) -> dict[str, Any]:
    return {"title": f"produit № {number}", "colour": COLOURS[number % 3], "price": number + 0.5}


def structs(rows: int = N) -> pa.Table:
    """As Hugging Face keeps pictures."""
    pictures = [{"bytes": png(i), "path": f"{i}.png"} for i in range(rows)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.Table.from_pylist([product(i) for i in range(rows)])
    return table.append_column("image", pa.array(pictures, kind))


def paths(folder: Path) -> pa.Table:
    (folder / "pictures").mkdir(exist_ok=True)
    for number in range(N):
        (folder / "pictures" / f"{number}.png").write_bytes(png(number))
    table = pa.Table.from_pylist([product(i) for i in range(N)])
    return table.append_column("image", pa.array([f"pictures/{i}.png" for i in range(N)]))


def tar(path: Path, mode: str = "w", rows: range = range(N)) -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for number in rows:
            given = product(number)
            title = given.pop("title")
            for suffix, data in (
                ("png", png(number)), ("txt", title.encode()), ("json", json.dumps(given).encode())
            ):  # fmt: skip
                member = tarfile.TarInfo(f"shard/{number:04d}.{suffix}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return path


def in_parquet(folder: Path) -> str:
    pq.write_table(structs(), folder / "t.parquet", row_group_size=5)
    return str(folder / "t.parquet")


def in_parquet_bytes(folder: Path) -> str:
    table = structs().drop(["image"])
    table = table.append_column("photo", pa.array([png(i) for i in range(N)], pa.large_binary()))
    pq.write_table(table, folder / "t.parquet")
    return str(folder / "t.parquet")


def in_parquet_paths(folder: Path) -> str:
    pq.write_table(paths(folder), folder / "t.parquet")
    return str(folder / "t.parquet")


def in_feather(folder: Path) -> str:
    feather.write_feather(structs(), folder / "t.feather", compression="zstd")
    return str(folder / "t.feather")


def in_arrow_stream(folder: Path) -> str:
    table = structs()
    with (
        pa.OSFile(str(folder / "t.arrow"), "wb") as file,
        pa.ipc.new_stream(file, table.schema) as writer,
    ):
        writer.write_table(table, max_chunksize=5)
    return str(folder / "t.arrow")


def in_json_lines(folder: Path) -> str:
    lines = [json.dumps(row, ensure_ascii=False) for row in paths(folder).to_pylist()]
    (folder / "t.jsonl").write_text("\n".join(lines))
    return str(folder / "t.jsonl")


def in_csv(folder: Path) -> str:
    lines = ["title,colour,price,image"]
    lines += [",".join(map(str, row.values())) for row in paths(folder).to_pylist()]
    (folder / "t.csv").write_text("\n".join(lines))
    return str(folder / "t.csv")


def in_excel(folder: Path) -> str:
    workbook(folder / "t.xlsx", [list(row.values()) for row in paths(folder).to_pylist()])
    return str(folder / "t.xlsx")


def in_shards(folder: Path) -> str:
    (folder / "data").mkdir()
    for number in range(3):
        name = folder / "data" / f"train-{number:05d}-of-00003.parquet"
        pq.write_table(structs().slice(number * 4, 4), name)
    return str(folder)


def in_pattern(folder: Path) -> str:
    in_shards(folder)
    return str(folder / "data" / "train-*.parquet")


def in_tar(folder: Path) -> str:
    return str(tar(folder / "t.tar"))


def in_packed_tar(folder: Path) -> str:
    return str(tar(folder / "t.tar.gz", "w:gz"))


def in_tars(folder: Path) -> str:
    tar(folder / "t-00.tar", rows=range(5))
    tar(folder / "t-01.tar", rows=range(5, N))
    return str(folder / "t-{00..01}.tar")


def in_saved_data_set(folder: Path) -> str:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"title": datasets.Value("string"), "colour": datasets.ClassLabel(names=list(COLOURS)),
         "price": datasets.Value("float64"), "image": datasets.Image()}
    )  # fmt: skip
    rows = [{**product(i), "image": {"bytes": png(i), "path": None}} for i in range(N)]
    datasets.Dataset.from_list(rows, features=features).save_to_disk(folder / "saved")
    return str(folder / "saved")


def in_metadata(folder: Path) -> str:
    table = paths(folder)
    table = table.rename_columns([*table.column_names[:-1], "file_name"])
    pq.write_table(table, folder / "metadata.parquet")
    return str(folder)


FORMATS: list[Callable[[Path], str]] = [
    in_csv, in_json_lines, in_parquet, in_parquet_bytes, in_parquet_paths, in_feather,
    in_arrow_stream, in_excel, in_shards, in_pattern, in_tar, in_packed_tar, in_tars,
    in_saved_data_set, in_metadata,
]  # fmt: skip


def workbook(path: Path, rows: list[list[object]], header: bool = True) -> None:
    """A workbook as Excel lays it out, with inline texts: no writer of such is installed."""
    named = [["title", "colour", "price", "image"], *rows] if header else rows

    def cell(column: int, line: int, value: object) -> str:
        place = f"{chr(65 + column)}{line}"
        if isinstance(value, float | int):
            return f'<c r="{place}"><v>{value}</v></c>'
        return f'<c r="{place}" t="inlineStr"><is><t>{value}</t></is></c>'

    lines = "".join(
        f'<row r="{i}">{"".join(cell(j, i, value) for j, value in enumerate(row))}</row>'
        for i, row in enumerate(named, 1)
    )
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006/relationships"
    kinds = "http://schemas.openxmlformats.org/package/2006/content-types"
    sheet = "application/vnd.openxmlformats-officedocument.spreadsheetml"
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{kinds}"><Default Extension="rels" ContentType='
        f'"application/vnd.openxmlformats-package.relationships+xml"/><Override PartName='
        f'"/xl/workbook.xml" ContentType="{sheet}.sheet.main+xml"/><Override PartName='
        f'"/xl/worksheets/sheet1.xml" ContentType="{sheet}.worksheet+xml"/><Override PartName='
        f'"/xl/worksheets/sheet2.xml" ContentType="{sheet}.worksheet+xml"/></Types>',
        "_rels/.rels": f'<Relationships xmlns="{package}"><Relationship Id="r1" Type='
        f'"{office}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook xmlns="{main}" xmlns:r="{office}"><sheets><sheet name='
        '"Notes" sheetId="1" r:id="r1"/><sheet name="Products" sheetId="2" r:id="r2"/></sheets>'
        "</workbook>",
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{package}"><Relationship Id="r1" '
        f'Type="{office}/worksheet" Target="worksheets/sheet1.xml"/><Relationship Id="r2" '
        f'Type="{office}/worksheet" Target="worksheets/sheet2.xml"/></Relationships>',
        "xl/worksheets/sheet1.xml": f'<worksheet xmlns="{main}"><sheetData/></worksheet>',
        "xl/worksheets/sheet2.xml": f'<worksheet xmlns="{main}"><sheetData>{lines}</sheetData>'
        "</worksheet>",
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in parts.items():
            archive.writestr(name, f'<?xml version="1.0" encoding="UTF-8"?>{text}')


def digests(docs: Any) -> list[str]:
    return [hashlib.sha256(image_bytes(doc, allow_files=True)).hexdigest() for doc in docs]


@pytest.mark.parametrize("write", FORMATS, ids=lambda one: one.__name__)
def test_every_format_is_the_same_documents(tmp_path: Path, write: Callable[[Path], str]) -> None:
    name = write(tmp_path)
    kept = read_documents(name, needs=PAIR)
    streamed = stream_documents(name)
    expected = [hashlib.sha256(png(i)).hexdigest() for i in range(N)]
    for docs in (kept.docs, list(streamed)):
        assert [doc.text for doc in docs] == [product(i)["title"] for i in range(N)]
        assert digests(docs) == expected
        assert [doc.id for doc in docs] == expected
        tags = [{name: doc.tags[name] for name in ("colour", "price")} for doc in docs]
        assert tags == [{k: v for k, v in product(i).items() if k != "title"} for i in range(N)]
    # What is kept names its pictures: a table may be larger than the memory.
    assert not any(doc.image for doc in kept.docs)
    assert len(streamed) == N
    assert kept.summary.columns["titles"] in ("title", "text")
    assert f"{N} documents" in str(kept.summary)


def test_real_products_of_a_folder_of_parquet(shared_dir: Path) -> None:
    folder = shared_dir / "fashion_large"
    if not folder.is_dir():
        pytest.skip("the products in parquet are not on this machine")
    docs = read_documents(folder, needs=PAIR).docs
    assert len(docs) == 24_000
    table = pq.read_table(sorted(folder.glob("*.parquet"))[2], columns=["id", "title", "image"])
    for row in table.slice(4_321, 3).to_pylist():
        [doc] = [doc for doc in docs if doc.id == row["id"]]
        assert (doc.text, image_bytes(doc, allow_files=True)) == (
            row["title"], row["image"]["bytes"],
        )  # fmt: skip


def test_a_pack_is_written_once_and_read_by_no_server(tmp_path: Path, cliptune_home: Path) -> None:
    name = in_parquet(tmp_path)
    first, second = (read_documents(name, needs=PAIR).docs[3] for _ in range(2))
    assert first.uri == second.uri
    with pytest.raises(BadImage, match="files of the server are not read|never fetched"):
        image_bytes(first, allow_files=False)
    for damaged in ("slice:///etc/passwd", "slice:///nowhere?offset=0&size=3",
                    "slice:///etc/passwd?offset=0&size=99999999999999",
                    f"slice://{name}?offset=0&size=10000000"):  # fmt: skip
        with pytest.raises(BadImage):
            image_bytes(ClipDoc(uri=damaged), allow_files=True)


def test_pictures_that_a_table_holds_and_others_that_it_names(tmp_path: Path) -> None:
    """As `datasets` keeps those that were files: with a path and no bytes."""
    table, files = structs(4), paths(tmp_path)["image"].to_pylist()
    pictures = table["image"].to_pylist()
    pictures[1] = {"bytes": None, "path": files[1]}
    pictures[3] = {"bytes": None, "path": str(tmp_path / files[3])}
    table = table.set_column(3, "image", pa.array(pictures, table.schema.field("image").type))
    pq.write_table(table, tmp_path / "t.parquet")
    for found in (read_documents(tmp_path / "t.parquet", needs=PAIR).docs,
                  list(stream_documents(tmp_path / "t.parquet"))):  # fmt: skip
        assert digests(found) == [hashlib.sha256(png(i)).hexdigest() for i in range(4)]


def test_several_pictures_of_a_row(tmp_path: Path) -> None:
    pictures = [[png(0), png(1)], [png(2)], [], None]
    table = pa.table({"title": ["a", "b", "c", "d"], "images": pa.array(pictures)})
    pq.write_table(table, tmp_path / "t.parquet")
    for found in (read_documents(tmp_path / "t.parquet", needs=PAIR).docs,
                  list(stream_documents(tmp_path / "t.parquet"))):  # fmt: skip
        assert [doc.text for doc in found] == ["a", "a", "b"]
        assert [doc.image is None for doc in found] == [isinstance(found, DocList)] * 3
        assert digests(found) == [hashlib.sha256(png(i)).hexdigest() for i in range(3)]
    lines = [{"title": "a", "image": ["0.png", "1.png"]}, {"title": "b", "image": ["2.png"]}]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    assert [doc.text for doc in load_documents(tmp_path / "t.jsonl")] == ["a", "a", "b"]


def test_pictures_that_are_missing_or_of_another_kind(tmp_path: Path) -> None:
    table = structs(6)
    pictures = table["image"].to_pylist()
    pictures[1], pictures[3] = None, {"bytes": None, "path": None}
    pictures[4] = {"bytes": b"", "path": "x.png"}
    table = table.set_column(3, "image", pa.array(pictures, table.schema.field("image").type))
    pq.write_table(table, tmp_path / "t.parquet")
    found = read_documents(tmp_path / "t.parquet", needs=PAIR)
    assert [(one.place, one.reason) for one in found.summary.left_out] == [
        ("row 2", "no picture"), ("row 4", "no picture"), ("row 5", "an empty picture (0 bytes)"),
    ]  # fmt: skip
    none = table.set_column(3, "image", pa.nulls(6, table.schema.field("image").type))
    pq.write_table(none, tmp_path / "t.parquet")
    with pytest.raises(BadData, match="6 of 6 documents are incomplete"):
        read_documents(tmp_path / "t.parquet", needs=PAIR)
    numbers = table.set_column(3, "image", pa.array(range(6)))
    pq.write_table(numbers, tmp_path / "t.parquet")
    with pytest.raises(BadData, match="no picture: 0 is no picture's path"):
        read_documents(tmp_path / "t.parquet", needs=PAIR)


BINARY = [in_parquet, in_feather, in_arrow_stream, in_excel, in_tar, in_packed_tar]


@pytest.mark.parametrize("write", BINARY, ids=lambda one: one.__name__)
def test_truncated_empty_and_damaged_files(tmp_path: Path, write: Callable[[Path], str]) -> None:
    path = Path(write(tmp_path))
    whole = path.read_bytes()
    for kept in (0, 1, 5, 300, len(whole) // 2, len(whole) - (700 if "tar" in path.name else 5)):
        if path.name == "t.tar" and kept > 300:
            kept = 3 * len(whole) // 10
        path.write_bytes(whole[:kept])
        with pytest.raises(BadData) as raised:
            read_documents(path, needs=PAIR)
        assert str(path) in str(raised.value)
    for start in range(1, len(whole), max(1, len(whole) // 40)):
        path.write_bytes(whole[:start] + bytes(40) + whole[start + 40 :])
        try:
            docs = read_documents(path, needs=PAIR).docs
        except BadInput:
            continue
        for doc in docs:
            try:
                image_bytes(doc, allow_files=True)
            except BadImage:
                continue


def test_huge_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPTUNE_MAX_PICTURE", "2000")
    big = bytes(3000)
    table = structs(4).drop(["image"])
    table = table.append_column("image", pa.array([png(0), big, png(2), png(3)]))
    pq.write_table(table, tmp_path / "t.parquet")
    [problem] = read_documents(tmp_path / "t.parquet", needs=PAIR).summary.left_out
    assert str(problem).startswith("row 2")
    assert "a picture of 3000 bytes, the limit is 2000" in problem.reason
    title = pa.array(["a", "b" * 2**21, "c", "d"])
    pq.write_table(table.set_column(0, "title", title), tmp_path / "t.parquet")
    with pytest.raises(BadData, match="row 2: column 'title' has a cell of 2097152 bytes"):
        read_documents(tmp_path / "t.parquet", needs=PAIR)


def test_a_bomb_of_a_workbook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cliptune.data.tables.formats.workbook.MAX_INFLATED", 2**22)
    path = tmp_path / "t.xlsx"
    workbook(path, [["a", "b", 1, "c.png"]])
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/sharedStrings.xml", b" " * 2**23)
    with pytest.raises(BadData, match="unzips to more than"):
        load_documents(path)
    # One that says that it is small.
    with zipfile.ZipFile(path) as archive:
        place = archive.getinfo("xl/sharedStrings.xml")
    data = path.read_bytes()
    size = (2**23).to_bytes(4, "little")
    assert data.count(size) >= 2
    path.write_bytes(data.replace(size, (10).to_bytes(4, "little")))
    with pytest.raises(BadData, match=r"unzips to more than|damaged"):
        load_documents(path)
    assert place.file_size == 2**23


def test_sheets(tmp_path: Path) -> None:
    name = in_excel(tmp_path)
    assert "'Products' is read: sheet names another" in str(read_documents(name).summary)
    with pytest.raises(BadData, match=r"no sheet 'Product' \(sheet\): did you mean .*Products"):
        load_documents(name, csv_options={"sheet": "Product"})
    with pytest.raises(BadData, match="is empty"):
        load_documents(name, csv_options={"sheet": "Notes"})


def test_tars_with_names_and_links_that_lead_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "t.tar"
    (tmp_path / "secret.txt").write_text("secret")
    with tarfile.open(path, "w") as archive:

        def add(name: str, data: bytes, **more: Any) -> None:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            for key, value in more.items():
                setattr(member, key, value)
            archive.addfile(member, io.BytesIO(data))

        add("../../a.png", png(0))
        add("../../a.txt", b"inside")
        add("/etc/b.png", png(1))
        add("/etc/b.txt", b"too")
        add("c.png", png(2))
        add("c.txt", b"", type=tarfile.SYMTYPE, linkname=str(tmp_path / "secret.txt"))
        add("d.png", b"", type=tarfile.LNKTYPE, linkname="c.png")
        add("d.txt", b"d")
        add("e.fifo", b"", type=tarfile.FIFOTYPE)
    found = read_documents(path, needs=PAIR)
    assert [doc.text for doc in found.docs] == ["inside", "too"]
    assert digests(found.docs) == [hashlib.sha256(png(i)).hexdigest() for i in range(2)]
    assert [one.reason for one in found.summary.left_out] == ["no title", "no picture"]
    assert "3 files in it are not read, such as" in str(found.summary)
    assert not (tmp_path.parent.parent / "a.png").exists()


def test_splits_and_kinds_are_not_mixed(tmp_path: Path) -> None:
    in_shards(tmp_path)
    pq.write_table(structs(), tmp_path / "data" / "test-00000-of-00001.parquet")
    with pytest.raises(BadData, match=r"several splits, test, train: give one .*/data/test-\*"):
        load_documents(tmp_path)
    (tmp_path / "data" / "test-00000-of-00001.parquet").unlink()
    (tmp_path / "more.csv").write_text("title,image\na,b.png\n")
    with pytest.raises(BadData, match=r"several kinds, \.csv, \.parquet"):
        load_documents(tmp_path)
    with pytest.raises(NotFound, match="no file fits"):
        load_documents(str(tmp_path / "nothing-*.parquet"))
    with pytest.raises(BadInput, match="more than"):
        load_documents(str(tmp_path / "{0..999999999}.tar"))


def test_names_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the library keeps what it has fetched."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    with pytest.raises((Unavailable, NotFound), match="hf:shop/products"):
        load_documents("hf:shop/products")
    with pytest.raises(BadInput, match="expected hf:ORG/NAME"):
        load_documents("hf:../../etc")
    in_parquet(tmp_path)
    datasets.load_dataset("parquet", data_files=str(tmp_path / "t.parquet"), split="train")
    [made] = (tmp_path / "cache" / "parquet").glob("default-*")
    named = tmp_path / "cache" / "shop___products" / "default"
    named.parent.mkdir()
    made.rename(named)
    for info in named.rglob("*.arrow"):
        info.rename(info.with_name(info.name.replace("parquet-", "products-")))
    docs = load_documents("hf:shop/products:train")
    assert digests(docs) == [hashlib.sha256(png(i)).hexdigest() for i in range(N)]


def test_options_that_contradict_each_other() -> None:
    with pytest.raises(BadInput, match="label_column 'a' and group_column 'b' exclude"):
        CsvOptions(label_column="a", group_column="b")
    for weight in ("0", "-1", "1e999"):
        with pytest.raises(BadInput, match="a weight is a number above 0"):
            CsvOptions(text_column=["title", f"description:{weight}"])


def test_a_table_with_types_is_split_into_such(tmp_path: Path) -> None:
    table = structs()
    pictures = pa.array([[png(i), png(i + 50)] for i in range(N)])
    table = table.set_column(3, "image", pictures)
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=5)
    done = split_table(tmp_path / "t.parquet", text_keys=clip_keys(), held_out=0.4)
    parts = [pq.read_table(part.path) for part in (done.train, done.held_out)]
    assert all(part.schema.equals(table.schema) for part in parts)
    rows = [row["title"] for part in parts for row in part.to_pylist()]
    assert sorted(rows) == sorted(table["title"].to_pylist())
    assert [len(part) for part in parts] == [done.train.rows, done.held_out.rows]
    in_shards(tmp_path)
    with pytest.raises(BadInput, match="CSV, TSV, JSON lines, parquet and Arrow"):
        split_table(in_tar(tmp_path), text_keys=clip_keys())
    many = split_table(tmp_path / "data", text_keys=clip_keys(), held_out=0.4)
    assert (many.train.path, many.train.rows) == (
        tmp_path / "data-train.parquet",
        parts[0].num_rows,
    )
