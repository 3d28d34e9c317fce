"""`cliptune swap`: another model for a running search Flow, without downtime, and back."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from cliptune.cli.inputs import index_there, read
from cliptune.cli.options import SERVER, Address, of_setting, with_table_options
from cliptune.cli.terminal import console, progress_bar

if TYPE_CHECKING:
    from cliptune.data.tables.options import CsvOptions
    from cliptune.index.metadata import Storage
    from cliptune.reindex.quality import Quality, Query
    from cliptune.reindex.swap import Swap
    from cliptune.reindex.synchronizer import EngineOptions
    from cliptune.serving import Client

LOAD_TIMEOUT = 600.0
"""Seconds that the encoders have to load a model."""


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command(
        epilog="Example: cliptune swap --artifact artifacts/calm-heron-81d0.zip\n\n"
        "Look at it first: cliptune swap --artifact … --prepare, then the search page's Compare\n\n"
        "Back again: cliptune swap --undo"
    )(with_table_options(swap))


@dataclass(frozen=True)
class Place:
    """Where the index is, and what serves it."""

    index_uri: str
    state: str | None
    served: str
    engine: EngineOptions
    client: Client | None
    storage: Storage | None
    """How the service has its index keep embeddings; None: it wasn't chosen."""


def swap(
    artifact: Annotated[
        str | None, typer.Option(help="The new model: an artifact, a run's name, or a model's.")
    ] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Back to the model before.")] = False,
    discard: Annotated[
        bool, typer.Option("--discard", help="Remove what was prepared, or else the model before.")
    ] = False,
    prepare: Annotated[
        bool, typer.Option("--prepare", help="Do all but the switch: to compare the two first.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Switch even if the new model finds clearly less.")
    ] = False,
    queries: Annotated[
        str | None,
        typer.Option(help="Labelled queries: a CSV or a data set's name. Default: stored titles."),
    ] = None,
    sample: Annotated[int, typer.Option(min=1, help="How many stored titles to ask.")] = 300,
    tolerance: Annotated[
        float, typer.Option(help="How far the reciprocal rank may fall with 95 % confidence.")
    ] = 0.01,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Pictures that are embedded at once.")
    ] = 32,
    device: Annotated[str | None, of_setting("device")] = None,
    index: Annotated[
        str | None,
        typer.Option(help="The index itself, where no server can be asked for its place."),
    ] = None,
    server: Address = SERVER,
    *,
    table: CsvOptions,
) -> None:
    """Go over to another model without downtime; without options: show how things are.

    Embeds the stored pictures again, beside the index that is served, on this machine: it must
    have the index's folder. Then puts sample queries to both, and switches the towers and the
    index at once. No query fails, and none sees both models. What is indexed or deleted meanwhile
    is kept. After an interruption of any kind, give the same command again.
    """
    from cliptune.errors import BadInput
    from cliptune.reindex.swap import Swap
    from cliptune.sdk.models import locate_model

    if sum((artifact is not None, undo, discard)) > 1:
        raise BadInput("give one of --artifact, --undo and --discard")
    place = _place(server, index, device, batch_size)
    if artifact is None and not undo and not discard:
        _show_status(place)
        return
    os.nice(10)  # what is served comes first
    with Swap.open(place.index_uri, place.state, engine=place.engine) as work:
        if discard:
            removed = work.discard()
            console.print(f"model {removed.label} is removed", highlight=False, markup=False)
        elif undo:
            _go_back(work, place)
        else:
            model = locate_model(str(artifact))
            if work.renew(model) == "current":
                console.print("that model is the one that is served")
                return
            # Before anything is embedded, which takes long.
            asked = _queries(work, queries, table, sample)
            _check_queries(asked, force=force or prepare)
            with progress_bar() as report:
                work.begin(model, served=place.served, storage=place.storage)
                done = work.prepare(report)
            summary = f"{done.embedded} documents embedded, {done.unchanged} were there already"
            console.print(summary, highlight=False)
            _check_quality(work, asked, tolerance, force=force or prepare)
            _go_over(work, place, only_prepare=prepare)


def _go_back(work: Swap, place: Place) -> None:
    _await_encoders(place, work.warm_previous().model_digest)
    with progress_bar() as report:
        current = work.go_back(report).current
    _await_encoders(place, current.model_digest, serving=True)
    console.print(
        f"[green]back[/] at model {escape(current.label)}, with all that was indexed and deleted "
        "since. Once more --undo goes forward again"
    )


def _go_over(work: Swap, place: Place, *, only_prepare: bool) -> None:
    prepared = work.manifest.next
    assert prepared is not None  # noqa: S101
    digest, label = prepared.model_digest, escape(prepared.label)
    _await_encoders(place, digest)
    if only_prepare:
        console.print(
            f"model {label} is prepared. Compare it on the search page, or by searches with "
            "model=next; the same command without --prepare switches to it, --discard removes it"
        )
        return
    with progress_bar() as report:
        manifest = work.switch(report)
    _await_encoders(place, digest, serving=True)
    console.print(
        f"[green]switched[/] to model {label}. `cliptune swap --undo` goes back to "
        f"{escape(manifest.previous.label)}, `--discard` frees its room"  # type: ignore[union-attr]
    )


