"""Searching with the model under training, and measuring what it finds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from docarray import DocList
from pydantic import Field, PrivateAttr, field_validator, model_validator

from cliptune.data.source import read_documents
from cliptune.data.validation import ANSWER, QUERY, Needs, first_of
from cliptune.documents import ClipDoc
from cliptune.errors import BadData, BadInput
from cliptune.evaluation.calibration import calibrate
from cliptune.evaluation.metrics import METRICS
from cliptune.evaluation.retrieval import Evaluation, ExampleQuery
from cliptune.evaluation.search_task import SearchTask, Tower
from cliptune.evaluation.tables import describe_counts
from cliptune.inference.engines import get_tower
from cliptune.models.artifact import TEXT_TOWER, TOWERS, VISION_TOWER
from cliptune.training.callbacks.base import Callback
from cliptune.training.state import Training


class EvaluationCallback(Callback):
    """Search `index_data` with `query_data` before training, after every epoch, and at the end.

    A hit is an index document with the query's label; documents without one get one by what the
    model sees of them, once for queries and index (`cliptune.data.equivalence`). Metrics are named
    `clip-text-to-clip-vision_<metric>` (see `cliptune.evaluation.metrics`).
    """

    name: Literal["EvaluationCallback"] = "EvaluationCallback"
    query_data: object
    """Documents, the name of a data set, or a path."""
    index_data: object = None
    """The documents to search; None: those of `query_data`, each picture (or text) once."""
    model: str = TEXT_TOWER
    """The tower that encodes the queries."""
    index_model: str = VISION_TOWER
    """The tower that encodes the index."""
    exclude_self: bool = True
    """A query does not find itself, where one tower encodes both sides."""
    limit: int = Field(20, ge=1, le=10_000)
    """k: how many results of each query count."""
    distance: Literal["cosine"] = "cosine"
    gather_examples: bool = False
    """Keep sample results of before and after for `Run.display_examples()`."""
    batch_size: int = Field(64, ge=1)
    num_workers: int = Field(4, ge=0)

    _task: SearchTask = PrivateAttr()

    @field_validator("model", "index_model")
    @classmethod
    def _known_tower(cls, value: str) -> str:
        if value not in TOWERS:
            raise ValueError(f"use one of {', '.join(TOWERS)}")
        return value

    @model_validator(mode="after")
    def _has_queries(self) -> EvaluationCallback:
        if self.query_data is None:
            raise ValueError("query_data is needed")
        return self

    @property
    def prefix(self) -> str:
        """What the names of its metrics begin with."""
        return f"{self.model}-to-{self.index_model}_"

    def needs(self, name: str) -> Needs:
        """What documents of the data in field `name` must have; others are left out."""
        read = {"query_data": {self.model}, "index_data": {self.index_model}}[name]
        if name == "query_data" and self.index_data is None:
            read.add(self.index_model)
        return frozenset().union(*(QUERY if each == TEXT_TOWER else ANSWER for each in read))

    def check(self, has_val_loss: bool, callbacks: Sequence[Callback]) -> None:
        """Refuse a second evaluation of the same towers: their metrics would have one name.

        Raises:
            BadInput: there is one.
        """
        for other in callbacks:
            is_other = other is not self and isinstance(other, EvaluationCallback)
            if is_other and other.metric_names() == self.metric_names():
                raise BadInput(
                    f"EvaluationCallback of {self.model} to {self.index_model} is given twice"
                )

    def metric_names(self) -> list[str]:
        """The full names of its metrics."""
        return [self.prefix + metric for metric in METRICS]

    def on_train_begin(self, training: Training) -> None:
        """Read both data sets, and evaluate the model as it is.

        Raises:
            BadData: there are no documents, most lack what their tower reads, an id is there
                twice, or all have one label.
        """
        queries = self._read(training, "query_data", self.model)
        index = queries
        if self.index_data is not None:
            index = self._read(training, "index_data", self.index_model)
        elif self.index_model != self.model:
            index = self._read(training, "query_data", self.index_model)
        self._task = SearchTask.prepare(
            *self._towers(training),
            queries,
            index,
            each_once=self.index_data is None,
            pixel_cache=training.pixel_cache,
            workers=self.num_workers,
            warn=lambda words: training.logger.log("WARNING", words),
        )
        if f"{self.prefix}precision_at_k" not in training.position.before:
            evaluation = self._evaluate(training)
            training.position.before.update(self._named(evaluation))
            training.position.examples_before.update(self._examples(evaluation))
            training.position.evaluations[self.prefix[:-1]] = counts = evaluation.counts()
            level = "WARNING" if evaluation.n_without_answers else "INFO"
            training.logger.log(level, f"{self.prefix[:-1]}: {describe_counts(counts)}")
            training.tell_metrics()

    def on_epoch_end(self, training: Training) -> None:
        """Evaluate; the metrics join the epoch's."""
        training.epoch_metrics.update(self._named(self._evaluate(training)))

    def on_finish(self, training: Training) -> None:
        """Evaluate the model that goes into the artifact."""
        evaluation = self._evaluate(training)
        training.after.update(self._named(evaluation))
        training.examples_after.update(self._examples(evaluation))
        if (self.model, self.index_model) == (TEXT_TOWER, VISION_TOWER):
            self._calibrate(training, evaluation)

    def _calibrate(self, training: Training, evaluation: Evaluation) -> None:
        """Have the artifact say what cosines mean, if these results tell."""
        try:
            training.calibration = calibrate(evaluation).calibration
        except BadData as error:
            training.logger.log("INFO", f"not calibrated, min_relevance can't be used: {error}")

    def _read(self, training: Training, field: str, tower: str) -> DocList[ClipDoc]:
        """The documents of `field` that `tower` can read."""
        needs = QUERY if tower == TEXT_TOWER else ANSWER
        data_set = read_documents(getattr(self, field), role=field, needs=needs)
        if left_out := data_set.summary.left_out:
            words = f"{field}: {len(left_out)} left out: {first_of(left_out)}"
            training.logger.log("WARNING", words)
        return data_set.docs

    def _evaluate(self, training: Training) -> Evaluation:
        training.model.clip.eval()
        return self._task.measure(
            *self._task.embed(*self._towers(training)),
            limit=self.limit,
            exclude_self=self.exclude_self and self.model == self.index_model,
        )

    def _towers(self, training: Training) -> tuple[Tower, Tower]:
        """Those of the queries and of the index."""
        model, size = training.model, self.batch_size
        return (
            get_tower(model, self.model, batch_size=size),
            get_tower(model, self.index_model, batch_size=size),
        )

    def _named(self, evaluation: Evaluation) -> dict[str, float]:
        return {self.prefix + metric: value for metric, value in evaluation.metrics.items()}

    def _examples(self, evaluation: Evaluation) -> dict[str, list[ExampleQuery]]:
        if not self.gather_examples:
            return {}
        answers = self._task.answers
        queries = evaluation.examples(answers.queries, answers.index, k=self.limit)
        return {self.prefix[:-1]: queries}
