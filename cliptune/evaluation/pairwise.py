"""Any two models on the same queries: figures of both, and how sure their difference is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from docarray import DocList

from cliptune.documents import ClipDoc
from cliptune.evaluation.bootstrap import Change, compare_means
from cliptune.evaluation.relevance import Answers
from cliptune.evaluation.retrieval import Evaluation
from cliptune.evaluation.search_task import OnProgress, SearchTask
from cliptune.inference import TextTower, VisionTower

Towers = tuple[TextTower, VisionTower]


@dataclass(frozen=True)
class Pairwise:
    """Two models on the same queries."""

    answers: Answers
    first: Evaluation
    second: Evaluation
    changes: dict[str, Change]
    """By metric, from the first model to the second."""

    def figures(self) -> dict[str, float]:
        """By name: of each metric the second model's mean, `METRIC.before` the first one's,
        `METRIC.change` the difference, `METRIC.low` and `METRIC.high` its 95 % interval, and
        `METRIC.p` its p-value.
        """
        figures: dict[str, float] = {}
        for metric, change in self.changes.items():
            figures |= {
                metric: change.after.mean,
                f"{metric}.before": change.before.mean,
                f"{metric}.change": change.difference.mean,
                f"{metric}.low": change.difference.low,
                f"{metric}.high": change.difference.high,
                f"{metric}.p": change.p_value,
            }
        return figures


def compare_towers(
    first: Towers,
    second: Towers,
    queries: DocList[ClipDoc],
    index: DocList[ClipDoc],
    *,
    limit: int = 20,
    seed: int = 0,
    pixel_cache: Path | None = None,
    on_progress: OnProgress = lambda *_: None,
) -> Pairwise:
    """Search `index` with `queries` by both models.

    They may differ in everything: architecture, tokenizer, size of pictures, length of embeddings.
    What is right is decided once, by what the second one reads of texts, so that both are asked
    the same.

    Args:
        first: a model's two towers.
        second: another one's.
        queries: with texts.
        index: with pictures; `queries` themselves: their own pictures, each once.
        limit: k.
        seed: of the bootstrap's draws.
        pixel_cache: a folder for decoded pictures; without one they are kept in memory.
        on_progress: see `OnProgress`.

    Raises:
        BadData: as `SearchTask.prepare`.
    """
    task = SearchTask.prepare(*second, queries, index, pixel_cache=pixel_cache, tell=on_progress)
    evaluations = [
        task.measure(*task.embed(*towers, on_progress), limit=limit) for towers in (first, second)
    ]
    changes = compare_means(evaluations[0].by_query, evaluations[1].by_query, seed=seed)
    return Pairwise(task.answers, evaluations[0], evaluations[1], changes)
