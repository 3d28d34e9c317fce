"""Swaps of an index without a service: what is in it afterwards, whatever came in between."""

from __future__ import annotations

import functools
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from docarray import DocList
from typer.testing import CliRunner

from cliptune.cli.app import app
from cliptune.documents import ClipDoc
from cliptune.errors import (
    BadInput,
    CliptuneError,
    DamagedIndex,
    ModelMismatch,
    ModelSwitched,
    NotFound,
    NotReady,
    Unavailable,
)
from cliptune.executors.model_pool import ServedTowers
from cliptune.index import Index, open_index
from cliptune.index.versions import locks
from cliptune.index.versions.changelog import Changelog
from cliptune.index.versions.locks import SwapUnderWay
from cliptune.index.versions.manifest import (
    PROGRESS,
    Generation,
    Generations,
    Manifest,
    numbered_uri,
)
from cliptune.index.versions.models import model_digest
from cliptune.index.versions.progress import read_progress
from cliptune.index.versions.versioned_index import VersionedIndex
from cliptune.inference import TextTower, get_tower
from cliptune.reindex.quality import Query, WorseModel, given, titles
from cliptune.reindex.swap import Swap
from cliptune.reindex.sync import CannotEmbed
from cliptune.reindex.synchronizer import EngineOptions
from tests.pictures import picture
from tests.reindex.generation_helpers import embed, products
from tests.waiting import wait_until

Models = tuple[Path, Path, Path]


@pytest.fixture
def index(models: Models, tmp_path: Path) -> Path:
    """An index of 60 products, by the first model, as it was before there were swaps."""
    folder = tmp_path / "shop"
    with open_index(folder) as made:
        made.add(embed(models[0], products(60)))
    return folder


@pytest.fixture(params=["folder", pytest.param("milvus", marks=pytest.mark.e2e)])
def any_index(request: pytest.FixtureRequest, models: Models) -> Path | str:
    """The same in a folder, and in a Milvus server."""
    if request.param == "folder":
        return request.getfixturevalue("index")
    uri = request.getfixturevalue("milvus").new_uri()
    with open_index(uri) as made:
        made.add(embed(models[0], products(60)))
    return uri


def contents(index: Index) -> dict[str, tuple]:
    """Everything in an index but the embeddings."""
    return {
        str(d.id): (d.text, d.image, d.image_digest, json.dumps(d.tags, sort_keys=True), d.label)
        for batch in index.scan(include_image=True)
        for d in batch
    }


def check_embeddings(index: Index, model: Path) -> None:
    """All of an index's embeddings are those of `model`."""
    docs = [d for batch in index.scan(include_embedding=True, include_image=True) for d in batch]
    tower = get_tower(model, "clip-vision")
    assert {d.model_digest for d in docs} == {tower.digest}
    expected = tower.encode([d.image for d in docs])
    np.testing.assert_allclose(np.stack([d.embedding for d in docs]), expected, atol=1e-4)


def swap_to(index: Path | str, model: Path, served: Path | None) -> None:
    with Swap.open(index) as swap:
        swap.begin(model, served=served)
        swap.prepare()
        swap.switch()


def test_a_swap_back_and_forth_loses_nothing(any_index: Path | str, models: Models) -> None:
    first, second, _ = models
    with open_index(any_index) as there:
        before = contents(there)
    live = VersionedIndex(any_index)
    swap_to(any_index, second, first)
    assert live.status().model_digest == model_digest(second)
    assert contents(live) == before
    check_embeddings(live, second)
    # Queries of either model are answered by its own index.
    for model in (first, second):
        tower = get_tower(model, "clip-vision")
        [found] = live.search(tower.encode([picture(7)]), tower.digest, limit=1)
        assert (found[0].id, round(found[0].score, 3)) == ("p0007", 1.0)

    changed = products(1, start=7)
    changed[0].text, changed[0].image = "another", picture(900)
    live.add(embed(second, changed + products(5, start=100)))
    live.delete(ids=["p0003"])
    live.delete(filter="n == 20 or n == 103")
    after = contents(live)
    assert len(after) == 60 + 5 - 3
    with Swap.open(any_index) as swap:
        swap.go_back()
    assert contents(live) == after
    check_embeddings(live, first)
    with Swap.open(any_index) as swap:
        swap.go_back()
    assert contents(live) == after
    check_embeddings(live, second)
    live.close()


