"""The embedded store's ANN index: earlier ones, growth, tuning; and exact searches from memory."""

from __future__ import annotations

import json
from pathlib import Path

import lancedb
import numpy as np
import pytest
from click.testing import Result
from docarray import DocList
from lancedb.index import HnswSq
from typer.testing import CliRunner

from cliptune.cli.app import app
from cliptune.documents import ClipDoc
from cliptune.errors import BadInput, DamagedIndex, ModelMismatch
from cliptune.index import Index, open_index
from cliptune.index.lance.ann import AnnSearch, partitions
from cliptune.index.metadata import Stamp, TunedSearch
from cliptune.inference.engines import get_tower
from cliptune.models.artifact_writer import write_artifact
from cliptune.models.loading import load_model
from tests.index.index_helpers import DIGEST, OTHER_DIGEST, cosine, doc, docs

DIM = 16


def drawn(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, DIM)).astype(np.float32)


def fill(index: Index, embeddings: np.ndarray, first: int = 0) -> None:
    index.add(
        DocList[ClipDoc](
            ClipDoc(id=f"d{n}", embedding=one, model_digest=DIGEST, tags={"n": n % 50})
            for n, one in enumerate(embeddings, first)
        )
    )


def ann_of(folder: Path) -> tuple[str, int]:
    """The type of the table's ANN index, and its number of parts."""
    [path] = folder.glob("*.lance")
    table = lancedb.connect(folder).open_table(path.stem)
    [index] = (one for one in table.list_indices() if one.columns == ["embedding"])
    return index.index_type, index.num_segments or 0


def recall(index: Index, queries: np.ndarray, embeddings: np.ndarray) -> float:
    best = np.argsort(-cosine(queries, embeddings), axis=1)[:, :10].tolist()
    found = index.search(queries, DIGEST, limit=10)
    hits = [
        len({f"d{n}" for n in row} & {one.id for one in matches})
        for row, matches in zip(best, found, strict=True)
    ]
    return sum(hits) / (10 * len(queries))


def test_a_folder_with_an_earlier_graph_is_searched_and_changes_with_the_next_optimize(
    tmp_path: Path,
) -> None:
    embeddings, queries = drawn(600), drawn(30, seed=1)
    with open_index(tmp_path, ann_threshold=300, fsync=False) as index:
        fill(index, embeddings)
        [path] = tmp_path.glob("*.lance")
        table = lancedb.connect(tmp_path).open_table(path.stem)
        graph = HnswSq(distance_type="cosine", num_partitions=1, m=20, ef_construction=150)
        table.create_index("embedding", config=graph)
        assert ann_of(tmp_path)[0] == "IvfHnswSq"
        assert index.status().state == "ready"
        assert recall(index, queries, embeddings) >= 0.98
        assert index.optimize().state == "ready"
        assert ann_of(tmp_path) == ("IvfSq", 1)
        assert recall(index, queries, embeddings) >= 0.98


def test_an_index_that_is_outgrown_is_built_anew(tmp_path: Path) -> None:
    embeddings = drawn(2000)
    with open_index(tmp_path, ann_threshold=300, fsync=False) as index:
        fill(index, embeddings[:400])
        index.optimize()
        fill(index, embeddings[400:480], first=400)
        index.optimize()  # the first addition is merged with what is there
        fill(index, embeddings[480:560], first=480)
        assert index.optimize().unindexed_rows == 0
        assert ann_of(tmp_path) == ("IvfSq", 2)
        fill(index, embeddings[560:], first=560)
        assert index.optimize().unindexed_rows == 0
        assert ann_of(tmp_path) == ("IvfSq", 1)
        assert recall(index, drawn(30, seed=1), embeddings) >= 0.98


def test_what_is_searched_follows_from_the_number_of_rows() -> None:
    assert [partitions(rows) for rows in (1, 30, 10_000, 1_000_000)] == [1, 5, 100, 1000]
    assert AnnSearch.of(20_000, None).nprobes == 20
    assert AnnSearch.of(1_000_000, None).nprobes == 40
    tuned = TunedSearch(nprobes=7, refine_factor=8, rows=100_000, recall=0.99)
    assert AnnSearch.of(200_000, tuned) == AnnSearch(7, 8, 200_000)
    # Of those that it was built for, most have been deleted.
    assert AnnSearch.of(10_000, tuned) == AnnSearch(7, 8, 100_000)
    # It was measured with far fewer: the rule is the least again.
    assert AnnSearch.of(1_000_000, tuned) == AnnSearch(40, 8, 1_000_000)


