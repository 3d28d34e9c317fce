"""Tables with wrong answers: written whole, read as they were, and trained on."""

from __future__ import annotations

import csv
import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from docarray import DocList
from typer.testing import CliRunner

import cliptune
from cliptune.cli.app import app
from cliptune.curation.embedded import embed_pairs
from cliptune.curation.mining_options import MiningOptions
from cliptune.curation.negatives import Mined, mine
from cliptune.curation.tables import MinedTable, check_minable, open_pairs, write_mined
from cliptune.data.source import read_documents
from cliptune.data.tables.options import CsvOptions
from cliptune.data.tables.writing import check_target
from cliptune.data.validation import PAIR
from cliptune.documents import ClipDoc
from cliptune.errors import AlreadyExists, BadInput, NotFound
from cliptune.inference.engines import both_towers
from cliptune.runs import get_run
from tests.pictures import picture

LOOSE = MiningOptions(relative_margin=None, near_pictures=None, near_titles=None)
N = 12


def rows(folder: Path) -> list[dict[str, Any]]:
    """Products, one without a title; two share a picture, and a price has a decimal comma."""
    made = []
    for number in range(N):
        (folder / f"{number}.png").write_bytes(picture(number))
        made.append(
            {
                "sku": f"{number:03}",
                "title": f"größe {number}, „weit“; rot" if number else "",
                "image": f"{max(1, number)}.png",
                "price": f"{number},50",
            }
        )
    made[5]["image"] = made[4]["image"]
    return made


def write(path: Path, given: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(given), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in given))
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, given[0], delimiter=";")
            writer.writeheader()
            writer.writerows(given)
    return path


def mined_table(
    source: Path | str,
    out: Path,
    tiny_model: Path,
    column: str = "negative",
    how: MiningOptions = LOOSE,
    **options: Any,
) -> tuple[MinedTable, Mined]:
    given = open_pairs(str(source), CsvOptions.parse(options), "data")
    check_target(out, given.table.rows)
    check_minable(given, column)
    pairs = embed_pairs(given.docs, *both_towers(str(tiny_model), device="cpu"))
    mined = mine(pairs, how)
    return write_mined(given, pairs, mined, out, column, how.num_negatives), mined


def read(path: Path | str, **options: Any) -> DocList[ClipDoc]:
    return read_documents(path, csv_options=options, needs=PAIR).docs


def said(doc: ClipDoc) -> dict[str, Any]:
    tags = {name: value for name, value in doc.tags.items() if name != "id"}
    return {**doc.model_dump(include={"text", "uri", "label", "weight"}), "tags": tags}


