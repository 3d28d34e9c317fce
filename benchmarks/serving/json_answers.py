"""HTTP: 64 titles whose embeddings are ready, by Jina's own gateway and by cliptune's."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable

import numpy as np
import orjson
import requests

DOCS = 64
BASE = "Jina's JSON"


def json_rounds(jina: str, ours: str, count: int) -> dict[str, list[float]]:
    """Seconds of one request of 64 texts over HTTP, alternately."""
    # Jina's gateway wants `tags`: it doesn't know a document's defaults.
    texts = [{"text": f"red rain boots number {i}", "tags": {}} for i in range(DOCS)]
    session = requests.Session()

    def numbers() -> np.ndarray:
        body = {"data": texts, "execEndpoint": "/encode"}
        answer = session.post(f"{jina}/encode", json=body, timeout=60)
        answer.raise_for_status()
        found = answer.json()
        return np.array([doc["embedding"] for doc in found["data"]], np.float32)

    def encoded(encoding_format: str) -> np.ndarray:
        body = {"data": texts, "encoding_format": encoding_format}
        answer = session.post(f"{ours}/encode", json=body, timeout=60)
        found = [doc["embedding"] for doc in orjson.loads(answer.content)["data"]]
        if encoding_format == "float":
            return np.array(found, np.float32)
        raw = b"".join(base64.b64decode(vector) for vector in found)
        return np.frombuffer(raw, "<f4").reshape(len(found), -1)

    sides: dict[str, Callable[[], np.ndarray]] = {
        BASE: numbers,
        "cliptune, base64": lambda: encoded("base64"),
        "cliptune, numbers": lambda: encoded("float"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(count + 2):
        for name, ask in sides.items():
            start = time.perf_counter()
            assert ask().shape == (DOCS, 512)
            if number > 1:
                seconds[name].append(time.perf_counter() - start)
    return seconds
