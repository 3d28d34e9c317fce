"""CLIPVisionEncoder: pictures to embeddings. Documents with a text pass through."""

from typing import Any

from docarray import DocList

from cliptune.documents import ClipDoc, QueryDoc, RankDoc
from cliptune.executors.encoder import Encoder
from cliptune.executors.encoding import (
    Pictures,
    embed_all_pictures,
    embed_new_pictures,
    embed_pictures,
    in_output_dtype,
    rank_pictures,
)
from cliptune.executors.fetching import Fetcher
from cliptune.protocol.documents import Report
from cliptune.protocol.endpoints import ENCODE, INDEX, RANK, ROOT, SEARCH, STATUS, UPDATE
from cliptune.protocol.jina_compat import requests
from cliptune.protocol.parameters import EncodeParameters, read_parameters


class CLIPVisionEncoder(Encoder):
    """Embeds pictures."""

    tower = "clip-vision"

    def __init__(self, **kwargs: Any) -> None:
        """Load the vision tower, as `Encoder`; URIs are read where the settings allow it."""
        super().__init__(**kwargs)
        fetcher = Fetcher.allowed_by(self.settings)
        self.pictures = Pictures(self.settings.max_all_pixels, fetcher)

    @requests(on=[ROOT.path, ENCODE.path])
    def encode(
        self, docs: DocList[ClipDoc], parameters: dict[str, object], **kwargs: object
    ) -> DocList[ClipDoc]:
        """Set `embedding` and `model_digest` of the documents without a text."""
        asked = read_parameters(EncodeParameters, parameters)
        tower = self.towers.of(doc.model_digest for doc in docs)
        embed_pictures(tower, docs, self.pictures, asked.dimensions)
        return in_output_dtype(docs, asked.output_dtype)

    @requests(on=SEARCH.path)
    def search(self, docs: DocList[QueryDoc], **kwargs: object) -> DocList[QueryDoc]:
        """Embed the queries, and parts of queries, that are pictures."""
        tower = self.towers.of(doc.model_digest for doc in docs)
        return embed_pictures(tower, docs, self.pictures)

    @requests(on=INDEX.path)
    def index(self, docs: DocList[ClipDoc], **kwargs: object) -> DocList[ClipDoc]:
        """Embed each document's picture; its text is the title, shown and not embedded."""
        return embed_all_pictures(self.towers.pick(), docs, self.pictures)

    @requests(on=RANK.path)
    def rank(self, docs: DocList[RankDoc], **kwargs: object) -> DocList[RankDoc]:
        """Embed the pictures among documents and matches, and sort the matches."""
        both = [one.model_digest for doc in docs for one in (doc, *doc.matches)]
        return rank_pictures(self.towers.of(both), docs, self.pictures)

    @requests(on=UPDATE.path)
    def update(self, docs: DocList[ClipDoc], **kwargs: object) -> DocList[ClipDoc]:
        """Embed the pictures that are to replace stored ones."""
        return embed_new_pictures(self.towers.pick(), docs, self.pictures)

    @requests(on=STATUS.path)
    def status(self, docs: DocList[Report], **kwargs: object) -> DocList[Report]:
        """The model served."""
        docs.append(self.tower_status().report("vision"))
        return docs
