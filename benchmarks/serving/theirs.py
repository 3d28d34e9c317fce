"""clip_client's side of the benchmark, run by the Python that clip_client is installed in.

    python theirs.py grpc://127.0.0.1:51000

Reads tasks from its standard input, one JSON object a line, and answers each with a line: see
`work.py`, whose other side has the same protocol. It imports nothing of cliptune.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from clip_client import Client
from docarray import Document, DocumentArray


def main(address: str) -> None:
    """Do the tasks."""
    client = Client(address)
    answers = sys.stdout
    sys.stdout = sys.stderr  # what libraries print is no answer
    for line in sys.stdin:
        task = json.loads(line)
        if task["kind"] == "single":
            found, each = [], []
            for item in task["items"]:
                started = time.perf_counter()
                found.append(client.encode([item])[0])
                each.append(time.perf_counter() - started)
            report(answers, each, found[0])
            continue
        items: Any = task["items"]
        if task["kind"] == "pictures":
            blobs = [Path(path).read_bytes() for path in items]
            items = DocumentArray([Document(blob=blob) for blob in blobs])
        started = time.perf_counter()
        found = client.encode(items, batch_size=task["batch_size"])
        seconds = time.perf_counter() - started
        report(answers, seconds, found[0] if task["kind"] == "texts" else found[0].embedding)


def report(answers: TextIO, seconds: Any, first: Any) -> None:
    """Answer one task."""
    line = json.dumps({"seconds": seconds, "first": [float(value) for value in first]})
    answers.write(line + "\n")
    answers.flush()


if __name__ == "__main__":
    main(sys.argv[1])
