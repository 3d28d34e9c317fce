"""Which model is served, by the names that clients of others' interfaces ask for it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Self

from pydantic import BaseModel, Field

from cliptune.errors import ModelSwitched, NotFound, shown
from cliptune.gateway.dispatch import Dispatcher
from cliptune.protocol import redaction
from cliptune.protocol.endpoints import MODELS, STATUS
from cliptune.protocol.status import FlowStatus

ANY = "cliptune"
"""The name of the model that is served, whichever it is."""
ABOUT_MODEL = (
    f"The model's name, as `{MODELS}` tells it, or its digest; `{ANY}`: whichever is served."
)


@dataclass(frozen=True)
class ServedModel:
    """The model that a service embeds by."""

    name: str
    digest: str
    dimensions: int
    lengths: list[int]
    """To which its embeddings may be cut."""
    created: datetime | None

    @classmethod
    def of(cls, status: FlowStatus) -> ServedModel | None:
        """From what a Flow tells; None: it has no text encoder."""
        if (tower := status.model) is None:
            return None
        # After a swap the encoders' artifact is not what they were started with.
        generations = (status.index.generations if status.index else None) or {}
        swapped = [one for one in generations.values() if one.model_digest == tower.model_digest]
        if not swapped:
            name = redaction.base_name(tower.artifact)
            return cls(name, tower.model_digest, tower.output_dim, tower.lengths, None)
        noted = swapped[0].created
        return cls(
            swapped[0].name or f"{tower.model_digest:.12}",
            tower.model_digest,
            tower.output_dim,
            tower.lengths,
            datetime.fromisoformat(noted) if noted else None,
        )

    def is_called(self, name: str) -> bool:
        """Whether `name` means this model."""
        return name in (ANY, self.name, self.digest)


class Model(BaseModel):
    """A model in OpenAI's form."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="Seconds since 1970; 0: it is not known.")
    owned_by: str = ANY
    digest: str = Field(description="SHA-256 over its weights.")
    dimensions: int = Field(description="Numbers in an embedding.")


class Models(BaseModel):
    """The model served, as a list of one."""

    object: Literal["list"] = "list"
    data: list[Model]

    @classmethod
    def of(cls, model: ServedModel) -> Self:
        """The list of `model`."""
        created = int(model.created.timestamp()) if model.created else 0
        return cls(
            data=[
                Model(
                    id=model.name, created=created, digest=model.digest, dimensions=model.dimensions
                )
            ]
        )


class ModelNames:
    """Looks the model up that a request names.

    What the encoders tell is remembered, so that a request costs no second one; each answer's
    digest says whether it still holds. Where they are asked, it counts as a request of the key
    that is served: names that aren't there can't be tried for nothing.
    """

    def __init__(self, dispatcher: Dispatcher) -> None:
        """Take the way to the encoders."""
        self._dispatcher = dispatcher
        self._known: ServedModel | None = None

    async def served(self) -> ServedModel:
        """The model that is served now.

        Raises:
            NotFound: there is none: the service has no text encoder.
        """
        reports, _ = await self._dispatcher.call(STATUS)
        self._known = ServedModel.of(FlowStatus.of(reports))
        if self._known is None:
            raise NotFound("this service has no text encoder")
        return self._known

    async def find(self, name: str) -> ServedModel:
        """The model called `name`.

        Raises:
            NotFound: it isn't the one that is served; the message says which is.
        """
        if self._known is not None and self._known.is_called(name):
            return self._known
        model = await self.served()
        if not model.is_called(name):
            refused = NotFound(
                f"model {shown(name)} is not served: ask for {model.name!r}, or for {ANY!r}, "
                "whichever is"
            )
            refused.param = "model"
            raise refused
        return model

    async def checked(self, model: ServedModel, name: str, digest: str | None) -> ServedModel:
        """The model that has answered a request for the one called `name`.

        Args:
            model: what was found under that name before.
            name: as the client has it.
            digest: what the answer's embeddings are of.

        Raises:
            NotFound: the service has been switched to a model of another name meanwhile.
            ModelSwitched: it is being switched.
        """
        if model.digest == digest:
            return model
        self._known = None
        model = await self.find(name)
        if model.digest != digest:
            raise ModelSwitched("the model was switched during this request: send it again")
        return model
