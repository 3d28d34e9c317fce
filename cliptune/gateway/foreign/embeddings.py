"""`POST /v1/embeddings`: OpenAI's form, with pictures as infinity, vLLM and Jina have them."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal, Self

import numpy as np
from docarray import DocList
from fastapi import Response
from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    WithJsonSchema,
    model_validator,
)

from cliptune.documents import ClipDoc
from cliptune.errors import BadInput
from cliptune.gateway.dispatch import Dispatcher
from cliptune.gateway.foreign.contents import ITEM, Body, Content, Usage, blamed_on
from cliptune.gateway.foreign.models import ABOUT_MODEL, ANY, ModelNames
from cliptune.gateway.http.schemas import EncodingFormat, fit, json_response
from cliptune.protocol.endpoints import ENCODE
from cliptune.protocol.limits import Limits
from cliptune.quantization import OutputDtype

INPUT = "input"


def _listed(value: object) -> object:
    """One input as a list of one; what are tokens is told apart from what is no input at all."""
    given = value if isinstance(value, list) else [value]
    first = given[0] if given else None
    if isinstance(first, list) and first:
        first = first[0]
    if isinstance(first, int) and not isinstance(first, bool):
        raise ValueError(
            "numbers of tokens are not taken, since each model has its own: send texts "
            "(LangChain: check_embedding_ctx_length=False)"
        )
    return given


def _parts(value: object) -> object:
    """A message's text as its one part."""
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


class ImageUrl(Body):
    """Where a picture is."""

    url: str = Field(description="A `data:` URI, or a URL that the server is allowed to read.")
    detail: str | None = Field(None, description="Without effect: the model has one resolution.")


class Part(Body):
    """A part of a message."""

    type: Literal["text", "image_url"]
    text: str | None = None
    image_url: ImageUrl | None = None

    @model_validator(mode="after")
    def _has_what_it_says(self) -> Self:
        if getattr(self, self.type) is None:
            raise ValueError(f"a part of type {self.type!r} needs a {self.type!r}")
        return self

    @property
    def content(self) -> Content | None:
        """The text or the picture; None: a text of nothing but spaces."""
        if self.image_url is not None and self.type == "image_url":
            return Content(image=self.image_url.url)
        return Content(text=self.text) if self.text and self.text.strip() else None


class Message(Body):
    """A message as vLLM takes it."""

    role: str = Field(description="Without effect.")
    content: Annotated[list[Part], BeforeValidator(_parts)]


_Inputs = Annotated[
    list[Content],
    BeforeValidator(_listed),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": ITEM}]}),
]


class EmbeddingsBody(Body):
    """What is embedded, and how it is answered."""

    model: str = Field(ANY, description=ABOUT_MODEL)
    input: _Inputs | None = Field(
        None,
        description="A text or several; pictures as `data:` URIs, or as Jina has them: "
        '`{"image": …}` among `{"text": …}`.',
    )
    messages: list[Message] | None = Field(
        None, description="Instead, as vLLM has it: one text, or one picture as `image_url`."
    )
    modality: Literal["text", "image"] = Field(
        "text", description="As infinity has it. `image`: every input is a picture's URI or base64."
    )
    dimensions: int | None = Field(
        None,
        description="The model's own number, or one that it was trained to be cut to (matryoshka).",
    )
    encoding_format: EncodingFormat = Field(
        "float", description="Embeddings as numbers, or as base64 of little-endian float32."
    )
    output_dtype: OutputDtype = Field(
        "float32",
        description="As Voyage has it: `int8`, to be compared by cosine, or `ubinary`, signs, "
        "eight to a byte; base64 then holds these bytes.",
    )
    user: str | None = Field(None, description="Without effect.")

    def docs(self) -> DocList[ClipDoc]:
        """What is to be embedded.

        Raises:
            BadInput: there is nothing, or an input is empty, or messages hold several things.
            BadImage: a picture is neither a URI nor base64.
        """
        if (self.input is None) == (self.messages is None):
            raise BadInput("expected either input or messages")
        if self.messages is not None:
            return DocList[ClipDoc]([_of_messages(self.messages)])
        inputs = self.input or []
        if not inputs:
            raise BadInput("input is empty")
        if self.modality == "image":
            inputs = [one if one.text is None else Content(image=one.text) for one in inputs]
        return DocList[ClipDoc]([one.doc(f"{INPUT}[{i}]") for i, one in enumerate(inputs)])


def _of_messages(messages: list[Message]) -> ClipDoc:
    contents = [part.content for message in messages for part in message.content]
    held = [one for one in contents if one is not None]
    if len(held) != 1:
        pictures = sum(one.image is not None for one in held)
        raise BadInput(
            f"messages hold {len(held) - pictures} texts and {pictures} pictures: the model embeds "
            "one text or one picture, so send them one by one, or several as input"
        )
    return held[0].doc("messages")


_Numbers = Annotated[object, WithJsonSchema({"anyOf": [{"type": "array"}, {"type": "string"}]})]
"""An array, which becomes JSON in one step."""


class Embedding(BaseModel):
    """One embedding, of unit length."""

    object: Literal["embedding"] = "embedding"
    index: int = Field(description="Which input it is of.")
    embedding: _Numbers


class Embeddings(BaseModel):
    """The embeddings in the inputs' order."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: Usage


async def answer(dispatcher: Dispatcher, models: ModelNames, body: object) -> Response:
    """Embed what a body holds.

    Raises:
        CliptuneError: what a client is told; `param` is the field at fault, if it is known.
    """
    asked, docs = await asyncio.to_thread(_read, body, dispatcher.handler.limits)
    model = await models.find(asked.model)
    if asked.dimensions not in (None, model.dimensions, *model.lengths):
        known = ", ".join(map(str, (*model.lengths, model.dimensions)))
        refused = BadInput(
            f"dimensions is {asked.dimensions}: those of model {model.name!r} have {known}"
        )
        refused.param = "dimensions"
        raise refused
    parameters = {
        "include_tokens": True,
        **asked.model_dump(include={"dimensions", "output_dtype"}),
    }
    with blamed_on(INPUT):
        embedded, _ = await dispatcher.call(ENCODE, docs, parameters)
    model = await models.checked(model, asked.model, embedded[0].model_digest)
    response = Embeddings(
        data=[
            Embedding(index=i, embedding=np.ascontiguousarray(doc.embedding))
            for i, doc in enumerate(embedded)
        ],
        model=model.name,
        usage=Usage.of(list(embedded)),
    )
    return await asyncio.to_thread(json_response, response.model_dump(), 200, asked.encoding_format)


def _read(body: object, limits: Limits) -> tuple[EmbeddingsBody, DocList[ClipDoc]]:
    with blamed_on(INPUT):
        asked = fit(body, EmbeddingsBody, limits, INPUT)
    with blamed_on("messages" if asked.messages is not None else INPUT):
        return asked, asked.docs()
