"""Figures for Weights & Biases."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from cliptune.training.callbacks.tracker import Tracker

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

    from cliptune.training.state import Training


class WandBLogger(Tracker):
    """Tell the run's options and figures to Weights & Biases, or keep them for it in a folder.

    Offline, they lie in `wandb` in the run's folder until `wandb sync` uploads them (with
    `--append` for the part of a resumed run). Neither code, git state, console output nor facts
    about the machine are recorded.
    """

    name: Literal["WandBLogger"] = "WandBLogger"
    packages: ClassVar[tuple[str, ...]] = ("wandb",)

    project: str = "cliptune"
    entity: str | None = None
    """The user or the team; None: the account's default."""
    offline: bool | None = None
    """None: as `WANDB_MODE` says, else online where an API key is configured, else offline."""

    def open(self, training: Training, state: dict[str, Any]) -> GeneralTracker:
        """Begin a run of the run folder's name, or go on with the one of before."""
        os.environ["WANDB_ERROR_REPORTING"] = "false"
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb
        from accelerate.tracking import WandBTracker

        mode = self._mode()
        tracker = WandBTracker(
            self.project,
            entity=self.entity,
            name=training.run_dir.name,
            dir=training.run_dir,
            mode=mode,
            id=state.get("id"),
            resume="allow" if state and mode == "online" else None,
            settings=wandb.Settings(
                console="off",
                disable_code=True,
                disable_git=True,
                x_disable_machine_info=True,
                x_disable_meta=True,
                x_disable_stats=True,
                x_save_requirements=False,
            ),
        )
        tracker.start()
        state["id"] = tracker.run.id
        training.reporter.log("INFO", f"Weights & Biases ({mode}): {tracker.run.dir}")
        return tracker

    def close(self, tracker: GeneralTracker, error: BaseException | None) -> None:
        """End the W&B run; one that did not finish is shown as failed."""
        tracker.tracker.finish(exit_code=0 if error is None else 1)

    def _mode(self) -> str:
        if self.offline is not None:
            return "offline" if self.offline else "online"
        if mode := os.environ.get("WANDB_MODE"):
            return mode
        import wandb

        return "online" if wandb.login(prompt=False, verify=False) else "offline"
