"""`cliptune wise-ft` on a tiny model: what it prints and writes, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from cliptune.cli.app import app
from cliptune.errors import CliptuneError
from cliptune.models.artifact import open_artifact
from cliptune.models.artifact_writer import write_artifact
from cliptune.models.loading import load_model

COLOURS = {"red": (200, 30, 30), "green": (30, 160, 40), "blue": (30, 50, 200), "grey": (90,) * 3}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Two folders of pictures: each folder's name is their text and label."""
    root = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(1)
    for role in ("inside", "outside"):
        for name, colour in COLOURS.items():
            (root / role / name).mkdir(parents=True)
            for number in range(4):
                noise = random.integers(-60, 60, (32, 32, 3))
                pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / role / name / f"{number}.png")
    return str(root / "inside"), str(root / "outside")


@pytest.fixture(scope="module")
def tuned(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact of the tiny model with other weights."""
    model = load_model(tiny_model)
    torch.manual_seed(2)
    with torch.no_grad():
        for weights in model.clip.parameters():
            weights.add_(torch.randn_like(weights) * 0.1)
    folder = tmp_path_factory.mktemp("tuned") / "artifact"
    write_artifact(model, folder)
    return folder


def wise_ft(*arguments: str | Path) -> Result:
    return CliRunner(env={"COLUMNS": "160"}).invoke(app, ["wise-ft", *map(str, arguments)])


def test_a_sweep_is_shown_written_and_saved(
    tuned: Path, tiny_model: Path, folders: tuple[str, str], tmp_path: Path
) -> None:
    inside, outside = folders
    out, saved = tmp_path / "out", tmp_path / "saved"
    result = wise_ft(
        tuned, "--eval", inside, "--robust", outside, "--alphas", "0.5:1:0.25", "--limit", "3",
        "--max-loss", "0.5", "--metric", "hit_at_k", "--out", out, "--save", saved, "--onnx",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    found = json.loads((out / "wise-ft.json").read_text())
    assert [point["alpha"] for point in found["points"]] == [0.0, 0.5, 0.75, 1.0]
    alpha = found["picked"]["alpha"]
    assert f"alpha {alpha:g}: {found['picked']['reason']}" in " ".join(result.output.split())
    assert found["finetuned"]["digest"] == open_artifact(tuned).digest
    assert found["pretrained"]["digest"] == load_model(tiny_model).digest
    assert found["rule"] == {"metric": "hit_at_k", "max_loss": 0.5}
    for point in found["points"]:
        assert f"{point['in_domain']['hit_at_k']:.4f}" in result.output
        assert f"{point['robust']['hit_at_k']:.4f}" in result.output
    with Image.open(out / "frontier.png") as image:
        assert image.format == "PNG"

    artifact = open_artifact(saved)
    assert artifact.metadata["base_model"] == str(tiny_model)
    assert artifact.onnx_path("clip-text").is_file()
    config = yaml.safe_load((saved / "config.yml").read_text())
    assert config["wise_ft"]["picked"]["alpha"] == alpha
    before, after, mixed = (
        load_model(path).clip.state_dict() for path in (tiny_model, tuned, saved)
    )
    for name, value in mixed.items():
        torch.testing.assert_close(value, (1 - alpha) * before[name] + alpha * after[name])

    # What the artifact says about itself is what `evaluate` finds.
    arguments = ["evaluate", str(saved), "--queries", inside, "--limit", "3", "--json"]
    measured = json.loads(CliRunner().invoke(app, arguments).stdout)
    counts = {name: measured.pop(name) for name in ("n_queries", "n_index", "n_without_answers")}
    assert counts["n_queries"] > counts["n_without_answers"] == 0
    prefix = "clip-text-to-clip-vision_"
    assert {prefix + name: value for name, value in measured.items()} == pytest.approx(
        artifact.metrics["after"]
    )
    assert artifact.metrics["before"] != artifact.metrics["after"]


def test_a_given_alpha_is_saved_and_alpha_0_is_the_base(
    tuned: Path, tiny_model: Path, folders: tuple[str, str], tmp_path: Path
) -> None:
    result = wise_ft(
        tuned, "--eval", folders[0], "--alphas", "1", "--alpha", "0", "--before", tiny_model,
        "--out", tmp_path, "--save", tmp_path / "saved",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert open_artifact(tmp_path / "saved").digest == load_model(tiny_model).digest
    found = json.loads((tmp_path / "wise-ft.json").read_text())
    assert [point["robust"] for point in found["points"]] == [None, None]
    assert found["picked"]["alpha"] == 0
    assert "it was asked for; the rule's is" in found["picked"]["reason"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--alphas", "0:1"], "'0:1'"),
        (["--alphas", "0,2"], "alpha is 2"),
        (["--alpha", "1.5"], "alpha is 1.5"),
        (["--metric", "mrr"], "metric is 'mrr'"),
        (["--max-loss", "3"], "max_loss is 3"),
        (["--robust-index", "catalogue-index"], "--robust-index catalogue-index needs --robust"),
        (["--robust", "no-such-data"], "robust queries: 'no-such-data'"),
        (["--onnx"], "--onnx needs --save"),
        (["--save", "."], ". is there already"),
        (["--out", __file__], "test_cli_wise_ft.py is a file"),
        (["--before", "no-such-model"], "no-such-model"),
        (["--before", "builtin"], "differ in their weights' names"),
    ],
)
def test_what_it_refuses(
    tuned: Path, folders: tuple[str, str], tmp_path: Path, arguments: list[str], words: str
) -> None:
    out = [] if "--out" in arguments else ["--out", tmp_path / "out"]
    result = wise_ft(tuned, "--eval", folders[0], *out, *arguments)
    assert isinstance(result.exception, CliptuneError)
    assert words in str(result.exception)
    assert not any(tmp_path.iterdir())


def test_a_base_model_that_is_gone(
    folders: tuple[str, str], tiny_model: Path, tmp_path: Path
) -> None:
    model = load_model(tiny_model)
    model.base = "/nowhere/model"
    write_artifact(model, tmp_path / "artifact")
    result = wise_ft(tmp_path / "artifact", "--eval", folders[0], "--out", tmp_path / "out")
    assert isinstance(result.exception, CliptuneError)
    assert "give one by --before: " in str(result.exception)
    assert "/nowhere/model" in str(result.exception)


@pytest.mark.e2e
def test_an_error_is_one_line() -> None:
    command = "from cliptune.cli import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", command, "wise-ft", "no-such-run", "--eval", "catalogue-queries"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 1
    assert result.stderr.startswith("error: no artifact at 'no-such-run'")
    assert "Traceback" not in result.stderr
