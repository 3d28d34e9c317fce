"""What a search for training options may take, and what it is judged by."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from cliptune.errors import BadInput, near_matches
from cliptune.evaluation.metrics import METRICS
from cliptune.training.options import explain


class TuneOptions(BaseModel):
    """How to search. Every field has a default that works; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    minutes: float = Field(60.0, gt=0, le=14 * 24 * 60)
    """How long trials are made, pauses of the run not counted. The first one, at the defaults,
    is finished in any case; one that is under way when the time is over is given up."""
    max_trials: int | None = Field(None, ge=1, le=10_000)
    """At most so many trials; None: as many as the minutes allow."""
    metric: str = "reciprocal_rank"
    """What is chosen by, of text-to-picture search on the validation part: a name of
    `cliptune.evaluation.metrics.METRICS`."""
    limit: int = Field(20, ge=1, le=10_000)
    """k: how many results of each query count."""
    validation: float = Field(0.15, gt=0, le=0.4)
    """The part of the groups (labels, titles, pictures) that choices are made by."""
    test: float = Field(0.15, gt=0, le=0.4)
    """The part that no choice sees, for the figures of the report."""
    keep: int = Field(5, ge=1, le=100)
    """The best so many trials' models are kept, and considered for the soup."""
    max_loss: float = Field(0.01, ge=0, le=1)
    """The part of the pre-trained model's metric on `robust_data` that may be lost."""
    refit: bool = False
    """At the end, train once more with the best trial's options on the validation part too."""

    @field_validator("metric")
    @classmethod
    def _is_known(cls, value: str) -> str:
        if value not in METRICS:
            raise ValueError(f"unknown metric, {near_matches(value, METRICS)}")
        return value

    @model_validator(mode="after")
    def _something_is_left(self) -> TuneOptions:
        if (held := self.validation + self.test) > 0.6:
            raise ValueError(
                f"validation {self.validation} and test {self.test} hold out {held:g} of the data: "
                "leave at least 0.4 to train on"
            )
        return self

    @classmethod
    def parse(cls, value: object) -> TuneOptions:
        """Options from True (the defaults), a number of minutes, or their mapping.

        Raises:
            BadInput: it is none of these, or an option is unknown or has a bad value.
        """
        if value is True:
            value = {}
        elif isinstance(value, int | float) and not isinstance(value, bool):
            value = {"minutes": value}
        if not isinstance(value, Mapping):
            raise BadInput(
                f"tune is {value!r}: give True, a number of minutes, or options such as "
                "{'minutes': 30, 'metric': 'recall_at_k'}"
            )
        for name in value:
            if name not in cls.model_fields:
                raise BadInput(
                    f"unknown option of tune {name!r}: {near_matches(str(name), cls.model_fields)}"
                )
        try:
            return cls.model_validate(dict(value))
        except ValidationError as error:
            raise BadInput(f"tune: {explain(error)}") from error
