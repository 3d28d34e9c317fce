"""`--fail-if`: an exit status for the CI of those who measure models there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from cliptune.cli.terminal import notices

if TYPE_CHECKING:
    from cliptune.evaluation.conditions import Condition

FAILED = 3
"""The exit status where a condition holds; 1 is an error's, 2 that of a command that isn't one."""

FailIf = Annotated[
    list[str] | None,
    typer.Option(
        "--fail-if",
        metavar="CONDITION",
        help="Exit with status 3 if it holds, such as 'reciprocal_rank < 0.3'; may be given "
        "several times.",
    ),
]


def parse_conditions(texts: Sequence[str] | None) -> list[Condition]:
    """The conditions of `--fail-if`, before anything is measured.

    Raises:
        BadInput: one is written wrongly.
    """
    from cliptune.evaluation.conditions import Condition

    return [Condition.parse(text) for text in texts or ()]


def holding(conditions: Sequence[Condition], figures: Mapping[str, float]) -> list[Condition]:
    """Those that hold.

    Raises:
        BadInput: one names no figure.
    """
    return [one for one in conditions if one.holds(figures)]


def fail_if(failed: Sequence[Condition], figures: Mapping[str, float]) -> None:
    """End the command with status `FAILED` if conditions have `failed`, and say which."""
    for one in failed:
        notices.print(
            f"failed: {one.name} is {figures[one.name]:.4f} ({one})", style="red", highlight=False
        )
    if failed:
        raise typer.Exit(FAILED)
