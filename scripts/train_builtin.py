"""Train the built-in model again, from random weights, with the project's own training code.

    python scripts/train_builtin.py --pictures 60000 --epochs 8

It draws plain products (`cliptune.demo.catalogue`: the products that the evaluation holds back are
never among them), trains both towers on them, and writes config, vocabulary and fp16 weights to
`cliptune/models/builtin/`. About half an hour on two CPU cores.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import logging
import tempfile
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path

import torch
from docarray import DocList
from safetensors.torch import load_file, save_file

from cliptune.demo.catalogue import plain_products, render
from cliptune.demo.catalogue.products import Product
from cliptune.documents import ClipDoc
from cliptune.models.openclip import open_clip
from cliptune.models.registry import BUILTIN_FOLDER
from cliptune.training import TrainingOptions, train
from cliptune.training.run_logger import StandardRunLogger

IMAGE_SIZE = 64
VOCABULARY = 6144
CONFIG = {
    "model_cfg": {
        "embed_dim": 256,
        "vision_cfg": {
            "timm_model_name": "convnext_atto",
            "timm_model_pretrained": False,
            "timm_pool": "avg",
            "timm_proj": "linear",
            "image_size": IMAGE_SIZE,
        },
        "text_cfg": {
            "context_length": 77,
            "vocab_size": VOCABULARY,
            "width": 160,
            "heads": 5,
            "layers": 4,
        },
    },
    "preprocess_cfg": {
        "size": [IMAGE_SIZE, IMAGE_SIZE],
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "interpolation": "bicubic",
        "resize_mode": "longest",
        "fill_color": 255,
    },
}
WEIGHTS_FILE = "open_clip_model.safetensors"


def write_vocabulary(path: Path) -> None:
    """The first merges of CLIP's byte-pair encoding, as many as fit the small vocabulary."""
    merges = (
        gzip.decompress(Path(open_clip.tokenizer.default_bpe()).read_bytes()).decode().split("\n")
    )
    # A header line, then the merges; 512 single bytes and two marks are tokens as well.
    kept = "\n".join(merges[: 1 + VOCABULARY - 512 - 2])
    path.write_bytes(gzip.compress(kept.encode(), mtime=0))


def draw(product_and_variant: tuple[Product, int]) -> bytes:
    """One picture as JPEG, somewhat larger than the model sees it."""
    product, variant = product_and_variant
    buffer = io.BytesIO()
    render(product, variant, 80).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def draw_documents(count: int, seed: int) -> DocList[ClipDoc]:
    """`count` plain products, one picture each."""
    products = list(islice(plain_products(seed), count))
    with ProcessPoolExecutor() as pool:
        pictures = pool.map(draw, ((p, i % 3) for i, p in enumerate(products)), chunksize=256)
        return DocList[ClipDoc](
            ClipDoc(id=f"plain-{i}", text=product.title, image=picture)
            for i, (product, picture) in enumerate(zip(products, pictures, strict=True))
        )


def main() -> None:
    """Draw, train, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=60_000)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=192)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=BUILTIN_FOLDER)
    args = parser.parse_args()

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        start = Path(scratch) / "start"
        start.mkdir()
        (start / "open_clip_config.json").write_text(json.dumps(CONFIG, indent=2))
        write_vocabulary(start / "bpe.txt.gz")
        clip = open_clip.CLIP(**json.loads(json.dumps(CONFIG["model_cfg"])))
        save_file({k: v.contiguous() for k, v in clip.state_dict().items()}, start / WEIGHTS_FILE)
        options = TrainingOptions.parse(
            {
                "model": str(start),
                "learning_rate": args.learning_rate,
                "epochs": args.epochs,
                "batch_size": args.batch_size,
                "optimizer_options": {"weight_decay": 0.1},
                "seed": args.seed,
            }
        )
        docs = draw_documents(args.pictures, args.seed)
        held_out = draw_documents(1_000, args.seed + 1)
        outcome = train(options, docs, held_out, [], Path(scratch), StandardRunLogger())
        weights = {
            **outcome.artifact.weights("clip-text"),
            **outcome.artifact.weights("clip-vision"),
        }
        half = {k: v.half() if v.is_floating_point() else v for k, v in weights.items()}
        save_file(half, args.out / WEIGHTS_FILE)
        for name in ("open_clip_config.json", "bpe.txt.gz"):
            (args.out / name).write_bytes((start / name).read_bytes())
    size = sum(file.stat().st_size for file in args.out.iterdir())
    parameters = sum(v.numel() for v in load_file(args.out / WEIGHTS_FILE).values())
    print(f"{parameters / 1e6:.2f} million parameters, {size / 1e6:.1f} MB in {args.out}")


if __name__ == "__main__":
    main()
