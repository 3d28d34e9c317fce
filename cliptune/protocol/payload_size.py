"""How much a body or a message holds, before it is parsed.

A parser keeps Python's lock until it has read all, so that no thread of the process goes on
meanwhile: not the event loop either, and with it nobody's request. What a parser's time grows with
is the number of values, not of bytes: 60 MB may be one picture, or thirty million numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson

from cliptune.errors import TooLarge
from cliptune.settings import current

LARGE = 100_000
"""Bytes above which a body or a message is looked at beside the event loop."""
_CHUNK = 1 << 20
_QUOTE, _COMMA, _LIST, _OBJECT = b'",[{'
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_STEPS = {_FIXED64: 8, _FIXED32: 4}


def parse_json(raw: str | bytes) -> Any:
    """The JSON of a body. To be called beside the event loop where it is `LARGE`.

    Raises:
        TooLarge: it holds more than `max_values` values.
        ValueError: it isn't JSON.
    """
    encoded = raw.encode("utf-8", "replace") if isinstance(raw, str) else raw
    most = current().max_values
    if (count := count_values(encoded, most)) > most:
        raise TooLarge(
            f"the body holds {count} values (numbers, texts, lists, objects), the limit is "
            f"{most}; send pictures as base64, and fewer documents in one request"
        )
    return orjson.loads(raw)


def count_values(raw: bytes, enough: int) -> int:
    """How many values JSON holds: exact above `enough`, else not less than there are."""
    # As every value but the first follows a comma or opens a list or an object.
    most = 1 + raw.count(b",") + raw.count(b"[") + raw.count(b"{")
    if most <= enough:
        return most
    if b"\\" in raw:
        raw = raw.replace(b"\\\\", b"  ").replace(b'\\"', b"  ")
    codes = np.frombuffer(raw, np.uint8)
    count, inside = 1, np.uint8(0)
    for start in range(0, len(codes), _CHUNK):
        chunk = codes[start : start + _CHUNK]
        # Odd where a text is open; it wraps at 256, an even number.
        quotes = np.cumsum(chunk == _QUOTE, dtype=np.uint8) + inside
        between = (chunk == _COMMA) | (chunk == _LIST) | (chunk == _OBJECT)
        count += int(np.count_nonzero(between & (quotes & 1 == 0)))
        inside = quotes[-1] & 1
    return count


def check_message(raw: bytes, descriptor: Any) -> None:
    """Refuse a protobuf message of too many values. To be called beside the loop if `LARGE`.

    Raises:
        TooLarge: there are more than `max_values`.
    """
    most = current().max_values
    if count_messages(raw, descriptor, most) > most:
        raise TooLarge(
            f"the message holds more than {most} values, the limit; send fewer tags, and "
            "fewer documents in one request"
        )


def count_messages(raw: bytes, descriptor: Any, enough: int) -> int:
    """How many messages and packed numbers a message holds, itself included.

    Stops above `enough`, and where the bytes are no message: parsing will say so.

    Args:
        raw: the bytes.
        descriptor: protobuf's description of the message.
        enough: see above.
    """
    count = 0
    kinds: dict[str, dict[int, Any]] = {}
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
                if inner is True:
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


def _length_delimited(kind: Any) -> dict[int, Any]:
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
