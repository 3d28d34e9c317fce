"""The model before and after fine-tuning, as several commands compare them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cliptune.errors import CliptuneError

if TYPE_CHECKING:
    from cliptune.models.loading import ClipModel


def load_tuned(run: str) -> ClipModel:
    """The model of a run's name or of an artifact's path.

    Raises:
        NotFound: neither is there.
        NotReady, RunFailed: the run has no artifact.
    """
    from cliptune.models.loading import load_model, pick_device
    from cliptune.sdk.models import find_artifact

    return load_model(find_artifact(run), device=str(pick_device(None)))


def load_pretrained(tuned: ClipModel, before: str | None) -> ClipModel:
    """The model `before`, or else the base model of `tuned`, on the same device.

    Raises:
        CliptuneError: it can't be loaded, as `load_model` says.
    """
    from cliptune.models.loading import load_model

    device = str(next(tuned.clip.parameters()).device)
    if before is not None:
        return load_model(before, device=device)
    try:
        return load_model(tuned.base, device=device)
    except CliptuneError as error:
        raise type(error)(f"no base model, so give one by --before: {error}") from error


@contextmanager
def progress_bar(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """A bar that is gone in the end; what is yielded takes (what is done, done, total)."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as bar:
        task = bar.add_task("starting", total=None)
        yield lambda description, done, total: bar.update(
            task, description=description, completed=done, total=total
        )
