"""Embeddings kept as float16: half the room, scores within what is promised."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from docarray import DocList
from typer.testing import CliRunner

from cliptune.cli.app import app
from cliptune.documents import ClipDoc
from cliptune.errors import BadInput, DamagedIndex
from cliptune.index import Index, open_index
from cliptune.index.migrate import CopyDiffers, migrate
from cliptune.index.snapshots import restore_snapshot, write_snapshot
from cliptune.serving import serve
from cliptune.settings import Settings
from tests.index.index_helpers import DIGEST, cosine, doc, docs, vector

DIM = 64


def open_in(folder: Path, **options: object) -> Index:
    return open_index(folder, **{"fsync": False, **options})


def drawn(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, DIM)).astype(np.float32)


def fill(index: Index, embeddings: np.ndarray) -> None:
    index.add(
        DocList[ClipDoc](
            ClipDoc(id=f"d{n:05d}", embedding=one, model_digest=DIGEST)
            for n, one in enumerate(embeddings)
        )
    )


def all_embeddings(index: Index) -> np.ndarray:
    return np.stack([one.embedding for part in index.scan(include_embedding=True) for one in part])


def data_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.lance/data/*"))


def test_scores_are_within_what_is_promised_whatever_the_length(tmp_path: Path) -> None:
    embeddings, queries = drawn(600), drawn(20, seed=1)
    lengths = np.float32(10) ** np.random.default_rng(2).uniform(-15, 15, (600, 1))
    embeddings = (embeddings * lengths).astype(np.float32)
    embeddings[0], embeddings[1] = 0, 1e-4  # one large among tiny ones
    embeddings[:2, 0] = 1e4
    truth = cosine(queries, embeddings)
    with open_in(tmp_path, storage="float16", ann_threshold=300) as index:
        fill(index, embeddings)
        for exact in (True, False):
            for row, matches in zip(
                truth, index.search(queries, DIGEST, limit=600, exact=exact), strict=True
            ):
                assert len(matches) == 600
                scores = np.array([match.score for match in matches])
                errors = np.abs(scores - row[[int(match.id[1:]) for match in matches]])
                assert errors.max() <= 5e-4
                assert np.median(errors) <= 5e-5
            assert index.optimize().state == "ready"
        unit = embeddings.astype(np.float64)
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        kept = all_embeddings(index)
        assert kept.dtype == np.float32
        np.testing.assert_allclose(kept, unit, rtol=2**-11, atol=3e-8)


def test_it_finds_what_float32_finds_in_half_the_room(tmp_path: Path) -> None:
    embeddings, queries = drawn(3000), drawn(50, seed=1)
    best = np.argsort(-cosine(queries, embeddings), axis=1)[:, :10]
    for storage in ("float32", "float16"):
        with open_in(tmp_path / storage, storage=storage, ann_threshold=300) as index:
            fill(index, embeddings)
            assert (index.optimize().state, index.status().storage) == ("ready", storage)
            found = index.search(queries, DIGEST, limit=10)
            hits = [
                len({int(match.id[1:]) for match in matches} & set(row))
                for matches, row in zip(found, best.tolist(), strict=True)
            ]
            assert sum(hits) / best.size >= 0.98
    saved = data_bytes(tmp_path / "float32") - data_bytes(tmp_path / "float16")
    assert saved == pytest.approx(3000 * DIM * 2, rel=0.1)


def test_the_index_remembers_how_it_keeps_embeddings(tmp_path: Path) -> None:
    with open_in(tmp_path, storage="float16") as index:
        assert index.status().storage == "float16"
        fill(index, drawn(5))
    stamp = json.loads((tmp_path / "cliptune-index.json").read_text())
    # Earlier versions of cliptune, which would write float32 into it, refuse the format.
    assert (stamp["version"], stamp["storage"]) == (2, "float16")
    with open_in(tmp_path) as index:
        fill(index, drawn(9, seed=3))
        assert (index.count(), index.status().storage) == (9, "float16")
        kept = all_embeddings(index)
        fill(index, kept)
        np.testing.assert_array_equal(all_embeddings(index), kept)  # not rounded twice
    with pytest.raises(BadInput, match="as float16, not as float32.*migrate --storage float32"):
        open_in(tmp_path, storage="float32")
    with open_in(tmp_path) as index:
        index.clear()
    with open_in(tmp_path, storage="float32") as index:
        fill(index, drawn(2))
        np.testing.assert_array_equal(all_embeddings(index), drawn(2))
    stamp = json.loads((tmp_path / "cliptune-index.json").read_text())
    assert stamp["version"] == 1  # earlier versions can read it
    with pytest.raises(BadInput, match="as float32, not as float16"):
        open_in(tmp_path, storage="float16")


def test_a_choice_that_another_process_made_first_is_told(tmp_path: Path) -> None:
    with open_in(tmp_path, storage="float16") as late, open_in(tmp_path) as early:
        early.add(docs(doc("one")))
        with pytest.raises(BadInput, match="as float32, not as float16"):
            late.add(docs(doc("two")))
        assert early.count() == 1


@pytest.mark.parametrize("value", ["int8", "float64", "", 16, True])
def test_storages_that_there_are_not(tmp_path: Path, value: object) -> None:
    with pytest.raises(BadInput, match="storage: expected one of float32, float16"):
        open_in(tmp_path / "new", storage=value)
    with open_in(tmp_path) as index:
        index.add(docs(doc("one")))
    path = tmp_path / "cliptune-index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 2, "storage": value}))
    with pytest.raises(DamagedIndex, match="cliptune-index.json: storage: expected one of"):
        open_in(tmp_path)


def test_from_one_storage_to_the_other_and_back(tmp_path: Path) -> None:
    with (
        open_in(tmp_path / "full") as full,
        open_in(tmp_path / "half", storage="float16") as half,
        open_in(tmp_path / "again") as again,
        open_in(tmp_path / "restored", storage="float16") as restored,
    ):
        fill(full, 7 * drawn(300))
        assert migrate(full, half).copied == 300
        assert migrate(full, half).unchanged == 300
        assert migrate(half, again).copied == 300
        np.testing.assert_array_equal(all_embeddings(again), all_embeddings(half))
        write_snapshot(half, tmp_path / "snapshot")
        restore_snapshot(tmp_path / "snapshot", restored)
        np.testing.assert_array_equal(all_embeddings(restored), all_embeddings(half))
        changed = doc("d00007", embedding=vector(7, DIM))
        half.add(docs(changed))
        half.add = lambda _: 0  # type: ignore[method-assign]
        with pytest.raises(CopyDiffers, match="d00007"):
            migrate(full, half)


def test_the_command_line_copies_into_half_the_room(tmp_path: Path) -> None:
    with open_in(tmp_path / "full") as index:
        fill(index, drawn(20))
    run = CliRunner().invoke(
        app, ["index", "migrate", f"{tmp_path}/full", f"{tmp_path}/half", "--storage", "float16"]
    )
    assert run.exit_code == 0, run.output
    with open_in(tmp_path / "half") as index:
        assert (index.count(), index.status().storage) == (20, "float16")


def test_servers_are_told_by_argument_or_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CLIPTUNE_INDEX_STORAGE", raising=False)
    with (
        pytest.raises(BadInput, match="index_storage is 'int3': use float32 or float16"),
        serve(index=tmp_path, index_storage="int3"),
    ):
        pass
    assert Settings.read().index_storage is None
    monkeypatch.setenv("CLIPTUNE_INDEX_STORAGE", "float16")
    assert Settings.read().index_storage == "float16"
    assert Settings.read(index_storage="float32").index_storage == "float32"


@pytest.mark.parametrize("storage", ["float32", "float16"])
def test_a_match_has_one_score_whichever_way_it_is_found(tmp_path: Path, storage: str) -> None:
    """From the files, from memory, by the graph; alone and among other queries."""
    embeddings = drawn(600)
    queries = np.concatenate([embeddings[:3] * 7, drawn(9, seed=1)])
    with open_in(tmp_path, storage=storage, ann_threshold=300) as index:
        fill(index, embeddings)

        def found(exact: bool = True) -> list[tuple[str, float]]:
            together = index.search(queries, DIGEST, limit=600, exact=exact)
            alone = [index.search(one[None], DIGEST, limit=600, exact=exact)[0] for one in queries]
            pairs = [
                [(str(m.id), m.score) for matches in way for m in matches]
                for way in (together, alone)
            ]
            assert pairs[0] == pairs[1]
            return pairs[0]

        first = [(str(m.id), m.score) for m in index.search(queries[:1], DIGEST, limit=600)[0]]
        expected = found()  # from the second search on from memory
        assert first == expected[:600]
        index.optimize()
        assert found() == expected
        assert set(found(exact=False)) <= set(expected)
        truth = np.sort(cosine(queries, embeddings), axis=None)
        bound = 1e-6 if storage == "float32" else 1e-3
        assert np.abs(np.sort([score for _, score in expected]) - truth).max() < bound
