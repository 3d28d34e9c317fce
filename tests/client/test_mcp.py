"""`cliptune mcp`, asked by the SDK's own client over stdin and stdout."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from docarray import DocList
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client

from cliptune.documents import ClipDoc
from cliptune.protocol.answers import TagsAnswer
from cliptune.serving import Client
from tests.pictures import base64_of, picture
from tests.server import Server

pytestmark = pytest.mark.e2e
Talk = Callable[[ClientSession], Awaitable[Any]]


def talk(talking: Talk, *arguments: str, env: dict[str, str] | None = None) -> Any:
    """What `talking` returns of a session with a new server."""
    command = StdioServerParameters(
        command=sys.executable,
        args=["-m", "cliptune", "mcp", *arguments],
        env={**os.environ, **(env or {})},
    )

    async def session() -> Any:
        async with (
            stdio_client(command) as (reading, writing),
            ClientSession(reading, writing) as opened,
        ):
            await opened.initialize()
            return await talking(opened)

    return asyncio.run(asyncio.wait_for(session(), 120))


def matches(result: Any) -> list[dict[str, Any]]:
    assert not result.isError, result.content
    return result.structuredContent["matches"]


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_an_assistant_searches(
    server: Server, clients: list[Client], pictures: DocList[ClipDoc], protocol: str, tmp_path: Path
) -> None:
    clients[0].index(pictures)
    (tmp_path / "seen.png").write_bytes(pictures[3].image or b"")
    (tmp_path.parent / "secret.png").write_bytes(picture(1))
    expected = clients[0].search("a red thing", limit=3, filter="price < 60")

    async def all_tools(session: ClientSession) -> dict[str, Any]:
        call = session.call_tool
        data = f"data:image/png;base64,{base64_of(pictures[3].image or b'')}"
        named = {
            "search": await call(
                "search", {"text": "a red thing", "limit": 3, "filter": "price < 60"}
            ),
            "get": await call("get", {"id": "item-3"}),
            "by id": await call("similar", {"id": "item-3", "limit": 4}),
            "by path": await call("similar", {"picture": "seen.png", "limit": 1}),
            "by uri": await call("similar", {"picture": data, "limit": 1}),
            "but": await call("similar", {"id": "item-3", "but": "in green", "limit": 4}),
            "words": await call("search", {"text": "item-7", "words": True, "limit": 1}),
            "grouped": await call("search", {"text": "a thing", "group_by": "colour"}),
            "tags": await call("tags", {}),
            "unknown tag": await call("search", {"text": "a", "filter": "prise < 3"}),
        }
        refused = {
            "no document 'nothing'": await call("get", {"id": "nothing"}),
            "either an id or a picture": await call("similar", {}),
            "goes with an id": await call("similar", {"picture": data, "but": "in green"}),
            "is not below": await call("similar", {"picture": "../secret.png"}),
            "No such file": await call("similar", {"picture": "nothing.png"}),
            "never fetched": await call("similar", {"picture": "http://127.0.0.1:1/a.png"}),
            "only http and https": await call("similar", {"picture": "file:///etc/passwd"}),
            "less than or equal to 100": await call("search", {"text": "a", "limit": 1000}),
            "neither a text nor a picture": await call("search", {"text": " "}),
            "column 8: expected a value": await call("search", {"text": "a", "filter": "price <"}),
        }
        for words, result in refused.items():
            assert result.isError, words
            assert words in result.content[0].text, result.content[0].text
            assert "Traceback" not in result.content[0].text
        tools = (await session.list_tools()).tools
        assert {tool.name for tool in tools} == {"search", "get", "similar", "tags"}
        assert all(tool.annotations.readOnlyHint and tool.outputSchema for tool in tools)
        return named

    address = getattr(server, protocol)
    found = talk(all_tools, "--server", address, "--pictures", str(tmp_path))
    searched = matches(found["search"])
    assert [one["id"] for one in searched] == [str(match.id) for match in expected.matches]
    assert searched[0]["title"] == expected.matches[0].text
    assert searched[0]["tags"] == expected.matches[0].tags
    at = f"{server.http}/pictures/{searched[0]['id']}"
    assert searched[0]["image_url"] == (at if protocol == "http" else None)
    stored = found["get"].structuredContent
    assert stored["title"] == pictures[3].text
    assert stored["tags"] == pictures[3].tags
    assert stored["has_picture"]
    nearest = clients[0].search(pictures[3], limit=5)
    by_picture = clients[0].search(ClipDoc(image=pictures[3].image), limit=5).matches
    assert nearest is not None
    others = [str(match.id) for match in by_picture if match.id != "item-3"][:4]
    assert [one["id"] for one in matches(found["by id"])] == others
    changed = clients[0].search({"in green": 2.0}, limit=4, like="item-3").matches
    assert [one["id"] for one in matches(found["but"])] == [str(match.id) for match in changed]
    assert [one["id"] for one in matches(found["words"])] == ["item-7"]
    grouped = clients[0].search("a thing", group_by="colour").matches
    assert [(one["id"], one["more"]) for one in matches(found["grouped"])] == [
        (str(match.id), match.more) for match in grouped
    ]
    told = TagsAnswer.model_validate(found["tags"].structuredContent)
    assert told == TagsAnswer.model_validate(clients[0].tags())
    for how in ("by path", "by uri"):
        assert [one["id"] for one in matches(found[how])] == ["item-3"]
    [warning] = found["unknown tag"].structuredContent["warnings"]
    assert "prise" in warning


def test_without_a_folder_and_without_a_server(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture(1))

    async def ask(session: ClientSession) -> list[Any]:
        by_path = await session.call_tool("similar", {"picture": str(tmp_path / "a.png")})
        return [by_path, await session.call_tool("search", {"text": "boots"})]

    results = talk(ask, env={"CLIPTUNE_SEARCH_SERVER": "http://127.0.0.1:9"})
    for words, result in zip(("--pictures FOLDER", "127.0.0.1:9"), results, strict=True):
        assert result.isError
        assert words in result.content[0].text