def _place(server: str, index: str | None, device: str | None, batch_size: int) -> Place:
    from cliptune.errors import BadInput
    from cliptune.protocol.redaction import with_note
    from cliptune.reindex.synchronizer import EngineOptions
    from cliptune.serving import Client
    from cliptune.settings import Settings

    settings = Settings.read(device=device)
    if index is not None:
        uri = index_there(index)
        engine = EngineOptions(
            settings.served_engine, settings.precision, settings.device, batch_size
        )
        state = settings.generations_of(uri)
        return Place(uri, state, settings.artifact, engine, None, settings.index_storage)
    client = Client.from_environment(server)
    status = client.status()
    # Paths are told to a key of the role admin; others find them noted on the same machine.
    index_status, model = (with_note(settings.home, status[part]) for part in ("index", "model"))
    if "index_uri" not in index_status:
        raise BadInput(
            f"{server} does not say where its index is: give the command on its machine as its "
            "user, with CLIPTUNE_HOME as it has it; or a key of the role admin; or --index"
        )
    uri, state = index_status["index_uri"], index_status["generations_folder"]
    here = Path(uri).is_dir() if "://" not in uri else Path(state).is_dir()
    if not here:
        raise BadInput(
            f"{server} keeps its index at {uri}, which is not on this machine: give the command "
            "where it is, for example by kubectl exec, with --index"
        )
    run_by = "auto" if model.get("chosen") else model.get("engine")
    if run_by is None and model["onnx"]:  # by a server that was started before an upgrade
        run_by = "onnx"
    engine = EngineOptions(run_by, model["precision"], settings.device, batch_size)
    return Place(uri, state, model["artifact"], engine, client, index_status["storage"])


def _queries(work: Swap, queries: str | None, table: CsvOptions, sample: int) -> list[Query]:
    """Those of a data set, or titles of stored documents."""
    from cliptune.data.validation import QUERY
    from cliptune.reindex.quality import given

    if queries is None:
        return work.titles(sample)
    return given(read(queries, table, "queries", QUERY))


def _check_queries(asked: list[Query], *, force: bool) -> None:
    from cliptune.errors import BadInput

    if not asked and not force:
        raise BadInput(
            "no stored document has a title to compare the models by: give --queries, or "
            "--force to switch unseen"
        )


def _check_quality(work: Swap, asked: list[Query], tolerance: float, *, force: bool) -> None:
    if not asked:
        console.print("not compared: no stored document has a title")
        return
    with console.status("comparing the two models"):
        quality = work.compare(asked, tolerance=tolerance)
    console.print(_table(quality))
    if not force:
        quality.check()
    elif quality.is_worse:
        console.print("[yellow]the new model finds clearly less[/]")


def _table(quality: Quality) -> Table:
    from cliptune.reindex.quality import K

    title = f"{quality.queries} queries, the first {K} answers"
    table = Table("", "now", "new", "difference (95 %)", title=title, header_style="bold")
    for name, change in quality.changes.items():
        gain = change.difference
        style = "" if not change.is_certain else "green" if gain.mean > 0 else "red"
        table.add_row(
            name,
            f"{change.before.mean:.4f}",
            f"{change.after.mean:.4f}",
            f"[{style}]{gain.mean:+.4f} ({gain.low:+.4f} to {gain.high:+.4f})[/]"
            if style
            else f"{gain.mean:+.4f} ({gain.low:+.4f} to {gain.high:+.4f})",
        )
    table.caption = f"{quality.shared:.0%} of the answers are the same"
    return table


def _await_encoders(place: Place, digest: str, *, serving: bool = False) -> None:
    """Wait until the encoders have a model, or serve it; without a server there is no knowing."""
    from cliptune.errors import Unavailable

    if place.client is None:
        return
    deadline = time.monotonic() + LOAD_TIMEOUT
    with console.status("the encoders load the model"):
        while time.monotonic() < deadline:
            status = place.client.status()
            towers = [status["model"], status["vision"]]
            for tower in towers:
                if digest in tower.get("not_loaded", {}):
                    raise Unavailable(
                        f"the encoders can't load model {digest:.12}: {tower['not_loaded'][digest]}"
                    )
            if serving and all(tower.get("model_digest") == digest for tower in towers):
                return
            if not serving and all(digest in tower.get("loaded", ()) for tower in towers):
                return
            time.sleep(0.2)
    raise Unavailable(f"the encoders did not load model {digest:.12} within {LOAD_TIMEOUT:g} s")


def _show_status(place: Place) -> None:
    from cliptune.index.versions.progress import read_progress
    from cliptune.index.versions.versioned_index import VersionedIndex

    with VersionedIndex(place.index_uri, place.state) as index:
        generations, progress = index.describe_generations(), read_progress(index.generations)
    if not generations:
        console.print("one model, never swapped: cliptune swap --artifact NEW goes to another")
    else:
        table = Table("", "model", "made", "digest", "documents", "")
        for slot, one in generations.items():
            note = "" if one["complete"] else "not complete"
            made = (one["created"] or "")[:10]
            digest, documents = one["model_digest"][:12], str(one["documents"])
            table.add_row(slot, escape(one["name"] or "–"), made, digest, documents, note)
        console.print(table)
    if progress:
        done = f", {progress['done']} of {progress['total']}" if progress["total"] else ""
        console.print(f"{progress['phase']}{done}", highlight=False)
