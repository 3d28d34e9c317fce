"""Searching with the model under training, and measuring what it finds."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Literal

import numpy as np
from docarray import DocList
from numpy.typing import NDArray
from pydantic import Field, PrivateAttr, field_validator, model_validator

from cliptune.data.equivalence import KeyedDocs
from cliptune.data.pictures.pixels import decode_documents, take_rows
from cliptune.data.source import read_documents
from cliptune.data.validation import ANSWER, QUERY, Needs, first_of, texts_of
from cliptune.documents import ClipDoc
from cliptune.errors import BadData, BadInput
from cliptune.evaluation.metrics import METRICS
from cliptune.evaluation.relevance import Answers, decide_answers
from cliptune.evaluation.retrieval import Evaluation, ExampleQuery, evaluate_embeddings
from cliptune.evaluation.tables import describe_counts
from cliptune.inference.engines import get_tower
from cliptune.models.artifact import TEXT_TOWER, TOWERS, VISION_TOWER
from cliptune.models.tokenizers import token_keys
from cliptune.settings import current
from cliptune.training.callbacks.base import Callback
from cliptune.training.state import Training

_Inputs = list[str] | NDArray[np.uint8]
"""What a tower is given: texts [N], or pixels [N, H, W, 3]."""


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

    _answers: Answers = PrivateAttr()
    _query_inputs: _Inputs = PrivateAttr()
    _index_inputs: _Inputs = PrivateAttr()

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
        queries, query_inputs = self._load(training, self.query_data, self.model, "query_data")
        if self.index_data is None and self.model == self.index_model:
            index, index_inputs = queries, query_inputs
        else:
            role = "query_data" if self.index_data is None else "index_data"
            data = self.query_data if self.index_data is None else self.index_data
            index, index_inputs = self._load(training, data, self.index_model, role)
        self._answers = decide_answers(
            queries, index, each_once_for=self.index_model if self.index_data is None else None
        )
        self._query_inputs = query_inputs
        rows = self._answers.index_rows
        if isinstance(index_inputs, list):
            self._index_inputs = [index_inputs[row] for row in rows]
        else:
            self._index_inputs = take_rows(index_inputs, rows)
        self._check_labels()
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

    def _load(
        self, training: Training, data: object, tower: str, role: str
    ) -> tuple[KeyedDocs, _Inputs]:
        """The documents that `tower` can read, and what it is given of them."""
        needs = QUERY if tower == TEXT_TOWER else ANSWER
        data_set = read_documents(data, role=role, needs=needs)
        docs, left_out = data_set.docs, data_set.summary.left_out
        if left_out:
            training.logger.log(
                "WARNING", f"{role}: {len(left_out)} left out: {first_of(left_out)}"
            )
        model = training.model
        keys = token_keys(model.tokenizer, model.context_length)
        if tower == TEXT_TOWER:
            return KeyedDocs.of(docs, keys), texts_of(docs)
        decoded = decode_documents(
            docs,
            training.model.preprocessing,
            cache_dir=current().cache_dir / "pixels",
            workers=self.num_workers,
        )
        if decoded.problems:
            training.logger.log(
                "WARNING",
                f"{role}: {len(decoded.problems)} unreadable pictures are left out: "
                f"{first_of(decoded.problems)}",
            )
        kept = DocList[ClipDoc]([docs[i] for i in decoded.index])
        pictures = [decoded.digests[i] for i in decoded.index]
        return KeyedDocs.of(kept, keys, pictures), decoded.pixels

    def _check_labels(self) -> None:
        labels = {*self._answers.query_labels, *self._answers.index_labels}
        if len(labels) == 1:
            raise BadData(
                f"all query and index documents have the label {labels.pop()!r}, which makes "
                "everything relevant: give them different labels or texts"
            )

    def _evaluate(self, training: Training) -> Evaluation:
        answers = self._answers
        query_ids: Sequence[Hashable] | None = None
        index_ids: Sequence[Hashable] | None = None
        if self.model == self.index_model and self.exclude_self:
            query_ids = answers.own or [str(doc.id) for doc in answers.queries]
            index_ids = (
                range(len(answers.index)) if answers.own else [str(d.id) for d in answers.index]
            )
        return evaluate_embeddings(
            self._encode(training, self._query_inputs),
            answers.query_labels,
            self._encode(training, self._index_inputs),
            answers.index_labels,
            limit=self.limit,
            query_ids=query_ids,
            index_ids=index_ids,
        )

    def _encode(self, training: Training, inputs: _Inputs) -> NDArray[np.float32]:
        training.model.clip.eval()
        if isinstance(inputs, list):
            text_tower = get_tower(training.model, TEXT_TOWER, batch_size=self.batch_size)
            return text_tower.encode(inputs)
        vision_tower = get_tower(training.model, VISION_TOWER, batch_size=self.batch_size)
        return vision_tower.encode_pixels(inputs)

    def _named(self, evaluation: Evaluation) -> dict[str, float]:
        return {self.prefix + metric: value for metric, value in evaluation.metrics.items()}

    def _examples(self, evaluation: Evaluation) -> dict[str, list[ExampleQuery]]:
        if not self.gather_examples:
            return {}
        answers = self._answers
        queries = evaluation.examples(answers.queries, answers.index, k=self.limit)
        return {self.prefix[:-1]: queries}
