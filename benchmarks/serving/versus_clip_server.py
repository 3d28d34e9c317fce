"""cliptune beside clip_server 0.8.3: texts, photographs, one title, and JSON, in one run.

    scripts/install-peers
    python benchmarks/serving/versus_clip_server.py ../shared --markdown

Both servers run at once on this machine, with the same ViT-B/32 of random weights on ONNX Runtime
in fp32, each as its makers start it: `clip_server` by its own ONNX Flow with `model_path`, cliptune
by `serve(..., is_onnx=True)`. Each is asked by its own client, over gRPC. Beside them are cliptune
with the same weights in int8, and a bare loop: the same engine as cliptune's in one process, given
the same texts and pictures without a server. Only one side works at a time.

A round asks each side the same: titles in batches of 32, photographs in batches of 16, titles one
by one. The sides alternate, and each round begins with another. All titles of a run are different,
so that cliptune's cache of query embeddings never has one. Photographs are full-size JPEGs; they
are read from disk before the clock starts, and decoded by the server.

Beside that, HTTP with 64 titles: Jina's own HTTP gateway, with an executor that has the embeddings
ready, against cliptune's whole search Flow, whose cache has them ready. Both by `requests`, with
the answer parsed to a float32 array.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

import base64

import orjson
import requests
from models import prepare
from results import add_output_options, show, write
from servers import Worker, clip_server, free_port, jina_json

from cliptune.serving import serve
from cliptune.settings import current

HERE = Path(__file__).parent
SIDES = ("clip_server", "cliptune", "bare loop", "cliptune int8")
LEAST = {"texts": 0.9999, "photographs": 0.95, "one title": 0.9999}
"""Cosine of a side's embeddings with cliptune's, but for int8: pictures are resized in two ways."""
LEAST_INT8 = 0.99
JSON_DOCS = 64
Figures = dict[str, dict[str, list[float]]]


def main() -> None:
    """Run all rounds, print the tables and write the figures."""
    args = parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # the servers are ended too
    titles, photos = read_titles(args.shared), read_photos(args.shared)
    needed = (args.rounds + 1) * (args.titles + args.singles)
    if len(titles) < needed:
        raise SystemExit(f"{len(titles)} titles, and {needed} are needed: lower --rounds")
    peers = Path(os.environ.get("CLIPTUNE_PEERS_DIR") or HERE.parents[1] / ".peers")
    pythons = {name: peers / name / "bin" / "python" for name in ("clip-server", "clip-client")}
    if missing := [str(path) for path in pythons.values() if not path.exists()]:
        raise SystemExit(f"not there: {', '.join(missing)}; run scripts/install-peers first")
    artifact, reduced, exported = prepare(current().cache_dir / "benchmarks" / "serving")
    logs = Path(tempfile.mkdtemp(prefix="cliptune-benchmark-"))
    with ExitStack() as stack:
        theirs = stack.enter_context(clip_server(pythons["clip-server"], exported, logs / "theirs"))
        grpc_address, http_address = stack.enter_context(cliptune(artifact, "fp32", logs))
        int8_address, _ = stack.enter_context(cliptune(reduced, "int8", logs))
        command = [sys.executable, HERE / "work.py"]
        workers = {
            "clip_server": Worker([pythons["clip-client"], HERE / "theirs.py", theirs], logs / "a"),
            "cliptune": Worker([*command, "client", grpc_address], logs / "b"),
            "bare loop": Worker([*command, "loop", artifact], logs / "c"),
            "cliptune int8": Worker([*command, "client", int8_address], logs / "d"),
        }
        for worker in workers.values():
            stack.callback(worker.close)
        figures = rounds(workers, titles, photos, args)
        # Already here: nothing of it is lost if the second part fails.
        write(args.out, {"sides": figures, "arguments": str(vars(args))})
        json_address = stack.enter_context(jina_json(logs / "json"))
        seconds = json_rounds(json_address, http_address, args.rounds * 3)
    report(figures, seconds, args.markdown)
    write(args.out, {"sides": figures, "http_64": seconds, "arguments": str(vars(args))})


@contextmanager
def cliptune(artifact: Path, precision: str, logs: Path) -> Iterator[tuple[str, str]]:
    """cliptune's search Flow; gives its addresses over gRPC and HTTP."""
    with serve(
        artifact,
        index=logs / f"index-{precision}",
        grpc_port=(grpc_port := free_port()),
        http_port=(http_port := free_port()),
        is_onnx=True,
        precision=precision,
    ):
        yield f"grpc://127.0.0.1:{grpc_port}", f"http://127.0.0.1:{http_port}"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    made.add_argument("shared", type=Path, help="with fashion/products.csv and clothing/test")
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument("--titles", type=int, default=256, help="of a round, in batches of 32")
    made.add_argument("--photos", type=int, default=48, help="of a round, in batches of 16")
    made.add_argument("--singles", type=int, default=15, help="titles of a round, one by one")
    add_output_options(made)
    return made


