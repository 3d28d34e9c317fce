"""A swapped index whose state is damaged: refused, nothing lost, and found again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cliptune.errors import AlreadyExists, BadInput, DamagedIndex, ModelMismatch
from cliptune.index import open_index
from cliptune.index.lance.rows import TableNote
from cliptune.index.versions.changelog import Changelog
from cliptune.index.versions.manifest import Generations
from cliptune.index.versions.models import model_digest
from cliptune.index.versions.repair import repair
from cliptune.index.versions.versioned_index import VersionedIndex
from cliptune.reindex.swap import Swap
from tests.reindex.generation_helpers import embed, products

Models = tuple[Path, Path, Path]


@pytest.fixture
def shop(models: Models, tmp_path: Path) -> Path:
    """30 products, swapped to the second model and then 5 more."""
    folder = tmp_path / "shop"
    with open_index(folder, fsync=False) as index:
        index.add(embed(models[0], products(30)))
    with Swap.open(folder) as swap:
        swap.begin(models[1], served=models[0])
        swap.prepare()
        swap.switch()
    live = VersionedIndex(folder)
    live.add(embed(models[1], products(5, start=100)))
    live.close()
    return folder


def remove(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [remove, empty])
def test_without_its_pointer_a_swapped_index_is_refused(
    shop: Path, models: Models, damage: Callable[[Path], None]
) -> None:
    state = shop / "generations"
    damage(state / "generations.json")
    for use in (
        lambda: VersionedIndex(shop),
        lambda: repairless_swap(shop, models),
    ):
        with pytest.raises(DamagedIndex, match="index repair"):
            use()
    [done] = repair(shop)
    assert done.what == str(state / "generations.json")
    assert repair(shop) == []
    with VersionedIndex(shop) as live:
        assert live.count() == 35
        assert live.status().model_digest == model_digest(models[1])


def repairless_swap(shop: Path, models: Models) -> None:
    with Swap.open(shop) as swap:
        swap.begin(models[2], served=models[0])


def test_without_its_whole_state_the_documents_stay(shop: Path, models: Models) -> None:
    shutil.rmtree(shop / "generations")
    with pytest.raises(DamagedIndex, match=r"generation-1"):
        VersionedIndex(shop)
    with pytest.raises(DamagedIndex, match=r"generation-1"):
        repairless_swap(shop, models)
    with pytest.raises(DamagedIndex, match="can't be known which generation"):
        repair(shop)
    with open_index(shop / "generation-1") as index:
        assert index.count() == 35


def test_every_file_of_the_state_in_turn(shop: Path, models: Models, tmp_path: Path) -> None:
    """Without any one of them, what follows a damage leaves all documents where they are."""
    files = [
        path.relative_to(shop)
        for folder in (shop, shop / "generations", shop / "generations" / "0")
        for path in folder.iterdir()
        if path.is_file()
    ] + [Path("generation-1/cliptune-index.json")]
    assert Path("generations/0/journal") in files
    for file in files:
        copy = tmp_path / "copy"
        shutil.copytree(shop, copy)
        remove(copy / file)
        try:
            with VersionedIndex(copy, tidy=True) as live:
                live.add(embed(models[1], products(1, start=200)))
            with Swap.open(copy) as swap:
                swap.go_back()
        except DamagedIndex:
            repair(copy)
        with VersionedIndex(copy) as live:
            assert live.count() in (35, 36), file
        with open_index(copy) as before, open_index(copy / "generation-1") as after:
            assert before.count() in (30, 35, 36), file
            assert after.count() in (35, 36), file
        shutil.rmtree(copy)


def test_a_lost_journal_means_that_anything_may_have_been_written(tmp_path: Path) -> None:
    changelog = Changelog(tmp_path / "journal")
    path = changelog.path
    changelog.restart()
    assert not changelog.read(0, changelog.size).everything
    changelog.append(["a"] * 50)
    followed = changelog.size
    for damage in (remove, empty):
        damage(path)
        assert changelog.read(followed, changelog.size).everything
        assert changelog.read(0, changelog.size).everything
        changelog.append(["b"], followed)
        assert changelog.read(followed, changelog.size).everything
    end = changelog.size
    changelog.append(["c"], end)
    assert changelog.read(end, changelog.size).ids == ["c"]
    assert not changelog.read(end, changelog.size).everything


def test_a_swap_does_not_clear_what_it_did_not_write(shop: Path, models: Models) -> None:
    """As after a state was put back from an old backup."""
    current = Generations(shop).read().current
    other = Generations(shop).open(current.model_copy(update={"number": 2}), make=True)
    other.add(embed(models[2], products(3)))
    other.close()
    with pytest.raises(AlreadyExists, match="generation-2 holds 3 documents"):
        repairless_swap(shop, models)
    with open_index(shop / "generation-2") as index:
        assert index.count() == 3


def test_an_earlier_versions_table_asks_for_its_model_and_checks_it(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TableNote, "on", lambda _, rows: rows)
    with open_index(tmp_path / "old") as index:
        index.add(embed(models[0], products(20)))
    (tmp_path / "old" / "cliptune-index.json").unlink()
    with pytest.raises(BadInput, match="--artifact"):
        repair(tmp_path / "old")
    with pytest.raises(ModelMismatch, match="didn't make the embeddings"):
        repair(tmp_path / "old", artifact=models[1])
    [done] = repair(tmp_path / "old", artifact=models[0])
    assert done.rows == 20
    with open_index(tmp_path / "old") as index:
        assert (index.count(), index.status().model_digest) == (20, model_digest(models[0]))