def test_what_is_written_between_the_passes_is_followed(
    any_index: Path | str, models: Models
) -> None:
    first, second, _ = models
    live = VersionedIndex(any_index)
    with Swap.open(any_index) as swap:
        swap.begin(second, served=first)
        live.add(embed(first, products(3, start=200)))
        swap.prepare()
        live.delete(ids=["p0001", "p0200"])
        retagged = products(1, start=2)
        retagged[0].tags = {"n": -1}
        live.add(embed(first, retagged))
        swap.prepare()
        live.delete(filter="n < 0")
        live.add(embed(first, products(2, start=300)))
        before = contents(live)
        swap.switch()
    assert contents(live) == before
    assert {"p0300", "p0202"} <= before.keys()
    assert not {"p0001", "p0200", "p0002"} & before.keys()
    check_embeddings(live, second)
    live.clear()
    with Swap.open(any_index) as swap:
        swap.go_back()
    assert live.count() == 0
    live.add(embed(first, products(1)))
    live.close()


def test_documents_of_a_model_that_is_not_current_are_refused(index: Path, models: Models) -> None:
    first, second, third = models
    live = VersionedIndex(index)
    swap_to(index, second, first)
    late = embed(first, products(1, start=500))
    with pytest.raises(ModelSwitched, match="p0500.*send it again"):
        live.add(late)
    with pytest.raises(ModelMismatch, match="p0500"):
        live.add(embed(third, late))
    tower = get_tower(third, "clip-vision")
    with pytest.raises(ModelMismatch):
        live.search(tower.encode([picture(1)]), tower.digest)
    live.clear()
    with pytest.raises(ModelSwitched):
        live.add(late)
    assert live.count() == 0
    live.close()


def test_writers_and_readers_during_swaps(index: Path, models: Models) -> None:
    """Threads write and search while models change; every answer is of one model alone."""
    first, second, _ = models
    live = VersionedIndex(index)
    ended = threading.Event()
    problems: list[BaseException] = []
    towers = {model_digest(m): get_tower(m, "clip-vision") for m in (first, second)}
    kept: dict[str, str | None] = {}

    def write(worker: int) -> None:
        random_ = random.Random(worker)
        number = 0
        while not ended.is_set():
            one = f"w{worker}-{random_.randrange(20)}"
            number += 1
            if random_.random() < 0.3:
                live.delete(ids=[one])
                kept[one] = None
                continue
            text = f"{worker} {number}"
            doc = ClipDoc(id=one, text=text, image=picture(number))
            while True:
                tower = towers[
                    live.describe_generations().get(
                        "current", {"model_digest": model_digest(first)}
                    )["model_digest"]
                ]
                doc.embedding, doc.model_digest = tower.encode([doc.image])[0], tower.digest
                try:
                    live.add(DocList[ClipDoc]([doc]))
                    break
                except ModelSwitched:
                    continue
            kept[one] = text

    def read() -> None:
        while not ended.is_set():
            for digest, tower in towers.items():
                if digest not in known:
                    continue
                [found] = live.search(tower.encode([picture(9)]), digest, limit=3)
                best = {match.id: match.score for match in found}
                assert best.get("p0009", 0) > 0.999, best

    def run(target, *args) -> None:
        try:
            target(*args)
        except BaseException as error:
            problems.append(error)

    known = {model_digest(first)}
    threads = [threading.Thread(target=run, args=(write, i)) for i in range(2)]
    threads.append(threading.Thread(target=run, args=(read,)))
    for thread in threads:
        thread.start()
    swap_to(index, second, first)
    known.add(model_digest(second))
    for _ in range(2):
        with Swap.open(index) as swap:
            swap.go_back()
    ended.set()
    for thread in threads:
        thread.join()
    assert problems == []
    found = {k: v[0] for k, v in contents(live).items() if k.startswith("w")}
    assert found == {one: text for one, text in kept.items() if text}
    with Swap.open(index) as swap:
        swap.go_back()
    assert {k: v[0] for k, v in contents(live).items() if k.startswith("w")} == found
    live.close()


