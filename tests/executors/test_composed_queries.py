"""Queries of several parts, through a server: against the sum written down, by brute force."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from docarray import DocList

from cliptune.client.async_client import AsyncClient
from cliptune.documents import ClipDoc, QueryDoc, QueryPart, SearchResult
from cliptune.errors import BadImage, BadInput, CliptuneError, TooLarge
from cliptune.inference import get_tower
from cliptune.serving import Client
from tests.pictures import base64_of, picture
from tests.server import Server

pytestmark = pytest.mark.e2e
PARTS: list[dict[str, Any]] = [
    {"text": "a red thing", "weight": 1.0},
    {"text": "buttons", "weight": -0.4},
    {"image": picture(31), "weight": 0.5},
    {"like": "item-3", "weight": 0.7},
    {"like": "item-8", "weight": -0.2},
]


@pytest.fixture
def embed(server: Server) -> Any:
    """A part's embedding, by the towers themselves: float64 [D]."""
    texts, images = (get_tower(server.artifact, kind) for kind in ("clip-text", "clip-vision"))

    def embed(part: dict[str, Any], pictures: DocList[ClipDoc]) -> np.ndarray:
        if "text" in part:
            found = texts.encode([part["text"]])
        else:
            by_id = {str(doc.id): doc.image for doc in pictures}
            found = images.encode([part.get("image") or by_id[part["like"]]])
        return np.asarray(found[0], np.float64)

    return embed


def expected(
    parts: list[dict[str, Any]], pictures: DocList[ClipDoc], embed: Any
) -> list[tuple[str, float]]:
    """By brute force: the ids that no part names, nearest first, with their cosines."""
    total = np.zeros(32)
    for part in parts:
        one = embed(part, pictures)
        total += part.get("weight", 1.0) * one / np.linalg.norm(one)
    total /= np.linalg.norm(total)
    named = {part.get("like") for part in parts}
    scores = {
        str(doc.id): float(embed({"image": doc.image}, pictures) @ total)
        for doc in pictures
        if doc.id not in named
    }
    return sorted(scores.items(), key=lambda pair: -pair[1])


def check(result: SearchResult, reference: list[tuple[str, float]], limit: int = 100) -> None:
    assert [match.id for match in result.matches] == [one for one, _ in reference[:limit]]
    np.testing.assert_allclose(
        [match.score for match in result.matches],
        [score for _, score in reference[:limit]],
        atol=1e-5,
    )


def query_of(parts: list[dict[str, Any]]) -> QueryDoc:
    return QueryDoc(parts=[QueryPart(**part) for part in parts])


def test_a_query_is_the_sum_of_its_parts(
    client: Client, pictures: DocList[ClipDoc], embed: Any
) -> None:
    client.index(pictures)
    reference = expected(PARTS, pictures, embed)
    assert len(reference) == 10
    check(client.search(query_of(PARTS), limit=12), reference)
    check(client.search(query_of(PARTS), limit=3), reference, 3)
    check(client.search(query_of(PARTS), limit=3, offset=4), reference[4:], 3)
    cheap = client.search(query_of(PARTS), limit=12, filter="price < 60")
    check(cheap, [one for one in reference if int(one[0].split("-")[1]) < 6])
    for at in range(len(PARTS)):  # each kind of part alone, and beside other queries
        one = PARTS[at : at + 1]
        plain, alone = client.search([ClipDoc(text="boots"), query_of(one)], limit=12)
        check(alone, expected(one, pictures, embed))
        check(plain, expected([{"text": "boots"}], pictures, embed))


def test_the_clients_short_forms(
    client: Client, pictures: DocList[ClipDoc], embed: Any, tmp_path: Path
) -> None:
    client.index(pictures)
    path = tmp_path / "mine.png"
    path.write_bytes(picture(31))
    by_weight = {"a red thing": 1, path: 0.5, "buttons": -0.4}
    as_parts = [{"text": "a red thing"}, PARTS[2], PARTS[1]]
    check(client.search(by_weight, limit=12), expected(as_parts, pictures, embed))
    as_parts = [{"text": "in green"}, {"like": "item-2"}]
    check(client.search("in green", 12, like="item-2"), expected(as_parts, pictures, embed))
    rather = [{"like": one, "weight": 0.5} for one in ("item-1", "item-2")]
    rather.append({"like": "item-9", "weight": -0.5})
    found = client.search(None, 12, like=["item-1", "item-2"], unlike="item-9")
    check(found, expected(rather, pictures, embed))

    async def search() -> SearchResult | DocList[SearchResult]:
        async with AsyncClient(client.address, timeout=60) as others:
            return await others.search(by_weight, 12)

    again = asyncio.run(search())
    assert isinstance(again, SearchResult)
    assert [m.id for m in again.matches] == [m.id for m in client.search(by_weight, 12).matches]


