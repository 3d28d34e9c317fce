"""The model card that goes out with a model: where it comes from, what it was measured at."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from cliptune.models.artifact import Artifact, RunMetrics
from cliptune.models.loading import ClipModel
from cliptune.models.registry import listed_as
from cliptune.version import __version__

_Z = 1.96
"""Of the normal distribution's 95 %."""


def write_card(
    model: ClipModel, folder: Path, *, library: str, usage: str, artifact: Artifact | None
) -> None:
    """Write `README.md`, as the hub reads it.

    Args:
        model: what goes out.
        folder: where.
        library: the hub's name of the library that loads it.
        usage: the lines of Python that do.
        artifact: what it was made of, with the run's options and figures; None: an untuned model.
    """
    base = model.base or model.name
    known = listed_as(base)
    licence = known.licence if known else ""
    head = {
        "library_name": library,
        "pipeline_tag": "zero-shot-image-classification",
        "license": "other" if licence in ("", "other") else licence.lower(),
        "tags": ["clip", "image-text-retrieval", "cliptune"],
    }
    lines = ["---", *(f"{key}: {json.dumps(value)}" for key, value in head.items()), "---", ""]
    lines += [f"# {'Fine-tuned' if artifact else 'A copy of'} {_name(base)}", ""]
    lines += _facts(model, base, licence)
    if artifact:
        lines += _training(artifact)
        lines += _figures(artifact.metrics)
    lines += ["", "## Use", "", "```python", usage.strip(), "```", ""]
    lines += [f"Made by cliptune {__version__}.", ""]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")


def _name(base: str) -> str:
    """A model's name without the folder of somebody's machine."""
    return Path(base).name if base.startswith("/") else base


def _facts(model: ClipModel, base: str, licence: str) -> list[str]:
    parameters = sum(p.numel() for p in model.clip.parameters())
    words = licence or "not known here: it is that of the base model's weights; look there"
    rows = {
        "Base model": _name(base),
        "Licence of the base": words,
        "Parameters": f"{parameters / 1e6:,.1f} million",
        "Embedding": f"{model.output_dim} numbers",
        "Pictures": model.preprocessing.summary,
        "Texts": f"{model.context_length} tokens",
        "Activation": model.activation,
        "Digest": f"`{model.digest}`",
    }
    return ["| | |", "| --- | --- |", *(f"| {key} | {value} |" for key, value in rows.items())]


def _training(artifact: Artifact) -> list[str]:
    config = artifact.config
    data = {name: config[name] for name in ("train_data", "eval_data") if config.get(name)}
    options = {
        name: config[name]
        for name in ("loss", "epochs", "batch_size", "learning_rate", "freeze", "lora", "seed")
        if config.get(name) is not None
    }
    facts = [f"{key}: {_name(str(value))}" for key, value in {**data, **options}.items()]
    return ["", "## Training", "", *(f"- {one}" for one in facts)] if facts else []


def _figures(metrics: RunMetrics) -> list[str]:
    before, after = metrics.get("before") or {}, metrics.get("after") or {}
    if not after:
        return []
    evaluations = metrics.get("evaluations") or {}
    rows = []
    for name, value in sorted(after.items()):
        queries = _queries(name, evaluations)
        cells = (_with_interval(one, queries) for one in (before.get(name), value))
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return [
        *("", "## Figures", "", "| | before | after |", "| --- | --- | --- |"),
        *rows,
        "",
        "In brackets, 95 % intervals by the number of queries alone (Wilson's, which for figures "
        "between 0 and 1 is at least as wide as what the queries' own spread gives).",
    ]


def _queries(metric: str, evaluations: Mapping[str, Mapping[str, int]]) -> int:
    """Of the evaluation that a metric's full name begins with; 0: it isn't known."""
    named = [counts for name, counts in evaluations.items() if metric.startswith(f"{name}_")]
    only = list(evaluations.values()) if len(evaluations) == 1 else []
    counted = named or only
    return counted[0].get("n_queries", 0) if counted else 0


def _with_interval(value: float | None, queries: int) -> str:
    if value is None:
        return ""
    if not queries or not 0 <= value <= 1:
        return f"{value:.3f}"
    low, high = wilson(value, queries)
    return f"{value:.3f} ({low:.3f} to {high:.3f})"


def wilson(share: float, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share in [0, 1] that was found in `count` tries (1927)."""
    spread = _Z**2 / count
    middle = (share + spread / 2) / (1 + spread)
    half = _Z / (1 + spread) * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    return max(0.0, middle - half), min(1.0, middle + half)
