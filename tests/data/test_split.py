"""Tables split by what belongs together: nothing lost, nothing changed, nothing on both sides."""

from __future__ import annotations

import csv
import io
import random
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cliptune.cli.app import app
from cliptune.data.split import split_table as split_by_keys
from cliptune.data.tables.reader import read_csv
from cliptune.errors import AlreadyExists, BadData, BadInput
from cliptune.models.tokenizers import clip_keys
from tests.pictures import picture

split_table = partial(split_by_keys, text_keys=clip_keys())
NAMED = {"text_column": "title", "image_column": "picture"}


def write(path: Path, rows: list[list[str]], **dialect: str) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, **dialect).writerows(rows)
    return path


def shop(folder: Path, titles: int = 200, each: int = 3) -> Path:
    rows = [
        [f"shirt no {i}", f"{i}-{n}.jpg", f"{i + n}"] for i in range(titles) for n in range(each)
    ]
    random.Random(3).shuffle(rows)
    return write(folder / "shop.csv", [["title", "picture", "price"], *rows])


def titles_of(path: Path) -> list[str]:
    return [str(doc.text) for doc in read_csv(path, NAMED)]


def sides(path: Path) -> tuple[Path, Path]:
    return path.with_stem(f"{path.stem}-train"), path.with_stem(f"{path.stem}-held-out")


def test_every_row_is_on_one_side_and_no_title_on_both(tmp_path: Path) -> None:
    table = shop(tmp_path)
    done = split_table(table, NAMED, held_out=0.25)
    assert (done.train.path, done.held_out.path) == sides(table)
    lines = [path.read_bytes().splitlines(keepends=True) for path in (table, *sides(table))]
    whole, train, held_out = lines
    assert train[0] == held_out[0] == whole[0]
    assert sorted(train[1:] + held_out[1:]) == sorted(whole[1:])
    # In the table's order.
    for part in (train, held_out):
        places = [whole.index(line) for line in part]
        assert places == sorted(places)
    found = [set(titles_of(path)) for path in sides(table)]
    assert not found[0] & found[1]
    assert [done.train.groups, done.held_out.groups] == list(map(len, found))
    assert done.train.rows == 3 * done.train.groups
    # 200 draws with probability 0.25: outside once in ten thousand seeds.
    assert 26 <= done.held_out.groups <= 74


def test_rows_that_are_added_move_no_others(tmp_path: Path) -> None:
    table = shop(tmp_path)
    split_table(table, NAMED)
    before = set(titles_of(sides(table)[1]))
    added = [[f"hat no {i}", f"hat{i}.jpg", "3"] for i in range(100)]
    rows = list(csv.reader(io.StringIO(table.read_text())))
    write(table, [rows[0], *added, *rows[1:]])
    split_table(table, NAMED, replace=True)
    after = {title for title in titles_of(sides(table)[1]) if title.startswith("shirt")}
    assert after == before
    split_table(table, NAMED, replace=True, seed=1)
    other = {title for title in titles_of(sides(table)[1]) if title.startswith("shirt")}
    assert other != before


@pytest.mark.parametrize("seed", range(8))
def test_what_is_the_same_to_the_model_stays_together(tmp_path: Path, seed: int) -> None:
    """Spelling, a long title's end, a label, and a picture under two names; and what they join."""
    for name, number in (("a", 1), ("b", 1), ("c", 2), ("d", 3)):
        (tmp_path / f"{name}.png").write_bytes(picture(number))
    long = "very " * 90
    together = [
        ["Red Dress", "x.png", "1"],
        ["red  dress", "a.png", "2"],
        ["another title of that picture", "b.png", "3"],
        ["a third one of that label", "y.png", "3"],
    ]
    also = [[long + "red", "c.png", "5"], [long + "blue", "z.png", "6"]]
    others = [[f"thing {i}", f"{i}.png", f"own {i}"] for i in range(40)]
    rows = [*together, *also, *others]
    random.Random(seed).shuffle(rows)
    table = write(tmp_path / "t.csv", [["title", "picture", "product"], *rows])
    split_table(table, {**NAMED, "label_column": "product"}, held_out=0.5, seed=seed)
    [held_out] = [set(titles_of(path)) for path in sides(table)[1:]]
    for group in (together, also):
        assert len({title.strip() in held_out for title, *_ in group}) == 1


@pytest.mark.parametrize(
    ("encoding", "delimiter", "end"),
    [
        ("utf-8", ",", "\n"),
        ("utf-8-sig", ";", "\r\n"),
        ("cp1252", "\t", "\n"),
        ("utf-8", "|", "\r\n"),
        ("utf-16", ";", "\r\n"),
    ],
)
def test_lines_stay_as_they_are(tmp_path: Path, encoding: str, delimiter: str, end: str) -> None:
    """Quotes, line ends within cells, blank lines, spaces, and no line end at the end."""
    rows = [f'"Käse ""{i}"" {end}zwei"{delimiter} p/{i}.jpg{delimiter}007' for i in range(30)]
    text = end.join([delimiter.join(["title", "picture", "n"]), *rows[:20], "", *rows[20:]])
    table = tmp_path / "käse.tsv"
    table.write_bytes(text.encode(encoding))
    options = {**NAMED, "encoding": encoding, "delimiter": delimiter}
    split_table(table, options)
    docs = read_csv(table, options)
    parts = [read_csv(path, options) for path in sides(table)]
    assert sorted(str(doc.text) for part in parts for doc in part) == sorted(
        str(doc.text) for doc in docs
    )
    assert {doc.uri for part in parts for doc in part} == {doc.uri for doc in docs}
    raw = [path.read_bytes() for path in sides(table)]
    mark = table.read_bytes()[: len("".encode(encoding))]
    assert all(part.startswith(mark) for part in raw)
    texts = [part.decode(encoding) for part in raw]
    assert all(part.startswith("title") for part in texts)
    assert sum(part.count(row) for row in rows for part in texts) == 30


