"""Data sets by name: what was pushed comes back, safely."""

from __future__ import annotations

import gzip
import pickle
import sys
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
from docarray import DocList

from cliptune.data import store
from cliptune.data.source import load_documents, read_documents
from cliptune.data.store import (
    MAX_DOCUMENT_BYTES,
    dump_documents,
    list_pushed,
    parse_documents,
    pull,
    push,
)
from cliptune.data.validation import PAIR
from cliptune.documents import ClipDoc
from cliptune.errors import AlreadyExists, BadData, BadInput, NotFound, Unavailable
from tests.data import test_formats as formats
from tests.s3 import s3_server


def documents() -> DocList[ClipDoc]:
    return DocList[ClipDoc](
        ClipDoc(
            id=f"d{i}",
            text=f"text {i} ü",
            image=bytes([i, 255]) * 50,
            tags={"price": i + 0.5, "nested": {"a": [1, "b"]}},
            embedding=np.arange(4, dtype=np.float32),
        )
        for i in range(30)
    )


def test_a_round_trip(cliptune_home: Path) -> None:
    assert push(documents(), "shoes-v1") == "shoes-v1"
    assert list_pushed() == ["shoes-v1"]
    for found, doc in zip(pull("shoes-v1"), documents(), strict=True):
        assert (found.id, found.text, found.image) == (doc.id, doc.text, doc.image)
        assert found.tags == doc.tags
        np.testing.assert_array_equal(found.embedding, doc.embedding)
    by_docarray = DocList[ClipDoc].load_binary(
        cliptune_home / "data" / "shoes-v1.docs", protocol="protobuf", compress="gzip"
    )
    assert [doc.text for doc in by_docarray] == [doc.text for doc in documents()]
    with pytest.raises(AlreadyExists, match="shoes-v1"):
        push(documents(), "shoes-v1")
    push(documents()[:2], "shoes-v1", replace=True)
    assert len(pull("shoes-v1")) == 2
    with pytest.raises(NotFound, match="'shoes-v2'.*'shoes-v1'"):
        pull("shoes-v2")


@pytest.mark.parametrize("name", ["../evil", "a/b", "", ".hidden", "a b", "x" * 200, "a..b"])
def test_names_that_could_leave_the_folder(name: str) -> None:
    with pytest.raises(BadInput, match="data set name"):
        push(documents(), name)