def test_over_plain_http(server: Server, client: Client, pictures: DocList[ClipDoc]) -> None:
    client.index(pictures)
    coded = [
        part | {"image": base64_of(part["image"])} if "image" in part else part for part in PARTS
    ]
    status, answer = post(server, {"data": [{"parts": coded}], "parameters": {"limit": 12}})
    assert status == 200
    [result] = answer["data"]
    matches = client.search(query_of(PARTS), limit=12).matches
    assert [match["id"] for match in result["matches"]] == [match.id for match in matches]
    assert "parts" not in result


def post(server: Server, body: object) -> tuple[int, Any]:
    asked = urllib.request.Request(
        server.http + "/search", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


RANGE = "(?:-100 to 100|less than or equal to 100),?"
NAN, INF = float("nan"), float("inf")
REFUSED: dict[str, tuple[dict[str, Any], type[CliptuneError], str]] = {
    "two contents": ({"parts": [{"text": "a", "like": "item-1"}]}, BadInput, "part 0: .*several"),
    "text and picture": (
        {"parts": [{"text": "b"}, {"text": "a", "image": picture(1)}]},
        BadInput,
        "part 1: .*several",
    ),
    "none": ({"parts": [{"text": "a"}, {"weight": 2}]}, BadInput, "part 1: .*none"),
    "blank": ({"parts": [{"text": " "}]}, BadInput, "part 0: .*none"),
    "of its own": (
        {"text": "boots", "parts": [{"text": "a"}]},
        BadInput,
        "has parts, and a text or picture of its own",
    ),
    "no weight": (
        {"parts": [{"text": "a", "weight": 0}, {"like": "item-1", "weight": 0}]},
        BadInput,
        "weights of its parts are all 0",
    ),
    "NaN": ({"parts": [{"text": "a", "weight": NAN}]}, BadInput, f"{RANGE} got nan|valid number"),
    "infinite": (
        {"parts": [{"text": "a", "weight": -INF}]},
        BadInput,
        f"{RANGE} got -inf|valid number",
    ),
    "heavy": ({"parts": [{"text": "a", "weight": 1e9}]}, BadInput, f"{RANGE} .*got 1000000000"),
    "unknown": (
        {"parts": [{"text": "a"}, {"like": "item-99"}]},
        BadInput,
        "part 1: there is no document 'item-99'",
    ),
    "empty id": ({"parts": [{"like": ""}]}, BadInput, "part 0: the id is ''"),
    "cancel out": (
        {"parts": [{"like": "item-1"}, {"like": "item-1", "weight": -1}]},
        BadInput,
        "cancel out",
    ),
    "no picture": ({"parts": [{"text": "a"}, {"image": b"no"}]}, BadImage, "part 1: "),
    "ten thousand": (
        {"parts": [{"like": f"item-{n}"} for n in range(10_000)]},
        TooLarge,
        "10001 documents, with their matches or parts",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_not_be_sought_is_named(
    clients: list[Client], server: Server, pictures: DocList[ClipDoc], name: str
) -> None:
    given, kind, message = REFUSED[name]
    clients[0].index(pictures)
    query = QueryDoc(**{**given, "parts": [QueryPart(**part) for part in given["parts"]]})
    both = [ClipDoc(text="boots"), query]
    for client in clients:
        with pytest.raises(kind, match=message):
            client.search(both)
        with pytest.MonkeyPatch.context() as patch:  # as who has no client of ours
            patch.setattr("cliptune.client.inputs.to_query", lambda doc: doc)
            with pytest.raises(kind, match=message) as caught:
                client.search(both)
        if kind is BadInput and "body" not in str(caught.value):
            assert "document 1 (id " in str(caught.value)
    if name in ("NaN", "infinite"):
        return  # JSON has no such numbers
    coded = json.loads(json.dumps(given, default=base64_of))
    status, answer = post(server, {"data": [coded]})
    assert status in (400, 413, 422)
    told = answer["error"]["message"]
    assert "part" in told
    assert "Traceback" not in told


def test_an_unknown_field_of_a_part_is_named(server: Server) -> None:
    status, answer = post(server, {"data": [{"parts": [{"id": "item-1"}]}]})
    assert status in (400, 422)
    assert "parts.0.id" in answer["error"]["message"]
