"""Which models there are: the short names, open_clip's, and what to say about them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

BUILTIN = "builtin"
BUILTIN_FOLDER = Path(__file__).parent / "builtin"
RANDOM_WEIGHTS = "random"


FIGURES = "https://github.com/mlfoundations/open_clip/blob/main/docs/openclip_retrieval_results.csv"
"""Where the list's figures are from: open_clip's own measurements of its weights."""


@dataclass(frozen=True)
class ModelInfo:
    """One row of `describe_models()`."""

    name: str
    source: str
    """What is loaded: an open_clip `architecture::tag`, a repository, or a folder."""
    output_dim: int
    architecture: str
    description: str
    task: str = "text-to-image"
    parameters: float = 0
    """In millions, both towers; 0: not in the list."""
    image_size: int = 0
    """Pixels of a side."""
    licence: str = ""
    """Of the weights, as their makers' page says; a commercial use may need more than the name."""
    flickr: float | None = None
    """Text-to-image recall@1 on Flickr30k's test pictures, untuned (`FIGURES`)."""
    coco: float | None = None
    """The same on MS-COCO's."""


MODELS: tuple[ModelInfo, ...] = (
    ModelInfo(
        BUILTIN,
        f"local-dir:{BUILTIN_FOLDER}",
        256,
        "ConvNeXt-Atto 64px + 4-layer transformer",
        "The small model in the package: no download; trained on drawn products",
        parameters=5.7, image_size=64, licence="Apache-2.0",
    ),
    ModelInfo(
        "clip-base-en", "ViT-B-32::openai", 512, "ViT-B-32",
        "OpenAI's CLIP of 2021: what others are compared with",
        parameters=151.3, image_size=224, licence="MIT", flickr=0.5878, coco=0.3044,
    ),
    ModelInfo(
        "clip-fast", "ViT-B-32-256::datacomp_s34b_b86k", 512, "ViT-B-32, 256 px",
        "Small and fast: as quick as clip-base-en, and better",
        parameters=151.3, image_size=256, licence="MIT", flickr=0.6492, coco=0.3993,
    ),
    ModelInfo(
        "siglip-base", "ViT-B-16-SigLIP-256::webli", 768, "SigLIP ViT-B-16, 256 px",
        "The first choice for photographs",
        parameters=203.2, image_size=256, licence="Apache-2.0", flickr=0.7504, coco=0.4834,
    ),
    ModelInfo(
        "siglip-best", "ViT-SO400M-14-SigLIP-384::webli", 1152, "SigLIP SO400M-14, 384 px",
        "The best here without training; slow without a GPU",
        parameters=878.0, image_size=384, licence="Apache-2.0", flickr=0.8296, coco=0.5421,
    ),
    ModelInfo(
        "clip-large-en", "ViT-L-14::openai", 768, "ViT-L-14", "OpenAI's large CLIP of 2021",
        parameters=427.6, image_size=224, licence="MIT", flickr=0.6496, coco=0.3651,
    ),
    ModelInfo(
        "ViT-L-14-quickgelu::dfn2b", "ViT-L-14-quickgelu::dfn2b", 768, "ViT-L-14",
        "Large, on filtered data (DFN)",
        parameters=427.6, image_size=224, licence="Apple's", flickr=0.7546, coco=0.4856,
    ),
    ModelInfo(
        "ViT-H-14-378-quickgelu::dfn5b", "ViT-H-14-378-quickgelu::dfn5b", 1024, "ViT-H-14, 378 px",
        "Huge, on filtered data (DFN)",
        parameters=986.7, image_size=378, licence="Apple's", flickr=0.8202, coco=0.5564,
    ),
    ModelInfo(
        "MobileCLIP2-S0::dfndr2b", "MobileCLIP2-S0::dfndr2b", 512, "FastViT MCI0, 256 px",
        "The smallest worth it: for telephones and small servers",
        parameters=74.8, image_size=256, licence="apple-amlr",
    ),
    ModelInfo(
        "clip-base-multi", "xlm-roberta-base-ViT-B-32::laion5b_s13b_b90k", 512,
        "XLM-RoBERTa + ViT-B-32", "Titles in about 100 languages",
        parameters=366.1, image_size=224, licence="MIT", flickr=0.6448, coco=0.3778,
    ),
    ModelInfo(
        "siglip-multi", "ViT-B-16-SigLIP-i18n-256::webli", 768, "SigLIP ViT-B-16, 256 px",
        "Titles in many languages: the first choice",
        parameters=370.6, image_size=256, licence="Apache-2.0", flickr=0.7216, coco=0.4492,
    ),
    ModelInfo(
        "nllb-clip-large-siglip::v1", "nllb-clip-large-siglip::v1", 1152,
        "NLLB + SigLIP SO400M, 384 px",
        "Titles in 201 languages, rare ones too",
        parameters=1195.5, image_size=384, licence="CC-BY-NC-4.0", flickr=0.7276, coco=0.4513,
    ),
    ModelInfo(
        "Marqo/marqo-fashionSigLIP", "hf-hub:Marqo/marqo-fashionSigLIP", 768,
        "SigLIP ViT-B-16", "Tuned to fashion by its makers: where to go on from with clothes",
        parameters=203.2, image_size=224, licence="Apache-2.0",
    ),
)  # fmt: skip
SHORT_NAMES = {
    model.name: model for model in MODELS if model.source.removeprefix("hf-hub:") != model.name
}


def listed_as(name: str) -> ModelInfo | None:
    """The list's row of the model `name`, by whichever of its names; None: it isn't in the list."""
    names = {name, name.removeprefix("hf-hub:")}
    return next((model for model in MODELS if {model.name, model.source} & names), None)


def known_models() -> list[ModelInfo]:
    """The list, then all of open_clip's weights (`name::tag`)."""
    from cliptune.models.openclip import open_clip

    listed = list(MODELS)
    known = {model.source for model in MODELS if model.source not in SHORT_NAMES}
    for architecture, tag in open_clip.list_pretrained():
        name = f"{architecture}::{tag}"
        if name in known and name not in {model.source for model in SHORT_NAMES.values()}:
            continue
        config = open_clip.get_model_config(architecture)
        size = config["vision_cfg"].get("image_size", 224)
        listed.append(
            ModelInfo(
                name,
                name,
                int(config["embed_dim"]),
                architecture,
                f"open_clip's {architecture}",
                image_size=size if isinstance(size, int) else size[0],
            )
        )
    return listed
