"""An index's folder that cliptune 0.1.0 wrote opens unchanged.

It is a swapped index of model `b`, as float16, after a fifth product and without the first; the
index of model `a` beside it has not followed these two yet.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from docarray import DocList

from cliptune.documents import ClipDoc
from cliptune.index import open_index
from cliptune.index.versions.manifest import Generations
from cliptune.index.versions.progress import read_progress
from cliptune.index.versions.versioned_index import VersionedIndex

OLD, NEW = "a" * 64, "b" * 64


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    with zipfile.ZipFile(Path(__file__).parent / "fixtures" / "index-0.1.0.zip") as archive:
        archive.extractall(tmp_path)
    return tmp_path / "shop"


def direction(n: int, angle: float = 0.0) -> np.ndarray:
    return np.array([np.cos(n + angle), np.sin(n + angle), 0, 0], np.float32)


def test_its_documents_are_found(shop: Path) -> None:
    with open_index(shop) as index:
        assert (index.count(), index.status().model_digest) == (4, OLD)
        assert index.search(direction(2)[None], OLD, limit=1)[0][0].id == "p2"
    with VersionedIndex(shop) as index:
        status = index.status()
        assert (status.rows, status.dim, status.storage) == (4, 4, "float16")
        [doc] = index.get(["p4"], include_embedding=True, include_image=True)
        assert (doc.text, doc.image) == ("product 4", b"picture 4")
        assert doc.tags == {"n": 4, "size": {"unit": "EU"}}
        np.testing.assert_allclose(doc.embedding, direction(4, 1.0), atol=1e-3)
        assert index.count("n > 2 and size.unit == 'EU'") == 2
        assert index.search(direction(4, 1.0)[None], NEW, limit=1)[0][0].id == "p4"
        assert index.search(direction(0)[None], OLD, limit=1)[0][0].id == "p0"


def test_its_generations_are_known_and_what_they_lack(shop: Path) -> None:
    generations = Generations(shop)
    manifest = generations.read()
    assert manifest
    assert manifest.current.label == "bbbbbbbbbbbb (calm-heron-81d0)"
    assert manifest.previous
    assert manifest.next is None
    assert (shop / "generations" / "0" / "journal").read_text() == '[]\n["p4"]\n["p0"]\n'
    progress = read_progress(generations)
    assert progress
    assert progress["phase"] == "stopped: while embedding"
    with VersionedIndex(shop) as index:
        doc = ClipDoc(id="p5", embedding=direction(5, 1.0), model_digest=NEW)
        index.add(DocList[ClipDoc]([doc]))
        assert index.count() == 5
    assert (shop / "generations" / "0" / "journal").read_text().endswith('["p0"]\n["p5"]\n')
