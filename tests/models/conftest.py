"""What several tests of models share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="session")
def tiny_siglip() -> Iterator[str]:
    """timm knows SigLIP's published sizes; meanwhile a tiny one, too. Gives its name."""
    import timm
    from timm.models import vision_transformer
    from timm.models._registry import register_model

    from cliptune.models.formats import huggingface

    def vit_test_patch8_siglip_32(pretrained: bool = False, **options: Any) -> Any:
        args = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 2}
        args |= {"mlp_ratio": 2, "class_token": False, "global_pool": "map", **options}
        make = vision_transformer._create_vision_transformer
        return make("vit_base_patch16_siglip_256", pretrained=pretrained, **args)

    name = vit_test_patch8_siglip_32.__name__
    vit_test_patch8_siglip_32.__module__ = vision_transformer.__name__
    assert not timm.is_model(name)
    register_model(vit_test_patch8_siglip_32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(huggingface._SIGLIP_SIZES, (64, 2, 2, 128), "test")
        yield name
