"""LanceDB's tables with cliptune's embedding function, against the service's own embeddings."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pytest
from lancedb.embeddings import get_registry
from lancedb.pydantic import LanceModel, Vector
from PIL import Image

import cliptune.lancedb  # noqa: F401 - registers it
from cliptune.errors import ModelMismatch, Unavailable
from cliptune.serving import Client
from tests.pictures import picture
from tests.server import Server

pytestmark = pytest.mark.e2e
PICTURES = [picture(number) for number in range(8)]


def function(**arguments: Any) -> Any:
    return get_registry().get("cliptune").create(**arguments)


def test_pictures_are_found_as_the_service_finds_them(
    server: Server, tmp_path: Path, clients: list[Client]
) -> None:
    clip = function(server=server.grpc)

    class Product(LanceModel):
        name: str
        picture: bytes = clip.SourceField()
        vector: Vector(clip.ndims()) = clip.VectorField()

    database = lancedb.connect(tmp_path)
    table = database.create_table("products", schema=Product)
    table.add([{"name": str(i), "picture": one} for i, one in enumerate(PICTURES)])
    expected = np.asarray(clients[0].encode(PICTURES))
    stored = np.stack(table.to_arrow()["vector"].to_numpy(zero_copy_only=False))
    np.testing.assert_allclose(stored, expected, atol=1e-6)

    # Opened again, it knows how queries are embedded.
    table = lancedb.connect(tmp_path).open_table("products")
    query = np.asarray(clients[0].encode(["a red thing"]))[0]
    best = np.argsort(-(expected @ query), kind="stable")[:3]
    found = table.search("a red thing").distance_type("cosine").limit(3).to_list()
    assert [int(row["name"]) for row in found] == best.tolist()
    image = Image.open(io.BytesIO(PICTURES[5]))
    assert table.search(image).limit(1).to_list()[0]["name"] == "5"
    # LanceDB makes all errors within its own reading one kind.
    with pytest.raises(RuntimeError, match="not a picture"):
        table.add([{"name": "bad", "picture": b"no picture"}])
    assert table.count_rows() == len(PICTURES)


def test_texts_and_what_is_empty(server: Server, clients: list[Client]) -> None:
    clip = function(server=server.http)
    found = clip.compute_source_embeddings(["boots", None, "  ", "a hat"])
    assert found[1] is found[2] is None
    expected = np.asarray(clients[0].encode(["boots", "a hat"]))
    np.testing.assert_allclose(np.stack([found[0], found[3]]), expected, atol=1e-6)
    assert clip.ndims() == expected.shape[1]
    assert clip.compute_source_embeddings([None]) == [None]


def test_another_model_is_refused(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPTUNE_SEARCH_SERVER", server.grpc)
    clip = function(model_digest="0" * 64, dimensions=32)
    with pytest.raises(ModelMismatch, match="of model 000000000000, the server's"):
        clip.compute_query_embeddings_with_retry("boots")


def test_a_server_that_is_away_is_told() -> None:
    with pytest.raises(Unavailable, match="127.0.0.1:9"):
        function(server="http://127.0.0.1:9")