def test_rows_that_others_leave_out_stay(tmp_path: Path) -> None:
    """Without a title, without anything, twice the same; and Excel's first line, in both."""
    rows = [f"thing {i};{i}.jpg;{i}" for i in range(20)]
    odd = [";none.jpg;1", "no picture;;2", ";;3", rows[4]]
    table = tmp_path / "odd.csv"
    table.write_text("\n".join(["sep=;", "title;picture;n", *rows, *odd]) + "\n")
    done = split_table(table, NAMED, held_out=0.4)
    parts = [path.read_text().splitlines() for path in sides(table)]
    assert all(part[:2] == ["sep=;", "title;picture;n"] for part in parts)
    assert sorted(parts[0][2:] + parts[1][2:]) == sorted(rows + odd)
    assert done.train.rows + done.held_out.rows == 24
    assert len([part for part in parts if rows[4] in part]) == 1


def test_json_lines(tmp_path: Path) -> None:
    rows = [f'{{"text": "thing {i // 2}", "file_name": "{i}.png"}}\n' for i in range(40)]
    table = tmp_path / "metadata.jsonl"
    table.write_text("".join(rows))
    split_table(table)
    parts = [path.read_text().splitlines(keepends=True) for path in sides(table)]
    assert sorted(parts[0] + parts[1]) == sorted(rows)
    assert all((rows[i] in parts[0]) == (rows[i + 1] in parts[0]) for i in range(0, 40, 2))


def test_a_table_without_a_header(tmp_path: Path) -> None:
    table = write(tmp_path / "plain.csv", [[f"{i}.jpg", f"title {i}"] for i in range(30)])
    split_table(table)
    parts = [path.read_text().splitlines() for path in sides(table)]
    assert sorted(parts[0] + parts[1]) == sorted(table.read_text().splitlines())


def test_pictures_without_titles_are_known_by_their_bytes(tmp_path: Path) -> None:
    """Wherever they lie, whatever else there is: the same pictures are held out."""
    held = []
    for folder, count in ((tmp_path / "here", 30), (tmp_path / "there", 40)):
        folder.mkdir()
        for i in range(count):
            (folder / f"{i}.png").write_bytes(picture(i))
            (folder / f"again-{i}.png").write_bytes(picture(i))
        names = [name for i in range(count) for name in (f"{i}.png", f"again-{i}.png")]
        table = write(
            folder / "t.csv", [["picture", "n", "m"], *[[name, "1", "2"] for name in names]]
        )
        split_table(table, {"image_column": "picture"})
        parts = [
            {row[0] for row in list(csv.reader(io.StringIO(part.read_text())))[1:]}
            for part in sides(table)
        ]
        assert {f"again-{name}" for name in parts[1] if name[0] != "a"} <= parts[1]
        held.append({name for name in parts[1] if int(name.split("-")[-1][:-4]) < 30})
    assert held[0] == held[1] != set()


def test_what_can_not_be_split(tmp_path: Path) -> None:
    one = write(
        tmp_path / "one.csv", [["title", "picture"], *[["a", f"{i}.jpg"] for i in range(9)]]
    )
    with pytest.raises(BadData, match="all of its rows are of one title"):
        split_table(one, NAMED)
    two = write(tmp_path / "two.csv", [["title", "picture"], ["a", "1.jpg"], ["b", "2.jpg"]])
    with pytest.raises(BadData, match=r"all of its 2 groups are left to train on: give another"):
        split_table(two, NAMED, held_out=0.0001)
    with pytest.raises(BadInput, match="held_out is 20"):
        split_table(two, NAMED, held_out=20)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.csv", "two.csv"]


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    table = shop(tmp_path, titles=50)
    columns = ["--text-column", "title", "--image-column", "picture"]
    result = CliRunner().invoke(app, ["split", str(table), *columns])
    assert result.exit_code == 0, result.exception
    train, held_out = (len(titles_of(path)) for path in sides(table))
    assert train + held_out == 150
    assert f"{train}" in result.output
    assert f"{held_out // 3}" in result.output
    kept = [path.read_bytes() for path in sides(table)]
    again = CliRunner().invoke(app, ["split", str(table), *columns, "--seed", "5"])
    assert isinstance(again.exception, AlreadyExists)
    assert "--replace writes it anew" in str(again.exception)
    assert [path.read_bytes() for path in sides(table)] == kept
