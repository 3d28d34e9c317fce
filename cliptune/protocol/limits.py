"""What a request may hold: before it is parsed, and as it is read.

A parser keeps Python's lock until it has read all, so that no thread of the process goes on
meanwhile: not the event loop either, and with it nobody's request. What a parser's time grows with
is the number of values, not of bytes: 60 MB may be one picture, or thirty million numbers. So
values are counted in the bytes first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import orjson
from docarray import BaseDoc
from google.protobuf.descriptor import Descriptor

from cliptune.documents import (
    MAX_DEPTH,
    ClipDoc,
    QueryDoc,
    QueryPart,
    RankDoc,
    held_by,
    is_too_deep,
)
from cliptune.errors import BadInput, TooLarge
from cliptune.protocol.endpoints import Endpoint
from cliptune.protocol.parameters import SearchParameters, read_parameters
from cliptune.settings import LimitSettings

TOGETHER = "documents, with their matches or parts,"
"""What counts as one request's documents."""
LARGE = 100_000
"""Bytes above which a body or a message is looked at beside the event loop."""

_CHUNK = 1 << 20
_QUOTE, _COMMA, _LIST, _OBJECT = b'",[{'
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_STEPS = {_FIXED64: 8, _FIXED32: 4}


def check_depth(value: object, place: str) -> None:
    """Refuse what is nested too deeply to be sent on, before anything recurses into it.

    Raises:
        BadInput: lists and objects are nested deeper than `MAX_DEPTH` levels.
    """
    if is_too_deep(value):
        raise BadInput(f"{place} is nested deeper than {MAX_DEPTH} levels")


def check_finite(parameters: Mapping[str, object]) -> None:
    """Refuse numbers of which JSON has no form, or that it has as nothing at all.

    Raises:
        BadInput: naming the parameter that holds NaN or an infinity.
    """
    for name, value in parameters.items():
        level: list[object] = [value]
        while level:
            for one in level:
                if isinstance(one, float) and not math.isfinite(one):
                    raise BadInput(f"parameters: {name} is {one}: expected a finite number")
            level = held_by(level)


def count_inside(value: object) -> int:
    """How many values lists and objects hold, and those in them; of other values 0."""
    count = 0
    level = held_by([value])
    while level:
        count += len(level)
        level = held_by(level)
    return count


class Tally:
    """What the documents of one request have together, one after the other."""

    def __init__(self, bounds: LimitSettings) -> None:
        """Nothing yet."""
        self.bounds = bounds
        self.tags = self.characters = 0

    def add(self, text: str | None, tags: int, what: str) -> None:
        """Count one document's text, and its number of tags.

        Raises:
            TooLarge: it, or all of them together, exceed a limit; the message begins with `what`.
        """
        most, length = self.bounds, len(text or "")
        if length > most.max_text:
            raise TooLarge(f"{what}: text of {length} characters, the limit is {most.max_text}")
        if tags > most.max_tags:
            raise TooLarge(
                f"{what}: {tags} tags (those in lists and objects count), the limit is "
                f"{most.max_tags}"
            )
        self.characters += length
        self.tags += tags
        for together, unit, limit in (
            (self.characters, "characters of text", most.max_all_text),
            (self.tags, "tags", most.max_all_tags),
        ):
            if together > limit:
                raise TooLarge(
                    f"{what}: with those before it {together} {unit}, the limit of one request is "
                    f"{limit}: send fewer documents at once"
                )


