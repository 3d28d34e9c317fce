"""A search whose documents are read once, to be measured by many models or engines."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from docarray import DocList
from numpy.typing import NDArray
from torch import Tensor

from cliptune.data.equivalence import KeyedDocs
from cliptune.data.pictures.pixels import decode_documents, take_rows
from cliptune.data.validation import ANSWER, QUERY, first_of, split_complete, texts_of
from cliptune.documents import ClipDoc
from cliptune.errors import BadData
from cliptune.evaluation.relevance import Answers, decide_answers
from cliptune.evaluation.retrieval import Evaluation, Search, measure, text_keys_of
from cliptune.evaluation.topk import top_k
from cliptune.inference import TextTower, VisionTower
from cliptune.models.artifact import TEXT_TOWER

log = logging.getLogger("cliptune")

Tower = TextTower | VisionTower
Embeddings = NDArray[np.float32]
Embedded = tuple[Embeddings, Embeddings]
"""Of queries [Q, D] and of what they search [N, D], float32, of unit length."""
OnProgress = Callable[[str, int, int], None]
"""Told what is done, how many of it are, and how many there will be."""
Inputs = Tensor | NDArray[np.uint8]
"""Tokens int64 [N, L], or pixels [N, H, W, 3] as a vision tower's preprocessing makes them."""
_BATCHES_A_STEP = 8


def encode_pictures(
    tower: VisionTower, pixels: NDArray[np.uint8], what: str, tell: OnProgress
) -> Embeddings:
    """The embeddings of decoded pictures [N, H, W, 3], in steps of which `tell` is told."""
    step, count = _BATCHES_A_STEP * tower.batch_size, len(pixels)
    embeddings = np.empty((count, tower.output_dim), dtype=np.float32)
    for start in range(0, count, step):
        embeddings[start : start + step] = tower.encode_pixels(pixels[start : start + step])
        tell(what, min(start + step, count), count)
    return embeddings


def _reading(tower: Tower) -> object:
    """What texts or pictures are made to inputs by: equal where the inputs would be."""
    if isinstance(tower, TextTower):
        return tower.tokenizer, tower.context_length
    return tower.preprocessing


