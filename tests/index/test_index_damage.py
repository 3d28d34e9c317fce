"""What says which tables an index has is taken away or damaged: nothing is lost by what follows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import lancedb
import pytest

from cliptune.errors import BadInput, CliptuneError, DamagedIndex, NotFound
from cliptune.index import open_index
from cliptune.index.lance.repair import find_tables, repair_folder
from tests.index.index_helpers import DIGEST, OTHER_DIGEST, doc, docs

STAMP, UNFINISHED = "cliptune-index.json", "unfinished.json"
COUNT = 300


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """An index of 300 documents, as several writes have left it."""
    with open_index(tmp_path / "shop", fsync=False) as index:
        index.add(docs(*(doc(f"d{n:03}", tags={"n": n}) for n in range(COUNT - 10))))
        index.add(docs(*(doc(f"d{n:03}", tags={"n": n}) for n in range(COUNT - 20, COUNT))))
        index.delete(ids=["d299"])
        index.add(docs(doc("d299", tags={"n": 299})))
    return tmp_path / "shop"


def remove(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def garble(path: Path) -> None:
    path.write_text('["documents-000000000000", 3, {}]')


DAMAGES = pytest.mark.parametrize("damage", [remove, empty, halve, garble])


def use(folder: Path) -> list[Exception]:
    """Everything that changes an index, by somebody who hears nothing of errors."""
    errors = []
    for call in (
        lambda index: index.add(docs(doc("new"))),
        lambda index: index.add(docs(doc("other", model_digest=OTHER_DIGEST))),
        lambda index: index.delete(filter="n < 100"),
        lambda index: index.optimize(),
        lambda index: index.clear(),
        lambda index: index.add(docs(doc("after"))),
    ):
        try:
            with open_index(folder, fsync=False) as index:
                call(index)
        except CliptuneError as error:
            errors.append(error)
    return errors


@DAMAGES
def test_without_its_stamp_an_index_is_refused_and_found_again(
    shop: Path, damage: Callable[[Path], None]
) -> None:
    damage(shop / STAMP)
    errors = use(shop)
    assert len(errors) == 6
    for error in errors:
        assert isinstance(error, DamagedIndex)
        assert f"cliptune index repair {shop}" in str(error)
    assert repair_folder(shop).rows == COUNT
    assert repair_folder(shop) is None
    with open_index(shop) as index:
        assert index.count() == COUNT
        assert index.status().model_digest == DIGEST
        index.add(docs(doc("new")))
        assert index.count("n >= 0") == COUNT


def test_what_was_open_meanwhile_refuses_too(shop: Path) -> None:
    with open_index(shop) as index:
        (shop / STAMP).unlink()
        for call in (index.count, index.clear, lambda: index.add(docs(doc("new")))):
            with pytest.raises(DamagedIndex, match="cliptune-index.json is gone"):
                call()
        repair_folder(shop)
        assert index.count() == COUNT


def test_every_other_file_of_the_folder_may_go(shop: Path) -> None:
    """Locks, and what else is not the stamp."""
    for path in [path for path in shop.iterdir() if path.is_file() and path.name != STAMP]:
        path.unlink()
    with open_index(shop) as index:
        assert index.add(docs(doc("new"))) == 1
        assert index.count() == COUNT + 1


@pytest.mark.parametrize("content", ["[]", "", "nothing", '{"a": 1}', '["../shop", "x/y"]', "\0"])
def test_only_tables_that_are_known_to_be_unfinished_are_removed(shop: Path, content: str) -> None:
    """The index's own, a stranger's, and a folder that looks like a table stay."""
    lancedb.connect(shop).create_table("documents-aaaaaaaaaaaa", [{"id": "x"}])
    (shop / "documents-bbbbbbbbbbbb.lance").mkdir()
    (shop / UNFINISHED).write_text(content)
    with open_index(shop) as index:
        index.add(docs(doc("new")))
        assert index.count() == COUNT + 1
    assert len(list(shop.glob("documents-*.lance"))) == 3


def test_a_table_that_is_noted_as_unfinished_and_stamped_stays(shop: Path) -> None:
    """A process that was killed between the stamp and the end of its first write."""
    name = json.loads((shop / STAMP).read_text())["table"]
    (shop / UNFINISHED).write_text(json.dumps([name, "documents-cccccccccccc"]))
    lancedb.connect(shop).create_table("documents-cccccccccccc", [{"id": "x"}])
    with open_index(shop) as index:
        index.add(docs(doc("new")))
        assert index.count() == COUNT + 1
    assert [path.stem for path in shop.glob("documents-*.lance")] == [name]
    assert not (shop / UNFINISHED).exists()


def test_a_clear_that_was_cut_short_is_finished(shop: Path) -> None:
    name = json.loads((shop / STAMP).read_text())["table"]
    (shop / UNFINISHED).write_text(json.dumps([name]))
    (shop / STAMP).unlink()
    with open_index(shop) as index:
        assert index.count() == 0
        index.add(docs(doc("new", model_digest=OTHER_DIGEST)))
        assert index.count() == 1


def test_a_stamp_of_another_index_is_refused(shop: Path) -> None:
    stamp = json.loads((shop / STAMP).read_text())
    (shop / STAMP).write_text(json.dumps({**stamp, "model_digest": OTHER_DIGEST}))
    with open_index(shop) as index, pytest.raises(DamagedIndex, match=r"aaaa.*repair"):
        index.count()
    assert repair_folder(shop).rows == COUNT
    (shop / STAMP).write_text(json.dumps({**stamp, "table": "documents-000000000000"}))
    assert use(shop)
    (shop / f"{STAMP}.damaged").unlink()
    assert repair_folder(shop).rows == COUNT
    assert json.loads((shop / STAMP).read_text())["table"] == stamp["table"]


def test_several_tables_must_be_told_apart(shop: Path, tmp_path: Path) -> None:
    with open_index(tmp_path / "other", fsync=False) as other:
        other.add(docs(doc("one", model_digest=OTHER_DIGEST)))
    [table] = (tmp_path / "other").glob("*.lance")
    table.rename(shop / table.name)
    right = json.loads((shop / STAMP).read_text())["table"]
    (shop / STAMP).unlink()
    with pytest.raises(BadInput, match=r"--table"):
        repair_folder(shop)
    with pytest.raises(NotFound, match="no table 'documents-000000000000'"):
        repair_folder(shop, table="documents-000000000000")
    assert [one.rows for one in find_tables(shop)] == [COUNT, 1]
    repair_folder(shop, table=right)
    with open_index(shop) as index:
        assert index.count() == COUNT
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / STAMP).write_text("")
    with pytest.raises(NotFound, match="nothing to be found"):
        repair_folder(tmp_path / "empty")