class Limits:
    """What a server's operator lets a request hold: asked where requests enter, and nowhere else.

    Whatever exceeds a limit raises `TooLarge`, which names it.
    """

    def __init__(self, bounds: LimitSettings) -> None:
        """Take the settings."""
        self.bounds = bounds

    def tally(self) -> Tally:
        """For the documents of one request."""
        return Tally(self.bounds)

    def check_count(self, count: int, what: str = "documents") -> None:
        """Refuse a request of too many documents."""
        if count > (most := self.bounds.max_docs):
            raise TooLarge(f"{count} {what} in one request, the limit is {most}")

    def check_docs(self, docs: Sequence[ClipDoc]) -> None:
        """Refuse too many documents, with their matches, and too much text or too many tags."""
        self.check_count(len(docs))
        tally, count = self.tally(), 0
        for position, doc in enumerate(docs):
            for one in (doc, *documents_in(doc)):
                tally.add(one.text, count_inside(one.tags), name_of_document(position, doc))
                count += 1
        self.check_count(count, TOGETHER)

    def check_parameters(self, parameters: Mapping[str, object]) -> None:
        """Refuse parameters that are nested too deeply, or too many, to be sent on.

        Raises:
            BadInput: one is nested deeper than `MAX_DEPTH` levels.
        """
        for key, value in parameters.items():
            check_depth(value, f"parameters: {key[:100]}")
        if (count := count_inside(parameters)) > (most := self.bounds.max_parameters):
            raise TooLarge(f"parameters: {count} values, the limit is {most}")
        filter, most = parameters.get("filter"), self.bounds.max_filter
        if isinstance(filter, str) and len(filter) > most:
            raise TooLarge(f"a filter of {len(filter)} characters, the limit is {most}")
        if isinstance(filter, dict) and (count := count_inside(filter)) > most // 10:
            raise TooLarge(f"a filter of {count} values, the limit is {most // 10}")

    def check_asked(
        self, endpoint: Endpoint[BaseDoc], documents: int, given: Mapping[str, object]
    ) -> None:
        """Refuse what an endpoint doesn't have, or too many matches of so many documents.

        Raises:
            BadInput: the parameters aren't the endpoint's, or there are no documents.
        """
        asked = read_parameters(endpoint.parameters, given)
        if not documents and endpoint.takes is not None and not endpoint.may_be_empty:
            raise BadInput("the request has no documents")
        if not isinstance(asked, SearchParameters):
            return
        matches = documents * asked.ranked
        if matches > (most := self.bounds.max_matches):
            raise TooLarge(
                f"{documents} queries with limit {asked.limit} and offset {asked.offset}"
                f"{f' of {asked.candidates} candidates' if asked.candidates else ''} are "
                f"{matches} matches, the limit of one request is {most}: send fewer queries at "
                "once, or ask for fewer matches"
            )

    def parse_json(self, raw: str | bytes) -> object:
        """The JSON of a body. To be called beside the event loop where it is `LARGE`.

        Raises:
            ValueError: it isn't JSON.
        """
        encoded = raw.encode("utf-8", "replace") if isinstance(raw, str) else raw
        most = self.bounds.max_values
        if (count := count_values(encoded, most)) > most:
            raise TooLarge(
                f"the body holds {count} values (numbers, texts, lists, objects), the limit is "
                f"{most}; send pictures as base64, and fewer documents in one request"
            )
        return orjson.loads(raw)

    def check_message(self, raw: bytes, descriptor: Descriptor) -> None:
        """Refuse a protobuf message of too many values, beside the event loop if it is `LARGE`."""
        most = self.bounds.max_values
        if count_messages(raw, descriptor, most) > most:
            raise TooLarge(
                f"the message holds more than {most} values, the limit; send fewer tags, and "
                "fewer documents in one request"
            )


def name_of_document(position: int, doc: ClipDoc) -> str:
    """How errors name a document."""
    return f"document {position} (id {str(doc.id)[:100]!r})"


def documents_in(doc: ClipDoc) -> Sequence[ClipDoc]:
    """The documents in a document: what it is compared with, or a query's parts."""
    if isinstance(doc, RankDoc):
        return doc.matches
    return doc.parts if isinstance(doc, QueryDoc) else ()


