"""Which models there are: the short names, open_clip's, and what to say about them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

BUILTIN = "builtin"
BUILTIN_FOLDER = Path(__file__).parent / "builtin"
RANDOM_WEIGHTS = "random"


@dataclass(frozen=True)
class ModelInfo:
    """One row of `describe_models()`."""

    name: str
    source: str
    """What is loaded: an open_clip `architecture::tag`, or a folder."""
    output_dim: int
    architecture: str
    description: str
    task: str = "text-to-image"


MODELS: tuple[ModelInfo, ...] = (
    ModelInfo(
        BUILTIN,
        f"local-dir:{BUILTIN_FOLDER}",
        256,
        "ConvNeXt-Atto 64px + 4-layer transformer",
        "The small model in the package: no download; trained on drawn products",
    ),
    ModelInfo(
        "clip-base-en", "ViT-B-32::openai", 512, "ViT-B-32", "OpenAI's CLIP: a sound first choice"
    ),
    ModelInfo(
        "clip-large-en", "ViT-L-14::openai", 768, "ViT-L-14", "OpenAI's large CLIP: better, slower"
    ),
    ModelInfo(
        "clip-base-multi",
        "xlm-roberta-base-ViT-B-32::laion5b_s13b_b90k",
        512,
        "XLM-RoBERTa + ViT-B-32",
        "Titles in about 100 languages",
    ),
)
SHORT_NAMES = {model.name: model for model in MODELS}

# The open_clip names that Finetuner listed; any other name that open_clip knows works as well.
_OPEN_CLIP_FAMILIES: dict[str, tuple[int, str]] = {
    "RN50": (1024, "ResNet-50"),
    "RN101": (512, "ResNet-101"),
    "RN50x4": (640, "ResNet-50x4"),
    "RN50x16": (768, "ResNet-50x16"),
    "RN50x64": (1024, "ResNet-50x64"),
    "ViT-B-16": (512, "ViT-B, 16 px patches"),
    "ViT-B-16-plus-240": (640, "ViT-B+, 16 px patches, 240 px pictures"),
    "ViT-B-32": (512, "ViT-B, 32 px patches"),
    "ViT-L-14": (768, "ViT-L, 14 px patches"),
    "ViT-L-14-336": (768, "ViT-L, 14 px patches, 336 px pictures"),
}


def known_models() -> list[ModelInfo]:
    """The short names, then open_clip's weights of the listed architectures (`name::tag`)."""
    from cliptune.models.openclip import open_clip

    listed = list(MODELS)
    for architecture, tag in open_clip.list_pretrained():
        if architecture in _OPEN_CLIP_FAMILIES:
            output_dim, words = _OPEN_CLIP_FAMILIES[architecture]
            name = f"{architecture}::{tag}"
            listed.append(ModelInfo(name, name, output_dim, architecture, words))
    return listed
