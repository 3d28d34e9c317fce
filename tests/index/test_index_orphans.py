"""A Milvus index whose alias is gone: refused, nothing dropped, and named again."""

from __future__ import annotations

from pathlib import Path

import pytest

from cliptune.errors import BadInput, DamagedIndex
from cliptune.index import open_index
from cliptune.index.milvus import collection
from cliptune.index.versions.repair import repair
from tests.index.index_helpers import OTHER_DIGEST, doc, docs
from tests.milvus_process import MilvusProcess

pytestmark = pytest.mark.e2e


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collection, "_SETTLING", 0.2)


def test_without_its_alias_an_index_is_refused_and_named_again(
    milvus: MilvusProcess, tmp_path: Path
) -> None:
    from pymilvus import MilvusClient

    uri = milvus.new_uri()
    name = uri.rpartition("/")[2]
    with open_index(uri, pictures=tmp_path) as index:
        index.add(docs(*(doc(f"d{n}") for n in range(30))))
        client = MilvusClient(milvus.address, dedicated=True)
        held = client.describe_alias(name)["collection_name"]
        # A stranger has one of such a name.
        client.create_collection(f"{name}_aaaaaaaaaaaa", dimension=8)
        client.drop_alias(name)
        for use in (
            index.count,
            index.clear,
            lambda: index.add(docs(doc("new", model_digest=OTHER_DIGEST))),
            lambda: index.delete(ids=["d1"]),
        ):
            with pytest.raises(DamagedIndex, match=f"{held}.*index repair {uri}"):
                use()
        with pytest.raises(BadInput, match="--table"):
            repair(uri, tmp_path / "state", table="another")
        [done] = repair(uri, tmp_path / "state")
        assert done.rows == 30
        assert repair(uri, tmp_path / "state") == []
        assert index.count() == 30
        index.clear()
        assert index.count() == 0
        assert client.has_collection(f"{name}_aaaaaaaaaaaa"), "it is no index of ours"
        assert not client.has_collection(held)
        client.drop_collection(f"{name}_aaaaaaaaaaaa")
        client.close()
