"""Metrics before and after fine-tuning, side by side in the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from rich.table import Table
from rich.text import Text

from cliptune.evaluation.groups import Group
from cliptune.evaluation.metrics import METRICS, TEXTBOOK_METRICS


def before_after_table(
    before: Mapping[str, float],
    after: Mapping[str, float],
    extra: Mapping[str, Mapping[str, float]] | None = None,
    *,
    title: str | None = None,
) -> Table:
    """A rich table with a row a metric: before, after, the gain, and more columns.

    Args:
        before: metrics of the zero-shot model, with or without a prefix such as
            `clip-text-to-clip-vision_`; a prefix that all names share is shown once, as caption.
        after: metrics of the fine-tuned model. A metric that a column lacks shows as `–`.
        extra: more columns by their heading, such as `{"WiSE-FT 0.5": {…}}`.
        title: of the table.

    The gain is after − before, and in percent of before. The best value of a row is bold and
    green: the highest, or the lowest of a loss.
    """
    columns = {"before": before, "after": after, **(extra or {})}
    names = ordered(name for values in columns.values() for name in values)
    prefix = common_prefix(names)
    table = Table(title=title, caption=prefix.rstrip("_") or None, header_style="bold")
    table.add_column("metric", no_wrap=True)
    table.add_column("before", justify="right", no_wrap=True)
    table.add_column("after", justify="right", no_wrap=True)
    table.add_column("gain", justify="right", no_wrap=True)
    for heading in extra or {}:
        table.add_column(heading, justify="right")
    for name in names:
        values = [column.get(name) for column in columns.values()]
        best = _best(name, values)
        cells = [
            Text(_number(value), style="bold green" if position in best else "")
            for position, value in enumerate(values)
        ]
        gain = _gain(name, before.get(name), after.get(name))
        if metric_of(name) == TEXTBOOK_METRICS[0] and table.row_count:
            table.add_section()
        table.add_row(name.removeprefix(prefix), *cells[:2], gain, *cells[2:])
    return table


def metrics_table(metrics: Mapping[str, float], *, title: str | None = None) -> Table:
    """A rich table of one model's metrics, a row each."""
    table = Table("metric", title=title, header_style="bold")
    table.add_column("value", justify="right")
    for name in ordered(metrics):
        table.add_row(name, _number(metrics[name]))
    return table


def groups_table(groups: Iterable[Group], *, title: str | None = None) -> Table:
    """A rich table of one figure, a row a group of queries."""
    table = Table("group", title=title, header_style="bold")
    for heading in ("queries", "value", "95 % interval"):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in groups:
        interval = f"{_number(one.value.low)} to {_number(one.value.high)}"
        table.add_row(Text(one.name), str(one.n), _number(one.value.mean), interval)
    return table


def counted_lines(evaluations: Mapping[str, Mapping[str, int]]) -> list[str]:
    """What to print below a table of figures: how much each evaluation searched.

    `evaluations` are `Evaluation.counts()` by the evaluation's name; an empty name stays unsaid.
    """
    return [
        f"{name}: {describe_counts(counts)}" if name else describe_counts(counts)
        for name, counts in evaluations.items()
    ]


def describe_counts(counts: Mapping[str, int]) -> str:
    """What `Evaluation.counts()` gives, in words: to stand beside every figure."""
    searched = f"{counts['n_queries']} queries, {counts['n_index']} documents searched"
    without = counts["n_without_answers"]
    if not without:
        return f"{searched}; every query has a right answer among them"
    return (
        f"{searched}; {without} queries ({without / counts['n_queries']:.1%}) have no right answer "
        "among them and count as not found"
    )


def lower_is_better(name: str) -> bool:
    """Whether `name` is a loss; every metric in `METRICS` is better when higher."""
    return "loss" in name.lower()


def common_prefix(names: Iterable[str]) -> str:
    """What every metric's name begins with up to its own, such as `clip-text-to-clip-vision_`.

    Names that end in none of `METRICS`, such as `val_loss`, do not count; empty where the
    others differ.
    """
    prefixes = {name.removesuffix(metric_of(name)) for name in names if metric_of(name) in METRICS}
    return prefixes.pop() if len(prefixes) == 1 else ""


def metric_of(name: str) -> str:
    """The one of `METRICS` that `name` ends with, after nothing or an underscore, else `name`."""
    fitting = [m for m in METRICS if name == m or name.endswith(f"_{m}")]
    return max(fitting, key=len, default=name)


def ordered(names: Iterable[str]) -> list[str]:
    """Unique `names`: those of `METRICS` in their order, by prefix, and then all others."""
    rank = {metric: position for position, metric in enumerate(METRICS)}
    unique = dict.fromkeys(names)
    prefixes = {name.removesuffix(metric_of(name)): None for name in unique}
    places = {prefix: position for position, prefix in enumerate(prefixes)}

    def key(name: str) -> tuple[int, int]:
        metric = metric_of(name)
        if metric not in rank:
            return len(places), 0
        return places[name.removesuffix(metric)], rank[metric]

    return sorted(unique, key=key)


def _best(name: str, values: list[float | None]) -> set[int]:
    """Positions of the best value as it is shown; none where all are alike."""
    shown = {
        position: float(_number(value))
        for position, value in enumerate(values)
        if value is not None and math.isfinite(value)
    }
    if len(set(shown.values())) < 2:
        return set()
    best = min(shown.values()) if lower_is_better(name) else max(shown.values())
    return {position for position, value in shown.items() if value == best}


def _gain(name: str, before: float | None, after: float | None) -> Text:
    if before is None or after is None:
        return Text("–")
    gain = after - before
    words = f"{gain:+.4f}"
    if before:
        words += f" ({gain / abs(before):+.1%})"
    better = -gain if lower_is_better(name) else gain
    style = "" if abs(gain) < 0.00005 else "green" if better > 0 else "red"
    return Text(words, style=style)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
