"""The `cliptune` command: its sub-commands, and errors as one line on stderr."""

from __future__ import annotations

import logging
import sys
from typing import NoReturn

import typer

from cliptune.cli.lazy import lazy_group
from cliptune.errors import CliptuneError
from cliptune.extras import of_missing

COMMANDS = {
    "cliptune.cli.split": "split",
    "cliptune.cli.mine": "mine",
    "cliptune.cli.runs": "fit logs cancel resume evaluate runs",
    "cliptune.cli.tune": "tune",
    "cliptune.cli.compare": "compare",
    "cliptune.cli.report": "report",
    "cliptune.cli.models": "models download export push",
    "cliptune.cli.fetch": "fetch",
    "cliptune.cli.quantize": "quantize",
    "cliptune.cli.calibrate": "calibrate",
    "cliptune.cli.wise_ft": "wise-ft",
    "cliptune.cli.serve": "serve train-server",
    "cliptune.cli.search": "search",
    "cliptune.cli.swap": "swap",
    "cliptune.cli.mcp": "mcp",
    "cliptune.cli.demo": "demo",
    "cliptune.cli.data": "data",
    "cliptune.cli.index": "index",
    "cliptune.cli.keys": "keys",
    "cliptune.cli.feedback": "feedback",
}
"""By module: its commands, in the order of the help."""

app = typer.Typer(
    name="cliptune",
    cls=lazy_group(COMMANDS),
    help="Fine-tune CLIP on your own titles and pictures, and serve it as text-to-image search.",
    epilog="Start with: cliptune demo",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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
    from rich.console import Console
    from rich.markup import escape

    Console(stderr=True).print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True)
    sys.exit(1)