def documents_by_name(docs: Iterable[ClipDoc]) -> dict[str, ClipDoc]:
    """The documents, each followed by those in it, by what errors call them."""
    named: dict[str, ClipDoc] = {}
    for position, doc in enumerate(docs):
        called = name_of_document(position, doc)
        named[called] = doc
        if isinstance(doc, RankDoc):  # its matches have ids of the client's, parts have none
            named |= {
                f"{called}: match {number} (id {str(one.id)[:100]!r})": one
                for number, one in enumerate(doc.matches)
            }
        else:
            named |= {
                f"{called}: part {number}": one for number, one in enumerate(documents_in(doc))
            }
    return named


def is_reference(doc: ClipDoc) -> bool:
    """Whether a document stands for others: a query for its parts, a part for what is stored."""
    if isinstance(doc, QueryPart):
        return doc.like is not None
    return isinstance(doc, QueryDoc) and bool(doc.parts)


def has_text(doc: ClipDoc) -> bool:
    """Whether the text tower embeds `doc`: a text wins over a picture, as in clip-as-service."""
    return bool(doc.text and doc.text.strip())


def has_image(doc: ClipDoc) -> bool:
    """Whether there is a picture, or what should be one."""
    return doc.image is not None or bool(doc.uri)


def count_values(raw: bytes, enough: int) -> int:
    """How many values JSON holds: exact above `enough`, else not less than there are."""
    # As every value but the first follows a comma or opens a list or an object.
    most = 1 + raw.count(b",") + raw.count(b"[") + raw.count(b"{")
    if most <= enough:
        return most
    if b"\\" in raw:
        raw = raw.replace(b"\\\\", b"  ").replace(b'\\"', b"  ")
    codes = np.frombuffer(raw, np.uint8)
    count, in_text = 1, np.uint8(0)
    for start in range(0, len(codes), _CHUNK):
        chunk = codes[start : start + _CHUNK]
        # Odd where a text is open; it wraps at 256, an even number.
        quotes = np.cumsum(chunk == _QUOTE, dtype=np.uint8) + in_text
        between = (chunk == _COMMA) | (chunk == _LIST) | (chunk == _OBJECT)
        count += int(np.count_nonzero(between & (quotes & 1 == 0)))
        in_text = quotes[-1] & 1
    return count


def count_messages(raw: bytes, descriptor: Descriptor, enough: int) -> int:
    """How many messages and packed numbers a message holds, itself included.

    Stops above `enough`, and where the bytes are no message: parsing will say so.

    Args:
        raw: the bytes.
        descriptor: protobuf's description of the message.
        enough: see above.
    """
    count = 0
    kinds: dict[str, dict[int, Descriptor | bool]] = {}
    waiting = [(0, len(raw), descriptor)]
    while waiting and count <= enough:
        position, end, kind = waiting.pop()
        fields = kinds.get(kind.full_name)
        if fields is None:
            fields = kinds[kind.full_name] = _length_delimited(kind)
        count += 1
        while position < end and count <= enough:
            key, position = _varint(raw, position, end)
            wire = key & 7
            if wire == _VARINT:
                _, position = _varint(raw, position, end)
            elif wire == _BYTES:
                length, position = _varint(raw, position, end)
                inner = fields.get(key >> 3)
                if isinstance(inner, bool):
                    count += length
                elif inner is not None and length <= end - position:
                    waiting.append((position, position + length, inner))
                    # Each is at least an object, even if it isn't looked into any more.
                    if len(waiting) + count > enough:
                        return count + len(waiting)
                position += length
            elif wire in _STEPS:
                position += _STEPS[wire]
            else:
                break
    return count


def _length_delimited(kind: Descriptor) -> dict[int, Descriptor | bool]:
    """By number: a message's description, or True for numbers that may be packed."""
    fields = {}
    for field in kind.fields:
        if field.message_type is not None:
            fields[field.number] = field.message_type
        elif field.label == field.LABEL_REPEATED and field.type not in (
            field.TYPE_STRING,
            field.TYPE_BYTES,
        ):
            fields[field.number] = True
    return fields


def _varint(raw: bytes, position: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while position < end:
        byte = raw[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
        shift += 7
        if shift > 63:
            break
    return 7, end  # no message: a key of a wire type that there isn't
