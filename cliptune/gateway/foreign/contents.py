"""What is to be embedded, as others' interfaces have it: a text or a picture."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator
from pydantic.json_schema import JsonSchemaValue

from cliptune.documents import ClipDoc
from cliptune.errors import BadInput
from cliptune.gateway.http.schemas import from_base64

DATA_URI = "data:"
_TEXT: JsonValue = {"type": "string"}
ITEM: JsonSchemaValue = {
    "anyOf": [_TEXT, {"type": "object", "properties": {"text": _TEXT, "image": _TEXT}}]
}
"""What the reference says of a `Content`."""


class Body(BaseModel):
    """A request's body; unknown fields are errors, since they would have no effect."""

    model_config = ConfigDict(extra="forbid")


class Content(Body):
    """A text or a picture: the text itself, `{"text": …}` or `{"image": …}`."""

    text: str | None = Field(
        None, description="A text; one that begins with `data:image/` is a picture."
    )
    image: str | None = Field(
        None,
        description="A picture: a `data:` URI, base64, or a URL that the server may read.",
    )

    @model_validator(mode="before")
    @classmethod
    def _of_text(cls, value: object) -> object:
        if isinstance(value, str):
            return {"image" if value.startswith("data:image/") else "text": value}
        if not isinstance(value, dict | cls):
            raise ValueError('expected a text, {"text": …} or {"image": …}')
        return value

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.text is None) == (self.image is None):
            raise ValueError("expected either a text or an image")
        return self

    def fields(self, place: str) -> dict[str, object]:
        """The fields of its document, whose id is `place`: so errors tell where it stood.

        Raises:
            BadInput: it is empty.
            BadImage: the picture is neither a URI nor base64.
        """
        value = self.text if self.image is None else self.image
        if not value or not value.strip():
            raise BadInput(f"{place} is empty")
        if self.image is None:
            return {"id": place, "text": value}
        if value.startswith(DATA_URI) or "://" in value[:20]:
            return {"id": place, "uri": value}
        return {"id": place, "image": from_base64(value, place)}

    def doc(self, place: str) -> ClipDoc:
        """Its document; raises as `fields`."""
        return ClipDoc(**self.fields(place))


@contextmanager
def blamed_on(param: str) -> Iterator[None]:
    """Name the field at fault in what the block refuses, where the error doesn't know better."""
    try:
        yield
    except BadInput as error:
        error.param = error.param or param
        raise


class Usage(BaseModel):
    """What was read."""

    prompt_tokens: int = Field(description="Tokens of the texts; pictures have none.")
    total_tokens: int

    @classmethod
    def of(cls, docs: list[ClipDoc]) -> Self:
        """Of documents that came back with their `tokens`."""
        total = sum(doc.tokens or 0 for doc in docs)
        return cls(prompt_tokens=total, total_tokens=total)
