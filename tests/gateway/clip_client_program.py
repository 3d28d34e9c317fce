"""Runs in clip-as-service's own environment: what its users' programs do, against an address.

    python clip_client_program.py ADDRESS FOLDER

FOLDER has a.png to c.png; what came back is written to answers.json and embeddings.npz there.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import numpy as np
from clip_client import Client
from docarray import Document, DocumentArray
from PIL import Image

address, folder = sys.argv[1], Path(sys.argv[2])
client = Client(address)
answers: dict = {}
arrays: dict = {}
a, b, c = (str(folder / f"{name}.png") for name in "abc")
paths = {"a": a, "b": b, "c": c}
texts = [f"a text, number {i}" for i in range(21)]

# Texts and pictures' paths in one call, in many requests; generators; documents of every kind.
arrays["mixed"] = client.encode([texts[0], a, texts[1], b, c], batch_size=2)
arrays["texts"] = client.encode(texts, batch_size=4, prefetch=3)
arrays["generator"] = client.encode(iter(texts), batch_size=5).embeddings
pixels = np.asarray(Image.open(a).convert("RGB"))
documents = DocumentArray(
    [
        Document(id="text", text=texts[0], tags={"price": 3, "deep": {"er": [1, "x"]}}),
        Document(id="uri", uri=a),
        Document(id="blob", blob=Path(a).read_bytes()),
        Document(id="tensor", tensor=pixels),
        Document(id="grey", tensor=pixels[:, :, 0]),
    ]
)
found = client.encode(documents)
arrays["documents"] = found.embeddings
answers["document ids"] = found[:, "id"]
answers["tags"] = found[0].tags
arrays["async"] = asyncio.run(client.aencode(texts[:5], batch_size=2))

# Callbacks see whole responses.
seen: dict = {"done": [], "always": 0}


def on_done(response) -> None:
    docs = response.data.docs
    seen["done"].append([docs[:, "text"], len(docs[:, "blob"]), docs.embeddings.shape])


def on_always(response) -> None:
    seen["always"] += len(response.data.docs)


client.encode(texts[:5], batch_size=5, on_done=on_done, on_always=on_always)
answers["callbacks"] = seen

# Rank: a picture against texts, texts against pictures.
ranked = client.rank(
    [
        Document(uri=a, matches=[Document(id=f"t{i}", text=t) for i, t in enumerate(texts[:4])]),
        Document(text=texts[0], matches=[Document(id=n, uri=u) for n, u in paths.items()]),
    ]
)
answers["ranked"] = [
    [
        [m.id, m.scores["clip_score"].value, m.scores["clip_score_cosine"].value, m.text]
        for m in doc.matches
    ]
    for doc in ranked
]
answers["op names"] = [ranked[0].matches[0].scores[n].op_name for n in ranked[0].matches[0].scores]

# Index and search.
indexed = client.index(
    [Document(id=n, uri=u, tags={"n": i, "s": n}) for i, (n, u) in enumerate(paths.items())]
    + [Document(id="words", text=texts[3])]
)
arrays["indexed"] = indexed.embeddings
hits = client.search([b, texts[3]], limit=3)
answers["hits"] = [
    [[m.id, m.uri, m.tags, m.scores["cosine"].value, m.text] for m in doc.matches] for doc in hits
]
filtered = client.search([b], parameters={"filter": {"n": {"$lt": 1}}}, limit=3)
answers["filtered"] = filtered[0].matches[:, "id"]
answers["asearch"] = asyncio.run(client.asearch([c], limit=1))[0].matches[:, "id"]

answers["profile"] = [client.profile(), client.profile("a text")]

errors = []
for call in (
    lambda: client.encode([Document(blob=b"not a picture")]),
    lambda: client.encode([Document(tensor=np.zeros((2, 2, 3)))]),
    lambda: client.encode(texts[:1], parameters={"model_name": "other"}),
    lambda: client.search([b], parameters={"filter": "n <"}),
    lambda: client.search([b], limit=0),
    lambda: client.index([Document(text=" ")]),
):
    try:
        call()
        errors.append(None)
    except Exception as error:
        errors.append(str(error))
answers["errors"] = errors
answers["after errors"] = client.encode(texts[:2]).shape

np.savez(folder / "embeddings.npz", **arrays)
(folder / "answers.json").write_text(json.dumps(answers))
