"""The command line: help with examples, exit codes, errors on stderr, a whole run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from cliptune.cli import app as app_module
from cliptune.cli import main
from cliptune.cli.app import app
from cliptune.cli.training.fit import parse_callback_option, parse_options, with_options
from cliptune.data.tables.options import CsvOptions
from cliptune.errors import AlreadyExists, BadInput
from cliptune.settings import Settings, about, bounds, variable_of
from tests.ports import free_ports

COMMANDS = [
    "fit", "runs", "logs", "cancel", "resume", "evaluate", "export", "index", "search", "serve",
    "train-server", "models", "demo", "wise-ft", "report",
]  # fmt: skip


def run(*arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-c", "from cliptune.cli import main; main()", *arguments],
        capture_output=True, text=True, timeout=timeout, env=environment, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_shows_an_example(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert f"Example: cliptune {command}" in result.output


def test_options_that_win_over_settings_are_made_of_them() -> None:
    shown = {}
    for command in _commands(typer.main.get_command(app)):
        for parameter in command.params:
            if parameter.envvar:
                shown[parameter.envvar] = parameter
    assert len(shown) > 15
    for name, field in Settings.model_fields.items():
        if option := shown.pop(variable_of(name), None):
            meaning = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", about(field).meaning).replace("`", "")
            assert meaning[1:] in option.help, name
            if None not in bounds(field):
                assert (option.min, option.max) == bounds(field), name
    assert not shown, "no settings"


def _commands(command: Any) -> Iterator[Any]:
    yield command
    for inner in getattr(command, "commands", {}).values():
        yield from _commands(inner)


def test_an_option_that_is_not_given_is_the_environment_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPTUNE_ARTIFACT", "no-such-model")
    for door, port in zip(("GRPC", "HTTP", "CLIP_SERVICE"), free_ports(3), strict=True):
        monkeypatch.setenv(f"CLIPTUNE_{door}_PORT", str(port))
    for arguments, named in (([], "no-such-model"), (["--artifact", "another"], "another")):
        result = CliRunner().invoke(app, ["serve", *arguments])
        assert named in str(result.exception)


HEAVY = (
    "docarray", "fastapi", "grpc", "httpx", "jina", "lancedb", "markdown_it", "numpy",
    "onnxruntime", "open_clip", "PIL", "pydantic", "pygments", "torch", "transformers",
)  # fmt: skip
"""What nobody waits for who asks what there is."""


@pytest.mark.parametrize(
    "code",
    [
        "import cliptune, sys",
        "import sys; from cliptune.cli import main\ntry: main()\nexcept SystemExit: pass",
    ],
)
def test_the_package_and_the_help_import_nothing_heavy(code: str) -> None:
    told = f"{code}\nprint('imported:', *sorted(set({HEAVY}) & set(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", told, "--help"], capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines()[-1].strip() == "imported:"


def test_the_help_lists_all_commands_as_they_describe_themselves() -> None:
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "1000", "TERMINAL_WIDTH": "1000"})
    assert shown.exit_code == 0
    rows = [line.strip("│ ").split(maxsplit=1) for line in shown.stdout.splitlines()]
    listed = {row[0]: row[1].strip() for row in rows if len(row) == 2}
    group: Any = typer.main.get_command(app)
    for name, command in group.commands.items():
        described = " ".join(command.help.split("\n\n")[0].split())
        assert listed[name] == described, name
    assert " ".join(app_module.COMMANDS.values()).split() == list(group.commands)
    assert [h for h in app_module.HEADINGS.values() if f"─ {h} ─" in shown.stdout] == [
        *app_module.HEADINGS.values()
    ]


ERRORS = [
    (["fit", "no-such-data"], "no-such-data"),
    (["fit", "no-such.csv"], "no file at 'no-such.csv'"),
    (["fit", "catalogue-train", "--model", "clip-bas-en"], "clip-base-en"),
    (["fit", "catalogue-train", "--wise-ft", "1.5"], "alpha is 1.5"),
    (["fit", "catalogue-train", "--option", "scheduler=cosin"], "'cosine'"),
    (["fit", "catalogue-train", "--option", "nonsense"], "NAME=VALUE"),
    (["fit", "catalogue-train", "--option", "epochs=3"], "epochs=…: it has an option of its"),
    (["fit", "catalogue-train", "--option", "csv_options=3"], "csv_options=3: write {"),
    (["fit", "catalogue-train", "--index", "catalogue-index"], "--index needs --queries"),
    (["logs", "no-such-run"], "no-such-run"),
    (["search", "x", "--server", "grpc://127.0.0.1:1"], "127.0.0.1:1"),
    (["serve", "--artifact", "nowhere.zip"], "nowhere.zip"),
]


@pytest.mark.e2e
@pytest.mark.parametrize(("arguments", "words"), ERRORS)
def test_errors_are_one_line_on_stderr(
    arguments: list[str],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["cliptune", *arguments])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as ended:
        main()
    printed = capfd.readouterr()
    assert_is_one_error(ended.value.code, printed.out, printed.err, words)


@pytest.mark.e2e
@pytest.mark.parametrize(("arguments", "words"), [ERRORS[0], ERRORS[-1]])
def test_errors_are_one_line_of_the_process_too(arguments: list[str], words: str) -> None:
    """Its libraries have nothing to say, from their import to the end."""
    done = run(*arguments)
    assert_is_one_error(done.returncode, done.stdout, done.stderr, words)


def assert_is_one_error(status: object, stdout: str, stderr: str, words: str) -> None:
    assert status == 1
    assert words in stderr
    assert stderr.startswith("error:")
    assert "Traceback" not in stderr + stdout


def test_csv_options_go_with_the_columns_options() -> None:
    named = {"epochs": 1, "csv_options": CsvOptions(text_column="title")}
    options = parse_options(["csv_options={delimiter: ';'}", "seed=3"])
    csv_options = CsvOptions(text_column="title", delimiter=";")
    assert with_options(named, options) == {"epochs": 1, "seed": 3, "csv_options": csv_options}


def test_options_are_yaml() -> None:
    assert parse_options(["seed=3", "optimizer_options={weight_decay: 0.1}", "freeze=vision"]) == {
        "seed": 3,
        "optimizer_options": {"weight_decay": 0.1},
        "freeze": "vision",
    }
    with pytest.raises(BadInput, match="not YAML"):
        parse_options(["a={"])


def test_callbacks_are_names_or_yaml() -> None:
    assert parse_callback_option("TensorBoardLogger") == {"name": "TensorBoardLogger"}
    assert parse_callback_option("EarlyStopping: {patience: 3}") == {
        "name": "EarlyStopping",
        "patience": 3,
    }
    for text in ("[1]", "a: 1", "{a: {}, b: {}}", "{"):
        with pytest.raises(BadInput, match="--callback"):
            parse_callback_option(text)


@pytest.mark.e2e
def test_fit_evaluate_export(tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "artifacts"
    fitted = run(
        "fit", "catalogue-eval", "--model", str(tiny_model), "--epochs", "1",
        "--queries", "catalogue-eval", "--name", "first", "--out", str(out), "-o", "seed=5",
        "-c", "BestModelCheckpoint: {monitor: reciprocal_rank}", "-o", "lora={rank: 2}",
    )  # fmt: skip
    assert fitted.returncode == 0, fitted.stderr
    assert "Training [1/1]" in fitted.stdout
    [artifact] = out.iterdir()
    assert "first" in artifact.name

    def shell(*arguments: str) -> Result:
        return CliRunner().invoke(app, list(arguments))

    again = shell("fit", "catalogue-eval", "--model", str(tiny_model), "--name", "first")
    assert isinstance(again.exception, AlreadyExists)
    assert "'first'" in str(again.exception)

    listed = json.loads(shell("runs", "--json").stdout)
    assert [(row["name"], row["status"]) for row in listed] == [("first", "FINISHED")]
    assert "Done" in shell("logs", "first").stdout

    measured = shell("evaluate", str(artifact), "--queries", "catalogue-eval", "--json")
    metrics = json.loads(measured.stdout)
    assert 0 <= metrics["precision_at_k"] <= 1

    exported = tmp_path / "exported"
    assert shell("export", str(artifact), "--out", str(exported)).exit_code == 0
    assert (exported / "models" / "clip-vision" / "model.onnx").is_file()
    twice = shell("export", str(artifact), "--out", str(exported))
    assert isinstance(twice.exception, AlreadyExists)
    assert "is there already" in str(twice.exception)
