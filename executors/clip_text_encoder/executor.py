"""CLIPTextEncoder: texts to embeddings. Documents without a text pass through."""

import cliptune.serving  # noqa: F401  (first: it keeps Jina from calling home)
from docarray import DocList
from jina import requests

from cliptune.documents import ClipDoc, RankDoc
from cliptune.serving.encoding import embed_all_texts, embed_texts
from cliptune.serving.executor import ObservedExecutor
from cliptune.serving.ranking import rank_texts
from cliptune.serving.reports import Report
from cliptune.serving.towers import serve_tower


class CLIPTextEncoder(ObservedExecutor):
    """Embeds the documents that have a `text`, for `/encode` and `/search`."""

    def __init__(
        self,
        artifact: str | None = None,
        is_onnx: bool | None = None,
        precision: str | None = None,
        device: str | None = None,
        batch_size: int = 32,
        max_wait_ms: float = 2.0,
        query_cache: int = 10_000,
        **kwargs,
    ) -> None:
        """Load the text tower.

        Args:
            artifact: an artifact's path, or a model's name; None: CLIPTUNE_ARTIFACT or `builtin`.
            is_onnx: run the artifact's ONNX model; None: CLIPTUNE_ONNX or no.
            precision: `fp32`, or what `cliptune quantize` added; None: CLIPTUNE_PRECISION.
            device: `cpu`, `cuda`, …; None: CLIPTUNE_DEVICE or the accelerator that is there.
            batch_size: texts that go through the tower at once, of several requests too.
            max_wait_ms: how long a batch waits to be full while requests overlap.
            query_cache: how many texts' embeddings are remembered; 0: none.
            kwargs: Jina's own.
        """
        super().__init__(**kwargs)
        self.tower = serve_tower(
            "clip-text",
            artifact,
            is_onnx,
            precision,
            device,
            batch_size=batch_size,
            max_wait_ms=max_wait_ms,
            replicas=getattr(self.runtime_args, "replicas", 1),
            observe=self.tower_observer(),
        )
        if query_cache:
            from cliptune.inference.cache import EmbeddingCache

            self.tower.cache = EmbeddingCache(query_cache)

    @requests(on=["/", "/encode"])
    def encode(self, docs: DocList[ClipDoc], **kwargs) -> DocList[ClipDoc]:
        """Set `embedding` and `model_digest` of the documents with a text."""
        return embed_texts(self.tower, docs)

    @requests(on="/search")
    def search(self, docs: DocList[ClipDoc], **kwargs) -> DocList[ClipDoc]:
        """Embed the queries that are texts."""
        return embed_texts(self.tower, docs)

    @requests(on="/rank")
    def rank(self, docs: DocList[RankDoc], **kwargs) -> DocList[RankDoc]:
        """Embed the texts among documents and matches."""
        return rank_texts(self.tower, docs)

    @requests(on="/index_texts")
    def index_texts(self, docs: DocList[ClipDoc], **kwargs) -> DocList[ClipDoc]:
        """Embed each document's text."""
        return embed_all_texts(self.tower, docs)

    @requests(on="/status")
    def status(self, docs: DocList[ClipDoc], **kwargs) -> DocList[Report]:
        """The model served."""
        values = {
            "model_digest": self.tower.digest,
            "output_dim": self.tower.output_dim,
            "truncated_texts": self.tower.truncated,
            "cache_hits": self.tower.cache.hits if self.tower.cache else 0,
        }
        return DocList[Report]([Report(source="text", values=values)])