@pytest.mark.parametrize("source", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("target", [".csv", ".tsv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("id_column", ["sku", None])
def test_the_table_says_what_it_said_and_names_wrong_answers(
    source: str, target: str, id_column: str | None, tmp_path: Path, tiny_model: Path
) -> None:
    table = write(tmp_path / f"shop{source}", rows(tmp_path))
    out = tmp_path / f"mined{target}"
    ids = {"id_column": id_column} if id_column else {}
    written, mined = mined_table(table, out, tiny_model, **ids)
    assert (written.rows, written.named, written.unnamed) == (N, N - 1, 0)
    before, after = read(table, **ids), read(out, **written.options)
    # A decimal comma is one where no comma separates cells: else the price is a text.
    has_commas = [source == ".csv", target == ".tsv" or {source, target} == {".csv"}]
    if has_commas[0] != has_commas[1]:
        for doc in (*before, *after):
            doc.tags["price"] = None
    assert list(map(said, after)) == list(map(said, before))
    assert [doc.text for doc in after] == [doc.text for doc in before]
    assert [doc.id for doc in after] == [doc.id for doc in before]
    known = [str(doc.id) for doc in before]
    assert [doc.negatives for doc in after] == [
        [known[one.position] for one in found] for found in mined.negatives
    ]
    assert written.options["id_column"] == (id_column or "id")
    assert not list(tmp_path.glob(".*"))


def test_parquet_keeps_its_types_and_its_pictures(tmp_path: Path, tiny_model: Path) -> None:
    schema = pa.schema(
        {
            "id": pa.int64(),
            "title": pa.large_string(),
            "image": pa.struct({"bytes": pa.binary(), "path": pa.string()}),
            "price": pa.decimal128(8, 2),
            "kind": pa.dictionary(pa.int8(), pa.string()),
        },
        metadata={b"made": b"by hand"},
    )
    given = [
        {"id": n, "title": f"thing {n}", "image": {"bytes": picture(n), "path": "x.png"},
         "price": None, "kind": "ab"[n % 2]}
        for n in range(N)
    ]  # fmt: skip
    for part in range(2):
        made = pa.Table.from_pylist(given[part * 6 : part * 6 + 6], schema=schema)
        pq.write_table(made, tmp_path / f"part-{part}.parquet", row_group_size=4)
    written, _ = mined_table(f"{tmp_path}/part-*.parquet", tmp_path / "all.parquet", tiny_model)
    table = pq.read_table(tmp_path / "all.parquet")
    assert table.schema.remove(len(schema)).equals(schema, check_metadata=True)
    assert table.drop_columns("negative").to_pylist() == given
    assert all(len(named) == 3 for named in table["negative"].to_pylist())
    after = read(tmp_path / "all.parquet", **written.options)
    assert [doc.negatives for doc in after] == table["negative"].to_pylist()
    with pytest.raises(BadInput, match=r"holds its pictures itself, and \.csv can't"):
        mined_table(f"{tmp_path}/part-*.parquet", tmp_path / "all.csv", tiny_model)


def test_rows_with_several_pictures_name_those_that_are_one_rows(
    tmp_path: Path, tiny_model: Path
) -> None:
    given = [
        {"title": f"thing {n}", "images": [picture(3 * n), picture(3 * n + 1)]} for n in range(N)
    ]
    given[5]["images"].append(picture(3))  # a picture of two rows: its ids change with these
    table = write(tmp_path / "shop.parquet", given)
    many = replace(LOOSE, num_negatives=20)
    written, _ = mined_table(table, tmp_path / "out.parquet", tiny_model, how=many)
    assert written.unnamed > 0
    after = read(tmp_path / "out.parquet", **written.options)
    assert len(after) == 2 * N + 1
    known = {str(doc.id) for doc in after}
    title_of = {str(doc.id): doc.text for doc in after}
    for doc in after:
        assert doc.negatives
        assert set(doc.negatives) <= known
        assert doc.text not in {title_of[one] for one in doc.negatives}
        assert 10 < len(doc.negatives) <= 20


def test_wrong_answers_of_the_table_come_first(tmp_path: Path, tiny_model: Path) -> None:
    given = rows(tmp_path)
    given[3]["not"] = ["009", "001"]
    given[0] |= {"title": "grade", "not": ["002"]}
    table = write(tmp_path / "shop.jsonl", given)
    options = {"id_column": "sku", "negative_column": "not"}
    written, _ = mined_table(table, tmp_path / "out.jsonl", tiny_model, "wrong", **options)
    docs = {str(doc.id): doc.negatives for doc in read(tmp_path / "out.jsonl", **written.options)}
    assert docs["003"] is not None
    assert docs["003"][:2] == ["009", "001"]
    assert 3 <= len(docs["003"]) <= 5
    assert written.options["negative_column"] == "wrong"


def test_pictures_are_found_from_another_folder(tmp_path: Path, tiny_model: Path) -> None:
    table = write(tmp_path / "shop.csv", rows(tmp_path))
    out = tmp_path / "elsewhere" / "mined.csv"
    written, _ = mined_table(table, out, tiny_model, id_column="sku")
    assert written.options["image_root"] == str(tmp_path)
    assert [doc.uri for doc in read(out, **written.options)] == [
        doc.uri for doc in read(table, id_column="sku")
    ]


def test_what_cannot_be_written_is_said_before_the_work(tmp_path: Path) -> None:
    table = write(tmp_path / "shop.csv", rows(tmp_path))
    with pytest.raises(BadInput, match=r"ends in '\.xlsx': a table is written as \.csv, \.tsv"):
        check_target(tmp_path / "out.xlsx")
    with pytest.raises(AlreadyExists, match="is there already: --replace"):
        check_target(table)
    check_target(table, replace=True)
    with pytest.raises(NotFound, match="is no table"):
        open_pairs("catalogue-train", CsvOptions(), "data")
    with pytest.raises(BadInput, match="has a column 'price' already"):
        check_minable(open_pairs(str(table), CsvOptions(), "data"), "price")
    both = write(tmp_path / "both.csv", [{**row, "not": "3.png"} for row in rows(tmp_path)])
    columns = {"negative_column": "not", "image_column": "image"}
    named = open_pairs(str(both), CsvOptions.parse(columns), "data")
    with pytest.raises(BadInput, match="'not' holds pictures"):
        check_minable(named, "negative")
    as_ids = open_pairs(str(table), CsvOptions.parse({"image_template": "{sku}.png"}), "data")
    check_minable(as_ids, "negative")
    (tmp_path / "again.csv").write_text(
        "name,image,code\n" + "".join(f"thing {n},{n}.png,{n}.jpg\n" for n in range(N))
    )
    alike = CsvOptions.parse({"id_column": "code", "image_column": "image"})
    with pytest.raises(BadInput, match=r"the ids look like pictures, such as '0\.jpg'"):
        check_minable(open_pairs(str(tmp_path / "again.csv"), alike, "data"), "negative")


def test_a_failed_copy_leaves_nothing(tmp_path: Path, tiny_model: Path) -> None:
    given = [{**row, "mixed": 1 if n % 2 else "a"} for n, row in enumerate(rows(tmp_path))]
    table = write(tmp_path / "shop.jsonl", given)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(BadInput, match="cells of several types"):
        mined_table(table, tmp_path / "out.parquet", tiny_model)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_documents_are_mined_in_python(tiny_model: Path) -> None:
    docs = DocList[ClipDoc](
        [ClipDoc(id=f"{n}", text=f"thing {n}", image=picture(n)) for n in range(N)]
    )
    docs.append(ClipDoc(id="wrong", text="thing 1", image=picture(99), grade=0))
    mined = cliptune.mine(docs, tiny_model, num_negatives=2, relative_margin=None, device="cpu")
    assert [doc.id for doc in mined] == [doc.id for doc in docs]
    assert all(doc.negatives and len(doc.negatives) == 2 for doc in mined[:-1])
    assert {doc.negatives for doc in docs} == {None}
    with pytest.raises(BadInput, match="unknown option 'num_negative' of mining"):
        cliptune.mine(docs, tiny_model, num_negative=2)


@pytest.mark.e2e
def test_what_the_command_says_trains_on_what_it_wrote(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    table = write(tmp_path / "shop.csv", rows(tmp_path))
    command = ["mine", str(table), "--model", str(tiny_model), "--out", "mined.csv"]
    rules = ["--relative-margin", "none", "--max-score", "0.99", "--device", "cpu"]
    done = CliRunner().invoke(app, [*command, *rules])
    assert done.exit_code == 0, (done.output, done.exception)
    assert "11 used, 1 left out" in done.stderr
    assert "mining: at most 3 wrong answers a pair, of the 100 nearest" in done.stderr
    assert re.search(r"wrong answers of 1\d of 11 pairs", done.stdout)
    assert done.stdout.count(": not '") == 3
    again = CliRunner().invoke(app, [*command, *rules])
    assert isinstance(again.exception, AlreadyExists)
    bad = CliRunner().invoke(app, [*command, "--max-score", "high"])
    assert "--max-score is 'high': give a number, or none" in str(bad.exception)
    [line] = [line for line in done.stdout.splitlines() if line.startswith("train on it: ")]
    fit = shlex.split(line.removeprefix("train on it: cliptune "))
    trained = CliRunner().invoke(
        app,
        [*fit, "--model", str(tiny_model), "--epochs", "1", "--name", "mined", "-o", "device=cpu"],
    )
    assert trained.exit_code == 0, (trained.output, trained.exception)
    log = get_run("mined").logs()
    assert "training pairs name wrong answers, and share batches with them" in log
    assert "are no documents" not in log


@pytest.mark.e2e
def test_real_products_near_their_titles(shared_dir: Path, tmp_path: Path) -> None:
    source = shared_dir / "fashion_large" / "products-00000-of-00004.parquet"
    if not source.is_file():
        pytest.skip("no fashion_large")
    part = tmp_path / "part.parquet"
    pq.write_table(pq.read_table(source).slice(0, 400), part)
    given = open_pairs(str(part), CsvOptions(), "data")
    pairs = embed_pairs(given.docs, *both_towers("builtin", device="cpu"))
    options = MiningOptions(direction="pictures", num_negatives=5, range_max=400)
    mined = mine(pairs, options)
    assert mined.n_found > len(pairs)
    titles = np.array([str(doc.text).casefold() for doc in pairs.docs])
    pictures = pairs.pictures[pairs.picture_of]
    for row in range(0, len(pairs), 40):
        same = titles == titles[row]
        scores = pictures @ pairs.titles[pairs.title_of[row]]
        least = scores[same].min()
        allowed = ~same & (scores <= least - 0.05 * abs(least)) & (pictures @ pictures[row] < 0.97)
        allowed &= pairs.titles[pairs.title_of] @ pairs.titles[pairs.title_of[row]] < 0.99
        best = sorted(scores[allowed], reverse=True)[:5]
        found = [one.score for one in mined.negatives[row]]
        np.testing.assert_allclose(found, best, atol=1e-5)
