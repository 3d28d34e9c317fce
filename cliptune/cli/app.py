"""The `cliptune` command: its sub-commands, and errors as one line on stderr."""

from __future__ import annotations

import logging
import sys
from typing import NoReturn

import typer

from cliptune.cli.lazy import lazy_group
from cliptune.errors import CliptuneError
from cliptune.extras import missing_extra

COMMANDS = {
    "cliptune.cli.demo": "demo",
    "cliptune.cli.training.data": "data",
    "cliptune.cli.training.split": "split",
    "cliptune.cli.training.mine": "mine",
    "cliptune.cli.training.fit": "fit",
    "cliptune.cli.training.tune": "tune",
    "cliptune.cli.training.runs": "runs logs cancel resume",
    "cliptune.cli.models.evaluate": "evaluate",
    "cliptune.cli.models.compare": "compare",
    "cliptune.cli.models.report": "report",
    "cliptune.cli.models.transfer": "models download export push fetch",
    "cliptune.cli.models.quantize": "quantize",
    "cliptune.cli.models.calibrate": "calibrate",
    "cliptune.cli.models.wise_ft": "wise-ft",
    "cliptune.cli.models.shorten": "shorten",
    "cliptune.cli.service.serve": "serve train-server",
    "cliptune.cli.service.index": "index",
    "cliptune.cli.service.search": "search",
    "cliptune.cli.service.swap": "swap",
    "cliptune.cli.service.keys": "keys",
    "cliptune.cli.service.feedback": "feedback",
    "cliptune.cli.service.mcp": "mcp",
}
"""By module: its commands, in the order of the help."""
HEADINGS = {
    "cliptune.cli.training": "Data and training",
    "cliptune.cli.models": "Models",
    "cliptune.cli.service": "Services",
}
"""By package: what the help puts above its commands."""

app = typer.Typer(
    name="cliptune",
    cls=lazy_group(COMMANDS, HEADINGS),
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
        if (missing := missing_extra(error)) is None:
            raise
        _fail(str(missing))
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
