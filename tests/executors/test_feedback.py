"""Searches that a server records, what is told of them, and the table that becomes of it."""

from __future__ import annotations

import asyncio
import csv
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import requests
from typer.testing import CliRunner

from cliptune.cli.app import app
from cliptune.data.source import load_documents
from cliptune.errors import BadData, BadInput, NotReady, Overloaded
from cliptune.executors.recording import take_feedback
from cliptune.feedback.folder import LogFolder
from cliptune.feedback.log import SearchLog
from cliptune.feedback.records import Search
from cliptune.protocol.parameters import FeedbackParameters
from cliptune.serving import AsyncClient, Client
from tests.pictures import COLOURS, picture, shop
from tests.server import Server
from tests.waiting import wait_until

GIVEN = FeedbackParameters(search_id="0" * 32, event="click", ids=["a", "b", "a"])


@pytest.fixture
def log(server: Server, clients: list[Client]) -> LogFolder:
    """What the server records during a test."""
    clients[0].index(shop())
    LogFolder(server.searches).delete(lambda _: True)
    return LogFolder(server.searches)


def lines(log: LogFolder, count: int) -> list[dict[str, Any]]:
    """That many lines, once they are there."""

    def read() -> list[bytes]:
        return [line for path in log.files() for line in path.read_bytes().splitlines()]

    wait_until(lambda: len(read()) >= count, 20)
    assert len(read()) == count
    return [json.loads(line) for line in read()]


def rows(table: Path) -> list[dict[str, str]]:
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.e2e
def test_what_is_recorded_of_a_search_and_what_is_not(
    server: Server, clients: list[Client], log: LogFolder
) -> None:
    results = []
    for client in clients:
        results += client.search(
            ["red boots", picture(COLOURS["red"])], limit=2, offset=1, filter="price < 30"
        )
        assert client.search("nobody's business", record=False).search_id is None
    composed = clients[0].search({"red": 1, "pink": -0.5}, like="shop/red", limit=1)
    got = requests.get(f"{server.http}/search", {"q": "x", "limit": 1}, timeout=60).json()
    unrecorded = {"q": "secret", "record": "false"}
    assert "search_id" not in requests.get(f"{server.http}/search", unrecorded, timeout=60).json()
    recorded = {line["id"]: line for line in lines(log, 6)}
    assert recorded.keys() == {
        got["search_id"],
        *(one.search_id for one in (*results, composed)),
    }
    digest = clients[0].status()["model"]["model_digest"]
    for number, result in enumerate(results):
        line = recorded[result.search_id]
        at = datetime.fromisoformat(line.pop("at"))
        assert abs((datetime.now(UTC) - at).total_seconds()) < 60
        assert line == {
            "format": 1,
            "kind": "search",
            "id": result.search_id,
            "model": digest,
            "query": [{"picture": True} if number % 2 else {"text": "red boots"}],
            "parameters": {"limit": 2, "offset": 1, "filter": "price < 30"},
            "shown": [
                {"rank": rank, "id": match.id, "score": pytest.approx(match.score, abs=1e-6)}
                for rank, match in enumerate(result.matches, 2)
            ],
        }
    assert recorded[got["search_id"]]["parameters"] == {"limit": 1}
    assert sorted(recorded[str(composed.search_id)]["query"], key=lambda part: part["weight"]) == [
        {"text": "pink", "weight": -0.5},
        {"text": "red", "weight": 1},
        {"like": "shop/red", "weight": 1},
    ]