@dataclass(frozen=True)
class SearchTask:
    """Queries and what they search, as a text or a vision tower is given them."""

    answers: Answers
    digests: list[str | None]
    """[N]: SHA-256 of the searched documents' pictures."""
    n_left_out: int
    """How many documents of the index lack what its tower reads, or a picture that can be read."""
    role: str
    query_inputs: Inputs
    index_inputs: Inputs
    read_for: tuple[object, object]
    """How the towers that it was prepared for read texts and pictures."""
    pixel_cache: Path | None = None

    @classmethod
    def prepare(
        cls,
        query_tower: Tower,
        index_tower: Tower,
        queries: DocList[ClipDoc],
        index: DocList[ClipDoc],
        *,
        each_once: bool | None = None,
        role: str = "",
        pixel_cache: Path | None = None,
        workers: int = 0,
        tell: OnProgress = lambda *_: None,
        warn: Callable[[str], None] = log.warning,
    ) -> SearchTask:
        """Tokenise texts, decode pictures, and decide on right answers.

        Documents that lack what their tower reads, and unreadable pictures, are left out and told.

        Args:
            query_tower: says what is read of the queries; its tokenizer or preprocessing counts.
            index_tower: likewise of the index.
            queries: the queries.
            index: what they search.
            each_once: see `decide_answers`; by default where `index` is `queries`.
            role: such as `in-domain `, named in errors and progress.
            pixel_cache: a folder for decoded pictures; without one they are kept in memory.
            workers: threads that decode; 0: one a core.
            tell: of the progress.
            warn: told what is left out.

        Raises:
            BadData: as `decode_documents`, or most documents lack what is read of them.
            BadInput: as `decide_answers`.
        """
        keys = text_keys_of(query_tower, index_tower)

        def read(tower: Tower, docs: DocList[ClipDoc], side: str) -> tuple[KeyedDocs, Inputs]:
            needs = QUERY if tower.name == TEXT_TOWER else ANSWER
            docs, problems = split_complete(docs, needs, f"{role}{side}")
            if not docs:
                raise BadData(f"{role}{side}: no documents")
            inputs: Inputs
            if isinstance(tower, TextTower):
                table, inputs = KeyedDocs.of(docs, keys), tower.tokenize(texts_of(docs))
            else:
                decoded = decode_documents(
                    docs,
                    tower.preprocessing,
                    cache_dir=pixel_cache,
                    workers=workers,
                    on_progress=lambda done, total: tell(f"Decoding {role}pictures", done, total),
                )
                table = KeyedDocs.of(docs, keys, decoded.digests).subset(decoded.index)
                inputs, problems = decoded.pixels, [*problems, *decoded.problems]
            if problems:
                warn(f"{role}{side}: {len(problems)} left out: {first_of(problems)}")
            return table, inputs

        is_given = index is not queries
        asked, query_inputs = read(query_tower, queries, "queries")
        searched, index_inputs = asked, query_inputs
        if is_given or index_tower.name != query_tower.name:
            searched, index_inputs = read(index_tower, index, "index")
        each_once = not is_given if each_once is None else each_once
        answers = decide_answers(
            asked, searched, each_once_for=index_tower.name if each_once else None, role=role
        )
        if answers.query_rows is not None:
            query_inputs = query_inputs[answers.query_rows]
        rows = answers.index_rows
        if isinstance(index_inputs, Tensor):
            index_inputs = index_inputs[rows]
        else:
            index_inputs = take_rows(index_inputs, rows)
        return cls(
            answers,
            [searched.pictures[row] for row in rows],
            len(index) - len(searched.docs),
            role,
            query_inputs,
            index_inputs,
            (_reading(query_tower), _reading(index_tower)),
            pixel_cache,
        )

    @property
    def is_judged(self) -> bool:
        """Whether grades say what is right: pictures then have no labels that could be wrong."""
        return self.answers.grades is not None

    def embed(
        self, query_tower: Tower, index_tower: Tower, tell: OnProgress = lambda *_: None
    ) -> Embedded:
        """The embeddings by these towers.

        Those of another model than the task was prepared for may read texts and pictures
        differently: they are given them anew. What is right stays as it was decided.
        """

        def encode(
            tower: Tower, inputs: Inputs, docs: DocList[ClipDoc], read: object
        ) -> Embeddings:
            if read != _reading(tower):
                inputs = self._read_anew(tower, docs, tell)
            if isinstance(inputs, Tensor):
                return cast(TextTower, tower).encode_distinct(inputs)
            return encode_pictures(
                cast(VisionTower, tower), inputs, f"Encoding {self.role}pictures", tell
            )

        return (
            encode(query_tower, self.query_inputs, self.answers.queries, self.read_for[0]),
            encode(index_tower, self.index_inputs, self.answers.index, self.read_for[1]),
        )

    def _read_anew(self, tower: Tower, docs: DocList[ClipDoc], tell: OnProgress) -> Inputs:
        if isinstance(tower, TextTower):
            return tower.tokenize(texts_of(docs))
        what = f"Decoding {self.role}pictures for another model"
        decoded = decode_documents(
            docs,
            tower.preprocessing,
            cache_dir=self.pixel_cache,
            on_progress=lambda done, total: tell(what, done, total),
        )
        if len(decoded.index) != len(docs):
            raise BadData(f"{self.role}index: {first_of(decoded.problems)}")
        return decoded.pixels

    def measure(
        self,
        query_emb: Embeddings,
        index_emb: Embeddings,
        *,
        limit: int,
        exclude_self: bool = False,
        search: Search = top_k,
    ) -> Evaluation:
        """What is found at k = `limit` by `search`; `exclude_self`: a query does not find itself.

        Raises:
            BadData: as `evaluate_embeddings`; the message begins with the role.
        """
        try:
            return measure(
                self.answers,
                query_emb,
                index_emb,
                limit=limit,
                exclude_self=exclude_self,
                search=search,
            )
        except BadData as error:
            if not self.role:
                raise
            raise BadData(f"{self.role}data: {error}") from error
