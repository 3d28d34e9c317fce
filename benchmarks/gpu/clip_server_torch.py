"""clip_server's torch executor, in its own environment: pictures and titles a second.

Its ViT-B/32 gets random weights in place of those that it would fetch; all else is its own: JPEG
bytes and texts go through its executor's `encode`, without a network between.
"""

import argparse
import asyncio
import io
import json
import statistics
import time
from functools import partial
from typing import Any

import clip_server.model.openclip_model as openclip_model
import numpy as np
import open_clip
import torch
from clip_server.executors.clip_torch import CLIPEncoder
from docarray import Document, DocumentArray
from PIL import Image


def main() -> None:
    """Measure each batch size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()

    def random_model(device: str, dtype: Any, **_: object) -> torch.nn.Module:
        model: torch.nn.Module = open_clip.create_model("ViT-B-32-quickgelu").eval()
        return model.to(device=device, dtype=dtype)

    openclip_model.get_model_url_md5 = lambda name: ("", "")
    openclip_model.download_model = lambda *_, **__: ""
    openclip_model.load_openai_model = random_model
    sizes = [1, 4] if args.tiny else [1, 16, 64, 256]
    for size in sizes:
        executor = CLIPEncoder(device=args.device, minibatch_size=size)
        row: dict[str, Any] = {"model": "ViT-B-32", "batch": size}
        pictures = partial(_documents, "blob", [_jpeg(number) for number in range(size)])
        titles = partial(_documents, "text", [f"a red shirt {number}" for number in range(size)])
        for what, made in (("pictures from JPEG", pictures), ("titles", titles)):
            times = []
            for _ in range(2 if args.tiny else 20):
                docs = made()
                began = time.perf_counter()
                asyncio.run(executor.encode(docs=docs, parameters={}))
                times.append(time.perf_counter() - began)
            row[what] = size / statistics.median(times[len(times) // 4 :])
        print(json.dumps(row), flush=True)


def _documents(field: str, values: list[Any]) -> DocumentArray:
    """Documents anew: the executor writes into them."""
    return DocumentArray([Document(**{field: value}) for value in values])


def _jpeg(number: int) -> bytes:
    noise = np.random.default_rng(number).integers(0, 256, (12, 16, 3), np.uint8)
    picture = Image.fromarray(noise).resize((640, 480), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    return file.getvalue()


if __name__ == "__main__":
    main()
