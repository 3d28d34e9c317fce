"""A comparison as one HTML file that needs nothing else: pictures and styles are in it."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from docarray import DocList
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from cliptune.data.pictures.images import decode_image, image_bytes
from cliptune.data.validation import labels_of
from cliptune.documents import ClipDoc
from cliptune.errors import BadImage
from cliptune.evaluation.bootstrap import Change
from cliptune.evaluation.calibration import Reliability
from cliptune.evaluation.metrics import DOCARRAY_METRICS, HEADLINE, TEXTBOOK_METRICS
from cliptune.evaluation.report.comparison import Comparison
from cliptune.evaluation.report.curves import epoch_charts, reliability_chart, shortened_chart
from cliptune.evaluation.report.data_issues import Faults
from cliptune.evaluation.retrieval import Evaluation
from cliptune.evaluation.shortening import bytes_of
from cliptune.files import write_text
from cliptune.models.artifact import Epoch
from cliptune.quantization import OutputDtype

SHOWN_QUERIES = 10
SHOWN_RESULTS = 5
SHOWN_ANSWERS = 3
SHOWN_SUSPECTS = 12
THUMBNAIL = 112
"""The longest side of a picture in the report, in pixels of the page."""


@dataclass(frozen=True)
class About:
    """What a report says besides the comparison."""

    title: str
    """The run's name."""
    facts: Mapping[str, object]
    """By their name, such as the base model, the digest and versions."""
    options: Mapping[str, object] = field(default_factory=dict)
    """The run's options."""
    before: Mapping[str, float] = field(default_factory=dict)
    """The run's metrics before training."""
    history: Sequence[Epoch] = ()
    """What `Run.history()` gives."""


def page_environment(package: str) -> Environment:
    """The templates of a package, for pages: what they are given as text is escaped."""
    return Environment(
        loader=PackageLoader(package),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def write_report(comparison: Comparison, about: About, path: str | Path) -> Path:
    """Write the report to `path`, whole or not at all; returns `path`."""
    write_text(Path(path), render_report(comparison, about))
    return Path(path)


def render_report(comparison: Comparison, about: About) -> str:
    """The report's HTML: text from documents is escaped, and nothing is fetched when it is read."""
    environment = page_environment("cliptune.evaluation.report")
    environment.filters["signed"] = lambda value: f"{value:+.3f}".replace("-", "−")
    environment.filters["figure"] = lambda value: f"{value:.3f}"
    page = environment.get_template("report.html.j2")
    return page.render(
        about=about,
        comparison=comparison,
        headline=comparison.changes[HEADLINE],
        charts=[(c.title, Markup(c.svg)) for c in epoch_charts(about.before, about.history)],  # noqa: S704 - drawn by us
        metrics=_rows(comparison.changes, DOCARRAY_METRICS),
        relevance=_relevance(comparison.reliability),
        shortened=_shortened(comparison.shortened),
        textbook=_rows(comparison.changes, TEXTBOOK_METRICS),
        groups={
            by: [(f"{one.name} ({one.n})", one.change) for one in groups]
            for by, groups in comparison.by_group().items()
        },
        counts={
            "better": int((comparison.gains > 0).sum()),
            "worse": int((comparison.gains < 0).sum()),
            "same": int((comparison.gains == 0).sum()),
        },
        better=[_query(comparison, i) for i in comparison.better(SHOWN_QUERIES)],
        worse=[_query(comparison, i) for i in comparison.worse(SHOWN_QUERIES)],
        faults=[_fault_cards(faults) for faults in comparison.faults],
    )


def _rows(changes: Mapping[str, Change], names: Sequence[str]) -> list[tuple[str, Change]]:
    return [
        (name.removesuffix("_textbook").replace("_at_k", "@k").replace("_", " "), changes[name])
        for name in names
    ]


def _relevance(measured: Reliability | str) -> dict[str, object]:
    """What cosines mean, or `missing`: why that can't be said."""
    if isinstance(measured, str):
        return {"missing": measured}
    return {
        "missing": "",
        "chart": Markup(reliability_chart(measured).svg),  # noqa: S704 - drawn by us
        "calibration": measured.calibration,
        "cuts": measured.cuts,
    }


def _shortened(measured: Mapping[tuple[int, OutputDtype], Evaluation]) -> dict[str, object]:
    """What embeddings of fewer bytes find, as a chart and as rows."""
    whole = next(iter(measured.values())).metrics["recall_at_k_textbook"]
    rows = []
    for (dimensions, output_dtype), evaluation in measured.items():
        recall = evaluation.metrics["recall_at_k_textbook"]
        kept = f"{100 * recall / whole:.1f} %" if whole else "–"
        rows.append((dimensions, output_dtype, bytes_of(dimensions, output_dtype), recall, kept))
    return {"chart": Markup(shortened_chart(measured).svg), "rows": rows}  # noqa: S704 - drawn by us


def _query(comparison: Comparison, position: int) -> dict[str, object]:
    """A query's row: its right answers, and what both models found."""
    doc, index = comparison.queries[position], comparison.index
    answers = [index[place] for place in comparison.answers.right(position)]
    sides = []
    for side, evaluation in (("before", comparison.before), ("after", comparison.after)):
        [example] = evaluation.examples(comparison.queries, index, SHOWN_RESULTS, [position])
        results = [{**match, **_card(index[match["position"]])} for match in example["matches"]]
        sides.append((side, _rank(evaluation, position), results))
    return {
        "text": doc.text,
        "answers": [_card(one) for one in answers[:SHOWN_ANSWERS]],
        "n_answers": len(answers),
        "sides": sides,
    }


def _rank(evaluation: Evaluation, position: int) -> str:
    """Where the first right answer stands."""
    hits = np.flatnonzero(evaluation.hits[position])
    if not len(hits):
        return f"no right answer among the best {evaluation.limit}"
    return f"first right answer at rank {hits[0] + 1}"


def _fault_cards(faults: Faults) -> dict[str, object]:
    docs = faults.docs
    return {
        "where": faults.where,
        "n_duplicates": len(faults.duplicates),
        "n_mislabelled": len(faults.mislabelled),
        "duplicates": [
            (pair, _labelled(docs, pair.first, faults), _labelled(docs, pair.second, faults))
            for pair in faults.duplicates[:SHOWN_SUSPECTS]
        ],
        "mislabelled": [
            (one, _labelled(docs, one.position, faults), faults.text_of.get(one.likely, one.likely))
            for one in faults.mislabelled[:SHOWN_SUSPECTS]
        ],
    }


def _labelled(docs: DocList[ClipDoc], position: int, faults: Faults) -> dict[str, object]:
    card = _card(docs[position])
    [label] = labels_of([docs[position]])
    return {**card, "title": docs[position].text or faults.text_of.get(label, label)}


def _card(doc: ClipDoc) -> dict[str, object]:
    return {
        "id": doc.id,
        "title": doc.text or doc.label or doc.id,
        "image": _thumbnail(image_bytes(doc, allow_files=True)),
    }


@lru_cache(maxsize=512)
def _thumbnail(data: bytes) -> str:
    """A small JPEG as a data URI; empty where the picture can't be read."""
    try:
        picture = decode_image(data)
    except BadImage:
        return ""
    # Twice as many pixels as are shown, for dense screens.
    size = (2 * THUMBNAIL, 2 * THUMBNAIL)
    ratio = min(size[0] / picture.width, size[1] / picture.height)
    shown = max(1, round(picture.width * ratio)), max(1, round(picture.height * ratio))
    small = picture.resize(shown, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=72, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
