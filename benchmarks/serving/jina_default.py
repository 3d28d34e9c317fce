"""A Flow of Jina's own parts, whose HTTP gateway answers with embeddings as JSON numbers.

    python jina_default.py 53000

Its one executor has an embedding of 512 floats ready for each text. It ends with its input.
"""

import os
import sys
from typing import Any

os.environ["JINA_OPTOUT_TELEMETRY"] = os.environ["JINA_HIDE_SURVEY"] = "1"

import numpy as np
from docarray import DocList
from jina import Executor, Flow, requests

from cliptune.documents import ClipDoc


class Ready(Executor):
    """Answers at once."""

    def __init__(self, **kwargs: Any) -> None:
        """Have an embedding ready."""
        super().__init__(**kwargs)
        self.embedding: Any = np.random.default_rng(0).normal(size=512).astype(np.float32)

    @requests(on="/encode")
    def encode(self, docs: DocList[ClipDoc], **kwargs: Any) -> DocList[ClipDoc]:
        """Set it."""
        for doc in docs:
            doc.embedding = self.embedding
        return docs


if __name__ == "__main__":
    with Flow(protocol="http", port=int(sys.argv[1]), host="127.0.0.1").add(uses=Ready):
        sys.stdin.read()