KILLED = """
import sys
from cliptune.reindex import sync
from cliptune.reindex.swap import Swap
sync._WRITTEN, sync._PICTURES = 4, 2
index, model, served, undo = sys.argv[1:]
print("begun", flush=True)
with Swap.open(index) as swap:
    if undo == "undo":
        swap.go_back()
    else:
        swap.begin(model, served=served)
        swap.prepare()
        swap.switch()
"""


@pytest.mark.e2e
def test_killed_at_any_moment_the_live_index_is_whole_and_the_swap_goes_on(
    index: Path, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, _ = models
    live = VersionedIndex(index)
    before = contents(live)
    random_ = random.Random(5)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}

    def start(undo: str) -> subprocess.Popen:
        command = [sys.executable, "-c", KILLED, str(index), str(second), str(first), undo]
        run = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
        assert run.stdout
        with run.stdout as said:
            assert said.readline() == b"begun\n"
        return run

    kills = 0
    for direction, model in (("swap", second), ("undo", first)):
        for _ in range(3):
            run = start(direction)
            time.sleep(random_.uniform(0.2, 3.0))
            run.send_signal(signal.SIGKILL)
            run.wait()
            kills += 1
            served = second if live.status().model_digest == model_digest(second) else first
            assert contents(live) == before
            check_embeddings(live, served)
            live.add(embed(served, products(1, start=1000 + kills)))
            before = contents(live)
            if served == model:
                break  # it was done before the kill came
        else:
            assert start(direction).wait() == 0
        assert live.status().model_digest == model_digest(model)
        assert contents(live) == before
        check_embeddings(live, model)
    live.close()


