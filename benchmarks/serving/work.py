"""The sides of the benchmark that cliptune's Python can be: each a process of its own.

    python work.py client grpc://127.0.0.1:51000      cliptune's client
    python work.py infinity http://127.0.0.1:7997     infinity's HTTP
    python work.py loop ARTIFACT                      a bare loop

Reads tasks from its standard input, one JSON object a line, and answers each with a line:

    {"kind": "texts" | "pictures" | "single", "items": [...], "batch_size": 32}
    {"seconds": 1.5, "first": [the first embedding]}

Pictures are paths, read before the clock starts; `single` sends one text after the other, and its
`seconds` are a list.
"""

from __future__ import annotations

import base64
import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import requests
from docarray import DocList
from numpy.typing import NDArray
from servers import INFINITY_MODEL

from cliptune.documents import ClipDoc

IN_FLIGHT = 4
"""Batches that a client has under way at once; clip_client has up to 100."""
Encode = Callable[[list[Any], int], NDArray[np.float32]]


def client_encoder(address: str) -> Encode:
    """Encode by a served Flow."""
    from cliptune.serving import Client

    client = Client(address)

    def one_batch(items: list[Any]) -> NDArray[np.float32]:
        if isinstance(items[0], str):
            vectors: NDArray[np.float32] = client.encode(items, batch_size=len(items))
            return vectors
        docs = DocList[ClipDoc]([ClipDoc(image=item) for item in items])
        client.encode(docs, batch_size=len(items))
        return np.stack([np.asarray(doc.embedding) for doc in docs])

    return in_flight(one_batch)


def infinity_encoder(address: str) -> Encode:
    """Encode by infinity's server: pictures as data URIs, embeddings back as base64."""
    session = requests.Session()

    def one_batch(items: list[Any]) -> NDArray[np.float32]:
        is_text = isinstance(items[0], str)
        body = {
            "model": INFINITY_MODEL,
            "modality": "text" if is_text else "image",
            "input": items if is_text else [data_uri(item) for item in items],
            "encoding_format": "base64",
        }
        headers = {"Content-Type": "application/json"}
        answer = session.post(
            f"{address}/embeddings", data=orjson.dumps(body), headers=headers, timeout=600
        )
        answer.raise_for_status()
        found = orjson.loads(answer.content)["data"]
        raw = b"".join(base64.b64decode(one["embedding"]) for one in found)
        return np.frombuffer(raw, "<f4").reshape(len(found), -1)

    return in_flight(one_batch)


def data_uri(jpeg: bytes) -> str:
    """A picture within JSON."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def in_flight(one_batch: Callable[[list[Any]], NDArray[np.float32]]) -> Encode:
    """Encode by batches, `IN_FLIGHT` of them at once."""
    pool = ThreadPoolExecutor(IN_FLIGHT)

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


SIDES = {"client": client_encoder, "infinity": infinity_encoder, "loop": loop_encoder}

if __name__ == "__main__":
    main(SIDES[sys.argv[1]](sys.argv[2]))