@pytest.mark.e2e
def test_feedback_becomes_a_table_that_can_be_trained_on(
    server: Server, clients: list[Client], log: LogFolder, tmp_path: Path
) -> None:
    first, second = [client.search("red boots", limit=3) for client in clients]
    chosen = str(first.matches[1].id)
    assert clients[0].feedback(first, "click", chosen) == 1
    assert clients[1].feedback(str(second.search_id), "purchase", [chosen, chosen]) == 1

    async def over_both() -> list[int]:
        told = []
        for address in (server.grpc, server.http):
            async with AsyncClient(address) as client:
                told.append(await client.feedback(first, "cart", [chosen, "not shown"]))
        return told

    assert asyncio.run(over_both()) == [2, 2]
    assert [line["kind"] for line in lines(log, 6)].count("feedback") == 4

    def shell(*arguments: str) -> str:
        environment = {"COLUMNS": "200", "CLIPTUNE_SEARCH_SERVER": server.grpc}
        result = CliRunner().invoke(
            app, ["feedback", *arguments], env=environment, catch_exceptions=False
        )
        return result.output

    out, folder = tmp_path / "pairs.csv", tmp_path / "pictures"
    told = shell("export", str(log.path), "--out", str(out), "--pictures", str(folder))
    assert "2 searches, 3 documents chosen; left out: 1 that their search has not shown" in told
    [row] = rows(out)
    assert (row["text"], row["id"], row["grade"], row["weight"]) == ("red boots", chosen, "3", "2")
    assert Path(row["image"]).read_bytes() == clients[0].get(chosen, include_image=True)[0].image
    [doc] = load_documents(out)
    assert (doc.text, doc.id) == ("red boots", chosen)
    shell("export", str(log.path), "--out", str(out), "--skipped", "--source", "shop")
    assert [(row["grade"], row["source"]) for row in rows(out)] == [
        ("3", "shop"),
        ("0", "shop"),
    ]
    assert "deleted: 0 lines" in shell("delete", str(log.path), "--before", "2026-01-01", "--yes")
    told = shell("delete", str(log.path), "--search", str(first.search_id), "--yes")
    assert "deleted: 4 lines" in told
    assert [one.id for one in log.records() if isinstance(one, Search)] == [second.search_id]
    assert "deleted: 2 lines" in shell("delete", str(log.path), "--text", "RED  boots", "--yes")
    with pytest.raises(BadData, match="no pairs: 0 searches"):
        shell("export", str(log.path), "--out", str(out))
    with pytest.raises(BadInput, match="give one of --search, --text, --before and --all"):
        shell("delete", str(log.path), "--yes")


@pytest.mark.e2e
def test_feedback_that_can_t_be_right_is_refused_by_name(
    server: Server, clients: list[Client], log: LogFolder
) -> None:
    result = clients[0].search("x")
    for client in clients:
        for search, event, ids, words in (
            ("../../etc", "click", "a", "search_id"),
            (str(result.search_id) + "0", "click", "a", "search_id"),
            (result, "liked", "a", "event is 'liked': use click, cart, purchase"),
            (client.search("x", record=False), "click", "a", "search is None: give"),
            (result, "click", [], "ids"),
            (result, "click", ["a"] * 101, "ids"),
            (result, "click", ["a" * 513], "ids"),
        ):
            with pytest.raises(BadInput, match=re.escape(words)):
                client.feedback(search, event, ids)  # type: ignore[arg-type]
    told = {"search_id": result.search_id, "event": "liked", "ids": ["a"]}
    answer = requests.post(f"{server.http}/feedback", json=told, timeout=60)
    assert answer.status_code == 422
    assert "event" in answer.json()["error"]["message"]
    assert [line["kind"] for line in lines(log, 1)] == ["search"]


def test_who_records_nothing_says_so_and_who_can_t_says_when(tmp_path: Path) -> None:
    with pytest.raises(NotReady, match="CLIPTUNE_RECORD_SEARCHES"):
        take_feedback(None, GIVEN)
    log = SearchLog(tmp_path, 90, lambda *_: None, max_queued=150)
    assert take_feedback(log, GIVEN) == {"recorded": 2}
    with pytest.raises(Overloaded, match="too much waits to be recorded"):
        take_feedback(log, GIVEN)
    log.close()
