"""Two models on the same queries and pictures: all that a report shows."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from docarray import DocList
from numpy.typing import NDArray

from cliptune.data.validation import PAIR, complete_only
from cliptune.documents import ClipDoc
from cliptune.errors import BadData
from cliptune.evaluation.bootstrap import Change, compare_means
from cliptune.evaluation.calibration import Reliability, calibrate
from cliptune.evaluation.groups import ChangedGroup, changes_by_group, groupings_of
from cliptune.evaluation.metrics import HEADLINE
from cliptune.evaluation.relevance import Answers
from cliptune.evaluation.report.data_issues import Faults, find_faults
from cliptune.evaluation.retrieval import Evaluation
from cliptune.evaluation.search_task import Embedded, OnProgress, SearchTask
from cliptune.evaluation.shortening import default_lengths, measure_shortened
from cliptune.inference.engines import both_towers
from cliptune.models.loading import ClipModel
from cliptune.quantization import OutputDtype


@dataclass(frozen=True)
class Comparison:
    """A model before and after fine-tuning, on the same queries."""

    answers: Answers
    """The queries, and what they search: those whose picture could be read."""
    n_unreadable: int
    """Those without a picture that could be read, or without a label."""
    before: Evaluation
    after: Evaluation
    changes: dict[str, Change]
    """By metric (see `cliptune.evaluation.metrics`), with confidence intervals."""
    shortened: dict[tuple[int, OutputDtype], Evaluation]
    """What the tuned model's embeddings of fewer bytes find, longest first."""
    gains: NDArray[np.float64]
    """[Q]: what each query's reciprocal rank has gained."""
    reliability: Reliability | str
    """What the tuned model's cosines mean; or why that can't be said."""
    faults: list[Faults]
    """Suspects in the index and, if the training pairs were given, in these."""
    n_leaked: int | None
    """Pictures of the index that are training pictures too, byte for byte: what the model was
    taught, it need not find. None: no training pairs were given."""

    @property
    def queries(self) -> DocList[ClipDoc]:
        """[Q]."""
        return self.answers.queries

    @property
    def index(self) -> DocList[ClipDoc]:
        """[N]."""
        return self.answers.index

    def by_group(self) -> dict[str, list[ChangedGroup]]:
        """The headline's change by what the queries can well be grouped by."""
        sides = self.before.by_query, self.after.by_query
        return {
            by: changes_by_group(*sides, self.queries, by, HEADLINE)
            for by in groupings_of(self.queries)
        }

    def better(self, most: int) -> list[int]:
        """Positions of the queries that gained most."""
        order = np.argsort(-self.gains, kind="stable")
        return [int(i) for i in order[:most] if self.gains[i] > 0]

    def worse(self, most: int) -> list[int]:
        """Positions of the queries that lost most."""
        order = np.argsort(self.gains, kind="stable")
        return [int(i) for i in order[:most] if self.gains[i] < 0]


def compare(
    before: ClipModel,
    after: ClipModel,
    queries: DocList[ClipDoc],
    index: DocList[ClipDoc],
    *,
    train: DocList[ClipDoc] | None = None,
    limit: int = 20,
    lengths: Sequence[int] = (),
    seed: int = 0,
    pixel_cache: Path | None = None,
    on_progress: OnProgress = lambda *_: None,
) -> Comparison:
    """Search `index` with `queries` by both models, and look for faults in the data.

    Args:
        before: the model that was fine-tuned.
        after: what became of it; its tokenizer says which texts are the same, for both.
        queries: with texts.
        index: with pictures.
        train: the pairs that it was fine-tuned on, to look for faults in them too; both models
            encode them all.
        limit: k, how many results of each query count.
        lengths: numbers of shorter embeddings, that `after` was trained for; without any, its
            halves are measured.
        seed: of the bootstrap.
        pixel_cache: a folder for decoded pictures; without one they are kept in memory.
        on_progress: see `OnProgress`.

    Raises:
        BadData: most queries have no text, too many unreadable pictures, or no query with an
            answer.
    """
    old, new = both_towers(before), both_towers(after)
    scale = float(after.clip.logit_scale.detach().exp())
    prepare = functools.partial(SearchTask.prepare, *new, pixel_cache=pixel_cache, tell=on_progress)

    def embed(task: SearchTask) -> tuple[Embedded, Embedded]:
        return task.embed(*old, on_progress), task.embed(*new, on_progress)

    task = prepare(queries, index)
    embedded = embed(task)
    first, second = (task.measure(*each, limit=limit) for each in embedded)
    faults = [] if task.is_judged else [find_faults("the index", task, *embedded, scale)]
    n_leaked = None
    if train is not None:
        train = complete_only(train, PAIR, "the training data")
        pairs = prepare(train, train, each_once=False, role="training ")
        if not pairs.is_judged:
            faults.append(find_faults("the training data", pairs, *embed(pairs), scale))
        trained = set(pairs.digests)
        n_leaked = sum(digest in trained for digest in task.digests)
    return Comparison(
        answers=task.answers,
        n_unreadable=task.n_left_out,
        before=first,
        after=second,
        shortened=measure_shortened(
            task, embedded[1], lengths or default_lengths(after.output_dim), limit=limit
        ),
        changes=compare_means(first.by_query, second.by_query, seed=seed),
        gains=second.by_query[HEADLINE] - first.by_query[HEADLINE],
        reliability=_reliability(second),
        faults=faults,
        n_leaked=n_leaked,
    )


def _reliability(evaluation: Evaluation) -> Reliability | str:
    try:
        return calibrate(evaluation)
    except BadData as error:
        return str(error)
