"""The index: embedded documents that are found again by what a query's embedding is near to."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from itertools import islice
from typing import Literal, NamedTuple, Self

import numpy as np
from docarray import DocList

from cliptune.documents import ClipDoc, Match
from cliptune.errors import BadInput
from cliptune.index.checks import (
    check_digests,
    check_docs,
    check_ids,
    check_queries,
    check_scan,
    check_texts,
    check_window,
    check_without,
)
from cliptune.index.facets.column import Column
from cliptune.index.facets.counting import Facet, Facets, facet, parse_facets
from cliptune.index.facets.known_tags import KnownTags, count_terms
from cliptune.index.filters.language import And, Compare, Field, Filter, Node
from cliptune.index.filters.parser import parse_filter
from cliptune.index.filters.warnings import FilterWarnings, Version
from cliptune.index.fusion import DEPTH, fuse
from cliptune.index.metadata import RECALL, EmbeddingSpace, Storage, TunedSearch
from cliptune.index.ranking.arranging import arrange
from cliptune.index.ranking.groups import group_of
from cliptune.index.ranking.options import Ranking
from cliptune.index.tags import names_in, texts_in
from cliptune.index.words import WordMatch

SAMPLE = 2000
"""Documents that are read for near matches of a tag's name."""
TAGS_OF = 20_000
"""Documents whose tags `known_tags` tells, where the store has no quicker way to them."""
_TAGS_FOR = 60.0
"""Seconds for which they are told again, where the store doesn't tell of writes."""


@dataclass(frozen=True)
class IndexStatus:
    """What an index holds and how it answers."""

    rows: int
    """Documents in the index."""
    dim: int | None
    """Length of the embeddings; None until the first documents came."""
    model_digest: str | None
    """The model whose embeddings these are; None until the first documents came."""
    state: Literal["flat", "building", "ready"]
    """'flat': searched exhaustively; 'building': `optimize` is at work; 'ready': through an ANN
    index."""
    unindexed_rows: int
    """Documents outside the ANN index: they are searched too, exhaustively."""
    optimize_due: bool
    """Whether `optimize` would make searches noticeably faster."""
    uri: str
    """Where the index is."""
    store: str
    """The store's name: 'lance' or 'milvus'."""
    storage: Storage = "float32"
    """How the embeddings are kept."""

    def to_dict(self) -> dict[str, str | int | bool | None]:
        """The fields as a dict, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Search:
    """A search as a store is asked for it."""

    embeddings: np.ndarray
    model_digest: str
    limit: int
    """So many matches a query, those included that paging will leave out."""
    where: Node | None
    exact: bool
    texts: Sequence[str] = ()
    """For each query its words, empty where it has none; no list: by meaning alone."""
    alpha: float | None = None

    def queries(self, space: EmbeddingSpace | None) -> np.ndarray:
        """The embeddings as float32 [Q, D], checked against the index's (None: it is empty)."""
        return check_queries(self.embeddings, self.model_digest, space)


class Parts(NamedTuple):
    """What besides the rest a store is to read of documents: both may be large."""

    embedding: bool
    image: bool