def test_tuning_finds_a_setting_that_holds_for_all_who_have_the_index_open(tmp_path: Path) -> None:
    embeddings, queries = drawn(4000), drawn(60, seed=1)
    options = {"ann_threshold": 300, "fsync": False}
    with open_index(tmp_path, **options) as index, open_index(tmp_path, **options) as other:
        fill(index, embeddings)
        with pytest.raises(BadInput, match="every search is exact.*300"):
            index.tune()
        index.optimize()
        for wrong in (0.0, 1.5, float("nan")):
            with pytest.raises(BadInput, match="recall"):
                index.tune(recall=wrong)
        with pytest.raises(ModelMismatch):
            index.tune(queries, OTHER_DIGEST)
        told: list[tuple[int, int]] = []
        low = index.tune(
            queries, DIGEST, recall=0.5, progress=lambda done, most: told.append((done, most))
        )
        assert [done for done, _ in told] == list(range(1, len(told) + 1))
        assert all(done <= most for done, most in told)
        assert 0.5 <= low.recall < 0.98
        # What it says is what another process's searches find.
        assert recall(other, queries, embeddings) == pytest.approx(low.recall, abs=0.02)
        high = index.tune(queries, DIGEST, recall=0.98)
        assert high.nprobes > low.nprobes
        assert recall(other, queries, embeddings) >= 0.97
        assert index.tune(recall=1.0).recall >= 0.99  # of documents, by themselves
    stamp = json.loads((tmp_path / "cliptune-index.json").read_text())
    assert stamp["version"] == 1  # earlier versions of cliptune pass over it
    with open_index(tmp_path, **options) as index:
        assert index.count() == 4000
        index.clear()
        fill(index, embeddings[:10])
    assert "tuned" not in json.loads((tmp_path / "cliptune-index.json").read_text())


def test_a_new_index_is_searched_so_that_it_finds_enough(tmp_path: Path) -> None:
    """Embeddings without any structure, of which a tenth of the partitions holds few neighbours."""
    rng = np.random.default_rng(2)
    embeddings, queries = (rng.standard_normal((n, 64)).astype(np.float32) for n in (9000, 60))
    with open_index(tmp_path, ann_threshold=300, fsync=False) as index:
        fill(index, embeddings[:4000])
        index.optimize()

        def tuned() -> TunedSearch | None:
            return Stamp.read(tmp_path).tuned  # type: ignore[union-attr]

        first = tuned()
        assert first
        assert first.asked == "documents"
        assert first.nprobes > AnnSearch.of(4000, None).nprobes
        assert recall(index, queries, embeddings[:4000]) >= 0.97
        # What was tuned for queries stays until the index is another one by far.
        chosen = index.tune(queries, DIGEST, recall=0.6)
        fill(index, embeddings[4000:5500], first=4000)
        index.optimize()
        assert ann_of(tmp_path) == ("IvfSq", 1)  # built anew
        assert tuned() == chosen
        fill(index, embeddings[5500:], first=5500)
        index.optimize()
        last = tuned()
        assert last
        assert (last.rows, last.asked) == (9000, "documents")
        assert recall(index, queries, embeddings) >= 0.97


@pytest.mark.parametrize(
    "tuned", [3, {"nprobes": 1}, {"nprobes": 0, "refine_factor": 2, "rows": 5, "recall": 1}]
)
def test_a_stamp_with_unusable_tuning_is_damaged(tmp_path: Path, tuned: object) -> None:
    with open_index(tmp_path) as index:
        index.add(docs(doc("one")))
    path = tmp_path / "cliptune-index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tuned": tuned}))
    with pytest.raises(DamagedIndex, match="tuned"):
        open_index(tmp_path)


@pytest.mark.parametrize("storage", ["float32", "float16"])
def test_exact_searches_from_memory_find_what_those_of_the_files_do(
    tmp_path: Path, storage: str
) -> None:
    embeddings, queries = drawn(500), drawn(20, seed=1)
    embeddings[100:140] = 4 * embeddings[7]  # forty that tie with another one
    queries[0] = embeddings[7]
    filters = [None, "n == 7", "n < 40", "n == 999"]
    folder = {"fsync": False, "storage": storage}
    with (
        open_index(tmp_path, **folder) as kept,
        open_index(tmp_path, exact_memory=0, **folder) as read,
    ):
        fill(kept, embeddings)

        def compare() -> None:
            for filter in filters * 2:  # the first search of a state is of the files
                for limit in (10, 600):
                    ours = kept.search(queries, DIGEST, limit=limit, filter=filter)
                    theirs = read.search(queries, DIGEST, limit=limit, filter=filter)
                    for one, other in zip(ours, theirs, strict=True):
                        scores = [match.score for match in one]
                        np.testing.assert_allclose(
                            scores, [match.score for match in other], atol=1e-6
                        )
                        assert scores == sorted(scores, reverse=True)
                        if storage == "float32" or limit == 600:
                            assert {m.id for m in one if m.score > scores[-1] + 1e-6} <= {
                                m.id for m in other
                            }

        def tied() -> list[str | None]:
            return [match.id for match in kept.search(queries[:1], DIGEST, limit=41)[0]]

        compare()
        assert kept._memory._kept is not None  # type: ignore[attr-defined]
        assert read._memory._kept is None  # type: ignore[attr-defined]
        if storage == "float32":
            assert tied() == sorted(["d7", *(f"d{n}" for n in range(100, 140))])
        # A write is seen at once, before and after the embeddings are read again.
        kept.delete(ids=["d7"])
        read.add(docs(ClipDoc(id="new", embedding=embeddings[7], model_digest=DIGEST)))
        for _ in range(3):
            assert "new" in tied()
            assert "d7" not in tied()
        compare()


