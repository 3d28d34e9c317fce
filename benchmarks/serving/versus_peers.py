"""cliptune beside clip_server 0.8.3 and infinity 0.0.77: texts, photographs, one title, in one run.

    scripts/install-peers clip-client clip-server infinity
    python benchmarks/serving/versus_peers.py ../shared --markdown

All servers run at once on this machine, with the same ViT-B/32 of random weights, each as its
makers start it: `clip_server` by its own ONNX Flow with `model_path`, `infinity_emb v2` with torch,
the one engine that it has for CLIP, cliptune by `serve(..., engine="onnx")`. They compute in fp32;
infinity is there once more in int8, cliptune in int8, and in bf16 by OpenVINO. clip_server and
cliptune are asked over gRPC by their own clients, infinity over HTTP with base64. Beside them is a
bare loop: the same engine as cliptune's in one process, given the same texts and pictures without a
server. Only one side works at a time.

A round asks each side the same tasks, `TASKS`. The sides alternate, and each round begins with
another. All titles of a run are different, so that cliptune's cache of query embeddings never has
one. Photographs are JPEGs, as they are and enlarged to 12 megapixels; they are read from disk
before the clock starts, and decoded by the server.

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
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

import json_answers
from models import Models, prepare
from results import add_output_options, show, write
from servers import Worker, clip_server, free_port, infinity, jina_json

from cliptune.serving import serve
from cliptune.settings import Engine, Precision, current

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Task:
    """What a side is asked in each round."""

    name: str
    kind: str
    """For a worker: see `work.py`."""
    batch_size: int
    least_cosine: float
    """Of a side's first embedding with cliptune's."""

    @property
    def unit(self) -> str:
        """Of its figure."""
        return f"{self.name}, p50, ms" if self.kind == "single" else f"{self.name} a second"

    def figure(self, count: int, seconds: Any) -> float:
        """Items a second of `count` that took `seconds`, or the median of milliseconds each."""
        return float(
            statistics.median(seconds) * 1000 if self.kind == "single" else count / seconds
        )


TITLES = Task("titles", "texts", 32, 0.9999)
# Sides resize pictures by other libraries.
PHOTOS = Task("photographs", "pictures", 16, 0.95)
LARGE = Task("photographs of 12 megapixels", "pictures", 4, 0.95)
SINGLE = Task("one title", "single", 1, 0.9999)
TASKS = (TITLES, PHOTOS, LARGE, SINGLE)
Figures = dict[str, dict[str, list[float]]]
"""By the side's name and the task's, one for each round."""


@dataclass(frozen=True)
class Side:
    """A server, and who asks it."""

    name: str
    server: AbstractContextManager[str]
    """Runs it; gives its address, the last word of `client`."""
    client: Sequence[str | Path]
    """The command of its worker: see `work.py`."""
    least_cosine: float = 1.0
    """Below a task's where its precision asks for it."""


OWN = "cliptune"
LEAST_BF16, LEAST_INT8 = 0.999, 0.99


def sides(models: Models, peers: Path, logs: Path) -> list[Side]:
    """All sides, in the table's order."""

    def python(peer: str) -> Path:
        return peers / peer / "bin" / "python"

    def infinity_as(dtype: str) -> AbstractContextManager[str]:
        log = logs / f"infinity {dtype}"
        server: AbstractContextManager[str] = infinity(
            python("infinity"), models.transformers, dtype, log
        )
        return server

    work = (sys.executable, HERE / "work.py")
    theirs = clip_server(python("clip-server"), models.onnx, logs / "clip_server")
    return [
        Side("clip_server", theirs, [python("clip-client"), HERE / "theirs.py"]),
        Side("infinity", infinity_as("float32"), (*work, "infinity")),
        Side("infinity int8", infinity_as("int8"), (*work, "infinity"), LEAST_INT8),
        Side(OWN, cliptune(models.artifact, "onnx", "fp32", logs), (*work, "client")),
        Side("bare loop", nullcontext(str(models.artifact)), (*work, "loop")),
        Side(
            "cliptune bf16",
            cliptune(models.reduced, "openvino", "bf16", logs),
            (*work, "client"),
            LEAST_BF16,
        ),
        Side(
            "cliptune int8",
            cliptune(models.reduced, "onnx", "int8", logs),
            (*work, "client"),
            LEAST_INT8,
        ),
    ]


