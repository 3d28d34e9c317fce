"""`cliptune data check`: a dry run, what a table would be taken for; `data`'s other commands."""

from __future__ import annotations

import base64
import html
import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from cliptune.cli.inputs import tell
from cliptune.cli.options import with_table_options
from cliptune.cli.terminal import console, progress_bar
from cliptune.cli.training import suspects

if TYPE_CHECKING:
    from cliptune.data.check import Shown, TableCheck
    from cliptune.data.tables.options import CsvOptions
    from cliptune.models.tokenizers import Tokenizer

_SHORT = 100


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    group = typer.Typer(callback=data, no_args_is_help=True)
    group.command(
        epilog="Example: cliptune data check products.parquet --text-column title",
    )(with_table_options(check))
    suspects.register(group)
    app.add_typer(group, name="data")


def data() -> None:
    """Look at data before they are used."""


def check(
    data: Annotated[
        str,
        typer.Argument(
            metavar="TABLE", help="A table, a folder, a pattern of files, or a data set's name."
        ),
    ],
    report: Annotated[
        Path, typer.Option(help="Where to write the page that shows some pairs.")
    ] = Path("data-check.html"),
    pictures: Annotated[
        int, typer.Option(min=1, help="How many pictures to decode, evenly over the table.")
    ] = 2000,
    size: Annotated[
        int, typer.Option(min=1, help="Pixels of a side of the model's pictures.")
    ] = 224,
    *,
    table: CsvOptions,
) -> None:
    """Say what a table would be trained on or indexed as, without doing either.

    Which columns were taken for what, what is left out and why, the largest groups of right
    answers, titles that are cut, pictures that look the same and have different titles; and what
    time and disk the pictures would take. A page shows three pairs.
    """
    from cliptune.data.check import check_documents
    from cliptune.data.source import stream_documents
    from cliptune.files import write_text

    docs = stream_documents(data, csv_options=table, role="data")
    tell(docs.summary)
    with progress_bar() as progress:
        checked = check_documents(
            docs,
            pictures=pictures,
            size=size,
            count_tokens=_count_tokens,
            progress=lambda done, total: progress("looking", done, total),
        )
    lines = _lines(checked)
    for line in lines:
        console.print(escape(line), highlight=False, soft_wrap=True)
    write_text(report, _page(data, checked, lines))
    console.print(f"three pairs to look at: {report}", highlight=False, soft_wrap=True)


@cache
def _tokenizer() -> Tokenizer:
    """CLIP's own; made for long titles only, as what it needs is large."""
    from cliptune.models.tokenizers import load_tokenizer

    return load_tokenizer({})


def _count_tokens(text: str) -> int:
    from cliptune.models.tokenizers import token_count

    return token_count(_tokenizer(), text)


def _lines(checked: TableCheck) -> list[str]:
    """What to say of a table, after its summary."""
    from cliptune.data.check import CONTEXT

    usable = checked.summary.usable
    lines = [
        f"left out: {count} for {reason!r}, the first on {place}"
        for reason, count, place in checked.reasons
    ]
    large = [(name, count) for name, count in checked.groups if count > 1][:3]
    if large:
        named = ", ".join(f"{_short(name)!r} ({count})" for name, count in large if name)
        lines.append(f"right answers to each other: {named}")
    if checked.longest:
        lines.append(f"longest title: {_short(checked.longest[0])!r}")
    if checked.cut:
        are = "are" if checked.cut_is_exact else "may be"
        lines.append(f"{checked.cut} titles {are} cut: CLIP reads {CONTEXT} tokens")
    lines.append(
        f"{checked.looked_at} of {usable} pictures decoded: {len(checked.unreadable)} can't be, "
        f"{checked.near_count} pairs look the same and have different titles"
    )
    lines += [f"can't be decoded: {name}: {why}" for name, why in checked.unreadable[:3]]
    cores = os.cpu_count() or 1
    seconds = checked.seconds_a_picture * usable / cores
    lines.append(
        f"training decodes all pictures once: about {_duration(seconds)} on {cores} cores, and "
        f"keeps {checked.pixel_bytes / 1e9:.1f} GB of pixels on disk; memory holds titles and "
        f"tags, about {usable * _BYTES_A_DOCUMENT / 1e9:.1f} GB"
    )
    return lines


_BYTES_A_DOCUMENT = 3000
"""A document of a title, a path and a few tags, with its tokens (measured: docs/tables.md)."""


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _short(text: str | None) -> str:
    text = text or ""
    return text if len(text) <= _SHORT else text[: _SHORT - 1] + "…"


def _page(name: str, checked: TableCheck, lines: list[str]) -> str:
    """A page of its own: pictures are in it."""
    near = "".join(
        f"<div class=two>{_figure(one)}{_figure(other)}</div>" for one, other in checked.near
    )
    same = "<h2>Look the same, with different titles</h2>" + near if near else ""
    titles = "".join(f"<li>{html.escape(text[:1000])}</li>" for text in checked.longest)
    said = "".join(
        f"<li>{html.escape(line)}</li>" for line in [*str(checked.summary).split("\n"), *lines]
    )
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport "
        'content="width=device-width"><title>cliptune data check</title><style>'
        "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;"
        "color:#222;background:#fff}figure{margin:0;width:200px}img{max-width:200px;"
        "max-height:200px}.three,.two{display:flex;flex-wrap:wrap;gap:1.5rem;margin:1rem 0}"
        "figcaption{overflow-wrap:anywhere}small{color:#595959}</style>"
        f"<h1>{html.escape(name)}</h1><h2>Pairs</h2><div class=three>"
        f"{''.join(map(_figure, checked.pairs))}</div>{same}<h2>What was understood</h2><ul>{said}"
        f"</ul><h2>Longest titles</h2><ol>{titles}</ol></html>\n"
    )


def _figure(doc: Shown) -> str:
    picture = base64.b64encode(doc.picture).decode()
    text = html.escape(doc.text or "without a title")
    label = f", label {html.escape(doc.label)}" if doc.label else ""
    return (
        f'<figure><img src="data:image/jpeg;base64,{picture}" alt="{text}"><figcaption>{text}<br>'
        f"<small>{html.escape(doc.id[:40])}{label}</small></figcaption></figure>"
    )
