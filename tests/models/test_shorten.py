"""Shorter embeddings: the first numbers of those of the model, of every kind of tower."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from cliptune.cli.app import app
from cliptune.errors import BadInput
from cliptune.inference import get_tower
from cliptune.models.artifact_writer import write_artifact
from cliptune.models.loading import load_model
from cliptune.models.network import build_network
from cliptune.models.shorten import shorten
from tests.pictures import picture

E2E = pytest.mark.e2e
TITLES = ["a red shirt", "blue rain boots of rubber", "hat"]
PICTURES = [picture(number) for number in range(3)]


def cut(embeddings: np.ndarray, length: int) -> np.ndarray:
    first = embeddings[:, :length]
    return first / np.linalg.norm(first, axis=1, keepdims=True)


@pytest.mark.parametrize(
    "name", ["builtin", *(pytest.param(f"{n}::random", marks=E2E) for n in ("RN50", "ViT-B-32"))]
)
def test_the_first_numbers_are_given(name: str, tmp_path: Path) -> None:
    model = load_model(name)
    weights = {key: value.clone() for key, value in model.clip.state_dict().items()}
    short = shorten(model, 24)
    assert (short.output_dim, model.output_dim) != (24, 24)
    assert short.digest != model.digest
    write_artifact(short, tmp_path / "short")
    for tower, inputs in (("clip-text", TITLES), ("clip-vision", PICTURES)):
        whole = get_tower(model, tower).encode(inputs)
        for source in (short, tmp_path / "short"):
            np.testing.assert_allclose(
                get_tower(source, tower).encode(inputs), cut(whole, 24), atol=2e-5
            )
    for key, value in model.clip.state_dict().items():
        assert torch.equal(value, weights[key])


def test_what_ends_in_more_than_a_projection_is_refused(tiny_model: Path) -> None:
    model = load_model(tiny_model)
    vision = {
        "image_size": 32,
        "timm_model_name": "resnet18",
        "timm_proj": "mlp",
        "timm_pool": "avg",
    }
    config: Any = {**model.model_cfg, "vision_cfg": vision}
    other = replace(model, clip=build_network(config), model_cfg=config)
    with pytest.raises(BadInput, match="more than one projection"):
        shorten(other, 4)


def lengths_in(shown: str) -> list[int]:
    return [int(number) for number in re.findall(r"^│ (\d+) ", shown, re.MULTILINE)]


@pytest.mark.parametrize("length", [0, -1, 10_000])
def test_a_length_that_is_none(tiny_model: Path, length: int) -> None:
    with pytest.raises(BadInput, match=f"dimensions is {length}: use a number from 1 to"):
        shorten(load_model(tiny_model), length)


@E2E
def test_the_command(tmp_path: Path) -> None:
    write_artifact(
        load_model("builtin"), tmp_path / "model", config={"matryoshka": [16, 64]}, to_onnx=True
    )

    def run(*arguments: Any) -> str:
        result = CliRunner().invoke(app, ["shorten", *map(str, arguments)], env={"COLUMNS": "200"})
        if result.exception:
            raise result.exception
        return result.output

    at = tmp_path / "model"
    shown = run(at, "--queries", "catalogue-eval", "--dimensions", 32, "--out", tmp_path / "s.zip")
    assert lengths_in(shown) == [256] * 3 + [32] * 3
    assert [row.split() for row in re.findall("(?<=│)[ 0-9,]+(?= │$)", shown, re.MULTILINE)] == [
        [size] for size in ("1,024", "256", "32", "128", "32", "4")
    ]
    assert "256 -> 32 numbers" in shown
    short = get_tower(tmp_path / "s.zip", "clip-text", engine="onnx")
    whole = get_tower(at, "clip-text").encode(TITLES)
    np.testing.assert_allclose(short.encode(TITLES), cut(whole, 32), atol=1e-4)
    assert lengths_in(run(at, "--queries", "catalogue-eval")) == [
        length for length in (256, 64, 16) for _ in range(3)
    ]
    for arguments, problem in (
        ((at,), "give --queries to measure by, or --out"),
        ((at, "--out", tmp_path / "x"), "give one --dimensions"),
        ((at, "--dimensions", 2, "--dimensions", 4, "--out", tmp_path / "x"), "give one"),
        ((at, "--dimensions", 512, "--out", tmp_path / "x"), "from 1 to 256"),
    ):
        with pytest.raises(BadInput, match=problem):
            run(*arguments)
    assert not (tmp_path / "x").exists()
