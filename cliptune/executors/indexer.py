"""Indexer: keeps embedded documents in an index, and answers queries from it."""

from contextlib import suppress

from docarray import DocList

from cliptune.documents import ClipDoc, QueryDoc, SearchResult
from cliptune.errors import Unavailable
from cliptune.executors import indexing, recording
from cliptune.executors.base import ObservedExecutor
from cliptune.observability import metrics
from cliptune.protocol import endpoints, redaction
from cliptune.protocol.documents import Report
from cliptune.protocol.jina_compat import requests
from cliptune.protocol.parameters import (
    DeleteParameters,
    FeedbackParameters,
    GetParameters,
    IdsParameters,
    IndexParameters,
    NoParameters,
    SearchParameters,
    read_parameters,
)
from cliptune.settings import Settings


def report(values: dict[str, object]) -> DocList[Report]:
    """The answer of an endpoint without documents."""
    return DocList[Report]([Report(source="indexer", values=values)])


class Indexer(ObservedExecutor):
    """The index behind all that is stored and searched."""

    def __init__(
        self,
        folder: str | None = None,
        storage: str | None = None,
        generations: str | None = None,
        **kwargs: object,
    ) -> None:
        """Open the index, or make it.

        Args:
            folder: where it is, or a Milvus collection's address; None: CLIPTUNE_INDEX or `index`
                in CLIPTUNE_HOME.
            storage: how a new folder's index keeps embeddings, `float32` or `float16`; None:
                CLIPTUNE_INDEX_STORAGE, or as the index has them.
            generations: the folder that says which generation is current, and has their models;
                None: CLIPTUNE_GENERATIONS or `generations` in the index's folder.
            kwargs: Jina's own.
        """
        settings = Settings.read(index=folder, index_storage=storage, generations=generations)
        super().__init__(settings, **kwargs)
        # Here, in the executor's own process: native threads don't survive Jina's fork.
        from cliptune.index.versions.versioned_index import VersionedIndex

        self.store = VersionedIndex(
            settings.index_uri,
            settings.generations,
            storage=settings.index_storage,
            tidy=True,
        )
        self.optimizer = indexing.BackgroundOptimizer(self.store)
        self.recorder = recording.recorder(settings)
        self.place = redaction.note(settings.home, indexing.where(self.store))
        self._count_rows()

    @requests(on=[endpoints.INDEX.path, endpoints.INDEX_TEXTS.path])
    def index(
        self, docs: DocList[ClipDoc], parameters: dict[str, object], **kwargs: object
    ) -> DocList[ClipDoc]:
        """Store embedded documents, replacing those of the same ids; answers with ids."""
        read = read_parameters(IndexParameters, parameters)
        with self.stage("index"):
            answer = indexing.add(self.store, docs, read)
        self.optimizer.wake()
        self._count_rows()
        return answer

    @requests(on=endpoints.UPDATE.path)
    def update(
        self, docs: DocList[ClipDoc], parameters: dict[str, object], **kwargs: object
    ) -> DocList[Report]:
        """Replace what the documents have of the stored ones of the same ids."""
        read_parameters(NoParameters, parameters)
        with self.stage("index"):
            answer = report(indexing.update(self.store, docs))
        self.optimizer.wake()
        self._count_rows()
        return answer

    @requests(on=endpoints.SEARCH.path)
    def search(
        self, docs: DocList[QueryDoc], parameters: dict[str, object], **kwargs: object
    ) -> DocList[SearchResult]:
        """The nearest documents of each embedded query."""
        read = read_parameters(SearchParameters, parameters)
        with self.stage("index"):
            results = indexing.search(self.store, docs, read)
        if self.recorder is not None and read.record:
            recording.record(self.recorder, docs, results, read)
        return results

    @requests(on=endpoints.FEEDBACK.path)
    def feedback(
        self, docs: DocList[ClipDoc], parameters: dict[str, object], **kwargs: object
    ) -> DocList[Report]:
        """Record what somebody did with documents that a search had shown."""
        read = read_parameters(FeedbackParameters, parameters)
        return report(recording.take_feedback(self.recorder, read))

    @requests(on=endpoints.DELETE.path)
    def delete(
        self, docs: DocList[ClipDoc], parameters: dict[str, object], **kwargs: object
    ) -> DocList[Report]:
        """Delete the documents with the ids given, or those that a filter holds for."""
        deleted = indexing.delete(self.store, docs, read_parameters(DeleteParameters, parameters))
        self._count_rows()
        return report(deleted)

    @requests(on=endpoints.GET.path)
    def get(
        self, docs: DocList[ClipDoc], parameters: dict[str, object], **kwargs: object
    ) -> DocList[ClipDoc]:
        """The stored documents with the ids of `docs`; those that aren't there are left out."""
        return indexing.get(self.store, docs, read_parameters(GetParameters, parameters))

    @requests(on=endpoints.IDS.path)
    def ids(
        self, docs: DocList[ClipDoc], parameters: dict[str, object], **kwargs: object
    ) -> DocList[ClipDoc]:
        """A page of the stored documents' ids, in ascending order."""
        return indexing.ids(self.store, read_parameters(IdsParameters, parameters))

    @requests(on=endpoints.TAGS.path)
    def known_tags(
        self, docs: DocList[ClipDoc], parameters: dict[str, object], **kwargs: object
    ) -> DocList[Report]:
        """Which tags the stored documents have."""
        read_parameters(NoParameters, parameters)
        return report(dict(self.store.known_tags().to_dict()))

    @requests(on=endpoints.STATUS.path)
    def status(
        self, docs: DocList[Report], parameters: dict[str, object], **kwargs: object
    ) -> DocList[Report]:
        """Add to the encoders' reports: rows, dimension, digest and state of the index, its
        generations, and how far a swap is.
        """
        read_parameters(NoParameters, parameters)
        docs.append(indexing.status(self.store, self.place).report("indexer"))
        return docs

    @requests(on=endpoints.CLEAR.path)
    def clear(
        self, docs: DocList[ClipDoc], parameters: dict[str, object], **kwargs: object
    ) -> DocList[Report]:
        """Delete everything: the next documents may be of another model."""
        read_parameters(NoParameters, parameters)
        deleted = self.store.count()
        self.store.clear()
        self._count_rows()
        return report({"deleted": deleted})

    def _count_rows(self) -> None:
        # A server that is away has its errors told by calls, not by what they are counted with.
        with suppress(Unavailable):
            metrics.INDEX_ROWS.set(self.store.count())

    def close(self) -> None:
        """Let go of the index's files."""
        redaction.forget(self.settings.home, self.place)
        if self.recorder is not None:
            self.recorder.close()
        self.optimizer.close()
        self.store.close()
