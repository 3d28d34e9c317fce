"""What the indexer executor does: documents in and out of an index."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from docarray import DocList

from cliptune.documents import ClipDoc, Match, QueryDoc, SearchResult
from cliptune.errors import BadInput, Unavailable
from cliptune.executors import relevance
from cliptune.executors.composing import compose
from cliptune.protocol import redaction, tags
from cliptune.protocol.parameters import (
    DeleteParameters,
    Filter,
    GetParameters,
    IdsParameters,
    IndexParameters,
    SearchParameters,
)
from cliptune.protocol.status import IndexStatus

if TYPE_CHECKING:  # importing it imports LanceDB, which must not happen before Jina's fork
    from cliptune.index import Index
    from cliptune.index.facets.counting import Facets
    from cliptune.index.filters.language import Node
    from cliptune.index.ranking.options import Ranking
    from cliptune.index.versions.versioned_index import VersionedIndex

log = logging.getLogger("cliptune")
_IDS_A_COUNT = 1000


def add(
    index: Index, docs: DocList[ClipDoc], parameters: IndexParameters | None = None
) -> DocList[ClipDoc]:
    """Store `docs`; returns their ids, and their embeddings if asked for.

    Raises:
        BadInput: a document can't be stored.
        ModelMismatch: the index holds embeddings of another model.
    """
    tags.unpack(docs)
    index.add(docs)
    if parameters is None or not parameters.include_embedding:
        return DocList[ClipDoc]([ClipDoc(id=doc.id) for doc in docs])
    return DocList[ClipDoc](
        ClipDoc(id=doc.id, embedding=doc.embedding, model_digest=doc.model_digest) for doc in docs
    )


def search(
    index: Index, docs: DocList[QueryDoc], parameters: SearchParameters
) -> DocList[SearchResult]:
    """Each query with its matches; a query's picture, parts and embedding are not sent back.

    Documents that are parts of a query are left out of its matches.

    Raises:
        BadInput: a query can't be composed: see `compose`.
        BadFilter: the filter is wrong.
        ModelMismatch: the index holds embeddings of another model.
        NotReady, BadInput: `min_relevance` is asked of a model that isn't calibrated, or of others
            than texts that find pictures.
    """
    ranking, counted = _ranking(parameters), _counted(parameters)
    matches_of: dict[int, DocList[Match]] = {}
    for queries in compose(index, docs):
        matches = index.search(
            queries.embeddings,
            queries.model_digest,
            limit=parameters.limit,
            offset=parameters.offset,
            filter=parameters.filter,
            score_threshold=relevance.threshold(docs, queries.positions, parameters),
            exact=parameters.exact,
            without=queries.named,
            texts=queries.texts if parameters.hybrid else (),
            alpha=parameters.meaning_share,
            ranking=ranking,
        )
        matches_of |= dict(zip(queries.positions, matches, strict=True))
    for position, of_query in matches_of.items():
        relevance.judge(docs[position], of_query, parameters.min_relevance)
    warnings = warn(index, parameters.filter, found=any(matches_of.values()))
    warnings = [*warnings, *_of_named_tags(index, ranking, parameters, warnings)]
    total = index.count(parameters.filter) if parameters.include_total else None
    groups = None
    if parameters.include_total and ranking and ranking.group_by:
        groups = index.count_groups(ranking.group_by, parameters.filter)
    facets = None
    if counted is not None:
        facets = {k: v.to_dict() for k, v in index.facets(counted, parameters.filter).items()}
    for of_query in matches_of.values():
        for match in of_query:
            has_picture = match.image_digest is not None
            match.image_url = redaction.image_url(str(match.id), has_picture, match.uri)
            match.uri = redaction.shown_link(match.uri)
    results = DocList[SearchResult](
        SearchResult(
            id=doc.id,
            text=doc.text,
            tags=doc.tags,
            model_digest=doc.model_digest,
            matches=matches_of[position],
            warnings=warnings,
            total=total,
            groups=groups,
            facets=facets,
        )
        for position, doc in enumerate(docs)
    )
    tags.pack(results)
    return results


def _ranking(parameters: SearchParameters) -> Ranking | None:
    """What is to be made of the nearest documents; None: nothing."""
    from cliptune.index.ranking.options import Ranking

    names = ("group_by", "sort_by", "formula", "diversity", "candidates")
    given = {name: getattr(parameters, name) for name in names}
    return Ranking(**given) if any(value is not None for value in given.values()) else None


def _counted(parameters: SearchParameters) -> Facets | None:
    """The tags whose values are to be counted, checked; None: none."""
    from cliptune.index.facets.counting import parse_facets

    given = parameters.facets
    if given is None:
        return None
    wanted: Facets = (
        {path: options.model_dump(exclude_none=True) for path, options in given.items()}
        if isinstance(given, dict)
        else given
    )
    parse_facets(wanted)  # before the search
    return wanted


def _of_named_tags(
    index: Index, ranking: Ranking | None, parameters: SearchParameters, said: list[str]
) -> list[str]:
    """What there is to say of tags that are named elsewhere than in the filter."""
    from cliptune.index.filters.language import And, Compare, Field, In, Not

    named = ranking.tags() if ranking else {}
    wanted = [*named.get("group_by", ()), *named.get("sort_by", ())]
    wanted += [Field(path) for path in parameters.facets or ()]
    nodes: list[Node] = [Not(Compare(field, "==", None)) for field in wanted]
    nodes += [In(field, (0.0, True)) for field in named.get("formula", ())]
    sentences = warn(index, And(tuple(nodes)), found=True) if nodes else []
    return [one for one in sentences if one not in said]


def warn(index: Index, filter: Filter | Node | None, *, found: bool) -> list[str]:
    """What there is to say of a filter by which something was found or nothing.

    The answer itself is more important: what keeps the index from looking is only logged.
    """
    if found and filter is None:
        return []
    try:
        return index.warnings(filter, found=found)
    except Unavailable as error:
        log.warning("no warnings about the filter: %s", error)
        return []


def ids(index: Index, parameters: IdsParameters) -> DocList[ClipDoc]:
    """The ids of stored documents, in ascending order as UTF-8; nothing else of them."""
    batches = index.scan(after=parameters.after, batch_size=parameters.limit)
    return DocList[ClipDoc](ClipDoc(id=doc.id) for doc in next(batches, ()))


def delete(index: Index, docs: DocList[ClipDoc], parameters: DeleteParameters) -> dict[str, object]:
    """Delete by ids (of `docs`, or the parameter) or by filter.

    Returns: `deleted`, or with `dry_run` `matched`: how many were, or would be; and `warnings`.

    Raises:
        BadInput: neither is given.
        BadFilter: the filter is wrong.
    """
    ids = [str(doc.id) for doc in docs] + list(parameters.ids or [])
    if not ids and parameters.ids is None and parameters.filter is None:
        raise BadInput("delete needs ids or a filter; clear deletes everything")
    given = ids if parameters.ids is not None or docs else None
    warnings = []
    if parameters.filter is not None:
        # Before it is done: a filter that has deleted all it holds for would never hold.
        warnings = warn(index, parameters.filter, found=bool(index.count(parameters.filter)))
    if parameters.dry_run:
        return {"matched": _matched(index, given, parameters.filter), "warnings": warnings}
    return {"deleted": index.delete(ids=given, filter=parameters.filter), "warnings": warnings}


def _matched(index: Index, ids: list[str] | None, filter: Filter | None) -> int:
    """How many documents `delete` would delete."""
    from cliptune.index.checks import check_ids
    from cliptune.index.filters.language import And, Field, In
    from cliptune.index.filters.parser import parse_filter

    node = parse_filter(filter)
    if ids is None:
        return index.count(node)
    wanted, count = check_ids(ids), 0
    for start in range(0, len(wanted), _IDS_A_COUNT):
        among = In(Field("id", builtin=True), tuple(wanted[start : start + _IDS_A_COUNT]))
        count += index.count(among if node is None else And((among, node)))
    return count


def get(index: Index, docs: DocList[ClipDoc], parameters: GetParameters) -> DocList[ClipDoc]:
    """The stored documents with the ids of `docs`."""
    stored = index.get(
        [str(doc.id) for doc in docs],
        include_embedding=parameters.include_embedding,
        include_image=parameters.include_image,
    )
    for doc in stored:
        doc.uri = redaction.shown_uri(doc.uri)
    tags.pack(stored)
    return stored


def where(index: VersionedIndex) -> dict[str, str]:
    """Where `cliptune swap` finds what it works on."""
    return {
        "index_uri": _shown(index.generations.index_uri),
        "generations_folder": str(index.generations.folder),
    }


def status(index: VersionedIndex, place: str) -> IndexStatus:
    """The current generation's index, all generations, and how far a swap is.

    Where they are is for the operator alone, others are told the note (`places.note`).
    """
    from cliptune.index.versions.progress import read_progress

    fields = index.status().to_dict()
    hidden = {} if redaction.OPERATOR.get() else {"uri": None}
    return IndexStatus(
        **{**fields, **hidden},
        **(where(index) if redaction.OPERATOR.get() else {}),
        words=index.no_words is None,
        place=place,
        generations=index.describe_generations() or None,
        swap=read_progress(index.generations),
    )


def _shown(uri: str) -> str:
    """A URI without the name and password that it may hold."""
    parts = urlsplit(uri)
    if not parts.netloc:
        return uri
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def update(index: Index, docs: DocList[ClipDoc]) -> dict[str, object]:
    """Replace what `docs` have of the stored documents of their ids.

    A picture replaces the picture and its embedding. A text, label or URI replaces the stored one.
    Tags are merged name by name; a tag of None is removed. Where one id comes twice, the later
    document changes what the earlier one made.

    Returns: `updated`, how many were there, and `missing`, the ids that weren't.

    Raises:
        BadInput: a document can't be stored.
        ModelMismatch: the index holds embeddings of another model.
    """
    tags.unpack(docs)
    ids = list(dict.fromkeys(str(doc.id) for doc in docs))
    stored = index.get(ids, include_embedding=True, include_image=True)
    held = {str(doc.id): doc for doc in stored}
    for doc in docs:
        if (old := held.get(str(doc.id))) is not None:
            _merge(old, doc)
    if held:
        index.add(DocList[ClipDoc](held.values()))
    return {"updated": len(held), "missing": [one for one in ids if one not in held]}


def _merge(old: ClipDoc, new: ClipDoc) -> None:
    for field in ("text", "label", "uri"):
        if (value := getattr(new, field)) is not None:
            setattr(old, field, value)
    if new.image is not None:
        old.image, old.image_digest = new.image, None
        old.embedding, old.model_digest = new.embedding, new.model_digest
    merged = {**old.tags, **new.tags}
    old.tags = {name: value for name, value in merged.items() if value is not None}


class BackgroundOptimizer:
    """Optimises an index in the background, once its writes have paused."""

    def __init__(self, index: Index, pause: float = 5.0) -> None:
        """Begin to wait for writes.

        Args:
            index: it is searched and written to meanwhile, as its interface allows.
            pause: seconds without a write before the work starts.
        """
        self.index = index
        self.pause = pause
        self._written = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="cliptune-tidy", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Note that something was written."""
        self._written.set()

    def close(self) -> None:
        """End after what is being done now."""
        self._ended.set()
        self._written.set()
        self._thread.join(timeout=30)

    def _work(self) -> None:
        while not self._ended.is_set():
            self._written.wait()
            while self._written.is_set() and not self._ended.is_set():
                self._written.clear()
                self._ended.wait(self.pause)
            if self._ended.is_set():
                return
            try:
                if self.index.status().optimize_due:
                    self.index.optimize()
            except Exception:
                log.exception("the index could not be optimised; it is searched as it is")
