"""An index's life through the service and from the shell: warnings, status, deletions, pruning."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import requests
from click.testing import Result
from docarray import DocList
from typer.testing import CliRunner

from cliptune.cli.app import app
from cliptune.documents import ClipDoc
from cliptune.errors import BadFilter, BadInput, CliptuneError, NotFound, NotReady, Unavailable
from cliptune.protocol.documents import Report
from cliptune.protocol.status import IndexStatus, by_source
from cliptune.serving import Client
from tests.pictures import picture, shop
from tests.server import Server

pytestmark = pytest.mark.e2e
PRIZE = "no document has a tag 'prize': did you mean 'price'"


def shell(server: Server, *arguments: str, stdin: str = "") -> Result:
    address = {"CLIPTUNE_SEARCH_SERVER": server.http, "COLUMNS": "200"}
    return CliRunner().invoke(app, [*arguments], env=address, input=stdin)


def refused(result: Result) -> CliptuneError:
    assert isinstance(result.exception, CliptuneError), result.output
    return result.exception


def test_searches_say_what_of_a_filter_can_never_hold(
    server: Server, clients: list[Client]
) -> None:
    clients[0].index(shop())
    for client in clients:
        one = client.search("red", filter="prize < 30 and colour == 'Red'")
        assert [len(one.matches), len(one.warnings)] == [0, 2]
        assert PRIZE in one.warnings[0]
        assert "did you mean 'red'" in one.warnings[1]
        both = client.search(["red", "blue"], filter={"price": {"$lt": "30"}})
        assert ["write 30 without quotes" in result.warnings[0] for result in both] == [True] * 2
        some = client.search("red", filter="price < 30 or colr == 'red'")
        assert [len(some.matches), len(some.warnings)] == [2, 1]
        for fine in ("price < 3", "price < 30", None):
            assert client.search("red", filter=fine).warnings == []
    asked = {"data": [{"text": "red"}] * 2, "parameters": {"filter": "prize < 30"}}
    answer = requests.post(f"{server.http}/search", json=asked, timeout=60).json()
    assert [PRIZE in sentence for sentence in answer["warnings"]] == [True]
    assert [set(one) & {"warnings", "matches"} for one in answer["data"]] == [{"matches"}] * 2
    got = requests.get(f"{server.http}/search", {"q": "red", "filter": "prize < 3"}, timeout=60)
    assert PRIZE in got.json()["warnings"][0]
    got = requests.get(f"{server.http}/search", {"q": "red"}, timeout=60)
    assert got.json()["warnings"] == []


def test_an_empty_index_says_so(server: Server, clients: list[Client]) -> None:
    for client in clients:
        for filter in (None, "prize < 30"):
            [sentence] = client.search("red", filter=filter).warnings
            assert "the index is empty" in sentence
    result = shell(server, "search", "red")
    assert "Nothing found." in result.stdout
    assert "the index is empty" in result.stderr


def test_deletions_are_counted_before_they_are_made(
    server: Server, clients: list[Client], caplog: pytest.LogCaptureFixture
) -> None:
    clients[0].index(shop())
    for client in clients:
        for chosen, count in [
            ({"filter": "price < 30"}, 2),
            ({"filter": "prize < 30"}, 0),
            ({"ids": ["shop/red", "nobody"]}, 1),
            ({"ids": ["shop/red", "shop/pink"], "filter": "price > 30"}, 1),
            ({"ids": []}, 0),
            ({"filter": "prize != 30"}, 6),
        ]:
            found = client.matching(**chosen)
            assert found.documents == count, chosen
            assert [PRIZE in one for one in found.warnings] == [True] * ("prize" in str(chosen))
        with pytest.raises(BadFilter):
            client.matching(filter="price <")
        with pytest.raises(BadInput, match="needs ids or a filter"):
            client.matching()
        assert client.status()["documents"] == 6
    assert clients[0].delete(filter="prize < 30 or price < 20") == 1
    assert PRIZE in caplog.text
    answer = requests.post(f"{server.http}/delete", json={"filter": "prize < 1"}, timeout=60).json()
    assert answer["deleted"] == 0
    assert PRIZE in answer["warnings"][0]


def test_all_ids_are_listed_in_order(server: Server, clients: list[Client]) -> None:
    docs = DocList[ClipDoc](ClipDoc(id=f"p{n:02}", image=picture(n)) for n in range(23))
    docs[7].id = "ü/ \N{GRINNING FACE}"
    clients[0].index(docs)
    expected = sorted(str(doc.id) for doc in docs)
    for client in clients:
        assert [list(client.ids(page=page)) for page in (5, 23, 100)] == [expected] * 3
        assert list(client.ids(after="p05")) == [one for one in expected if one > "p05"]
        assert list(client.ids(after="\N{GRINNING FACE}")) == []
    wrong = requests.post(f"{server.http}/ids", json={"limit": 0}, timeout=60)
    assert wrong.status_code == 422
    assert requests.post(f"{server.http}/ids", timeout=60).json()["ids"] == expected


def test_status_says_the_state_of_the_index_and_where_it_is(
    server: Server, clients: list[Client]
) -> None:
    clients[0].index(shop())
    for client in clients:
        index = client.status()["index"]
        assert index["state"] == "flat"
        assert "generations_folder" not in index  # it is told to the operator alone
        assert IndexStatus(**index).rows == 6
        assert not {"generations", "swap"} & set(index)
    result = shell(server, "index", "status")
    assert result.exit_code == 0, result.output
    assert "documents   6" in result.output
    assert "exactly" in result.output
    found = json.loads(shell(server, "index", "status", "--json").stdout)
    assert (found["documents"], found["index"]["state"]) == (6, "flat")


def test_reports_never_hide_one_another() -> None:
    with pytest.raises(Unavailable, match="two executors answered as 'indexer'"):
        by_source([Report(source="indexer", values={"rows": n}) for n in (1, 2)])
    fields: dict[str, Any] = {"rows": 1, "state": "/a/folder"}
    with pytest.raises(ValueError, match="'flat'"):
        IndexStatus(**fields)


def test_get_delete_clear_from_the_shell(server: Server, clients: list[Client]) -> None:
    clients[0].index(shop())
    result = shell(server, "index", "get", "shop/red", "shop/blue")
    assert "red thing" in result.output
    assert "colour: blue" in result.output
    result = shell(server, "index", "get", "--json", "shop/red", "nobody")
    assert [one["id"] for one in json.loads(result.stdout)] == ["shop/red"]
    assert isinstance(refused(result), NotFound)

    result = shell(server, "search", "red", "--filter", "prize < 30")
    assert "Nothing found where prize < 30." in result.stdout
    assert PRIZE in result.stderr
    result = shell(server, "search", "red", "--filter", "prize < 30", "--json")
    assert json.loads(result.stdout) == []

    assert isinstance(refused(shell(server, "index", "delete")), BadInput)
    result = shell(server, "index", "delete", "--filter", "prize < 30", "--yes")
    assert "nothing was deleted" in result.stdout
    assert PRIZE in result.stderr
    result = shell(server, "index", "delete", "--filter", "price < 30", "--dry-run")
    assert "2 documents would be deleted" in result.output
    for answer in ("", "n\n"):
        result = shell(server, "index", "delete", "shop/red", stdin=answer)
        assert isinstance(refused(result), NotReady)
    assert clients[0].status()["documents"] == 6
    result = shell(server, "index", "delete", "shop/red", stdin="y\n")
    assert "1 documents deleted" in result.output
    assert (
        "2 documents deleted"
        in shell(server, "index", "delete", "--filter", "price > 40", "--yes").output
    )

    assert isinstance(refused(shell(server, "index", "clear")), NotReady)
    assert clients[0].status()["documents"] == 3
    assert "3 documents deleted" in shell(server, "index", "clear", "--yes").output
    assert "empty already" in shell(server, "index", "clear").output
    assert "index is empty" in shell(server, "index", "status").output


def table(path: Path, numbers: range) -> Path:
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["sku", "title", "picture"])
        rows.writerows([f"s{n:02}", f"product {n}", f"{n}.png"] for n in numbers)
    return path


def test_pruning_deletes_what_is_no_longer_in_the_table(
    server: Server, clients: list[Client], tmp_path: Path
) -> None:
    for n in range(20):
        (tmp_path / f"{n}.png").write_bytes(picture(n))
    whole, fewer = table(tmp_path / "all.csv", range(20)), table(tmp_path / "few.csv", range(5, 20))
    few = table(tmp_path / "wrong.csv", range(9))
    options = ["--text-column", "title", "--image-column", "picture", "--id-column", "sku"]
    result = shell(server, "index", str(whole), *options)
    assert "20 documents indexed" in result.output, result.output

    prune = ["index", "prune", str(fewer), *options]
    result = shell(server, *prune, "--dry-run")
    assert "15 documents in" in result.output
    assert "20 in the index: 15 in both" in result.output
    assert "s00, s01, s02, s03, s04" in result.output
    assert "5 documents would be deleted" in result.output
    assert isinstance(refused(shell(server, *prune)), NotReady)
    assert clients[0].status()["documents"] == 20
    assert "5 documents deleted" in shell(server, *prune, "--yes").output
    assert list(clients[0].ids()) == [f"s{n:02}" for n in range(5, 20)]
    assert "Nothing to delete" in shell(server, *prune, "--yes").output

    # Most of the index is not in this one: a wrong table, or wrong ids.
    wrong = ["index", "prune", str(few), *options, "--yes"]
    assert "--force" in str(refused(shell(server, *wrong)))
    assert clients[0].status()["documents"] == 15
    assert "11 documents deleted" in shell(server, *wrong, "--force").output
    assert list(clients[0].ids()) == [f"s{n:02}" for n in range(5, 9)]
