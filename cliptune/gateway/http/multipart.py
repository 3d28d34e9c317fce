"""Forms with pictures, as browsers and `curl -F image=@boots.jpg` send them, as a JSON body."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from cliptune.errors import BadInput, BadJson, TooLarge, shown
from cliptune.protocol.limits import Limits

if TYPE_CHECKING:
    from python_multipart.multipart import File

MEDIA_TYPE = "multipart/form-data"
PICTURE = "image"
"""The field of a picture; it may come several times, for several documents."""
TEXTS = ("id", "text", "label", "uri")
OBJECTS = ("tags", "parameters")
"""Fields that hold JSON."""


def is_form(content_type: str) -> bool:
    """Whether a body is a form with files."""
    return content_type.partition(";")[0].strip().lower() == MEDIA_TYPE


def read_form(
    raw: bytes, content_type: str, parameters: tuple[str, ...], limits: Limits
) -> dict[str, object]:
    """The body `{"data": […], "parameters": {…}}` that a form stands for.

    Each `image` is a document; `id`, `text`, `label`, `uri` and `tags` (JSON) are of the only one.

    Args:
        raw: the body.
        content_type: its header, with the boundary.
        parameters: the names of the parameters that may be fields of their own.
        limits: how much there may be.

    Raises:
        BadJson: it is no form.
        BadInput: a field is unknown or given twice.
        TooLarge: it has too many fields.
    """
    pictures: list[bytes] = []
    fields: dict[str, str] = {}
    for name, value in _parts(raw, content_type, limits.bounds.max_docs):
        if name == PICTURE:
            pictures.append(value)
            continue
        known = (PICTURE, *TEXTS, *OBJECTS, *parameters)
        if name not in known:
            raise BadInput(f"form: field {shown(name)} is unknown; there are {', '.join(known)}")
        if name in fields:
            raise BadInput(f"form: field {name} is given twice")
        try:
            fields[name] = value.decode()
        except UnicodeDecodeError:
            raise BadInput(f"form: field {name} is no text in UTF-8") from None
    of_document: dict[str, object] = {name: fields[name] for name in TEXTS if name in fields}
    given: dict[str, object] = {name: fields[name] for name in parameters if name in fields}
    for name in OBJECTS:
        if name in fields:
            content = _object(fields[name], name, limits)
            if name == "tags":
                of_document["tags"] = content
            else:
                given |= content
    if of_document and len(pictures) > 1:
        raise BadInput(
            f"form: {', '.join(of_document)} with {len(pictures)} pictures: whose are they? Send "
            "one picture with them, or JSON"
        )
    data = [{**of_document, "image": base64.b64encode(one).decode()} for one in pictures]
    return {"data": data or [of_document], "parameters": given}


def _object(text: str, name: str, limits: Limits) -> dict[str, object]:
    try:
        value = limits.parse_json(text.encode())
    except TooLarge:
        raise
    except ValueError as error:
        raise BadInput(f"form: field {name} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise BadInput(f"form: field {name} must be a JSON object, got {shown(text)}")
    return value


def _parts(raw: bytes, content_type: str, most: int) -> list[tuple[str, bytes]]:
    from python_multipart.exceptions import FormParserError
    from python_multipart.multipart import create_form_parser, parse_options_header

    parts: list[tuple[str, bytes]] = []

    def keep(name: bytes | None, value: bytes | None) -> None:
        if len(parts) >= most + 32:
            raise TooLarge(f"form: more than {most} pictures and their fields, the limit")
        parts.append(((name or b"").decode("utf-8", "replace"), value or b""))

    def keep_file(file: File) -> None:
        file.file_object.seek(0)
        keep(file.field_name, file.file_object.read())
        file.close()

    headers = {"Content-Type": content_type.encode("latin-1", "replace")}
    boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
    try:
        parser = create_form_parser(
            headers,
            lambda field: keep(field.field_name, field.value),
            keep_file,
            {"MAX_MEMORY_FILE_SIZE": len(raw) + 1},  # never to a file
        )
        parser.write(raw)
        parser.finalize()
        if b"--" + boundary + b"--" not in raw:
            raise BadJson("the body is not all of a form: its last boundary is missing")
    except (FormParserError, ValueError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadJson(f"the body is not a form ({MEDIA_TYPE}): {error}") from None
    return parts
