"""CLIPTextEncoder: texts to embeddings. Documents without a text pass through."""

from typing import Any

from docarray import DocList

from cliptune.documents import ClipDoc, QueryDoc, RankDoc
from cliptune.executors.encoder import Encoder
from cliptune.executors.encoding import (
    calibrate_texts,
    embed_all_texts,
    embed_texts,
    in_output_dtype,
    rank_texts,
)
from cliptune.protocol import endpoints
from cliptune.protocol.documents import Report
from cliptune.protocol.jina_compat import requests
from cliptune.protocol.parameters import (
    EncodeParameters,
    RankParameters,
    SearchParameters,
    read_parameters,
)
from cliptune.protocol.queries import check_queries


class CLIPTextEncoder(Encoder):
    """Embeds the documents that have a `text`."""

    tower = "clip-text"

    def __init__(self, query_cache: int = 10_000, **kwargs: Any) -> None:
        """Load the text tower, which remembers `query_cache` texts; the rest as `Encoder`."""
        super().__init__(query_cache=query_cache, **kwargs)

    @requests(on=[endpoints.ROOT.path, endpoints.ENCODE.path])
    def encode(
        self, docs: DocList[ClipDoc], parameters: dict[str, object], **kwargs: object
    ) -> DocList[ClipDoc]:
        """Set `embedding` and `model_digest` of the documents with a text."""
        asked = read_parameters(EncodeParameters, parameters)
        embed_texts(self.towers.pick(), docs, asked.include_tokens, asked.dimensions)
        return in_output_dtype(docs, asked.output_dtype)

    @requests(on=endpoints.SEARCH.path)
    def search(
        self, docs: DocList[QueryDoc], parameters: dict[str, object], **kwargs: object
    ) -> DocList[QueryDoc]:
        """Embed the queries, and parts of queries, that are texts, by the model asked for."""
        check_queries(docs)
        model = read_parameters(SearchParameters, parameters).model
        tower = self.towers.pick(model)
        return calibrate_texts(tower, embed_texts(tower, docs))

    @requests(on=endpoints.RANK.path)
    def rank(
        self, docs: DocList[RankDoc], parameters: dict[str, object], **kwargs: object
    ) -> DocList[RankDoc]:
        """Embed the texts among documents and matches."""
        counted = read_parameters(RankParameters, parameters).include_tokens
        return rank_texts(self.towers.pick(), docs, counted)

    @requests(on=endpoints.INDEX_TEXTS.path)
    def index_texts(self, docs: DocList[ClipDoc], **kwargs: object) -> DocList[ClipDoc]:
        """Embed each document's text."""
        return embed_all_texts(self.towers.pick(), docs)

    @requests(on=endpoints.STATUS.path)
    def status(self, docs: DocList[ClipDoc], **kwargs: object) -> DocList[Report]:
        """The model served."""
        tower = self.towers.pick()
        status = self.tower_status(
            truncated_texts=tower.truncated,
            cache_hits=tower.cache.hits if tower.cache else 0,
            calibrated=tower.calibration is not None,
        )
        return DocList[Report]([status.report("text")])
