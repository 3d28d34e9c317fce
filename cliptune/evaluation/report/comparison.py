"""Two models on the same queries and pictures: all that a report shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from docarray import DocList
from numpy.typing import NDArray

from cliptune.data.equivalence import KeyedDocs, TextKeys, same_labels
from cliptune.data.pictures.pixels import decode_documents, take_rows
from cliptune.data.validation import ANSWER, PAIR, QUERY, complete_only, texts_of
from cliptune.documents import ClipDoc
from cliptune.errors import BadData
from cliptune.evaluation.bootstrap import Change, compare_means
from cliptune.evaluation.metrics import per_query_metrics
from cliptune.evaluation.relevance import decide_answers
from cliptune.evaluation.report.data_issues import Faults, find_faults
from cliptune.evaluation.retrieval import Evaluation, evaluate_embeddings
from cliptune.inference import get_tower
from cliptune.models.artifact import TEXT_TOWER, VISION_TOWER
from cliptune.models.loading import ClipModel
from cliptune.models.tokenizers import token_keys
from cliptune.settings import current

OnProgress = Callable[[str, int, int], None]
"""(what is done, done, total)"""


@dataclass(frozen=True)
class Comparison:
    """A model before and after fine-tuning, on the same queries."""

    queries: DocList[ClipDoc]
    index: DocList[ClipDoc]
    """Those that were searched: their picture could be read."""
    n_unreadable: int
    """Those without a picture that could be read, or without a label."""
    before: Evaluation
    after: Evaluation
    changes: dict[str, Change]
    """By metric (see `cliptune.evaluation.metrics`), with confidence intervals."""
    gains: NDArray[np.float64]
    """[Q]: what each query's reciprocal rank has gained."""
    faults: list[Faults]
    """Suspects in the index and, if the training pairs were given, in these."""
    n_leaked: int | None
    """Pictures of the index that are training pictures too, byte for byte: what the model was
    taught, it need not find. None: no training pairs were given."""

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
    seed: int = 0,
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
        seed: of the bootstrap.
        on_progress: told (what is done, done, total).

    Raises:
        BadData: most queries have no text, too many unreadable pictures, or no query with an
            answer.
    """
    is_given, given = index is not queries, len(index)
    index = complete_only(index, ANSWER, "the index")
    queries = complete_only(queries, QUERY, "queries")
    texts = texts_of(queries)
    keys = token_keys(after.tokenizer, after.context_length)
    pictures = _Pictures.read(index, keys, after, "the index", on_progress)
    answers = decide_answers(
        KeyedDocs.of(queries, keys),
        pictures.table,
        each_once_for=None if is_given else VISION_TOWER,
    )
    searched = pictures.labelled(answers.index, answers.index_rows)
    queries, labels = answers.queries, answers.query_labels
    old = _Embedded.by(before, texts, searched, on_progress)
    new = _Embedded.by(after, texts, searched, on_progress)
    first = evaluate_embeddings(old.texts, labels, old.pictures, searched.labels, limit=limit)
    second = evaluate_embeddings(new.texts, labels, new.pictures, searched.labels, limit=limit)
    values = [_by_query(each, labels, searched.labels) for each in (first, second)]
    faults = [_find_faults(searched, queries, old, new, after)]
    n_leaked = None
    if train is not None:
        train = complete_only(train, PAIR, "the training data")
        pairs = _Pictures.read(train, keys, after, "the training data", on_progress)
        [decided] = same_labels(pairs.table)
        named = [label or str(doc.id) for label, doc in zip(decided, pairs.docs, strict=True)]
        pairs = pairs.labelled(pairs.table.labelled(named), list(range(len(named))))
        titles = texts_of(pairs.docs)
        old, new = (_Embedded.by(each, titles, pairs, on_progress) for each in (before, after))
        faults.append(_find_faults(pairs, pairs.docs, old, new, after))
        trained = set(pairs.hashes)
        n_leaked = sum(one in trained for one in searched.hashes)
    return Comparison(
        queries=queries,
        index=answers.index,
        n_unreadable=given - len(pictures.docs),
        before=first,
        after=second,
        changes=compare_means(*values, seed=seed),
        gains=values[1]["reciprocal_rank"] - values[0]["reciprocal_rank"],
        faults=faults,
        n_leaked=n_leaked,
    )


@dataclass(frozen=True)
class _Pictures:
    """The documents whose picture can be read, decoded."""

    what: str
    table: KeyedDocs
    pixels: NDArray[np.uint8]

    @property
    def docs(self) -> DocList[ClipDoc]:
        return self.table.docs

    @property
    def labels(self) -> list[str]:
        return [str(doc.label) for doc in self.docs]

    @property
    def hashes(self) -> list[str]:
        """SHA-256 of the pictures' files."""
        return [str(digest) for digest in self.table.pictures]

    @classmethod
    def read(
        cls,
        docs: DocList[ClipDoc],
        keys: TextKeys,
        model: ClipModel,
        what: str,
        on_progress: OnProgress,
    ) -> _Pictures:
        decoded = decode_documents(
            docs,
            model.preprocessing,
            cache_dir=current().cache_dir / "pixels",
            on_progress=lambda done, total: on_progress(f"Reading {what}", done, total),
        )
        table = KeyedDocs.of(docs, keys, decoded.digests)
        return cls(what, table.subset(decoded.index), decoded.pixels)

    def labelled(self, docs: DocList[ClipDoc], rows: list[int]) -> _Pictures:
        """Those of `rows`, as the documents `docs`, which have labels."""
        kept = self.table.subset(rows)
        return _Pictures(self.what, replace(kept, docs=docs), take_rows(self.pixels, rows))


@dataclass(frozen=True)
class _Embedded:
    """One model's view of texts and pictures: float32 [N, D], rows of unit length."""

    texts: NDArray[np.float32]
    pictures: NDArray[np.float32]

    @classmethod
    def by(
        cls, model: ClipModel, texts: list[str], pictures: _Pictures, on_progress: OnProgress
    ) -> _Embedded:
        tower = get_tower(model, VISION_TOWER)
        pixels = pictures.pixels
        if tower.preprocessing.size != pixels.shape[1:3]:
            raise BadData(
                f"the two models take pictures of {tower.preprocessing.size} and "
                f"{pixels.shape[1:3]} pixels: compare a model with the one that it comes from"
            )
        step = 8 * tower.batch_size
        parts = []
        for start in range(0, len(pixels), step):
            parts.append(tower.encode_pixels(pixels[start : start + step]))
            on_progress(f"Encoding {pictures.what}", min(start + step, len(pixels)), len(pixels))
        return cls(get_tower(model, TEXT_TOWER).encode(texts), np.concatenate(parts))


def _by_query(
    evaluation: Evaluation, labels: list[str], index_labels: list[str]
) -> dict[str, NDArray[np.float64]]:
    answers = Counter(index_labels)
    return per_query_metrics(
        evaluation.hits,
        [answers[label] for label in labels],
        (evaluation.ids >= 0).sum(axis=1),
        limit=evaluation.limit,
    )


def _find_faults(
    pictures: _Pictures,
    text_docs: DocList[ClipDoc],
    before: _Embedded,
    after: _Embedded,
    model: ClipModel,
) -> Faults:
    return find_faults(
        pictures.what,
        pictures.docs,
        pictures.hashes,
        before.pictures,
        after.pictures,
        after.texts,
        text_docs,
        float(model.clip.logit_scale.detach().exp()),
    )
