"""CLIPTextEncoder: texts to embeddings. Documents without a text pass through."""

from docarray import DocList

from cliptune.documents import ClipDoc, RankDoc
from cliptune.executors.base import ObservedExecutor
from cliptune.executors.encoding import embed_all_texts, embed_texts
from cliptune.executors.ranking import rank_texts
from cliptune.executors.shared_towers import serve_towers
from cliptune.protocol.jina_compat import requests
from cliptune.protocol.limits import SearchParameters, read_parameters
from cliptune.protocol.status import Report, TowerStatus
from cliptune.settings import Settings


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
        """Load the text tower: that of the index's current generation, if it has some.

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
        settings = Settings.read(
            artifact=artifact, onnx=is_onnx, precision=precision, device=device
        )
        super().__init__(settings, **kwargs)
        self.towers = serve_towers(
            "clip-text",
            settings,
            batch_size=batch_size,
            max_wait_ms=max_wait_ms,
            replicas=getattr(self.runtime_args, "replicas", 1),
            observe=self.tower_observer(),
            query_cache=query_cache,
        )

    @requests(on=["/", "/encode"])
    def encode(self, docs: DocList[ClipDoc], **kwargs) -> DocList[ClipDoc]:
        """Set `embedding` and `model_digest` of the documents with a text."""
        return embed_texts(self.towers.pick(), docs)

    @requests(on="/search")
    def search(
        self, docs: DocList[ClipDoc], parameters: dict | None = None, **kwargs
    ) -> DocList[ClipDoc]:
        """Embed the queries that are texts, by the model asked for."""
        model = read_parameters(SearchParameters, parameters).model
        return embed_texts(self.towers.pick(model), docs)

    @requests(on="/rank")
    def rank(self, docs: DocList[RankDoc], **kwargs) -> DocList[RankDoc]:
        """Embed the texts among documents and matches."""
        return rank_texts(self.towers.pick(), docs)

    @requests(on="/index_texts")
    def index_texts(self, docs: DocList[ClipDoc], **kwargs) -> DocList[ClipDoc]:
        """Embed each document's text."""
        return embed_all_texts(self.towers.pick(), docs)

    @requests(on="/status")
    def status(self, docs: DocList[ClipDoc], **kwargs) -> DocList[Report]:
        """The model served."""
        tower = self.towers.pick()
        status = TowerStatus(
            model_digest=tower.digest,
            output_dim=tower.output_dim,
            truncated_texts=tower.truncated,
            cache_hits=tower.cache.hits if tower.cache else 0,
            **self.towers.status(),
        )
        return DocList[Report]([status.report("text")])
