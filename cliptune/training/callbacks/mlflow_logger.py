"""Figures for MLflow."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from cliptune.training.callbacks.tracker import Tracker

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

    from cliptune.training.state import Training


class MLflowLogger(Tracker):
    """Tell the run's options and figures to MLflow: a server, or a folder.

    A folder is looked at with `MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri FOLDER`.
    """

    name: Literal["MLflowLogger"] = "MLflowLogger"
    packages: ClassVar[tuple[str, ...]] = ("mlflow",)

    tracking_uri: str | None = None
    """`http://…` of a server, or a folder; None: `mlflow` in the run's own folder."""
    experiment: str = "cliptune"
    """The MLflow experiment that the run joins; it is made if it is not there."""

    def open(self, training: Training, state: dict[str, Any]) -> GeneralTracker:
        """Begin an MLflow run, or set the one of before running again."""
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
        # MLflow would rather have a database, and refuses plain folders without this.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        import mlflow
        from accelerate.tracking import MLflowTracker

        mlflow.set_tracking_uri(self.tracking_uri or (training.run_dir / "mlflow").as_uri())
        tracker = MLflowTracker(
            self.experiment, run_id=state.get("run_id"), run_name=training.run_dir.name
        )
        tracker.start()
        state["run_id"] = tracker.tracker.info.run_id
        return tracker

    def close(self, tracker: GeneralTracker, error: BaseException | None) -> None:
        """End the MLflow run as FINISHED, FAILED, or KILLED where it was cancelled."""
        import mlflow

        from cliptune.training.loop import Cancelled

        stopped = isinstance(error, Cancelled | KeyboardInterrupt)
        mlflow.end_run("FINISHED" if error is None else "KILLED" if stopped else "FAILED")
