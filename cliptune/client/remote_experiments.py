"""Experiments at a train Flow: the SDK's calls, for `RemoteSession`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cliptune.client.remote import RemoteSession
    from cliptune.client.remote_run import RemoteRun


@dataclass(frozen=True)
class RemoteExperiment:
    """A group of runs at a train Flow: the calls of `cliptune.Experiment`."""

    name: str
    created: str
    """ISO 8601, UTC."""
    session: RemoteSession = field(repr=False, compare=False)
    """Where it is."""

    def list_runs(self, page: int = 1, size: int = 50) -> list[RemoteRun]:
        """Its runs, newest first."""
        return self.session.list_runs(self.name, page, size)

    def get_run(self, name: str) -> RemoteRun:
        """Its run `name`."""
        return self.session.get_run(name, self.name)

    def delete_run(self, name: str) -> None:
        """Delete its run `name`."""
        self.session.delete_run(name, self.name)

    def delete_runs(self) -> None:
        """Delete all its runs."""
        self.session.delete_runs(self.name)


class ExperimentCalls:
    """What `RemoteSession` offers of experiments."""

    def create_experiment(self, name: str = "default") -> RemoteExperiment:
        """Make a group for runs there, as `cliptune.create_experiment`."""
        return self._experiment(self._ask("create", name))

    def get_experiment(self, name: str = "default") -> RemoteExperiment:
        """The experiment `name` there, as `cliptune.get_experiment`."""
        return self._experiment(self._ask("get", name))

    def list_experiments(self) -> list[RemoteExperiment]:
        """All experiments there by name, as `cliptune.list_experiments`."""
        return [self._experiment(found) for found in self._ask("list")]

    def delete_experiment(self, name: str) -> None:
        """Delete an experiment there with all its runs, as `cliptune.delete_experiment`."""
        self._ask("delete", name)

    def delete_experiments(self) -> None:
        """Delete all experiments there with all their runs, as `cliptune.delete_experiments`."""
        self._ask("delete_all")

    def _ask(self, action: str, name: str | None = None) -> Any:
        return self.call("/experiments", {"action": action, "name": name})  # type: ignore[attr-defined]

    def _experiment(self, found: dict[str, str]) -> RemoteExperiment:
        return RemoteExperiment(found["name"], found["created"], self)  # type: ignore[arg-type]
