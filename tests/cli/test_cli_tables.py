"""Tables on the command line: one set of options, kept by a run for the commands after it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from cliptune.cli.app import app
from cliptune.cli.options import DOWNLOAD, TABLE_OPTIONS
from cliptune.data.tables.options import CsvOptions
from cliptune.errors import BadData
from cliptune.models.artifact import open_artifact
from cliptune.runs import get_run

TABLES = [
    "fit",
    "evaluate",
    "compare",
    "wise-ft",
    "quantize",
    "report",
    "index add",
    "index prune",
    "split",
    "swap",
    "data check",
    "data correct",
    "data suspects",
    "mine",
]
"""The commands that take a table."""
COLOURS = ["red", "green", "blue", "white", "black", "orange", "purple", "yellow", "pink", "grey"]


@pytest.mark.parametrize("command", TABLES)
def test_each_command_that_takes_a_table_has_all_its_options(command: str) -> None:
    result = CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert CsvOptions.names() == [*TABLE_OPTIONS, DOWNLOAD]
    for name in CsvOptions.names():
        assert f"--{name.replace('_', '-')}" in result.output
    assert "Tables" in result.output


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    lines = ["heading;shot;sku"]
    for number, colour in enumerate(COLOURS):
        Image.new("RGB", (48, 48), colour).save(tmp_path / f"{number}.png")
        lines.append(f"größe, a {colour} thing;{number}.png;{colour}")
    lines += ["None, at all;nowhere/..png;x", ";0.png;y"]
    (tmp_path / "products.csv").write_bytes("\n".join(lines).encode("cp1252"))
    return tmp_path / "products.csv"


@pytest.mark.e2e
def test_columns_are_kept_for_the_commands_after_fit(
    shop: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    columns = ["--text-column", "HEADING", "--image-column", "shot", "--label-column", "sku"]
    fit = ["fit", str(shop), "--model", str(tiny_model), "--epochs", "1", "--name", "kept"]
    result = CliRunner().invoke(app, [*fit, *columns, "-o", "device=cpu"])
    assert result.exit_code == 0, (result.output, result.exception)
    log = get_run("kept").logs()
    for words in (
        "12 documents, 11 used, 1 left out",
        "titles: heading; pictures: shot; labels: sku",
        "read as cp1252, which is a guess, such as 'größe'",
        "left out: line 13 (id ",
        "10 training pairs, 1 left out",
        "such as 'größe, a red thing' with",
    ):
        assert words in log, log
    kept = {"text_column": "HEADING", "image_column": "shot", "label_column": "sku"}
    assert get_run("kept").config["csv_options"] == kept
    [artifact] = (tmp_path / "artifacts").iterdir()
    assert "csv_options" in (open_artifact(artifact).path / "config.yml").read_text()

    shop.write_bytes(b"\n".join(shop.read_bytes().split(b"\n")[:-2]))
    table = str(shop)
    measured = CliRunner().invoke(app, ["evaluate", str(artifact), "--queries", table, "--json"])
    assert measured.exit_code == 0, (measured.output, measured.exception)
    assert 0 < json.loads(measured.stdout)["recall_at_k"] <= 1
    assert "labels: sku" in measured.stderr
    mixed = CliRunner().invoke(app, ["wise-ft", "kept", "--eval", table, "--alphas", "0,1"])
    assert mixed.exit_code == 0, (mixed.output, mixed.exception)
    told = CliRunner().invoke(app, ["report", "kept", "--queries", table])
    assert told.exit_code == 0, (told.output, told.exception)


@pytest.mark.e2e
def test_errors_name_the_options_of_the_command(shop: Path, tiny_model: Path) -> None:
    for command in (["evaluate", str(tiny_model), "--queries"], ["fit"]):
        result = CliRunner().invoke(app, [*command, str(shop)])
        assert isinstance(result.exception, BadData)
        assert "heading, shot, sku" in str(result.exception)
        assert "--text-column" in str(result.exception)


def test_evaluate_leaves_out_what_cannot_be_read(
    tiny_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = ["title,image"]
    for number in range(12):
        Image.new("RGB", (48, 48), (20 * number, 90, 200)).save(tmp_path / f"{number}.jpg")
        rows.append(f"thing {number},{number}.jpg")
    whole = (tmp_path / "7.jpg").read_bytes()
    (tmp_path / "7.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "products.csv").write_text("\n".join(rows))
    command = [
        "evaluate", str(tiny_model), "--queries", str(tmp_path / "products.csv"), "--json"
    ]  # fmt: skip
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["n_index"] == 11


def test_a_check_says_what_a_table_would_be_taken_for(tmp_path: Path) -> None:
    lines = ["title,image,sku"]
    for number in range(40):
        # Two products look the same; the rest don't.
        picture = np.random.default_rng(max(1, number)).integers(0, 255, (12, 12, 3), np.uint8)
        Image.fromarray(picture).resize((60, 60)).save(tmp_path / f"{number}.png")
        lines.append(f"thing <b>{number // 2}</b>,{number}.png,{number}")
    (tmp_path / "7.png").write_bytes(b"no picture")
    lines[3] = f"{'very ' * 100}long,2.png,2"
    lines += [",3.png,41", "half,,42"]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    report = tmp_path / "check.html"
    run = CliRunner().invoke(
        app,
        ["data", "check", str(tmp_path / "t.csv"), "--report", str(report), "--id-column", "sku",
         "--pictures", "100"],
        env={"COLUMNS": "300"},
    )  # fmt: skip
    assert run.exit_code == 0, run.output
    for said in ("42 documents, 40 used, 2 left out", "left out: 1 for 'no picture', the first on",
                 "right answers to each other: 'thing <b>0</b>' (2)", "1 titles are cut",
                 "40 of 40 pictures decoded: 1 can't be", "can't be decoded: 7: "):  # fmt: skip
        assert said in run.output
    page = report.read_text()
    assert page.count('<img src="data:image/jpeg;base64,') >= 3
    assert "<b>" not in page
    assert "&lt;b&gt;0" in page
