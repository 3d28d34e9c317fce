"""CLIPVisionEncoder: pictures to embeddings. Documents with a text pass through."""

from docarray import DocList

from cliptune.documents import ClipDoc, RankDoc
from cliptune.executors.base import ObservedExecutor
from cliptune.executors.encoding import embed_all_pictures, embed_new_pictures, embed_pictures
from cliptune.executors.fetching import Fetcher
from cliptune.executors.ranking import rank_pictures
from cliptune.executors.shared_towers import serve_towers
from cliptune.protocol.jina_compat import requests
from cliptune.protocol.status import Report, TowerStatus
from cliptune.settings import Settings


class CLIPVisionEncoder(ObservedExecutor):
    """Embeds pictures, for `/encode`, `/index` and `/search`."""

    def __init__(
        self,
        artifact: str | None = None,
        is_onnx: bool | None = None,
        precision: str | None = None,
        device: str | None = None,
        batch_size: int = 32,
        max_wait_ms: float = 2.0,
        **kwargs,
    ) -> None:
        """Load the vision tower: that of the index's current generation, if it has some.

        Args:
            artifact: an artifact's path, or a model's name; None: CLIPTUNE_ARTIFACT or `builtin`.
            is_onnx: run the artifact's ONNX model; None: CLIPTUNE_ONNX or no.
            precision: `fp32`, or what `cliptune quantize` added; None: CLIPTUNE_PRECISION.
            device: `cpu`, `cuda`, …; None: CLIPTUNE_DEVICE or the accelerator that is there.
            batch_size: pictures that go through the tower at once, of several requests too.
            max_wait_ms: how long a batch waits to be full while requests overlap.
            kwargs: Jina's own.
        """
        settings = Settings.read(
            artifact=artifact, onnx=is_onnx, precision=precision, device=device
        )
        super().__init__(settings, **kwargs)
        self.towers = serve_towers(
            "clip-vision",
            settings,
            batch_size=batch_size,
            max_wait_ms=max_wait_ms,
            replicas=getattr(self.runtime_args, "replicas", 1),
            observe=self.tower_observer(),
        )
        self.fetcher = Fetcher.allowed_by(self.settings)

    @requests(on=["/", "/encode"])
    def encode(self, docs: DocList[ClipDoc], **kwargs) -> DocList[ClipDoc]:
        """Set `embedding` and `model_digest` of the documents without a text."""
        tower = self.towers.of(doc.model_digest for doc in docs)
        return embed_pictures(tower, docs, self.fetcher)

    @requests(on="/search")
    def search(self, docs: DocList[ClipDoc], **kwargs) -> DocList[ClipDoc]:
        """Embed the queries that are pictures."""
        tower = self.towers.of(doc.model_digest for doc in docs)
        return embed_pictures(tower, docs, self.fetcher)

    @requests(on="/index")
    def index(self, docs: DocList[ClipDoc], **kwargs) -> DocList[ClipDoc]:
        """Embed each document's picture; its text is the title, shown and not embedded."""
        return embed_all_pictures(self.towers.pick(), docs, self.fetcher)

    @requests(on="/rank")
    def rank(self, docs: DocList[RankDoc], **kwargs) -> DocList[RankDoc]:
        """Embed the pictures among documents and matches, and sort the matches."""
        both = [one.model_digest for doc in docs for one in (doc, *doc.matches)]
        return rank_pictures(self.towers.of(both), docs, self.fetcher)

    @requests(on="/update")
    def update(self, docs: DocList[ClipDoc], **kwargs) -> DocList[ClipDoc]:
        """Embed the pictures that are to replace stored ones."""
        return embed_new_pictures(self.towers.pick(), docs, self.fetcher)

    @requests(on="/status")
    def status(self, docs: DocList[Report], **kwargs) -> DocList[Report]:
        """The model served."""
        tower = self.towers.pick()
        status = TowerStatus(
            model_digest=tower.digest, output_dim=tower.output_dim, **self.towers.status()
        )
        docs.append(status.report("vision"))
        return docs
