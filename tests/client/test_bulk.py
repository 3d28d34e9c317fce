"""Bulk indexing through a real server: what is there is not sent, what is wrong is told."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from docarray import DocList
from typer.testing import CliRunner

from cliptune.cli.app import app
from cliptune.client import bulk
from cliptune.client.bulk import index_all
from cliptune.documents import ClipDoc
from cliptune.errors import BadInput, Unavailable
from cliptune.serving import Client
from tests.data import test_formats as formats
from tests.pictures import picture
from tests.server import Server

pytestmark = pytest.mark.e2e


def products(count: int) -> DocList[ClipDoc]:
    return DocList[ClipDoc](
        ClipDoc(id=f"p{i}", text=f"product {i}", image=picture(i), tags={"n": i, "in": [True]})
        for i in range(count)
    )


def test_only_what_is_new_or_changed_is_sent(client: Client) -> None:
    docs = products(40)
    seen: list[int] = []
    done = index_all(client, docs, batch_size=7, progress=lambda so_far: seen.append(so_far.seen))
    assert (done.indexed, done.unchanged, done.left_out) == (40, 0, [])
    assert seen[-1] == 40
    assert len(seen) == 6
    assert index_all(client, docs, batch_size=9).unchanged == 40
    docs[3].image = picture(99)
    docs[8].text = "renamed"
    docs[9].tags = {"n": 9, "in": [1]}
    docs.append(ClipDoc(id="new", image=picture(98)))
    done = index_all(client, docs)
    assert (done.indexed, done.unchanged) == (4, 37)
    [changed] = client.search(picture(99), limit=1).matches
    assert changed.id == "p3"
    assert client.get(["p9", "nobody", "p8"])[1].text == "renamed"
    assert client.status()["documents"] == 41


def test_documents_at_fault_are_left_out_and_named(client: Client, tmp_path: Path) -> None:
    docs = products(20)
    docs[4].image = b"not a picture"
    docs[11].image = picture(11)[:80]  # cut short: only decoding it tells
    docs[12] = ClipDoc(id="p12", uri=str(tmp_path / "missing.jpg"))
    docs[13] = ClipDoc(id="p13", uri="http://example.com/a.jpg")
    docs[14].id = "x" * 600
    done = index_all(client, docs, batch_size=20)
    assert done.indexed == 15
    reasons = {one.id[:3]: one.reason for one in done.left_out}
    assert reasons.keys() == {"p4", "p11", "p12", "p13", "xxx"}
    assert "not a picture" in reasons["p4"]
    assert "truncated or damaged" in reasons["p11"]
    assert "No such file" in reasons["p12"]
    assert "never fetched" in reasons["p13"]
    assert "600 bytes" in reasons["xxx"]
    assert client.status()["documents"] == 15


def test_the_command_goes_on_after_a_kill(
    server: Server, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = ["id,title,file,price"]
    for i in range(300):
        (tmp_path / f"{i}.png").write_bytes(picture(i) if i != 150 else b"broken")
        rows.append(f"{i},product {i},{i}.png,{i / 4}")
    table = tmp_path / "products.csv"
    table.write_text("\n".join(rows))
    columns = ["--text-column", "title", "--image-column", "file", "--id-column", "id"]
    command = ["index", str(table), *columns, "--batch-size", "4", "--server", server.grpc]
    run = subprocess.Popen(
        [sys.executable, "-m", "cliptune", *command],
        env={**os.environ, "CLIPTUNE_HOME": str(tmp_path / "home")},
        start_new_session=True,
    )
    while client.status()["documents"] < 20:
        assert run.poll() is None
    run.send_signal(signal.SIGKILL)
    run.wait()
    there = client.status()["documents"]
    assert there < 299
    monkeypatch.setenv("CLIPTUNE_HOME", str(tmp_path / "home"))
    result = CliRunner().invoke(app, [*command, "--left-out", str(tmp_path / "left-out.csv")])
    assert result.exit_code == 0, result.output
    output = " ".join(result.output.split())
    indexed = int(output.split(" documents indexed")[0].split()[-1])
    # Four batches of four may have been under way when the kill came.
    assert 299 - there - 16 <= indexed <= 299 - there
    assert f"{299 - indexed} were there already" in output
    assert "1 left out" in output
    with (tmp_path / "left-out.csv").open() as file:
        [one] = csv.DictReader(file)
    assert (one["id"], one["picture"]) == ("150", str(tmp_path / "150.png"))
    assert client.status()["documents"] == 299
    assert client.get(["7"])[0].tags == {"price": 1.75}


@pytest.mark.parametrize(
    "write",
    [formats.in_shards, formats.in_tar, formats.in_packed_tar],
    ids=lambda one: one.__name__,
)
def test_pictures_that_a_table_holds_are_indexed_by_one_line(
    server: Server, client: Client, tmp_path: Path, write: Callable[[Path], str]
) -> None:
    command = ["index", write(tmp_path), "--server", server.grpc]
    run = CliRunner().invoke(app, command)
    assert run.exit_code == 0, run.output
    assert f"{formats.N} documents indexed, 0 were there" in " ".join(run.output.split())
    [match] = client.search(formats.png(7), limit=1).matches
    assert (match.text, match.uri, match.tags["price"]) == (formats.product(7)["title"], None, 7.5)
    assert "0 documents indexed" in CliRunner().invoke(app, command).output


def test_a_server_that_stays_away(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", waits.append)
    client = Client("http://127.0.0.1:9", retries=0)  # whose own waits are not counted here
    with client, pytest.raises(Unavailable, match="127.0.0.1:9"):
        bulk.PATIENCE.call(client.status)
    assert len(waits) == 6
    for wait, longest in zip(waits, [2, 4, 8, 16, 30, 30], strict=True):
        assert longest / 2 <= wait <= longest
    assert 45 <= sum(waits) <= 90


def test_wrong_arguments(client: Client) -> None:
    with pytest.raises(BadInput, match="workers is 0"):
        index_all(client, products(1), workers=0)
    with pytest.raises(BadInput, match="batch_size is 0"):
        index_all(client, products(1), batch_size=0)
