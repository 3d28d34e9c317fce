"""`cliptune demo`: the whole path on the built-in model and catalogue, in a few minutes."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from cliptune.cli.terminal import console, seconds_since, watch

if TYPE_CHECKING:
    from docarray import DocList

    from cliptune.documents import ClipDoc, Match
    from cliptune.evaluation.plots import Result
    from cliptune.evaluation.retrieval import Evaluation, ExampleQuery
    from cliptune.runs.session import AnyRun
    from cliptune.serving import Client

PREFIX = "clip-text-to-clip-vision_"
EVALUATION = PREFIX.rstrip("_")
QUERIES = 5
SHOWN = 3
"""Results of each query: each product has three pictures, so that no more can be right."""


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command(epilog="Example: cliptune demo --keep-serving")(demo)


def demo(
    out: Annotated[Path, typer.Option(help="Where the artifact and the picture go.")] = Path(
        "demo"
    ),
    epochs: Annotated[int, typer.Option(min=1)] = 5,
    grpc_port: Annotated[int, typer.Option(min=1, max=65535)] = 51000,
    http_port: Annotated[int, typer.Option(min=1, max=65535)] = 51001,
    keep_serving: Annotated[
        bool, typer.Option("--keep-serving", help="Leave the search page up until Ctrl-C.")
    ] = False,
) -> None:
    """Fine-tune on the built-in catalogue, compare before and after, export, serve, search."""
    from cliptune.serving.launch import check_ports
    from cliptune.settings import Settings

    started = time.monotonic()
    # Now, not after the minutes that the training takes.
    check_ports(Settings.read(grpc_port=grpc_port, http_port=http_port, clip_service_port=0))
    run, artifact = fine_tune(out, epochs)
    search_with(run, artifact, out, grpc_port, http_port, keep_serving, started)


def fine_tune(out: Path, epochs: int) -> tuple[AnyRun, Path]:
    """Train on the catalogue, show before and after and WiSE-FT; returns the artifact's zip too."""
    import cliptune
    from cliptune.callback import EvaluationCallback
    from cliptune.evaluation.tables import before_after_table, counted_lines

    console.rule("[bold]1  Fine-tune the built-in CLIP on a shop's catalogue")
    console.print("drawing the catalogue's pictures, unless an earlier run has left them here")
    run = cliptune.fit(
        model="builtin",
        train_data="catalogue-train",
        eval_data="catalogue-eval",
        epochs=epochs,
        callbacks=[
            EvaluationCallback(
                query_data="catalogue-queries", index_data="catalogue-index", gather_examples=True
            )
        ],
        to_onnx=True,
        experiment_name="demo",
    )
    watch(run)
    path = Path(run.save_artifact(str(out)))

    console.rule("[bold]2  Before and after, on products that training never saw")
    metrics = run.metrics()
    mixed = evaluate_mixed(path, 0.5)
    named = {PREFIX + name: value for name, value in mixed.metrics.items()}
    console.print(before_after_table(metrics["before"], metrics["after"], {"WiSE-FT 0.5": named}))
    console.print(
        f"{mixed.n_queries} titles search {mixed.n_index} pictures, and the best {mixed.limit} "
        f"results of each count (k). Each title has {SHOWN} pictures, so that precision_at_k can "
        f"be {SHOWN / mixed.limit:.2f} at most. WiSE-FT 0.5 is the mean of both models' weights. "
        "What ends in _textbook is by the textbook's definition, the rest by Finetuner's.",
        highlight=False,
    )
    for line in counted_lines(run.evaluations()):
        console.print(line, highlight=False)
    console.print(f"the fine-tuned model, for torch and for ONNX Runtime: [bold]{path}[/]")
    return run, path


def evaluate_mixed(artifact: Path, alpha: float) -> Evaluation:
    """What the tuned model, mixed with the built-in one (WiSE-FT), finds in the catalogue."""
    from cliptune.data.source import load_documents
    from cliptune.evaluation.retrieval import evaluate
    from cliptune.inference import get_tower
    from cliptune.models.loading import load_model
    from cliptune.models.wise_ft import mix_models

    model = load_model(artifact)
    model = mix_models(load_model(model.base), model, alpha)
    return evaluate(
        get_tower(model, "clip-text"),
        get_tower(model, "clip-vision"),
        load_documents("catalogue-queries", role="queries"),
        load_documents("catalogue-index", role="index"),
    )


@dataclass
class Answer:
    """One query with what came back, over both protocols."""

    query: str
    matches: Sequence[Match]
    grpc_ms: float
    http_ms: float


