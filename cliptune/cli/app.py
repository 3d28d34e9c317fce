"""The `cliptune` command: its sub-commands, and errors as one line on stderr."""

from __future__ import annotations

import logging
import sys
from typing import NoReturn

import typer
from rich.console import Console

from cliptune.cli import (
    calibrate,
    data,
    demo,
    feedback,
    fetch,
    index,
    keys,
    mcp,
    models,
    quantize,
    report,
    runs,
    search,
    serve,
    split,
    swap,
    tune,
    wise_ft,
)
from cliptune.errors import CliptuneError
from cliptune.extras import of_missing

app = typer.Typer(
    name="cliptune",
    help="Fine-tune CLIP on your own titles and pictures, and serve it as text-to-image search.",
    epilog="Start with: cliptune demo",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (
    data, split, runs, tune, report, models, fetch, quantize, calibrate, wise_ft, serve, search,
    index, swap, keys, feedback, mcp, demo,
):  # fmt: skip
    module.register(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        import cliptune

        typer.echo(f"cliptune {cliptune.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    verbose: bool = typer.Option(False, "--verbose", "-v", help="Show debugging log lines."),
    version: bool = typer.Option(
        False, "--version", help="Print the version.", is_eager=True, callback=_print_version
    ),
) -> None:
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.WARNING, format="%(levelname)s %(message)s"
    )


def main() -> None:
    """Run the command line; an error for people ends it with status 1 and one line on stderr.

    What the system refuses (a disk, a folder) is one, too; with --verbose, where it came from.
    """
    try:
        app()
    except CliptuneError as error:
        _fail(str(error))
    except ModuleNotFoundError as error:
        if (told := of_missing(error)) is None:
            raise
        _fail(str(told))
    except OSError as error:  # a full disk, a folder that can't be written, …
        if not error.strerror or logging.getLogger().isEnabledFor(logging.DEBUG):
            raise
        _fail(f"{error.filename}: {error.strerror}" if error.filename else error.strerror)
    except KeyboardInterrupt:
        sys.exit(130)


def _fail(message: str) -> NoReturn:
    Console(stderr=True).print(f"[bold red]error:[/] {_escape(message)}", soft_wrap=True)
    sys.exit(1)


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
