"""What a search has found: its record, a few lines, and a page with the trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from markupsafe import Markup
from matplotlib.figure import Figure

from cliptune.evaluation.bootstrap import Change
from cliptune.evaluation.plots import png_of, svg_of
from cliptune.evaluation.report.render import page_environment
from cliptune.files import write_bytes, write_text
from cliptune.tuning.plots import progress_plot, trials_plot
from cliptune.tuning.search import TrialResult, short
from cliptune.tuning.space import Axis

REPORT_FILE, PLOT_FILE, RECORD_FILE = "report.html", "trials.png", "tune.json"


@dataclass(frozen=True)
class TuneResult:
    """The trials and what was chosen."""

    results: Sequence[TrialResult]
    axes: Sequence[Axis]
    metric: str
    limit: int
    """k: how many results of each query count."""
    members: Sequence[int]
    """The trials that were averaged, best first."""
    soup: float
    """Their average's metric on the validation part."""
    alpha: float
    """WiSE-FT's: 0 would be the model before, 1 the trained one."""
    refitted: bool
    over_before: dict[str, Change]
    """The model before and the chosen one on the test part, by metric."""
    over_defaults: dict[str, Change]
    """The first trial's model and the chosen one, likewise."""
    importance: dict[str, float]
    """By axis; empty where there are too few trials to say."""
    sizes: dict[str, int]
    """Pairs of each part."""
    counts: dict[str, int]
    """Of the test: `Evaluation.counts()`."""
    minutes: float
    """That the trials took."""

    @property
    def best(self) -> TrialResult:
        """The best single trial."""
        return next(one for one in self.results if one.number == self.members[0])

    def to_json(self) -> dict[str, object]:
        """As JSON: all but the axes' distributions, which are told in words."""
        record = asdict(self)
        record["axes"] = [axis.describe() for axis in self.axes]
        return record

    def summary(self) -> list[str]:
        """What is most important, in a few lines."""
        states = [one.state for one in self.results]
        tried = ", ".join(f"{name} {short(value)}" for name, value in self.best.values.items())
        members = " and ".join(str(number + 1) for number in self.members)
        what = f"trial {members}" if len(self.members) == 1 else f"the average of trials {members}"
        return [
            f"{len(states)} trials in {self.minutes:.0f} minutes: {states.count('complete')} "
            f"complete, {states.count('pruned')} given up, {states.count('failed')} failed",
            f"chosen: {what}, alpha {self.alpha:g}; the best single trial had "
            f"{tried or 'the defaults'}",
            f"{self._told('the model before', self.over_before)}, by {self.counts['n_queries']} "
            "queries that no choice saw",
            self._told("the defaults", self.over_defaults),
        ]

    def warning(self) -> str:
        """What is wrong with the result, if something is."""
        change = self.over_before[self.metric]
        if change.is_certain and change.difference.mean < 0:
            return (
                f"the chosen model finds less than the one before: {self.metric} "
                f"{change.before.mean:.4f} → {change.after.mean:.4f} on the test part"
            )
        return ""

    def _told(self, than: str, changes: dict[str, Change]) -> str:
        change = changes[self.metric]
        difference = change.difference
        return (
            f"{self.metric} against {than}: {change.before.mean:.4f} → {change.after.mean:.4f} "
            f"({difference.mean:+.4f}, 95 % interval {difference.low:+.4f} to "
            f"{difference.high:+.4f}{'' if change.is_certain else ': no certain difference'})"
        )


def write_report(result: TuneResult, title: str, folder: Path) -> Path:
    """Write the page and the plot into `folder`, each whole or not at all; returns the page."""
    trials = trials_plot(
        result.results, result.axes, result.importance, result.metric, result.best.number
    )
    write_bytes(folder / PLOT_FILE, png_of(trials))
    write_text(folder / REPORT_FILE, render(result, title, trials))
    return folder / REPORT_FILE


def render(result: TuneResult, title: str, trials: Figure) -> str:
    """The page's HTML: what is text is escaped, and nothing is fetched when it is read."""
    figures = (trials, progress_plot(result.results, result.metric))
    plots = [Markup(svg_of(figure)) for figure in figures]  # noqa: S704 - drawn by us
    environment = page_environment("cliptune.tuning")
    return environment.get_template("tune.html.j2").render(
        title=title, result=result, trials_svg=plots[0], progress_svg=plots[1],
        ranked=sorted(result.results, key=lambda one: (one.state != "complete", -(one.value or 0))),
        lines=result.summary(),
    )  # fmt: skip
