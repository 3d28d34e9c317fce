"""Asking before something is lost."""

from __future__ import annotations

import typer

from cliptune.errors import NotReady


def confirm(what: str, yes: bool) -> None:
    """Ask whether to do `what`, unless `yes` was given.

    Raises:
        NotReady: the answer was no, or there is nobody to ask.
    """
    if yes:
        return
    try:
        agreed = typer.confirm(f"{what}?")
    except typer.Abort:  # no terminal, or Ctrl-D
        typer.echo()
        agreed = False
    if not agreed:
        raise NotReady("nothing was deleted: it was not confirmed (--yes does it without asking)")
