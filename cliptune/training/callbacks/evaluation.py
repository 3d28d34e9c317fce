"""Searching with the model under training, and measuring what it finds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from docarray import DocList
from numpy.typing import NDArray
from pydantic import Field, PrivateAttr, field_validator, model_validator

from cliptune.data.complete import ANSWER, QUERY, Needs, first_of, labels_of, texts_of
from cliptune.data.pixels import decode_documents
from cliptune.data.source import read_documents, with_labels
from cliptune.documents import ClipDoc
from cliptune.errors import BadData, BadInput
from cliptune.evaluation.metrics import METRICS
from cliptune.evaluation.retrieval import Evaluation, evaluate_embeddings
from cliptune.home import cache_dir
from cliptune.inference.engines import get_tower
from cliptune.inference.towers import TextTower
from cliptune.models.artifact import TEXT_TOWER, TOWERS, VISION_TOWER
from cliptune.training.callbacks.base import Callback

if TYPE_CHECKING:
    from cliptune.training.state import Training


class EvaluationCallback(Callback):
    """Search `index_data` with `query_data` before training, after every epoch, and at the end.

    A hit is an index document with the query's label. Metrics are named
    `clip-text-to-clip-vision_<metric>` (see `cliptune.evaluation.metrics`).
    """

    name: Literal["EvaluationCallback"] = "EvaluationCallback"
    query_data: Any
    """Documents, the name of a data set, or a path."""
    index_data: Any = None
    """The documents to search; None: those of `query_data`."""
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

    _queries: DocList[ClipDoc] = PrivateAttr()
    _index: DocList[ClipDoc] = PrivateAttr()
    _pixels: dict[int, NDArray[np.uint8]] = PrivateAttr(default_factory=dict)

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
        self._queries = self._load(training, self.query_data, self.model, "query_data")
        if self.index_data is None and self.model == self.index_model:
            self._index = self._queries
        elif self.index_data is None:
            self._index = self._load(training, self.query_data, self.index_model, "query_data")
        else:
            self._index = self._load(training, self.index_data, self.index_model, "index_data")
        self._check_labels()
        if f"{self.prefix}precision_at_k" not in training.position.before:
            evaluation = self._evaluate(training)
            training.position.before.update(self._named(evaluation))
            training.position.examples_before.update(self._examples(evaluation))
            training.report_metrics()

    def on_epoch_end(self, training: Training) -> None:
        """Evaluate; the metrics join the epoch's."""
        training.epoch_metrics.update(self._named(self._evaluate(training)))

    def on_finish(self, training: Training) -> None:
        """Evaluate the model that goes into the artifact."""
        evaluation = self._evaluate(training)
        training.after.update(self._named(evaluation))
        training.examples_after.update(self._examples(evaluation))

    def _load(self, training: Training, data: Any, tower: str, role: str) -> DocList[ClipDoc]:
        needs = QUERY if tower == TEXT_TOWER else ANSWER
        found = read_documents(data, role=role, needs=needs)
        docs, left_out = with_labels(found.docs), found.summary.left_out
        if left_out:
            training.reporter.log(
                "WARNING", f"{role}: {len(left_out)} left out: {first_of(left_out)}"
            )
        if tower == TEXT_TOWER:
            return docs
        decoded = decode_documents(
            docs,
            training.model.preprocessing,
            cache_dir=cache_dir() / "pixels",
            workers=self.num_workers,
        )
        if decoded.problems:
            training.reporter.log(
                "WARNING",
                f"{role}: {len(decoded.problems)} unreadable pictures are left out: "
                f"{first_of(decoded.problems)}",
            )
        kept = DocList[ClipDoc]([docs[i] for i in decoded.index])
        self._pixels[id(kept)] = decoded.pixels
        return kept

    def _check_labels(self) -> None:
        labels = {doc.label for docs in (self._queries, self._index) for doc in docs}
        if len(labels) == 1:
            raise BadData(
                f"all query and index documents have the label {labels.pop()!r}, which makes "
                "everything relevant: give them different labels or texts"
            )

    def _evaluate(self, training: Training) -> Evaluation:
        same = self.model == self.index_model and self.exclude_self
        return evaluate_embeddings(
            self._encode(training, self._queries, self.model),
            labels_of(self._queries),
            self._encode(training, self._index, self.index_model),
            labels_of(self._index),
            limit=self.limit,
            query_ids=[str(doc.id) for doc in self._queries] if same else None,
            index_ids=[str(doc.id) for doc in self._index] if same else None,
        )

    def _encode(
        self, training: Training, docs: DocList[ClipDoc], select_model: str
    ) -> NDArray[np.float32]:
        tower = get_tower(training.model, select_model, batch_size=self.batch_size)
        training.model.clip.eval()
        if isinstance(tower, TextTower):
            return tower.encode(texts_of(docs))
        return tower.encode_pixels(self._pixels[id(docs)])

    def _named(self, evaluation: Evaluation) -> dict[str, float]:
        return {self.prefix + metric: value for metric, value in evaluation.metrics.items()}

    def _examples(self, evaluation: Evaluation) -> dict[str, Any]:
        if not self.gather_examples:
            return {}
        return {self.prefix[:-1]: evaluation.examples(self._queries, self._index, k=self.limit)}