def read_titles(shared: Path) -> list[str]:
    """Different titles of products; where there are too few, with the products' other fields."""
    with (shared / "fashion" / "products.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return list(dict.fromkeys(row["productDisplayName"] for row in rows))


def read_photos(shared: Path) -> list[str]:
    """Full-size photographs."""
    found = sorted(str(path) for path in (shared / "clothing" / "test").rglob("*.jpg"))
    if not found:
        raise SystemExit(f"no photographs below {shared / 'clothing' / 'test'}")
    return found


def rounds(
    workers: dict[str, Worker], titles: list[str], photos: list[str], args: argparse.Namespace
) -> Figures:
    """The figures of all sides by name, a list of one for each round; the first is left out."""
    texts, pictures = iter(titles), itertools.cycle(photos)
    figures: Figures = {side: {"texts": [], "photographs": [], "one": []} for side in SIDES}
    for number in range(args.rounds + 1):
        given = list(itertools.islice(texts, args.titles))
        single = list(itertools.islice(texts, args.singles))
        shown = list(itertools.islice(pictures, args.photos))
        order = [SIDES[(number + place) % len(SIDES)] for place in range(len(SIDES))]
        firsts: dict[str, list[list[float]]] = {}
        for side in order:
            worker, kept = workers[side], figures[side]
            answers = [
                worker.do("texts", given, 32),
                worker.do("pictures", shown, 16),
                worker.do("single", single),
            ]
            firsts[side] = [answer["first"] for answer in answers]
            print(f"round {number}, {side}: done", file=sys.stderr, flush=True)
            if number:  # the first round warms up
                kept["texts"].append(len(given) / answers[0]["seconds"])
                kept["photographs"].append(len(shown) / answers[1]["seconds"])
                kept["one"].append(statistics.median(answers[2]["seconds"]))
        check_same(firsts)
    return figures


def check_same(firsts: dict[str, list[list[float]]]) -> None:
    """Say where the sides' first embeddings differ, but for their scale and their resizing."""
    for number, (name, least) in enumerate(LEAST.items()):
        vectors = {side: np.asarray(firsts[side][number]) for side in SIDES}
        scaled = {side: vector / np.linalg.norm(vector) for side, vector in vectors.items()}
        for side in SIDES:
            cosine = float(scaled[side] @ scaled["cliptune"])
            if cosine < (LEAST_INT8 if side == "cliptune int8" else least):
                print(f"{name}: {side}'s embeddings differ, cosine {cosine:.4f}", file=sys.stderr)


def json_rounds(jina: str, ours: str, count: int) -> dict[str, list[float]]:
    """Seconds of one request of 64 texts over HTTP, alternately."""
    # Jina's gateway wants `tags`: it doesn't know a document's defaults.
    texts = [{"text": f"red rain boots number {i}", "tags": {}} for i in range(JSON_DOCS)]
    session = requests.Session()

    def numbers() -> np.ndarray:
        body = {"data": texts, "execEndpoint": "/encode"}
        answer = session.post(f"{jina}/encode", json=body, timeout=60)
        answer.raise_for_status()
        found = answer.json()
        return np.array([doc["embedding"] for doc in found["data"]], np.float32)

    def encoded(encoding_format: str) -> np.ndarray:
        body = {"data": texts, "encoding_format": encoding_format}
        answer = session.post(f"{ours}/encode", json=body, timeout=60)
        found = [doc["embedding"] for doc in orjson.loads(answer.content)["data"]]
        if encoding_format == "float":
            return np.array(found, np.float32)
        raw = b"".join(base64.b64decode(vector) for vector in found)
        return np.frombuffer(raw, "<f4").reshape(len(found), -1)

    sides: dict[str, Callable[[], np.ndarray]] = {
        "Jina's JSON": numbers,
        "cliptune, base64": lambda: encoded("base64"),
        "cliptune, numbers": lambda: encoded("float"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(count + 2):
        for name, ask in sides.items():
            start = time.perf_counter()
            assert ask().shape == (JSON_DOCS, 512)
            if number > 1:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def report(figures: Figures, seconds: dict[str, list[float]], markdown: bool) -> None:
    """Medians, with the least and the most, and what they are of one another."""
    rows = []
    for name, words, scale in (
        ("texts", "titles a second", 1),
        ("photographs", "photographs a second", 1),
        ("one", "one title, p50, ms", 1000),
    ):
        sides = [[value * scale for value in figures[side][name]] for side in SIDES]
        theirs, ours, loop, int8 = (statistics.median(values) for values in sides)
        ratios = (ours / theirs, ours / loop, int8 / theirs)
        rows.append([words, *map(spread, sides), *(f"{ratio:.2f}" for ratio in ratios)])
    compared = ("cliptune / clip_server", "cliptune / bare loop", "int8 / clip_server")
    show("ViT-B/32, gRPC", ("median (min to max)", *SIDES, *compared), rows, markdown)
    rows = []
    for name, values in seconds.items():
        base = statistics.median(seconds["Jina's JSON"])
        times = base / statistics.median(values)
        rows.append([name, spread([1000 * value for value in values]), f"{times:.1f}"])
    show("HTTP, 64 titles, embeddings ready", ("", "ms", "times as fast"), rows, markdown)


def spread(values: list[float]) -> str:
    """The median, the least and the most."""
    digits = 0 if statistics.median(values) >= 100 else 1
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


if __name__ == "__main__":
    main()
