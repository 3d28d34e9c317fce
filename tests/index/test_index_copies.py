"""Snapshots, and moves from one index to another."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from docarray import DocList

from cliptune.documents import ClipDoc
from cliptune.errors import AlreadyExists, BadData, BadInput, ModelMismatch, NotFound
from cliptune.index import Index, open_index
from cliptune.index.migrate import CopyDiffers, migrate
from cliptune.index.snapshots import restore_snapshot, write_snapshot
from tests.index.index_helpers import DIGEST, OTHER_DIGEST, doc, docs, vector

TAGS = {"price": 3, "exact": 3.0, "none": None, "list": ["a", {"b": "'; drop"}]}


def fill(index: Index, count: int = 700) -> None:
    index.add(
        docs(
            *(
                doc(f"d{n}", text=f"title {n}", tags={**TAGS, "n": n}, image=b"picture %d" % n)
                for n in range(count)
            )
        )
    )


def everything(index: Index) -> list[ClipDoc]:
    batches = index.scan(include_embedding=True, include_image=True)
    return [one for batch in batches for one in batch]


def assert_same(one: Index, other: Index) -> None:
    ours, theirs = everything(one), everything(other)
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a.embedding, b.embedding)
        a.embedding = b.embedding = None
        assert repr(a) == repr(b)


def test_a_snapshot_brings_everything_back(
    open_store: Callable[..., Index], tmp_path: Path
) -> None:
    index = open_store()
    fill(index)
    seen: list[int] = []
    manifest = write_snapshot(index, tmp_path / "snapshot", progress=seen.append)
    assert (manifest.rows, manifest.model_digest, manifest.images) == (700, DIGEST, True)
    assert seen[-1] == 700
    # Any reader of Parquet has it.
    table = pq.read_table(tmp_path / "snapshot" / manifest.files[0].name)
    assert json.loads(table["tags"][0].as_py()) == {**TAGS, "n": 0}
    with open_index(tmp_path / "restored", fsync=False) as restored:
        restore_snapshot(tmp_path / "snapshot", restored)
        assert_same(index, restored)
    index.delete(filter="n < 300")
    with pytest.raises(BadInput, match="holds 400 documents"):
        restore_snapshot(tmp_path / "snapshot", index)
    restore_snapshot(tmp_path / "snapshot", index, replace=True)
    assert index.count() == 700
    with pytest.raises(AlreadyExists, match="a new folder"):
        write_snapshot(index, tmp_path / "snapshot")


def test_a_snapshot_without_pictures_and_of_nothing(tmp_path: Path) -> None:
    with open_index(tmp_path / "index", fsync=False) as index:
        write_snapshot(index, tmp_path / "empty")
        fill(index, 3)
        write_snapshot(index, tmp_path / "small", include_images=False)
        restore_snapshot(tmp_path / "small", index, replace=True)
        [light] = index.get(["d1"], include_image=True)
        assert light.image is None
        assert light.image_digest is not None
        restore_snapshot(tmp_path / "empty", index, replace=True)
        assert index.status().model_digest is None


def test_a_damaged_snapshot_changes_nothing(tmp_path: Path) -> None:
    with open_index(tmp_path / "index", fsync=False) as index:
        fill(index, 3)
        manifest = write_snapshot(index, tmp_path / "snapshot")
        part = tmp_path / "snapshot" / manifest.files[0].name
        content = bytearray(part.read_bytes())
        content[len(content) // 2] ^= 1
        part.write_bytes(content)
        with pytest.raises(BadData, match=rf"{part.name} is missing or damaged"):
            restore_snapshot(tmp_path / "snapshot", index, replace=True)
        assert index.count() == 3
        path = tmp_path / "snapshot" / "manifest.json"
        values = json.loads(path.read_text())
        path.write_text(json.dumps({**values, "format": 99}))
        with pytest.raises(BadData, match="of format 99; upgrade"):
            restore_snapshot(tmp_path / "snapshot", index, replace=True)
        values["files"][0]["name"] = "../../etc/passwd"
        path.write_text(json.dumps(values))
        with pytest.raises(BadData, match="not the manifest"):
            restore_snapshot(tmp_path / "snapshot", index, replace=True)
        with pytest.raises(NotFound, match="no snapshot"):
            restore_snapshot(tmp_path / "nowhere", index)


def test_a_migration_goes_on_where_it_was_cut_short(
    open_store: Callable[..., Index], tmp_path: Path
) -> None:
    source = open_store()
    fill(source)
    with open_index(tmp_path / "target", fsync=False) as target:

        class Cut(Exception):
            pass

        def cut(done: int) -> None:
            if done > 500:
                raise Cut

        with pytest.raises(Cut):
            migrate(source, target, progress=cut)
        there = target.count()
        assert 0 < there < 700
        done = migrate(source, target)
        assert (done.copied, done.unchanged, done.compared) == (700 - there, there, 700)
        assert_same(source, target)
        # What has changed is copied, what the target has of its own stays.
        source.add(docs(doc("d5", text="new"), doc("d6", image=b"other", text="title 6")))
        target.add(docs(doc("own", seed=3)))
        done = migrate(source, target, sample=10)
        assert (done.copied, done.unchanged, done.others) == (2, 698, 1)
        assert target.get(["d5"])[0].text == "new"
        assert target.get(["d6"], include_image=True)[0].image == b"other"


def test_a_migration_into_another_model_s_index_is_refused(tmp_path: Path) -> None:
    with open_index(tmp_path / "a", fsync=False) as source, open_index(tmp_path / "b") as target:
        fill(source, 3)
        target.add(docs(ClipDoc(id="x", embedding=vector(1), model_digest=OTHER_DIGEST)))
        with pytest.raises(ModelMismatch, match="clear the target"):
            migrate(source, target)
        assert target.count() == 1


def test_a_migration_that_loses_something_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_index(tmp_path / "a", fsync=False) as source, open_index(tmp_path / "b") as target:
        fill(source, 20)
        write = target.add
        monkeypatch.setattr(target, "add", lambda given: write(DocList[ClipDoc](given[:-1])))
        with pytest.raises(CopyDiffers, match="1 documents less"):
            migrate(source, target)

        def damaged(given: DocList[ClipDoc]) -> int:
            given[3].embedding = vector(77)
            return write(given)

        monkeypatch.setattr(target, "add", damaged)
        target.clear()
        with pytest.raises(CopyDiffers, match="document 'd.*' is not the same in both"):
            migrate(source, target)