class Index(ABC):
    """Documents with embeddings of one model, kept durably, searched by cosine similarity.

    ::

        with open_index("~/shop-index") as index:
            index.add(docs)  # ClipDocs with id, embedding and model_digest
            [matches] = index.search(
                tower.encode(["red rain boots"]), tower.digest, limit=20, filter="price < 30"
            )
            index.delete(ids=["1234"])

    **One model.** The first documents stamp the index with their `model_digest` and dimension.
    Documents and queries of another model raise `ModelMismatch`: their similarities would be
    meaningless. The stamp stays until `clear`, even when all documents have been deleted.

    **What is kept** of a document: id, text, uri, label, tags (exactly, as JSON has them), the
    embedding (as float32, or as the store's `storage` option says), its picture's SHA-256, and its
    picture's bytes if the store was opened with `store_images`.

    **Ids** are 1 to 512 bytes of UTF-8 without NUL; an `add` replaces the document of the same id.

    **Filters** (`filter=`) are expressions or mappings over tags and fields: see `filters`.

    **Threads and processes.** One object may be used by many threads. Stores that are folders may
    be open in several processes; a write is seen by the others' next call. An object must not
    be carried through a fork: open it in the process that uses it.

    All methods raise `BadInput` for wrong arguments and `Unavailable` if the store can't answer.

    A store implements the methods of the same names with an underscore, which get arguments that
    have been checked.
    """

    def add(self, docs: DocList[ClipDoc]) -> int:
        """Insert `docs`, replacing those whose ids are there; durable when it returns.

        All of the batch is written or nothing is; only in Milvus, a batch whose `add` raised
        `Unavailable` may be there in part: repeat it. Of several documents with one id in a batch
        the last is kept, as if they had been added one after the other. Transactions cost about
        15 ms: add batches of hundreds, not single documents, where you can.

        A document without the picture's bytes keeps the `image_digest` that it has.

        Returns: the number of documents written.
        Raises: `BadInput` naming position and id for a missing or malformed id, embedding
        (float [D], finite, not all zero, of the index's D), digest or tag; `ModelMismatch`.
        """
        self._check_open()
        check_docs(docs)
        return self._add(docs) if len(docs) else 0

    def search(
        self,
        embeddings: np.ndarray,
        model_digest: str,
        *,
        limit: int = 10,
        offset: int = 0,
        filter: Filter | None = None,
        score_threshold: float | None = None,
        exact: bool = False,
        without: Sequence[Collection[str]] = (),
        texts: Sequence[str] = (),
        alpha: float | None = None,
        ranking: Ranking | None = None,
    ) -> list[DocList[Match]]:
        """The nearest documents of each query.

        Args:
            embeddings: float [Q, D], of any length but zero.
            model_digest: of the model that made them; another than the index's raises
                `ModelMismatch`.
            limit: at most so many matches a query, after leaving out the `offset` best.
                offset + limit is at most 10,000.
            offset: how many of the best to leave out, for paging.
            filter: only documents that it holds for are considered (before the search, so
                `limit` is reached if there are so many).
            score_threshold: only matches of at least this score.
            exact: compare with every document, even if there is an ANN index. In Milvus this
                reads every embedding over the network: for checks, not for serving.
            without: for each query the ids of documents that are no matches of it, at most 1,000:
                those that it was made of. Empty: none, for no query.
            texts: for each query the words that documents are sought by too, fused with what is
                near; see `fusion.fuse`. Empty: by the embeddings alone. Where a store finds no
                words (`no_words`), `BadInput`.
            alpha: how much the embeddings count beside the words, from 0 to 1; None: reciprocal
                rank fusion.
            ranking: groups, another order, variety: see `Ranking`.

        Returns: for each query its matches, best first, ties by id; scores are cosines in
        [-1, 1]. An index without documents gives no matches.
        """
        check_window(limit, offset, score_threshold)
        check_texts(texts, alpha, len(embeddings))
        if any(texts) and self.no_words:
            raise BadInput(f"texts: {self.no_words}: search by the embeddings alone")
        if ranking is not None and any(texts):
            ranking.check_by_words()
        left_out = check_without(without, len(embeddings))
        asked = offset + limit + max(map(len, left_out), default=0) if limit else 0
        where = parse_filter(filter)
        search = Search(embeddings, model_digest, asked, where, exact, texts, alpha)
        least = -np.inf if score_threshold is None else score_threshold
        if ranking is not None:
            page = slice(offset, offset + limit)
            return self._answering(model_digest)._arranged(search, ranking, left_out, page, least)
        return [
            DocList[Match](match for match in matches if match.score >= least)
            for matches in self._ranked(search, left_out, slice(offset, offset + limit))
        ]

    def _ranked(
        self, search: Search, without: Sequence[frozenset[str]], window: slice
    ) -> Iterator[list[Match]]:
        """Each query's matches in a window, best first."""
        for position, matches in enumerate(self._fused(search)):
            ids = without[position] if without else frozenset()
            yield [match for match in matches if match.id not in ids][window]

    def _fused(self, search: Search) -> list[list[Match]]:
        """By meaning, or by words too where the queries have some."""
        if not search.limit or not any(search.texts):
            return self._search(search)
        search = replace(search, limit=max(search.limit, DEPTH))
        with ThreadPoolExecutor(1, thread_name_prefix="cliptune-words") as beside:
            by_words = beside.submit(self._word_search, search)
            by_meaning = self._search(search)
            rankings = zip(by_meaning, by_words.result(), search.texts, strict=True)
        return [
            fuse(near, worded, text, search.alpha) if text else near
            for near, worded, text in rankings
        ]

    @property
    @abstractmethod
    def no_words(self) -> str | None:
        """Why documents can't be found by words; None: they can."""

    @abstractmethod
    def _word_search(self, search: Search) -> list[list[WordMatch]]:
        """For each query the `limit` documents that have its words, best first."""

    def embeddings(self, ids: Iterable[str], model_digest: str) -> dict[str, np.ndarray]:
        """The stored embeddings with these ids, float32 [D] each; ids that aren't there are left
        out.

        Raises:
            ModelMismatch: the index holds embeddings of another model than `model_digest`.
        """
        stored = self._get(check_ids(ids), Parts(embedding=True, image=False))
        check_digests(stored, model_digest)
        return {str(doc.id): np.asarray(doc.embedding) for doc in stored}

    def _answering(self, model_digest: str) -> Index:
        """The index that answers queries of this model."""
        return self

    def _arranged(
        self,
        search: Search,
        ranking: Ranking,
        without: Sequence[frozenset[str]],
        page: slice,
        least: float,
    ) -> list[DocList[Match]]:
        queries = np.asarray(search.embeddings)
        spare = max(map(len, without), default=0)

        def find(positions: Sequence[int], limit: int, where: Node | None) -> list[list[Match]]:
            nodes = [node for node in (search.where, where) if node is not None]
            asked = replace(
                search,
                embeddings=queries[list(positions)],
                texts=[search.texts[position] for position in positions] if search.texts else (),
                limit=limit + spare,
                where=And(tuple(nodes)) if nodes else None,
            )
            left_out = [without[position] for position in positions] if without else ()
            return list(self._ranked(asked, left_out, slice(limit)))

        self._search(replace(search, limit=0))  # says what is wrong with the queries
        stored = partial(self.embeddings, model_digest=search.model_digest)
        answers = arrange(ranking, find, len(queries), page, least, stored)
        if ranking.group_by is not None:
            self._count_more(ranking.group_by, answers, search.where)
        return [DocList[Match](matches) for matches in answers]

    def _count_more(self, path: str, answers: list[list[Match]], where: Node | None) -> None:
        """Say of each match how many more documents of its group there are."""
        matches = [match for matches in answers for match in matches]
        groups = [group_of(match, path) for match in matches]
        values = {group[0]: group[1] for group in groups if group is not None}
        sizes = self._sizes(path, values, where) if values else {}
        for match, group in zip(matches, groups, strict=True):
            match.more = 0 if group is None else max(0, sizes[group[0]] - 1)

    def facets(self, wanted: Facets, filter: Filter | None = None) -> dict[str, Facet]:
        """How often the values of these tags occur in the documents that a filter leaves.

        Args:
            wanted: at most 32 tags, or tags with options: see `facets.counting`.
            filter: as `search` takes it; None: all documents.

        Returns: by tag, in the order given. A tag that no document has is one without values.
        """
        options, where = parse_facets(wanted), parse_filter(filter)
        self._check_open()
        columns = self._columns(list(options), where) if options else {}
        return {path: facet(columns[path], one) for path, one in options.items()}

    def count_groups(self, path: str, filter: Filter | None = None) -> int:
        """How many groups the documents that a filter leaves make by the tag at `path`.

        A document without it, or with several values, is a group of its own.
        """
        return self._columns([path], parse_filter(filter))[path].groups()

    def known_tags(self) -> KnownTags:
        """Which tags documents have, with types, numbers of documents, and values for example.

        Told from memory until something is written; where the store doesn't tell of writes, for
        a minute. Of 20,000 documents at most, where the store has no quicker way to all.
        """
        version, now = self.version(), time.monotonic()
        known = self._tags_told
        if known is None or known[0] != version or known[1] < now:
            lasts = np.inf if version.number is not None else _TAGS_FOR
            known = self._tags_told = (version, now + lasts, self._known_tags())
        return known[2]

    @cached_property
    def _tags_told(self) -> tuple[Version, float, KnownTags] | None:
        return None

    def _known_tags(self) -> KnownTags:
        docs = (doc for batch in self.scan(batch_size=1000) for doc in batch)
        looked_at, counts = count_terms(doc.tags for doc in islice(docs, TAGS_OF))
        return KnownTags.of(self.count(), looked_at, counts)

    def delete(self, *, ids: Iterable[str] | None = None, filter: Filter | None = None) -> int:
        """Delete the documents with these ids, or those a filter holds for, or (both) that do both.

        Returns: how many were deleted; ids that aren't there count nothing. An empty filter
        raises `BadInput`: `clear` deletes everything.
        """
        where = parse_filter(filter)
        if ids is None and where is None:
            raise BadInput("delete: give ids or a filter; clear() deletes everything")
        return self._delete(None if ids is None else check_ids(ids), where)

    def get(
        self,
        ids: Iterable[str],
        *,
        include_embedding: bool = False,
        include_image: bool = False,
    ) -> DocList[ClipDoc]:
        """The documents with these ids, in the order asked for; ids that aren't there are left out.

        With `include_embedding` they have `embedding` (float32 [D]) and `model_digest`, with
        `include_image` the stored picture's bytes.
        """
        return self._get(check_ids(ids), Parts(include_embedding, include_image))

    def scan(
        self,
        *,
        after: str | None = None,
        batch_size: int = 1000,
        include_embedding: bool = False,
        include_image: bool = False,
    ) -> Iterator[DocList[ClipDoc]]:
        """All documents in batches, in ascending order of their ids (as UTF-8), as `get` has them.

        Args:
            after: leave out the documents up to this id: a scan goes on where another one ended.
            batch_size: documents in a batch; keep it small where pictures are included.
            include_embedding, include_image: as `get` has them.

        A folder's index gives the documents as they were when the scan began. Others give each
        document as it is when its batch is read.
        """
        check_scan(after, batch_size)
        self._check_open()
        return self._scan(after, batch_size, Parts(include_embedding, include_image))

    def count(self, filter: Filter | None = None) -> int:
        """How many documents there are, or how many a filter holds for."""
        return self._count(parse_filter(filter))

    def warnings(self, filter: Filter | None, *, found: bool) -> list[str]:
        """Sentences about what of a filter can never hold, for who has written it.

        Tags that no document has, or never of the type that they are compared with, with near
        matches; where nothing was found also values that occur in another case. Or that the index
        is empty. It is cheap for filters that find something: see `filter_warnings`.

        Args:
            filter: as `search`, `delete` and `count` take it.
            found: whether it held for any document.
        """
        return self._filter_warnings.of(filter, found=found)

    @cached_property
    def _filter_warnings(self) -> FilterWarnings:
        return FilterWarnings(self)

    def version(self) -> Version:
        """Which state the index is in."""
        return Version(self.status().uri, None)

    def tag_names(self) -> frozenset[str]:
        """The tags' paths (`size.width`) that documents have, for near matches.

        Those of some thousand documents, where the store has no quicker way to all of them.
        """
        return names_in(doc.tags for doc in self._some())

    def tag_values(self, path: str) -> frozenset[str]:
        """Texts that stand at a tag's path, for near matches; of how many documents, as above."""
        return texts_in((doc.tags for doc in self._some()), path)

    def _some(self) -> Iterator[ClipDoc]:
        docs = (doc for batch in self.scan(batch_size=1000) for doc in batch)
        return islice(docs, SAMPLE)

    @abstractmethod
    def clear(self) -> None:
        """Delete everything, the stamp included: the next `add` may be of another model."""

    @abstractmethod
    def status(self) -> IndexStatus:
        """Rows, dimension, digest and state."""

    @abstractmethod
    def optimize(self) -> IndexStatus:
        """Build or refresh the ANN index and tidy the storage; searches and writes go on meanwhile.

        Call it after loading much, and when `status().optimize_due` says so.
        """

    def tune(
        self,
        queries: np.ndarray | None = None,
        model_digest: str | None = None,
        *,
        recall: float = RECALL,
        progress: Callable[[int, int], None] = lambda done, most: None,
    ) -> TunedSearch:
        """Choose how the ANN index is searched by what it finds, and keep that with the index.

        It is the cheapest way that finds the share `recall` of each query's ten nearest, compared
        with an exact search; or the one that finds most, where none does. The same holds for all
        processes that have the index open, until the index has twice the documents.

        Args:
            queries: float [Q, D] of queries as they will be asked, some hundred; None: of
                documents. Titles lie elsewhere than pictures do, and are harder to answer.
            model_digest: of the model that made the queries.
            recall: more than 0 and at most 1.
            progress: is told of each setting tried: how many so far, and of how many at most.

        Raises:
            BadInput: it has no ANN index, or is no folder; a value is out of range.
            ModelMismatch: the queries are another model's.
        """
        raise BadInput(
            f"{self.status().uri}: only a folder's index is tuned; of a collection in Milvus say "
            "how many candidates a search has, `?ef=` in its address"
        )

    @abstractmethod
    def close(self) -> None:
        """Let go of files and connections; any later call raises `BadInput`."""

    @abstractmethod
    def _check_open(self) -> None: ...

    @abstractmethod
    def _add(self, docs: DocList[ClipDoc]) -> int: ...

    @abstractmethod
    def _search(self, search: Search) -> list[list[Match]]: ...

    @abstractmethod
    def _delete(self, ids: list[str] | None, where: Node | None) -> int: ...

    @abstractmethod
    def _get(self, ids: list[str], parts: Parts) -> DocList[ClipDoc]: ...

    @abstractmethod
    def _scan(
        self, after: str | None, batch_size: int, parts: Parts
    ) -> Iterator[DocList[ClipDoc]]: ...

    @abstractmethod
    def _count(self, where: Node | None) -> int: ...

    @abstractmethod
    def _columns(self, paths: Sequence[str], where: Node | None) -> dict[str, Column]: ...

    def _sizes(
        self, path: str, values: Mapping[str, str | float | bool], where: Node | None
    ) -> dict[str, int]:
        """How many documents have each of these values, given by their `tags.term`s."""
        sizes = {}
        for key, value in values.items():
            has = Compare(Field(path), "==", value)
            sizes[key] = self._count(has if where is None else And((has, where)))
        return sizes

    def __enter__(self) -> Self:
        """The index itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the index."""
        self.close()
