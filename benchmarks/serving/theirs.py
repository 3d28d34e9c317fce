"""clip_client's side of the benchmark, run by the Python that clip_client is installed in.

    python theirs.py grpc://127.0.0.1:51000

Reads tasks from its standard input, one JSON object a line, and answers each with a line: see
`work.py`, whose other side has the same protocol. It imports nothing of cliptune.
"""

import json
import sys
import time

from clip_client import Client
from docarray import Document, DocumentArray


def main(address):
    client = Client(address)
    answers = sys.stdout
    sys.stdout = sys.stderr  # what libraries print is no answer
    for line in sys.stdin:
        task = json.loads(line)
        if task["kind"] == "texts":
            items = task["items"]
            started = time.perf_counter()
            found = client.encode(items, batch_size=task["batch_size"])
        elif task["kind"] == "pictures":
            blobs = [open(path, "rb").read() for path in task["items"]]
            items = DocumentArray([Document(blob=blob) for blob in blobs])
            started = time.perf_counter()
            found = client.encode(items, batch_size=task["batch_size"]).embeddings
        else:
            found, each = [], []
            for item in task["items"]:
                started = time.perf_counter()
                found.append(client.encode([item])[0])
                each.append(time.perf_counter() - started)
            report(answers, seconds=each, first=[float(x) for x in found[0]])
            continue
        seconds = time.perf_counter() - started
        report(answers, seconds=seconds, first=[float(x) for x in found[0]])


def report(answers, **fields):
    answers.write(json.dumps(fields) + "\n")
    answers.flush()


if __name__ == "__main__":
    main(sys.argv[1])
