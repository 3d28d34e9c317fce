"""Tools for assistants: a search Flow over the Model Context Protocol.

`cliptune mcp` is a server that an assistant starts and talks to over stdin and stdout. It has
tools that read and change nothing: `search`, `similar`, `get` and `tags`.

An assistant does what texts talk it into, so a picture is taken from this machine only below the
folder that it was started with; links are read by the search Flow, where its operator allows them.
"""

# Without annotations from __future__: the SDK looks at those of the tools as they are.

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated
from urllib.parse import urljoin

from mcp.server.fastmcp import FastMCP
from mcp.types import ToolAnnotations
from pydantic import BaseModel, Field, JsonValue

from cliptune.client.async_client import AsyncClient
from cliptune.documents import ClipDoc, Match, SearchResult
from cliptune.errors import BadInput, Forbidden, NotFound, shown
from cliptune.protocol.answers import TagsAnswer
from cliptune.protocol.redaction import shown_link

MOST = 100
"""Matches of one call: an assistant reads all of them."""
ABOUT = """Search in a collection of pictures, each with an id, a title and tags (price, brand, …).

`search` finds pictures by what they show; `similar` those that look like a stored document or
another picture; `get` tells a document's title and tags; `tags` which tags there are, for filters.
Scores are cosine similarities: compare them within one answer alone."""
_READING = ToolAnnotations(readOnlyHint=True, openWorldHint=False)
Filter = Annotated[
    str | None,
    Field(
        description="Over tags, such as `price < 30 and brand == 'Nordvik'`; answers show the tags."
    ),
]
Limit = Annotated[int, Field(ge=1, le=MOST, description="At most so many matches.")]
GroupBy = Annotated[
    str | None,
    Field(description="A tag such as `product`: one match for each of its values, the best."),
]
CHANGE = 2.0
"""What a text counts beside a document: texts are further from pictures than pictures are."""


class Found(BaseModel):
    """A stored document, and how near it is."""

    id: str
    score: float = Field(description="Cosine similarity, higher is nearer.")
    title: str | None = None
    tags: dict[str, JsonValue] = Field(default_factory=dict)
    image_url: str | None = Field(None, description="Where its picture is.")
    more: int | None = Field(None, description="How many more its group has, with `group_by`.")


class Answer(BaseModel):
    """Matches, best first."""

    matches: list[Found]
    warnings: list[str] = Field(description="What of the filter can never hold.")


class Stored(BaseModel):
    """A stored document."""

    id: str
    title: str | None = None
    label: str | None = None
    tags: dict[str, JsonValue] = Field(default_factory=dict)
    link: str | None = None
    has_picture: bool


def make_server(client: AsyncClient, pictures: Path | None = None) -> FastMCP[None]:
    """The server of the tools, which closes `client` when it ends.

    Args:
        client: asks the search Flow.
        pictures: the folder whose pictures may be searched by; None: no local files are read.
    """

    @asynccontextmanager
    async def closing(_: FastMCP[None]) -> AsyncIterator[None]:
        async with client:
            yield

    # To stdout goes the protocol; what is logged goes to stderr.
    server = FastMCP[None]("cliptune", instructions=ABOUT, lifespan=closing, log_level="WARNING")

    @server.tool(annotations=_READING)
    async def search(
        text: Annotated[str, Field(description="What the pictures show: `red rain boots`.")],
        filter: Filter = None,
        limit: Limit = 10,
        words: Annotated[
            bool,
            Field(
                description="Let the words themselves count: for brands, names, article numbers."
            ),
        ] = False,
        group_by: GroupBy = None,
    ) -> Answer:
        """Find pictures by a text."""
        result = await client.search(
            ClipDoc(text=text), limit, filter=filter, hybrid=words, group_by=group_by
        )
        return _answer(client, result)

    @server.tool(annotations=_READING)
    async def tags() -> TagsAnswer:
        """Tell which tags the documents have, of which types, with frequent values."""
        return TagsAnswer.model_validate(await client.tags())

    @server.tool(annotations=_READING)
    async def get(id: Annotated[str, Field(description="As matches have it.")]) -> Stored:
        """Tell the title and the tags of a stored document."""
        doc = await _stored(client, id)
        return Stored(
            id=id,
            title=doc.text,
            label=doc.label,
            tags=doc.tags,
            link=shown_link(doc.uri),
            has_picture=doc.image_digest is not None,
        )

    @server.tool(annotations=_READING)
    async def similar(
        id: Annotated[str | None, Field(description="A stored document's.")] = None,
        picture: Annotated[
            str | None, Field(description="Or a picture: a path, a link or a `data:` URI.")
        ] = None,
        but: Annotated[
            str | None, Field(description="With an id, what is to be different: `in green`.")
        ] = None,
        filter: Filter = None,
        limit: Limit = 10,
        group_by: GroupBy = None,
    ) -> Answer:
        """Find pictures that look like a stored document's, or like another picture."""
        if (id is None) == (picture is None):
            raise BadInput("give either an id or a picture")
        if picture is not None:
            if but is not None:
                raise BadInput("`but` goes with an id, and a picture is given")
            query = _picture(picture, pictures)
            result = await client.search(query, limit, filter=filter, group_by=group_by)
            return _answer(client, result)
        await _stored(client, str(id))
        change: dict[str | bytes, float] | None = None if but is None else {but: CHANGE}
        result = await client.search(change, limit, filter=filter, group_by=group_by, like=id)
        return _answer(client, result)

    return server


async def _stored(client: AsyncClient, identity: str) -> ClipDoc:
    docs = await client.get(identity)
    if not docs:
        raise NotFound(f"no document {shown(identity)} is stored")
    return docs[0]


def _picture(given: str, folder: Path | None) -> ClipDoc:
    """The query that a picture's path, link or URI stands for.

    Raises:
        Forbidden: it is a path that may not be read.
    """
    if given.startswith("data:") or "://" in given:
        if given.startswith("data:") or shown_link(given):
            return ClipDoc(uri=given)
        raise Forbidden(f"{shown(given)}: only http and https links, data: URIs and paths are read")
    if folder is None:
        raise Forbidden(
            f"{shown(given)}: local files are not read; `cliptune mcp --pictures FOLDER` allows "
            "those of a folder"
        )
    path = (folder / given).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise Forbidden(f"{shown(given)} is not below {folder}, whose pictures alone are read")
    return ClipDoc(uri=str(path))


def _answer(client: AsyncClient, result: SearchResult) -> Answer:
    matches = [_found(client, one) for one in result.matches]
    return Answer(matches=matches, warnings=result.warnings)


def _found(client: AsyncClient, match: Match) -> Found:
    place = match.image_url
    if place and not shown_link(place):  # at the server itself, which has a web address or not
        place = urljoin(client.address, place) if client.address.startswith("http") else None
    return Found(
        id=str(match.id),
        score=round(match.score, 4),
        title=match.text,
        tags=match.tags,
        image_url=place,
        more=match.more,
    )