def test_an_interrupted_embedding_goes_on_where_it_was(
    index: Path, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, _ = models
    monkeypatch.setattr("cliptune.reindex.sync._WRITTEN", 8)
    monkeypatch.setattr("cliptune.reindex.sync._PICTURES", 4)

    def stop(what: str, done: int, total: int) -> None:
        if done > 30:
            raise Unavailable("the disk is full")

    with pytest.raises(Unavailable), Swap.open(index) as swap:  # noqa: PT012
        swap.begin(second, served=first)
        swap.prepare(stop)
    progress = read_progress(Generations(index))
    assert progress
    assert progress["phase"] == "stopped: the disk is full"
    with pytest.raises(NotReady, match="not complete"), Swap.open(index) as swap:
        swap.switch()
    with Swap.open(index) as swap:
        swap.begin(second, served=None)
        done = swap.prepare()
        assert done.unchanged >= 24
        assert done.embedded <= 36
        swap.switch()
    assert read_progress(Generations(index)) is None
    with VersionedIndex(index) as live:
        check_embeddings(live, second)
        assert live.count() == 60


def test_texts_without_pictures_are_embedded_as_texts(index: Path, models: Models) -> None:
    first, second, _ = models
    text = get_tower(first, "clip-text")
    with VersionedIndex(index) as live:
        doc = ClipDoc(id="t", text="a text", model_digest=text.digest)
        doc.embedding = text.encode(["a text"])[0]
        live.add(DocList[ClipDoc]([doc]))
        swap_to(index, second, first)
        [found] = live.get(["t"], include_embedding=True)
        expected = get_tower(second, "clip-text").encode(["a text"])[0]
        np.testing.assert_allclose(found.embedding, expected, atol=1e-4)
        with Swap.open(index) as swap:
            swap.begin(models[2], served=None)
            swap.prepare()
            assert swap.prepare().embedded == 0


def test_what_can_not_be_embedded_is_named_and_stops_the_swap(index: Path, models: Models) -> None:
    first, second, _ = models
    live = VersionedIndex(index)
    bad = embed(first, products(2, start=400))
    bad[0].image, bad[0].image_digest = None, "0" * 64  # kept by an index without pictures
    bad[1].image = b"broken"
    live.add(bad)
    with Swap.open(index) as swap:
        swap.begin(second, served=first)
        with pytest.raises(CannotEmbed, match="2 documents.*p0400.*no stored picture.*p0401"):
            swap.prepare()
        with pytest.raises(NotReady):
            swap.switch()
        assert live.describe_generations()["next"]["complete"] is False
        live.delete(ids=["p0400", "p0401"])
        assert swap.prepare().unchanged == 60
        swap.switch()
    assert live.count() == 60
    live.close()


def test_wrong_models_and_orders(index: Path, models: Models, tmp_path: Path) -> None:
    first, second, third = models
    with Swap.open(index) as swap:
        with pytest.raises(NotFound, match="never swapped"):
            swap.switch()
        with pytest.raises(BadInput, match="is not the model whose embeddings"):
            swap.begin(second, served=third)
        with pytest.raises(BadInput, match="which model is served"):
            swap.begin(second, served=None)
        with pytest.raises(BadInput, match="is the model that is served"):
            swap.begin(first, served=first)
        with pytest.raises(NotFound, match="nowhere"):
            swap.begin(tmp_path / "nowhere.zip", served=first)
        swap.begin(second, served=first)
        with pytest.raises(NotReady, match="being prepared"):
            swap.begin(third, served=first)
        with pytest.raises(NotFound, match="no previous"):
            swap.go_back()
        with pytest.raises(SwapUnderWay), Swap.open(index):
            pass
        swap.discard()
        with pytest.raises(NotFound, match="neither"):
            swap.discard()
        generation = swap.begin(third, served=None)
        assert generation.number == 2
        assert not (index / "generation-1").exists()
        swap.prepare()
        swap.switch()
        with pytest.raises(BadInput, match="--undo"):
            swap.begin(first, served=None)


def test_discarded_generations_are_removed_when_nobody_needs_them(
    index: Path, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = models
    monkeypatch.setattr("cliptune.index.versions.versioned_index.GRACE", 0.2)
    live = VersionedIndex(index, tidy=True)
    swap_to(index, second, first)
    swap_to(index, third, None)
    assert live.count() == 60
    with open_index(index) as oldest:
        # Generation 0 is in the index's own folder.
        wait_until(lambda: live.count() and not oldest.count())
    wait_until(lambda: not (index / "generations" / "0").exists())
    assert list(live.describe_generations()) == ["current", "previous"]
    tower = get_tower(second, "clip-vision")
    query = tower.encode([picture(7)])  # before it is discarded: its grace is short here
    with Swap.open(index) as swap:
        swap.discard()
    [found] = live.search(query, tower.digest, limit=1)
    assert found[0].id == "p0007", "a query that was on its way is answered"
    wait_until(lambda: live.count() and not (index / "generation-1").exists())
    live.close()
    with VersionedIndex(index, tidy=True) as again:
        check_embeddings(again, third)


def test_embeddings_are_kept_as_the_index_keeps_them(tmp_path: Path, models: Models) -> None:
    first, second, _ = models
    folder = tmp_path / "half"
    with open_index(folder, storage="float16") as made:
        made.add(embed(first, products(3)))
    swap_to(folder, second, first)
    with VersionedIndex(folder, storage="float16") as live:
        assert live.status().storage == "float16"
        assert live.status().model_digest == model_digest(second)


def test_an_empty_index_keeps_embeddings_as_it_was_to(tmp_path: Path, models: Models) -> None:
    first, second, _ = models
    folder = tmp_path / "half"
    live = VersionedIndex(folder, storage="float16")
    with Swap.open(folder) as swap:
        swap.begin(second, served=first, storage="float16")
        swap.prepare()
        swap.switch()
    live.add(embed(second, products(1)))
    assert live.status().storage == "float16"
    live.close()
    with open_index(folder / "generation-1") as index:
        assert index.status().storage == "float16"


def test_a_swap_of_an_empty_index(tmp_path: Path, models: Models) -> None:
    first, second, _ = models
    swap_to(tmp_path / "empty", second, first)
    with VersionedIndex(tmp_path / "empty") as live:
        assert live.count() == 0
        with pytest.raises(ModelSwitched):
            live.add(embed(first, products(1)))
        live.add(embed(second, products(1)))


def test_the_rule_of_quality(tmp_path: Path, models: Models) -> None:
    """The built-in model finds the catalogue's products; one of random weights does not."""
    from cliptune.demo.catalogue import load_catalogue
    from cliptune.models.loading import load_model

    docs = DocList[ClipDoc](list(load_catalogue("catalogue-eval"))[:60])
    folder = tmp_path / "shop"
    model = load_model("builtin")
    vision = get_tower(model, "clip-vision")
    stored = DocList[ClipDoc](
        doc.model_copy(update={"embedding": e, "model_digest": model.digest})
        for doc, e in zip(docs, vision.encode([d.image for d in docs]), strict=True)
    )
    with open_index(folder) as made:
        made.add(stored)
    with Swap.open(folder) as swap:
        swap.begin(models[0], served="builtin")
        swap.prepare()
        found = swap.compare(swap.titles(100))
        change = found.changes["reciprocal_rank"]
        # Against the definition: each title's first picture with that title.
        text = get_tower(model, "clip-text")
        asked = sorted({doc.text for doc in docs})
        matrix = text.encode(asked) @ np.stack([d.embedding for d in stored]).T
        ranks = []
        for title, scores in zip(asked, matrix, strict=True):
            order = np.argsort(-scores, kind="stable")[:20]
            hits = [i for i, at in enumerate(order, 1) if docs[at].text == title]
            ranks.append(1 / hits[0] if hits else 0)
        assert change.before.mean == pytest.approx(np.mean(ranks))
        assert change.after.mean < change.before.mean / 2
        assert found.is_worse
        with pytest.raises(WorseModel, match="clearly less.*--force"):
            found.check()
        same = swap.compare([Query("x", "nobody's label")])
        assert not same.is_worse
        with pytest.raises(BadInput, match="no queries"):
            swap.compare([])
        with pytest.raises(BadInput, match="tolerance is 2"):
            swap.compare([Query("x", "y")], tolerance=2)
    half = DocList[ClipDoc]([ClipDoc(text="a"), ClipDoc(image=b"b")])
    assert [query.text for query in given(half)] == ["a"]
    with pytest.raises(BadInput, match=r"queries: 2 of 2 .*document 0 .*no title"):
        given(DocList[ClipDoc]([ClipDoc(image=b"a"), ClipDoc(image=b"b")]))


def test_titles_are_drawn_from_all_of_the_index(index: Path) -> None:
    with open_index(index) as there:
        found = titles(there, 30)
        assert len({query.text for query in found}) == 30
        assert {query.text for query in titles(there, 500)} == {f"product {i}" for i in range(60)}
        assert any(int(query.text.split()[1]) >= 40 for query in found)


def test_the_journal_survives_torn_lines(tmp_path: Path) -> None:
    changelog = Changelog(tmp_path / "journal")
    path = changelog.path
    changelog.restart()
    changelog.append(["a", "b"])
    changelog.append(["b", "ü\ud800", ""])
    changes = changelog.read(0, changelog.size)
    assert (changes.ids, changes.everything) == (["a", "b"], False)
    middle = changelog.size
    with path.open("ab") as file:
        file.write(b'["torn')
    changelog.append(["c"])
    changes = changelog.read(middle, changelog.size)
    assert (changes.ids, changes.everything) == (["c"], True)
    changelog.append(None)
    assert changelog.read(changes.end, changelog.size).everything
    assert changelog.read(changelog.size, changelog.size).ids == []


def test_writes_wait_while_they_are_held(index: Path, models: Models) -> None:
    live = VersionedIndex(index)
    done = threading.Event()

    def write() -> None:
        live.delete(ids=["p0001"])
        done.set()

    with locks.writes_held(live.generations.folder):
        thread = threading.Thread(target=write)
        thread.start()
        assert live.count() == 60
        assert not done.is_set()
        with (
            pytest.raises(Unavailable, match="try again"),
            locks.writing(live.generations.folder, 0.05),
        ):
            pass
    thread.join()
    assert live.count() == 59
    live.close()


def test_pointers_that_can_not_be_read(index: Path, models: Models) -> None:
    generations = Generations(index)
    generations.folder.mkdir()
    file = generations.folder / "generations.json"
    file.write_text("{}")
    with pytest.raises(DamagedIndex, match="not the pointer"):
        VersionedIndex(index)
    current = Generation(number=0, model_digest="d" * 64)
    generations.write(Manifest(format=99, last=0, current=current))
    with pytest.raises(BadInput, match="format 99"):
        VersionedIndex(index)
    generations.write(Manifest(last=5, current=Generation(number=5, model_digest="d" * 64)))
    with pytest.raises(Unavailable, match="generation 5 is gone"):
        VersionedIndex(index)


def test_where_generations_are() -> None:
    assert numbered_uri("/data/shop", 2) == "/data/shop/generation-2"
    assert numbered_uri("file:///data/shop", 2) == "/data/shop/generation-2"
    assert numbered_uri("http://milvus:19530/shop", 0) == "http://milvus:19530/shop"
    assert numbered_uri("http://milvus:19530/shop?db=a", 2) == "http://milvus:19530/shop_g2?db=a"
    assert Generations("http://milvus:19530/shop").folder.parent.name == "generations"


@pytest.fixture(scope="module")
def onnx_models(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Models:
    """The same models, each with its ONNX engines, as `cliptune export` writes them."""
    folder = tmp_path_factory.mktemp("onnx")
    made = [folder / model.name for model in models]
    for model, out in zip(models, made, strict=True):
        exported = CliRunner().invoke(app, ["export", str(model), "--out", str(out)])
        assert exported.exit_code == 0, exported.output
        assert model_digest(out) == model_digest(model)
    return made[0], made[1], made[2]


def tree(folder: Path) -> dict[str, int]:
    """What is in a folder, but for locks and emptied folders of the index's state."""
    return {
        str(path.relative_to(folder)): path.stat().st_size
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith(".lock")
    }


def test_a_model_without_the_services_engine_is_refused_before_anything_is_written(
    index: Path, models: Models, onnx_models: Models
) -> None:
    before = tree(index)
    engine = EngineOptions(engine="onnx")
    with (
        pytest.raises(NotFound, match=f"{models[1]} has no ONNX models: .cliptune export") as told,
        Swap.open(index, engine=engine) as swap,
    ):
        swap.begin(models[1], served=onnx_models[0])
    assert str(Generations(index).folder) not in str(told.value), (
        "the artifact that was given is named"
    )
    assert tree(index) == before
    with pytest.raises(NotFound, match=str(models[0])), Swap.open(index, engine=engine) as swap:
        swap.begin(onnx_models[1], served=models[0])
    assert tree(index) == before
    with Swap.open(index, engine=engine) as swap:  # what the error says to do
        swap.begin(onnx_models[1], served=onnx_models[0])
        swap.prepare()
        swap.switch()
    with open_index(numbered_uri(str(index), 1)) as current:
        check_embeddings(current, models[1])


def test_what_an_artifact_has_more_is_added_to_the_copy(
    index: Path, models: Models, onnx_models: Models
) -> None:
    """A service that went over to ONNX since: all of a swap's steps can be made to work."""
    first, second, _ = models
    engine = EngineOptions(engine="onnx")
    with Swap.open(index) as swap:
        number = swap.begin(second, served=first).number
    with pytest.raises(NotFound, match="no ONNX"), Swap.open(index, engine=engine) as swap:
        swap.begin(second, served=None)
    with Swap.open(index, engine=engine) as swap:
        assert swap.renew(onnx_models[0]) == "current"
        assert swap.begin(onnx_models[1], served=None).number == number
        swap.prepare()
        swap.compare(swap.titles(5))
        swap.switch()
        assert swap.go_back().current.model_digest == model_digest(first)


def test_an_undo_needs_the_engine_too_and_says_how_to_get_it(
    index: Path, models: Models, onnx_models: Models
) -> None:
    first, second, _ = models
    swap_to(index, second, first)
    before = Generations(index).read()
    engine = EngineOptions(engine="onnx")
    with pytest.raises(NotFound) as told, Swap.open(index, engine=engine) as swap:
        swap.go_back()
    assert Generations(index).read() == before
    command = re.search(r"`cliptune (export \S+ --format onnx --out) FOLDER`", str(told.value))
    assert command, told.value
    out = index.parent / "exported"
    assert CliRunner().invoke(app, [*command[1].split(), str(out)]).exit_code == 0
    with (
        pytest.raises(BadInput, match="cliptune swap --undo"),
        Swap.open(index, engine=engine) as swap,
    ):
        swap.begin(out, served=None)
    with Swap.open(index, engine=engine) as swap:
        swap.renew(onnx_models[1])
        assert swap.go_back().current.model_digest == model_digest(first)


def test_a_refused_first_swap_leaves_nothing(index: Path, models: Models) -> None:
    before = tree(index)
    for artifact, served in ((models[0], models[0]), (models[1], models[2]), (models[1], None)):
        with pytest.raises(BadInput), Swap.open(index) as swap:
            swap.begin(artifact, served=served)
        assert tree(index) == before


def test_what_was_begun_is_undone_when_it_can_not_go_on(
    any_index: Path | str, models: Models, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    generations = Generations(any_index)
    in_server = isinstance(any_index, str)
    before = tree(generations.folder if in_server else Path(any_index))
    held = functools.partial(locks.writes_held, timeout=0.1)
    with monkeypatch.context() as patch:
        patch.setattr(locks, "writes_held", held)
        with (
            locks.writing(generations.folder),
            pytest.raises(Unavailable, match="did not end"),
            Swap.open(any_index) as swap,
        ):
            swap.begin(models[1], served=models[0])
    assert generations.read() is None
    left = tree(generations.folder if in_server else Path(any_index))
    assert left.keys() - before.keys() == {PROGRESS if in_server else f"generations/{PROGRESS}"}
    assert "did not end" in read_progress(generations)["phase"]  # type: ignore[index]
    with open_index(any_index) as live:
        assert live.count() == 60
    if in_server:
        with open_index(numbered_uri(str(any_index), 1)) as other:
            assert other.status().model_digest is None
    swap_to(any_index, models[1], models[0])


def test_encoders_take_the_given_artifact_where_the_copy_lacks_their_engine(
    index: Path, models: Models, onnx_models: Models
) -> None:
    """A service that goes over to ONNX: its own error's advice, followed to the letter, works."""
    first, second, _ = models
    swap_to(index, second, first)

    def load(path: str) -> TextTower:
        return get_tower(path, "clip-text", engine="onnx")

    for other in (second, onnx_models[0]):
        with pytest.raises(NotFound, match="cliptune export .* --out FOLDER"):
            ServedTowers(load, str(other), Generations(index))
    towers = ServedTowers(load, str(onnx_models[1]), Generations(index))
    assert towers.pick().digest == model_digest(second)
    # The model before has no ONNX yet; once it has, it isn't waited for.
    with pytest.raises(Unavailable, match="no ONNX models"):
        towers.pick("previous")
    assert model_digest(first) in towers.status()["not_loaded"]
    with Swap.open(index) as swap:
        assert swap.renew(onnx_models[0]) == "previous"
    assert towers.pick("previous").digest == model_digest(first)
    assert "not_loaded" not in towers.status()


def test_an_export_of_what_is_not_there_makes_no_folder(tmp_path: Path) -> None:
    asked = ["export", str(tmp_path / "gone.zip"), "--out", str(tmp_path / "a" / "b")]
    assert isinstance(CliRunner().invoke(app, asked).exception, CliptuneError)
    assert list(tmp_path.iterdir()) == []
