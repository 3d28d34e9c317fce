"""A run in a line: when, how long, of what, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from cliptune.runs.record import DataReference, Record

if TYPE_CHECKING:
    from cliptune.models.artifact import Epoch

FAVOURITE = "reciprocal_rank"
"""The metric that is shown, where a run has several."""
LOSSES: tuple[Literal["val_loss"], Literal["loss"]] = ("val_loss", "loss")


@dataclass(frozen=True)
class RunSummary:
    """What a list of runs shows. Times are ISO 8601 in UTC."""

    name: str
    experiment: str
    status: str
    details: str
    description: str | None
    created: str
    seconds: float | None
    """From its (last) start to its end, or until now; None: it never started."""
    model: str
    """What was fine-tuned."""
    data: str
    """What by: a data set's name, or where documents came from."""
    documents: int | None
    """How many those were; None: of a data set by name."""
    metric: str | None
    """A metric, or a loss where there was no evaluation; None: before the first epoch ended."""
    value: float | None
    """Its best value."""
    epoch: int | None
    """The epoch that it is of; None: of the model that went into the artifact."""

    @classmethod
    def of(
        cls, record: Record, details: str, history: list[Epoch], after: dict[str, float]
    ) -> Self:
        """The summary of a run of this machine.

        Args:
            record: the run's.
            details: how far it is, in words.
            history: the epochs that have ended.
            after: the metrics of the final model, so far as there are any.
        """
        train_data = record.config.get("train_data") or {}
        best = _best(history, after)
        return cls(
            name=record.name,
            experiment=record.experiment,
            status=str(record.status),
            details=details,
            description=record.description,
            created=record.created,
            seconds=_seconds(record.started, record.ended),
            model=str(record.config.get("options", {}).get("model", "")),
            data=_data(train_data),
            documents=train_data.get("documents"),
            metric=best[0] if best else None,
            value=best[1] if best else None,
            epoch=best[2] if best else None,
        )


def _seconds(started: str | None, ended: str | None) -> float | None:
    if started is None:
        return None
    end = datetime.fromisoformat(ended) if ended else datetime.now(UTC)
    return max(0.0, (end - datetime.fromisoformat(started)).total_seconds())


def _data(reference: DataReference) -> str:
    if "name" in reference:
        return str(reference["name"])
    source = reference.get("source")
    return Path(source).name if source else "documents"


def _best(history: list[Epoch], after: dict[str, float]) -> tuple[str, float, int | None] | None:
    """(metric, its best value, the epoch that it is of)."""
    names = dict.fromkeys(
        name for values in (after, *(one.get("metrics", {}) for one in history)) for name in values
    )
    chosen = next((name for name in names if name.endswith(FAVOURITE)), next(iter(names), None))
    if chosen is not None:
        values: list[tuple[float, int | None]] = [(after[chosen], None)] if chosen in after else []
        for entry in history:
            if chosen in entry.get("metrics", {}):
                values.append((entry["metrics"][chosen], entry["epoch"]))
        value, epoch = max(values, key=lambda pair: pair[0])
        return chosen, value, epoch
    for name in LOSSES:
        by_epoch = [(entry.get(name), entry["epoch"]) for entry in history]
        losses = [(loss, number) for loss, number in by_epoch if loss is not None]
        if losses:
            loss, number = min(losses)
            return name, loss, number
    return None