class Evil:
    def __reduce__(self) -> tuple:
        return (print, ("code ran",))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"nonsense",
        pickle.dumps(Evil()),
        gzip.compress(pickle.dumps(Evil()), mtime=0),
        b"\x02" + (1).to_bytes(8, "big") + (2**31).to_bytes(4, "big") + b"abc",
        b"\x02" + (1).to_bytes(8, "big") + (3).to_bytes(4, "big") + b"abc",
        b"\x02" + (2**60).to_bytes(8, "big"),
        b"\x02" + (0).to_bytes(8, "big") + b"and more",
    ],
)
def test_damaged_and_foreign_files(data: bytes, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(BadData, match="not a data set"):
        parse_documents(data, "some file")
    assert "code ran" not in capsys.readouterr().out


def stream(*frames: bytes) -> bytes:
    """DocArray's stream of documents that are zipped already."""
    packed = (len(frame).to_bytes(4, "big") + frame for frame in frames)
    return b"\x02" + len(frames).to_bytes(8, "big") + b"".join(packed)


def gzip_bomb(size: int) -> bytes:
    """A gzip stream of `size` zeros, a multiple of 16 MiB, in a thousandth of that."""
    squeeze, zeros = zlib.compressobj(9, wbits=31), bytes(2**24)
    first = squeeze.compress(zeros) + squeeze.flush(zlib.Z_FULL_FLUSH)
    again = squeeze.compress(zeros) + squeeze.flush(zlib.Z_FULL_FLUSH)
    return first + again * (size // 2**24 - 1) + squeeze.flush()


def test_bombs_are_refused_before_they_are_unzipped() -> None:
    bomb = gzip_bomb(4 * 2**30)
    for data, words in (
        (stream(bomb), f"document 0 unzips to more than the {MAX_DOCUMENT_BYTES} bytes"),
        (stream(gzip.compress(b"") + bomb), "document 0 is not one whole gzip stream"),
    ):
        assert len(data) < 5_000_000
        tracemalloc.start()
        with pytest.raises(BadData, match=words):
            parse_documents(data, "an upload")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2.5 * MAX_DOCUMENT_BYTES


def test_many_small_bombs_are_refused_together(monkeypatch: pytest.MonkeyPatch) -> None:
    text = dump_documents(DocList[ClipDoc]([ClipDoc(text="a" * 2**20)]))[13:]
    assert len(parse_documents(stream(*[text] * 5), "an upload")) == 5
    monkeypatch.setattr(store, "MAX_UNZIPPED_BYTES", 4 * 2**20)
    with pytest.raises(BadData, match="document 3 unzips to more than the"):
        parse_documents(stream(*[text] * 5), "an upload")
    # Pictures don't compress: however many there are, it is no bomb.
    monkeypatch.setattr(store, "MAX_UNZIPPED_BYTES", 0)
    noise = np.random.default_rng(0).bytes(2**20)
    docs = DocList[ClipDoc]([ClipDoc(image=noise) for _ in range(8)])
    assert len(parse_documents(dump_documents(docs), "an upload")) == 8


def test_a_damaged_document_is_noticed_by_its_checksum() -> None:
    data = bytearray(dump_documents(DocList[ClipDoc]([ClipDoc(image=bytes(range(256)) * 9)])))
    data[-6] ^= 1  # in gzip's own check of the content
    with pytest.raises(BadData, match="incorrect data check"):
        parse_documents(bytes(data), "an upload")


def test_whatever_a_document_holds_it_is_read_or_refused() -> None:
    docs = DocList[ClipDoc](documents()[:1])
    docs[0].image = b"i"  # so that the structure is most of it
    document = gzip.decompress(dump_documents(docs)[13:])
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(600):
        changed = bytearray(document)
        for position in random.integers(0, len(document), 3):
            changed[position] = random.integers(256)
        try:
            parse_documents(stream(gzip.compress(changed, 1)), "an upload")
        except BadData:
            refused += 1
    assert 100 < refused < 600


def test_a_truncated_file(cliptune_home: Path) -> None:
    push(documents(), "a")
    path = cliptune_home / "data" / "a.docs"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(BadData, match="a.docs"):
        pull("a")


def texts(docs: DocList[ClipDoc]) -> list[str | None]:
    return [doc.text for doc in docs]


def test_urls(tmp_path: Path) -> None:
    for url in ("memory://shop/shoes", f"file://{tmp_path}/deep/shoes"):
        with pytest.raises(NotFound, match="no data set at"):
            pull(url)
        assert push(documents(), url) == url
        assert texts(pull(url)) == texts(documents())
        with pytest.raises(AlreadyExists, match="shoes"):
            push(documents(), url)
        push(documents()[:2], url, replace=True)
        assert texts(load_documents(url)) == ["text 0 ü", "text 1 ü"]
    by_docarray = DocList[ClipDoc].load_binary(
        tmp_path / "deep" / "shoes.docs", protocol="protobuf", compress="gzip"
    )
    assert len(by_docarray) == 2
    fsspec.filesystem("memory").pipe_file("/shop/evil.docs", pickle.dumps(Evil()))
    with pytest.raises(BadData, match="not a data set"):
        pull("memory://shop/evil")
    for url in ("s4://bucket/shoes", "simplecache::memory://shop/shoes", "zip://x::memory://a"):
        with pytest.raises(BadInput, match="unknown kind of URL"):
            pull(url)
    with pytest.raises(NotFound, match="no file at"):  # of the web nothing is fetched
        load_documents("https://localhost/shoes")


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(Unavailable, match=r"pip install 'cliptune\[s3\]'"):
        pull("s3://bucket/shoes")


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """The address of an S3 server with the bucket `shop`."""
    with s3_server(monkeypatch, tmp_path) as address:
        fsspec.filesystem("s3").mkdir("shop")
        yield address


def test_a_real_s3_server(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    url = "s3://shop/autumn/shoes"
    with pytest.raises(NotFound, match="no data set at 's3://shop/autumn/shoes'"):
        pull(url)
    push(documents(), url)
    with pytest.raises(AlreadyExists, match="give replace=True"):
        push(documents(), url)
    assert [doc.image for doc in pull(url)] == [doc.image for doc in documents()]
    big = DocList[ClipDoc]([ClipDoc(image=np.random.default_rng(0).bytes(8 * 2**20))])
    push(big, url, replace=True)  # in several parts
    assert pull(url)[0].image == big[0].image
    with pytest.raises(NotFound, match="bucket"):
        push(documents(), "s3://nobodys/shoes")
    fsspec.filesystem("s3").clear_instance_cache()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(Unavailable, match="AWS_ACCESS_KEY_ID"):
        push(documents(), url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    fsspec.filesystem("s3").clear_instance_cache()
    with pytest.raises(Unavailable, match="127.0.0.1:9"):
        pull(url)


def test_tables_and_pictures_in_a_bucket(s3: str, tmp_path: Path) -> None:
    there = fsspec.filesystem("s3")
    pictures = [f"shop/pictures/{number}.png" for number in range(formats.N)]
    for number, place in enumerate(pictures):
        there.pipe_file(place, formats.png(number))
    for write in (formats.in_parquet, formats.in_packed_tar, formats.in_tar, formats.in_excel,
                  formats.in_csv, formats.in_feather):  # fmt: skip
        path = Path(write(tmp_path))
        there.put_file(str(path), f"shop/{path.name}")
        options = {"download": True}  # relative paths are in the bucket, too
        found = read_documents(f"s3://shop/{path.name}", csv_options=options, needs=PAIR)
        here = read_documents(path, needs=PAIR)
        assert [doc.text for doc in found.docs] == [doc.text for doc in here.docs]
        assert formats.digests(found.docs) == formats.digests(here.docs)
    with pytest.raises(BadData, match="--download|'download': True"):
        read_documents("s3://shop/t.csv", needs=PAIR)
    there.pipe_file("shop/t-2.parquet", there.cat_file("shop/t.parquet"))
    assert len(read_documents("s3://shop/t*.parquet", csv_options={"id_column": "none"},
                              needs=PAIR).docs) == formats.N  # fmt: skip
    urls = [f"p {number},s3://{place}" for number, place in enumerate(pictures)]
    (tmp_path / "urls.csv").write_text("\n".join(["title,image", *urls, "lost,s3://shop/lost.png"]))
    found = read_documents(tmp_path / "urls.csv", csv_options={"download": True}, needs=PAIR)
    assert len(found.docs) == formats.N
    assert "no picture at 's3://shop/lost.png'" in found.summary.left_out[0].reason
    with pytest.raises(NotFound, match="no table at 's3://shop/none.parquet'"):
        read_documents("s3://shop/none.parquet")
    with pytest.raises(NotFound, match="no file fits"):
        read_documents("s3://shop/none-*.parquet")
