"""The list that helps to choose: its facts are those of open_clip's tables."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from cliptune.cli.app import app
from cliptune.errors import NotFound
from cliptune.models.formats.source import read_config
from cliptune.models.names import HubName, OpenClipName, parse_model_name
from cliptune.models.network import build_network
from cliptune.models.openclip import open_clip
from cliptune.models.registry import BUILTIN, MODELS, known_models, listed_as

LISTED = [model for model in MODELS if isinstance(parse_model_name(model.source), OpenClipName)]


@pytest.mark.parametrize("model", LISTED, ids=lambda model: model.name)
def test_a_row_is_what_its_weights_are(model) -> None:
    parsed = parse_model_name(model.name)
    assert parsed == parse_model_name(model.source)
    assert open_clip.is_pretrained_cfg(parsed.architecture, parsed.tag)
    config = read_config(parsed)
    assert config.model_cfg["embed_dim"] == model.output_dim
    assert config.preprocessing.size == (model.image_size,) * 2
    if not config.model_cfg["text_cfg"].get("hf_model_name"):  # its size is on the hub
        with torch.device("meta"):
            clip = build_network(config.model_cfg)
        millions = sum(p.numel() for p in clip.parameters()) / 1e6
        assert millions == pytest.approx(model.parameters, abs=0.1)


def test_names_that_are_not_open_clips() -> None:
    assert {model.name for model in MODELS} - {model.name for model in LISTED} == {
        BUILTIN, "Marqo/marqo-fashionSigLIP",
    }  # fmt: skip
    assert isinstance(parse_model_name("Marqo/marqo-fashionSigLIP"), HubName)
    assert listed_as("hf-hub:Marqo/marqo-fashionSigLIP") == MODELS[-1]
    assert listed_as("ViT-B-32::openai") == listed_as("clip-base-en")


def test_all_weights_can_be_searched() -> None:
    names = [model.name for model in known_models()]
    assert len(names) == len(set(names))
    everything = {f"{arch}::{tag}" for arch, tag in open_clip.list_pretrained()}
    assert everything <= set(names)
    done = CliRunner().invoke(app, ["models", "siglip2", "so400m", "--json"])
    found = json.loads(done.output)
    assert found
    assert all("SO400M" in row["name"] and "SigLIP2" in row["name"] for row in found)
    done = CliRunner().invoke(app, ["models", "nothing-like-it"])
    assert isinstance(done.exception, NotFound)


def test_the_shown_list_cuts_no_name() -> None:
    done = CliRunner().invoke(app, ["models"], env={"COLUMNS": "80"})
    shown = "".join(line.split("│")[1].strip() for line in done.output.splitlines() if "│" in line)
    assert all(model.name in shown for model in MODELS)


def test_speed_is_measured_without_weights() -> None:
    done = CliRunner().invoke(app, ["models", "builtin", "--measure", "--json"])
    [row] = json.loads(done.output)
    assert row["pictures/s"] > 1
    assert row["texts/s"] > 1
    assert row["parameters"] == pytest.approx(5.7, abs=0.1)
