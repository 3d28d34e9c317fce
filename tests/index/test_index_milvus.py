"""Milvus alone: addresses, what goes wrong with a server, and kill -9 of it while clients write."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cliptune.errors import BadFilter, BadInput, ModelMismatch, Unavailable
from cliptune.index import Index, open_index
from cliptune.index.milvus.server import MilvusAddress
from tests.index.index_helpers import DIGEST, OTHER_DIGEST, cosine, doc, docs, vector
from tests.milvus_process import MilvusProcess
from tests.waiting import wait_until


def test_addresses_are_taken_apart() -> None:
    address = MilvusAddress.parse("HTTPS://milvus.example/shop?consistency=session")
    assert (address.server, address.database) == ("https://milvus.example:19530", "")
    assert address.query == (("consistency", "session"),)
    assert str(address) == "https://milvus.example:19530/shop"
    assert MilvusAddress.parse("http://[::1]:1/db/shop").server == "http://[::1]:1"
    assert str(MilvusAddress.parse("http://h/db/shop/")) == "http://h:19530/db/shop"


@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("http://localhost:19530", "name of a collection"),
        ("http://localhost:19530/a/b/c", "name of a collection"),
        ("http:///shop", "host"),
        ("http://host:port/shop", "not an address"),
        ("http://host:99999/shop", "not an address"),
        ("http://host/sh-op", "'sh-op' is no name in Milvus"),
        ("http://host/9shop", "'9shop' is no name"),
        ("http://host/" + "a" * 300, "is no name"),
        ("http://host/shop;drop", "is no name"),
        ("http://user:secret@host/shop", "CLIPTUNE_MILVUS_TOKEN"),
        ("http://host/shop?token=secret", "token: no option in an index's address"),
        ("http://host/shop?consistency=weak", "consistency: expected strong or session"),
        ("http://host/shop?ef=many", "ef: expected a number, got 'many'"),
        ("http://host/shop?ef=0", "ef: expected an integer of 1 to 32768, got 0"),
        ("ftp://host/shop", "scheme 'ftp'"),
    ],
)
def test_wrong_addresses_are_named_without_their_secrets(uri: str, problem: str) -> None:
    with pytest.raises(BadInput, match=problem) as caught:
        open_index(uri)
    assert "secret" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_wrong_options_are_named() -> None:
    for options, problem in [
        ({"fsync": True}, "fsync: no option of an index in Milvus; there are consistency"),
        ({"timeout": 0}, "timeout: expected seconds, got 0"),
        ({"shards": True}, "shards: expected an integer of 1 to 16, got True"),
        ({"store_images": "no"}, "store_images: expected true or false, got 'no'"),
    ]:
        with pytest.raises(BadInput, match=problem):
            open_index("http://localhost/shop", **options)
    with pytest.raises(BadInput, match="ef: given twice"):
        open_index("http://localhost/shop?ef=3", ef=4)


def test_a_server_that_is_not_there_is_told_in_time() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{closed.getsockname()[1]}/shop"
    with open_index(uri, timeout=1) as index:
        for call in (
            index.count,
            lambda: index.add(docs(doc("a"))),
            lambda: index.search(vector(0)[None], DIGEST),
            lambda: index.delete(ids=["a"]),
            index.clear,
            index.status,
        ):
            with pytest.raises(
                Unavailable, match=r"127.0.0.1:\d+/shop: .* hasn't answered for 1 s"
            ):
                call()


def test_a_server_that_hangs_is_told_in_time() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}/shop"
        with open_index(uri, timeout=1) as index, pytest.raises(Unavailable, match="hasn't answer"):
            index.count()


@pytest.mark.e2e
def test_a_strangers_collection_and_a_newer_format_are_refused(milvus: MilvusProcess) -> None:
    from pymilvus import DataType, MilvusClient

    client = MilvusClient(milvus.address)
    newer = {"cliptune index": 99, "model_digest": DIGEST, "dim": 8, "created_by": "cliptune 9.9"}
    for description, problem in [
        ("recipes", "no cliptune index; give another name"),
        (json.dumps(newer), "format 99 by cliptune 9.9; .*Upgrade cliptune"),
    ]:
        uri = milvus.new_uri()
        name = uri.rsplit("/", 1)[1]
        schema = client.create_schema(auto_id=False, description=description)
        schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=64)
        schema.add_field("embedding", DataType.FLOAT_VECTOR, dim=8)
        client.create_collection(name, schema=schema)
        with open_index(uri) as index:
            for call in (index.count, lambda: index.add(docs(doc("a"))), index.clear):
                with pytest.raises(BadInput, match=problem):
                    call()
        assert client.has_collection(name)
        client.drop_collection(name)
    with (
        open_index(f"{milvus.address}/nowhere/shop", timeout=2) as index,
        pytest.raises(BadInput, match="no database 'nowhere'"),
    ):
        index.count()
    client.close()


@pytest.mark.e2e
def test_two_first_writers_of_two_models_never_mix(milvus: MilvusProcess, tmp_path: Path) -> None:
    uri = milvus.new_uri()
    refused: list[str] = []

    def write(digest: str) -> None:
        with open_index(uri, pictures=tmp_path) as index:
            try:
                index.add(docs(*(doc(f"{digest[0]}{n}", model_digest=digest) for n in range(9))))
            except ModelMismatch:
                refused.append(digest)

    threads = [threading.Thread(target=write, args=(one,)) for one in (DIGEST, OTHER_DIGEST)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 1
    with open_index(uri, pictures=tmp_path) as index:
        assert index.count() == 9
        assert index.status().model_digest == ({DIGEST, OTHER_DIGEST} - set(refused)).pop()
        index.clear()


@pytest.mark.e2e
def test_graphs_find_what_brute_force_does_and_ties_stay_in_order(
    milvus: MilvusProcess, tmp_path: Path
) -> None:
    rng = np.random.default_rng(3)
    centres = rng.standard_normal((40, 32))
    embeddings = (
        centres[rng.integers(0, 40, 6000)] + 0.5 * rng.standard_normal((6000, 32))
    ).astype(np.float32)
    queries = embeddings[:50] + 0.1 * rng.standard_normal((50, 32)).astype(np.float32)
    with open_index(f"{milvus.new_uri()}?consistency=session", pictures=tmp_path) as index:
        for start in range(0, 6000, 2000):
            index.add(
                docs(
                    *(
                        doc(f"d{n:05}", embedding=embeddings[n], tags={"n": n % 100})
                        for n in range(start, start + 2000)
                    )
                )
            )
        # As many equals as Milvus can't rank at once: the first ids are found all the same.
        one = -centres[0].astype(np.float32) * 9
        for start in range(0, 17_000, 4250):
            index.add(docs(*(doc(f"t{n:05}", embedding=one) for n in range(start, start + 4250))))
        found = index.search(one[None], DIGEST, limit=5, offset=2)[0]
        assert [match.id for match in found] == [f"t0000{n}" for n in range(2, 7)]
        assert index.delete(filter="n == null") == 17_000
        status = index.optimize()
        assert (status.rows, status.state) == (6000, "ready")
        scores = cosine(queries, embeddings)
        best = np.argsort(-scores, axis=1)[:, :10]
        for exact, least in ((False, 0.95), (True, 1.0)):
            found = index.search(queries, DIGEST, limit=10, exact=exact)
            hits = [
                len({m.id for m in matches} & {f"d{n:05}" for n in row})
                for matches, row in zip(found, best, strict=True)
            ]
            assert sum(hits) / 500 >= least
        among = [n for n in np.argsort(-scores[0]) if n % 100 == 7][:10]
        [narrow] = index.search(queries[:1], DIGEST, limit=10, filter="n == 7")
        assert [match.id for match in narrow] == [f"d{n:05}" for n in among]
        index.clear()


@pytest.mark.e2e
def test_what_milvus_has_no_room_for_is_refused(milvus: MilvusProcess, tmp_path: Path) -> None:
    with open_index(milvus.new_uri(), pictures=tmp_path) as index:
        index.add(docs(doc("good", text="long " * 20_000, tags={"t": "x" * 70_000})))
        assert index.get(["good"])[0].text == "long " * 20_000
        assert index.count({"t": "x" * 70_000}) == 1
        assert index.count({"t": {"$gt": "x" * 512}}) == 1
        with pytest.raises(BadFilter, match="a string of 513 bytes"):
            index.count({"t": {"$gt": "x" * 513}})
        for fields, problem in [
            ({"text": "x" * 3_000_000}, "texts and tags of 30000.. bytes"),
            ({"tags": {f"n{n}": n for n in range(1900)}}, "5700 values and names"),
            ({"tags": {f"n{n}": "x" * 600 for n in range(70)}}, "to compare by order"),
        ]:
            with pytest.raises(BadInput, match=f"document 'bad': .*{problem}"):
                index.add(docs(doc("bad", **fields)))
        assert index.count() == 1
        index.clear()


@pytest.mark.e2e
def test_pictures_no_document_has_are_removed_in_time(
    milvus: MilvusProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cliptune.index.milvus import pictures

    with open_index(milvus.new_uri(), pictures=tmp_path) as index:
        index.add(docs(doc("a", image=b"one"), doc("b", image=b"two"), doc("c", image=b"two")))
        index.add(docs(doc("a", image=b"three")))
        index.delete(ids=["b"])
        files = lambda: sorted(p.read_bytes() for p in tmp_path.glob("*/??/*"))  # noqa: E731
        index.optimize()
        assert files() == [b"one", b"three", b"two"]  # too young to go
        monkeypatch.setattr(pictures.PictureFolder.keep_only, "__defaults__", (-60.0,))
        index.optimize()
        assert files() == [b"three", b"two"]
        found = index.get(["a", "c"], include_image=True)
        assert [one.image for one in found] == [b"three", b"two"]
        index.clear()
        assert files() == []


def written(id: str, version: int) -> dict[str, object]:
    return {"seed": version, "text": f"{id} {version}", "tags": {"v": version}}


@pytest.mark.e2e
def test_what_was_acknowledged_survives_kills_of_the_server(
    new_milvus: Callable[[], MilvusProcess], tmp_path: Path
) -> None:
    server = new_milvus()
    uri = server.new_uri()
    versions: dict[str, int] = {}
    ended = threading.Event()
    failures: list[Exception] = []

    def write(index: Index) -> None:
        rng = np.random.default_rng(0)
        version = 0
        try:
            while not ended.is_set():
                version += 1
                ids = [f"d{n}" for n in rng.choice(200, 20, replace=False)]
                if version % 5 == 4:
                    index.delete(ids=ids)
                    for one in ids:
                        versions.pop(one, None)
                else:
                    index.add(docs(*(doc(one, **written(one, version)) for one in ids)))
                    versions.update(dict.fromkeys(ids, version))
        except Exception as error:
            failures.append(error)

    with (
        open_index(uri, pictures=tmp_path, timeout=240) as patient,
        open_index(uri, pictures=tmp_path, timeout=1) as hasty,
    ):
        patient.add(docs(doc("first")))
        patient.delete(ids=["first"])
        assert hasty.count() == 0
        writer = threading.Thread(target=write, args=(patient,))
        writer.start()
        for _ in range(2):
            before = dict(versions)
            wait_until(lambda before=before: versions != before)  # the kills should hit writes
            server.kill()
            with pytest.raises(Unavailable, match="hasn't answered for 1 s"):
                hasty.search(vector(0)[None], DIGEST)
            server.start()
        # Writes wait for the server, and then go on by themselves.
        before = dict(versions)
        wait_until(lambda: versions != before)
        ended.set()
        writer.join()
        assert not failures
        found = [one for batch in patient.scan(include_embedding=True) for one in batch]
        assert {str(one.id): one.tags["v"] for one in found} == versions
        assert len(found) == len(versions) == patient.count()
        for one in found:
            np.testing.assert_array_equal(one.embedding, vector(one.tags["v"]))
        # The hasty one, too, comes back by itself.
        assert hasty.count() == len(versions)
    server.stop()