def test_a_filter_whose_documents_lie_elsewhere_finds_them_all_the_same(tmp_path: Path) -> None:
    """Queries among shoes, of which a filter leaves hats alone: many, few, and none."""
    rng = np.random.default_rng(3)
    centres = rng.standard_normal((60, DIM)) * 4
    of_row = rng.integers(0, 60, 9000)
    embeddings = (centres[of_row] + rng.standard_normal((9000, DIM))).astype(np.float32)
    queries = (centres[:20] + rng.standard_normal((20, DIM))).astype(np.float32)
    with open_index(tmp_path, ann_threshold=300, fsync=False) as index:
        index.add(
            DocList[ClipDoc](
                ClipDoc(id=f"d{n}", embedding=one, model_digest=DIGEST, tags={"cluster": int(c)})
                for n, (one, c) in enumerate(zip(embeddings, of_row, strict=True))
            )
        )
        index.optimize()
        for least in (30, 59, 60):
            left = np.flatnonzero(of_row >= least)
            found = index.search(queries, DIGEST, limit=10, filter=f"cluster >= {least}")
            assert [len(matches) for matches in found] == [min(10, len(left))] * 20
            if len(left):
                best = left[np.argsort(-cosine(queries, embeddings[left]), axis=1)[:, :10]]
                hits = [
                    len({f"d{n}" for n in row} & {one.id for one in matches})
                    for row, matches in zip(best.tolist(), found, strict=True)
                ]
                assert sum(hits) >= 0.98 * best.size, least


def test_what_is_left_after_most_was_deleted_is_found(tmp_path: Path) -> None:
    """The partitions are those of before, and each has little left."""
    rng = np.random.default_rng(4)
    embeddings, queries = (rng.standard_normal((n, 32)).astype(np.float32) for n in (12_000, 60))
    with open_index(tmp_path, ann_threshold=300, fsync=False) as index:
        fill(index, embeddings)
        index.optimize()
        index.delete(ids=[f"d{n}" for n in range(2500, 12_000)])
        assert ann_of(tmp_path)[0] == "IvfSq"
        assert recall(index, queries, embeddings[:2500]) >= 0.97


def test_a_tuning_that_was_cut_short_is_done_by_the_next_optimize(tmp_path: Path) -> None:
    with open_index(tmp_path, ann_threshold=300, fsync=False) as index:
        fill(index, drawn(600))
        index.optimize()
        path = tmp_path / "cliptune-index.json"
        stamp = json.loads(path.read_text())
        tuned = stamp.pop("tuned")
        path.write_text(json.dumps(stamp))  # as a kill between both leaves it
        index.optimize()
        again = json.loads(path.read_text())["tuned"]
        assert again == {**tuned, "recall": again["recall"]}
        assert again["recall"] >= 0.99


def test_the_command_tunes_for_titles_and_for_documents(tiny_model: Path, tmp_path: Path) -> None:
    artifact = write_artifact(load_model(tiny_model), tmp_path / "artifact").path
    tower = get_tower(artifact, "clip-text")
    titles = [f"a {colour} thing no. {n}" for n in range(200) for colour in ("red", "blue")]
    shop, untitled = tmp_path / "shop", tmp_path / "untitled"
    for folder, texts in ((shop, titles), (untitled, [None] * len(titles))):
        with open_index(folder, ann_threshold=300, fsync=False) as index:
            index.add(
                DocList[ClipDoc](
                    ClipDoc(id=f"d{n}", text=text, embedding=one, model_digest=tower.digest)
                    for n, (text, one) in enumerate(zip(texts, tower.encode(titles), strict=True))
                )
            )
            index.optimize()

    def command(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["index", "tune", *arguments])

    def asked() -> tuple[str, float]:
        stamp = Stamp.read(shop)
        assert stamp
        assert stamp.tuned
        return stamp.tuned.asked, stamp.tuned.recall

    assert asked()[0] == "documents"
    done = command(str(shop), "--artifact", str(artifact), "--queries", "50")
    assert done.exit_code == 0, done.output
    kind, found = asked()
    assert (kind, found >= 0.98) == ("queries", True)
    assert f"{found:.1%} of the ten nearest found" in " ".join(done.output.split())
    assert command(str(shop)).exit_code == 0
    assert asked()[0] == "documents"
    refused = command(str(untitled), "--artifact", str(artifact))
    assert "no document has a title: leave --artifact out" in str(refused.exception)