def search_with(
    run: AnyRun,
    artifact: Path,
    out: Path,
    grpc_port: int,
    http_port: int,
    keep_serving: bool,
    started: float,
) -> None:
    """Serve the artifact's ONNX towers, index the catalogue's pictures, and ask for five.

    What the built-in model found before is taken from the run's sample results.
    """
    from cliptune.cli.service.serve import end_on_signals, stay_up
    from cliptune.data.source import load_documents
    from cliptune.serving import Client, serve

    console.rule("[bold]3  Serve the tuned towers and search")
    index_docs = load_documents("catalogue-index", role="index")
    with serve(
        str(artifact),
        index=out / "index",
        grpc_port=grpc_port,
        http_port=http_port,
        engine="onnx",
    ) as service:
        samples = run.example_results()["before"][EVALUATION]
        samples = samples[:: len(samples) // QUERIES][:QUERIES]
        addresses = f"grpc://localhost:{grpc_port}", f"http://localhost:{http_port}"
        with (
            Client.from_environment(addresses[0]) as grpc,
            Client.from_environment(addresses[1]) as http,
        ):
            grpc.clear()  # an earlier demo's model may have filled it
            count = grpc.index(index_docs, show_progress=True)
            console.print(f"{count} pictures indexed")
            answers = [_ask(grpc, http, str(query["text"])) for query in samples]
        console.print(_answers_table(answers))
        picture = out / "results.png"
        _draw(samples, answers, index_docs, picture)
        console.print(f"the same as a picture, before beside after: [bold]{picture}[/]")
        page = f"http://localhost:{http_port}/"
        if keep_serving:
            console.print(f"[bold green]search page: {page}[/]   (Ctrl-C ends)")
            end_on_signals()
            stay_up(service)
    if not keep_serving:
        console.print(
            f"done in {seconds_since(started)}. The search page was at {page}; to have it again:\n"
            f"  [bold]{_program()} serve --artifact {artifact} --onnx --index {out / 'index'}[/]",
            soft_wrap=True,
        )


def _ask(grpc: Client, http: Client, query: str) -> Answer:
    begun = time.perf_counter()
    matches = list(grpc.search(query, limit=SHOWN).matches)
    between = time.perf_counter()
    over_http = http.search(query, limit=SHOWN).matches
    ended = time.perf_counter()
    if [match.id for match in matches] != [match.id for match in over_http]:
        console.print(f"[red]gRPC and HTTP disagree about {query!r}[/]")
        raise typer.Exit(1)
    return Answer(query, matches, (between - begun) * 1e3, (ended - between) * 1e3)


def _answers_table(answers: list[Answer]) -> Table:
    table = Table("query", show_lines=True)
    table.add_column(f"the best {SHOWN}, with their similarity", no_wrap=True)
    for protocol in ("gRPC", "HTTP"):
        table.add_column(protocol, justify="right", no_wrap=True)
    for answer in answers:
        titles = "\n".join(
            f"{'[green]✓[/]' if match.text == answer.query else '[red]✗[/]'} {match.score:.3f} "
            f"{match.text}"
            for match in answer.matches
        )
        times = (f"{answer.grpc_ms:.0f} ms", f"{answer.http_ms:.0f} ms")
        table.add_row(answer.query, titles, *times)
    return table


def _draw(
    samples: Sequence[ExampleQuery],
    answers: Sequence[Answer],
    index_docs: DocList[ClipDoc],
    path: Path,
) -> None:
    from cliptune.evaluation.plots import results_grid

    pictures = {str(doc.id): doc.image for doc in index_docs if doc.image is not None}
    rows = []
    for sample, answer in zip(samples, answers, strict=True):
        before: list[Result] = [
            (match["text"] or "", pictures[match["id"]], match["score"], match["hit"])
            for match in sample["matches"][:SHOWN]
        ]
        after: list[Result] = [
            (match.text or "", pictures[str(match.id)], match.score, match.text == answer.query)
            for match in answer.matches
        ]
        sides = {_right("before fine-tuning", before): before, _right("after", after): after}
        rows.append((answer.query, sides))
    results_grid(rows, path)


def _right(when: str, results: Sequence[Result]) -> str:
    return f"{when}: {sum(bool(hit) for *_, hit in results)} of {SHOWN} right"


def _program() -> str:
    """The command as the shell finds it: from `make` it isn't on the PATH."""
    return "cliptune" if shutil.which("cliptune") else sys.argv[0]