def main() -> None:
    """Run all rounds, print the tables and write the figures."""
    args = parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # the servers are ended too
    peers = installed_peers()
    models = prepare(current().cache_dir / "benchmarks" / "serving")
    logs = Path(tempfile.mkdtemp(prefix="cliptune-benchmark-"))
    given = list(itertools.islice(items_of_rounds(args, logs), args.rounds + 1))
    if len(given) <= args.rounds:
        raise SystemExit("there are too few titles for so many rounds: lower --rounds")
    figures = rounds(sides(models, peers, logs), given, logs)
    # Already here: nothing of it is lost if the second part fails.
    write(args.out, {"sides": figures, "arguments": str(vars(args))})
    ours = cliptune(models.artifact, "onnx", "fp32", logs, "http")
    with jina_json(logs / "json") as jina_address, ours as our_address:
        seconds = json_answers.json_rounds(jina_address, our_address, args.rounds * 3)
    report(figures, seconds, args.markdown)
    write(args.out, {"sides": figures, "http_64": seconds, "arguments": str(vars(args))})


def installed_peers() -> Path:
    """Where scripts/install-peers has put them."""
    folder = Path(os.environ.get("CLIPTUNE_PEERS_DIR") or HERE.parents[1] / ".peers")
    needed = ("clip-server", "clip-client", "infinity")
    if missing := [name for name in needed if not (folder / name).is_dir()]:
        raise SystemExit(f"not in {folder}: run scripts/install-peers {' '.join(missing)} first")
    return folder


@contextmanager
def cliptune(
    artifact: Path, engine: Engine, precision: Precision, logs: Path, protocol: str = "grpc"
) -> Iterator[str]:
    """cliptune's search Flow; gives its address."""
    ports = {"grpc": free_port(), "http": free_port()}
    with serve(
        artifact,
        index=logs / f"index-{precision}",
        grpc_port=ports["grpc"],
        http_port=ports["http"],
        engine=engine,
        precision=precision,
    ):
        yield f"{protocol}://127.0.0.1:{ports[protocol]}"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    made.add_argument("shared", type=Path, help="with fashion/products.csv and clothing/test")
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument("--titles", type=int, default=256, help="of a round, in batches of 32")
    made.add_argument("--photos", type=int, default=48, help="of a round, in batches of 16")
    made.add_argument("--large", type=int, default=16, help="photographs of 12 megapixels, by 4")
    made.add_argument("--singles", type=int, default=15, help="titles of a round, one by one")
    add_output_options(made)
    return made


def items_of_rounds(args: argparse.Namespace, folder: Path) -> Iterator[dict[Task, list[str]]]:
    """Each round's items, for as long as there are titles."""
    titles, photos = iter(read_titles(args.shared)), read_photos(args.shared)
    shown, large = itertools.cycle(photos), enlarged(photos[: args.large], folder)
    while True:
        items = {
            TITLES: list(itertools.islice(titles, args.titles)),
            PHOTOS: list(itertools.islice(shown, args.photos)),
            LARGE: large,
            SINGLE: list(itertools.islice(titles, args.singles)),
        }
        if len(items[SINGLE]) < args.singles:
            return
        yield items


