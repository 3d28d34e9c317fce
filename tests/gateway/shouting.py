"""An endpoint that isn't cliptune's: a line of the table and an executor, and nothing else."""

from docarray import DocList

from cliptune.documents import ClipDoc
from cliptune.executors.base import ObservedExecutor
from cliptune.protocol.endpoints import SEARCH_FLOW, Endpoint
from cliptune.protocol.jina_compat import requests

SHOUT = SEARCH_FLOW["/shout"] = Endpoint(
    "/shout",
    "Texts in capitals.",
    needs="write",
    executors=("shouter",),
    takes=ClipDoc,
    gives=ClipDoc,
    group="shouting",
    example={"data": [{"text": "boots"}]},
    for_clip_service=True,
)


class Shouter(ObservedExecutor):
    """Shouts."""

    @requests(on=SHOUT.path)
    def shout(self, docs: DocList[ClipDoc], **kwargs: object) -> DocList[ClipDoc]:
        """Make each text's letters capitals."""
        return DocList[ClipDoc]([ClipDoc(id=doc.id, text=str(doc.text).upper()) for doc in docs])
