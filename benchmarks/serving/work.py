"""cliptune's sides of the benchmark, each a process of its own: its client, and a bare loop.

    python work.py client grpc://127.0.0.1:51000
    python work.py loop ARTIFACT

Reads tasks from its standard input, one JSON object a line, and answers each with a line:

    {"kind": "texts" | "pictures" | "single", "items": [...], "batch_size": 32}
    {"seconds": 1.5, "first": [the first embedding]}

Pictures are paths, read before the clock starts; `single` sends one text after the other, and its
`seconds` are a list.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from docarray import DocList
from numpy.typing import NDArray

from cliptune.documents import ClipDoc

IN_FLIGHT = 4
"""Batches that the client has under way at once; clip_client has up to 100."""
Encode = Callable[[list[Any], int], NDArray[np.float32]]


def client_encoder(address: str) -> Encode:
    """Encode by a served Flow."""
    from cliptune.serving import Client

    client = Client(address)
    pool = ThreadPoolExecutor(IN_FLIGHT)

    def one_batch(items: list[Any]) -> NDArray[np.float32]:
        if isinstance(items[0], str):
            vectors: NDArray[np.float32] = client.encode(items, batch_size=len(items))
            return vectors
        docs = DocList[ClipDoc]([ClipDoc(image=item) for item in items])
        client.encode(docs, batch_size=len(items))
        return np.stack([np.asarray(doc.embedding) for doc in docs])

    def encode(items: list[Any], batch_size: int) -> NDArray[np.float32]:
        batches = [items[s : s + batch_size] for s in range(0, len(items), batch_size)]
        return np.concatenate(list(pool.map(one_batch, batches)))

    return encode


def loop_encoder(artifact: str) -> Encode:
    """Encode by the same engine, in this process, with nothing around it."""
    import torch

    from cliptune.inference import get_tower

    torch.set_num_threads(torch.get_num_threads())
    text = get_tower(artifact, "clip-text", engine="onnx")
    vision = get_tower(artifact, "clip-vision", engine="onnx")

    def encode(items: list[Any], batch_size: int) -> NDArray[np.float32]:
        text.batch_size = vision.batch_size = batch_size
        return text.encode(items) if isinstance(items[0], str) else vision.encode(items)

    return encode


def main(encode: Encode) -> None:
    """Do the tasks."""
    for line in sys.stdin:
        task = json.loads(line)
        if task["kind"] == "single":
            singles, each = [], []
            for item in task["items"]:
                start = time.perf_counter()
                singles.append(encode([item], 1)[0])
                each.append(time.perf_counter() - start)
            answer: dict[str, Any] = {"seconds": each, "first": singles[0].tolist()}
        else:
            items = task["items"]
            if task["kind"] == "pictures":
                items = [Path(path).read_bytes() for path in items]
            start = time.perf_counter()
            found = encode(items, task["batch_size"])
            answer = {"seconds": time.perf_counter() - start, "first": found[0].tolist()}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(client_encoder(sys.argv[2]) if sys.argv[1] == "client" else loop_encoder(sys.argv[2]))