def read_titles(shared: Path) -> list[str]:
    """Different titles of products."""
    with (shared / "fashion" / "products.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return list(dict.fromkeys(row["productDisplayName"] for row in rows))


def read_photos(shared: Path) -> list[str]:
    """Photographs as they are, some 400 by 534 pixels."""
    found = sorted(str(path) for path in (shared / "clothing" / "test").rglob("*.jpg"))
    if not found:
        raise SystemExit(f"no photographs below {shared / 'clothing' / 'test'}")
    return found


def enlarged(photos: list[str], folder: Path) -> list[str]:
    """The photographs as JPEGs of 3000 by 4000 pixels or 4000 by 3000, files in `folder`."""
    paths = []
    for number, photo in enumerate(photos):
        with Image.open(photo) as opened:
            is_upright = opened.height > opened.width
            large = opened.convert("RGB").resize((3000, 4000) if is_upright else (4000, 3000))
        paths.append(str(folder / f"{number}.jpg"))
        large.save(paths[-1], quality=90)
    return paths


def rounds(sides: list[Side], given: list[dict[Task, list[str]]], logs: Path) -> Figures:
    """The figures of all rounds but the first, which warms up."""
    figures: Figures = {side.name: {task.name: [] for task in TASKS} for side in sides}
    with ExitStack() as stack:
        workers = {}
        for side in sides:
            address = stack.enter_context(side.server)
            worker = Worker([*side.client, address], logs / f"{side.name}, client")
            stack.callback(worker.close)
            workers[side.name] = worker
        for number, items in enumerate(given):
            first = number % len(sides)
            answers = {}
            for side in sides[first:] + sides[:first]:
                answers[side.name] = ask(workers[side.name], items)
                print(f"round {number}, {side.name}: done", file=sys.stderr, flush=True)
            check_same(sides, answers)
            if number == 0:
                continue
            for name, of_tasks in answers.items():
                for task, answer in of_tasks.items():
                    figure = task.figure(len(items[task]), answer["seconds"])
                    figures[name][task.name].append(figure)
    return figures


def ask(worker: Worker, items: dict[Task, list[str]]) -> dict[Task, dict[str, Any]]:
    """A side's answers to all tasks of a round."""
    return {task: worker.do(task.kind, given, task.batch_size) for task, given in items.items()}


def check_same(sides: list[Side], answers: dict[str, dict[Task, dict[str, Any]]]) -> None:
    """Say where a side's first embeddings differ from cliptune's, but for their scale."""
    for task, side in itertools.product(TASKS, sides):
        ours, theirs = (np.asarray(answers[name][task]["first"]) for name in (OWN, side.name))
        cosine = float(ours @ theirs / np.linalg.norm(ours) / np.linalg.norm(theirs))
        if cosine < min(task.least_cosine, side.least_cosine):
            print(
                f"{task.name}: {side.name}'s embeddings differ, cosine {cosine:.4f}",
                file=sys.stderr,
            )


def report(figures: Figures, seconds: dict[str, list[float]], markdown: bool) -> None:
    """Medians, with the least and the most, and what they are of one another."""
    rows = [[task.unit, *(spread(of[task.name]) for of in figures.values())] for task in TASKS]
    show("ViT-B/32", ("median (min to max)", *figures), rows, markdown)
    medians = {
        name: [statistics.median(of[task.name]) for task in TASKS] for name, of in figures.items()
    }
    ours = [name for name in figures if name.startswith(OWN)]
    others = [name for name in figures if name not in ours]
    rows = []
    for name, base in itertools.product(ours, others):
        ratios = [own / their for own, their in zip(medians[name], medians[base], strict=True)]
        rows.append([f"{name} to {base}", *(f"{ratio:.2f}" for ratio in ratios)])
    show("Ratios of medians", ("", *(task.unit for task in TASKS)), rows, markdown)
    rows = []
    for name, values in seconds.items():
        times = statistics.median(seconds[json_answers.BASE]) / statistics.median(values)
        rows.append([name, spread([1000 * value for value in values]), f"{times:.1f}"])
    show("HTTP, 64 titles, embeddings ready", ("", "ms", "times as fast"), rows, markdown)


def spread(values: list[float]) -> str:
    """The median, the least and the most."""
    digits = 0 if statistics.median(values) >= 100 else 1
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


if __name__ == "__main__":
    main()
