"""What belongs to weights: of all that open_clip lists, against its own factory, with no download.

Networks are built with one block a tower on the `meta` device, so that none costs anything.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cliptune.data.pictures.images import decode_image
from cliptune.data.pictures.preprocessing import ImagePreprocessing, normalise, to_pixels
from cliptune.models import tokenizers
from cliptune.models.formats.source import read_config
from cliptune.models.loading import ClipModel, load_model
from cliptune.models.names import OpenClipName
from cliptune.models.openclip import open_clip

LISTED = open_clip.list_pretrained()
USABLE = LISTED
QUICK_BY_ITSELF = ("roberta-ViT-B-32", "laion2b_s12b_b32k")
"""Its tag says nothing, and its architecture has QuickGELU: open_clip measured it so."""


@dataclass
class AskedTokenizer:
    """Stands for a tokenizer: it remembers what was asked for."""

    name: str = ""
    context_length: int | None = 77
    options: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def hf(cls, name: str, context_length: int | None = 77, **options: Any) -> AskedTokenizer:
        unimportant = ("cache_dir",) + (
            ("tokenizer_mode",) if not options["tokenizer_mode"] else ()
        )
        kept = {k: v for k, v in options.items() if k not in unimportant}
        return cls(name, context_length, kept)

    @classmethod
    def simple(cls, context_length: int | None = 77, **options: Any) -> AskedTokenizer:
        own = open_clip.tokenizer.default_bpe()
        return cls("", context_length, {k: v for k, v in options.items() if v != own})


class OtherTower(nn.Module):
    """Stands for a tower of timm or of Hugging Face, to which open_clip passes no activation."""

    def __init__(self, *_: Any, image_size: Any = None, **__: Any) -> None:
        super().__init__()
        self.image_size = image_size
        self.context_length, self.vocab_size = 77, 0

    def forward(self, given: Tensor) -> Tensor:
        return given


@pytest.fixture(scope="module", autouse=True)
def nothing_is_fetched() -> Iterator[None]:
    shallow = copy.deepcopy(open_clip.factory._MODEL_CONFIGS)
    for config in shallow.values():
        layers = config["vision_cfg"].get("layers", 12)
        config["vision_cfg"]["layers"] = [1, 1, 1, 1] if isinstance(layers, list) else 1
        config["text_cfg"]["layers"] = 1
    asked = {"HFTokenizer": AskedTokenizer.hf, "SimpleTokenizer": AskedTokenizer.simple}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(open_clip.factory, "_MODEL_CONFIGS", shallow)
        patch.setattr(open_clip.factory, "download_pretrained", lambda *_, **__: "weights")
        patch.setattr(open_clip.factory, "load_checkpoint", lambda *_, **__: {})
        patch.setattr("cliptune.models.formats.source._fetch_listed", lambda _: {})
        patch.setattr("cliptune.models.loading.fit_weights", lambda *_: None)
        patch.setattr(open_clip.factory, "_set_model_device_and_precision", lambda *_: None)
        patch.setattr("cliptune.models.network.needs_transformers", lambda _: None)
        patch.setattr(open_clip.model, "TimmModel", OtherTower)
        patch.setattr(open_clip.model, "HFTextEncoder", OtherTower)
        for name, stand_in in asked.items():
            patch.setattr(open_clip.factory, name, stand_in)
            patch.setattr(tokenizers, name, stand_in)
        with torch.device("meta"):
            yield


def loaded(arch: str, tag: str) -> ClipModel:
    return load_model(f"{arch}::{tag}", device="meta")


def activations(tower: nn.Module) -> set[str]:
    found = [m for m in tower.modules() if isinstance(m, open_clip.transformer.QuickGELU | nn.GELU)]
    return {type(m).__name__ for m in found}


@pytest.mark.parametrize(("arch", "tag"), USABLE, ids=[f"{a}-{t}" for a, t in USABLE])
@pytest.mark.filterwarnings("ignore:QuickGELU mismatch")
def test_a_listed_model_is_what_its_weights_need(arch: str, tag: str) -> None:
    stated = open_clip.get_pretrained_cfg(arch, tag)
    reference = open_clip.create_model(
        arch, pretrained=tag, force_quick_gelu=stated.get("quick_gelu", False), device="meta"
    )
    model = loaded(arch, tag)
    needed = "QuickGELU" if stated.get("quick_gelu") else "GELU"
    if (arch, tag) == QUICK_BY_ITSELF:
        needed = "QuickGELU"
    assert model.activation == needed
    theirs, ours = (
        {n: activations(part) for n, part in clip.named_children()}
        for clip in (reference, model.clip)
    )
    theirs.pop("text_decoder", None)
    assert ours == theirs
    assert set().union(*ours.values()) <= {needed}
    networks = dict(reference.named_children())
    networks.pop("text_decoder", None)  # CoCa's, which writes captions
    found = {name: str(part) for name, part in model.clip.named_children()}
    assert found == {name: str(part) for name, part in networks.items()}

    wanted = open_clip.transform.PreprocessCfg(**reference.visual.preprocess_cfg)
    p = model.preprocessing
    assert [3, *p.size] == list(wanted.input_size)
    assert (p.mean, p.std) == (tuple(stated["mean"]), tuple(stated["std"]))
    assert (p.mean, p.std) == (tuple(wanted.mean), tuple(wanted.std))
    assert (p.interpolation, p.resize_mode) == (stated["interpolation"], stated["resize_mode"])
    assert (p.interpolation, p.resize_mode) == (wanted.interpolation, wanted.resize_mode)
    assert p.fill_color == wanted.fill_color

    tokenizer = open_clip.get_tokenizer(arch)
    assert model.tokenizer == tokenizer
    assert model.context_length == tokenizer.context_length


def test_the_short_names_are_openais_network() -> None:
    assert load_model("clip-base-en", device="meta").activation == "QuickGELU"
    assert load_model("clip-large-en", device="meta").activation == "QuickGELU"


def test_27_names_need_another_activation_than_they_say() -> None:
    """`metaclip_400m`, `dfn2b`, `laion400m_*`, …: open_clip's factory by itself only warns."""
    changed = [
        pair
        for pair in LISTED
        if read_facts_of(*pair) != bool(open_clip.get_model_config(pair[0]).get("quick_gelu"))
    ]
    assert len(changed) == 27
    assert {tag for _, tag in changed} == {
        "openai", "yfcc15m", "cc12m", "laion400m_e31", "laion400m_e32", "metaclip_400m",
        "metaclip_fullcc", "dfn2b", "dfn5b", "metaclip2_worldwide",
    }  # fmt: skip


def read_facts_of(arch: str, tag: str) -> bool:
    return bool(read_config(OpenClipName(arch, tag)).model_cfg.get("quick_gelu"))


def distinct() -> list[ImagePreprocessing]:
    facts = [read_config(OpenClipName(*pair)).preprocessing for pair in USABLE]
    by_all_but_size = {(p.mean, p.std, p.interpolation, p.resize_mode): p for p in reversed(facts)}
    return list(by_all_but_size.values())


@pytest.mark.parametrize("p", distinct(), ids=lambda p: p.summary)
def test_real_pictures_are_prepared_as_the_weights_need_it(
    p: ImagePreprocessing, shared_dir: Path
) -> None:
    """As open_clip's own transform of the same tag makes them."""
    transform = open_clip.transform.image_transform_v2(
        open_clip.transform.PreprocessCfg(
            p.size, "RGB", p.mean, p.std, p.interpolation, p.resize_mode
        ),
        is_train=False,
    )
    for file in sorted((shared_dir / "clothing").rglob("*.jpg"))[::700]:
        picture = decode_image(file.read_bytes())
        ours = normalise(to_pixels(picture, p)[None], p)[0]
        with torch.device("cpu"):
            theirs = transform(picture).numpy()
        np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=1e-5)
