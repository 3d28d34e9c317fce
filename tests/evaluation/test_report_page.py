"""The report's page: its figures, its pictures, and nothing fetched or run from documents."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from docarray import DocList
from PIL import Image
from typer.testing import CliRunner

import cliptune
from cliptune.callback import EvaluationCallback
from cliptune.cli.app import app
from cliptune.documents import ClipDoc
from cliptune.errors import BadData, BadInput, CliptuneError, NotFound
from cliptune.evaluation.report import About, compare, render_report
from cliptune.evaluation.retrieval import evaluate
from cliptune.inference import get_tower
from cliptune.models.artifact_writer import write_artifact
from cliptune.models.loading import ClipModel, load_model

COLOURS = ("red", "green", "blue", "yellow", "black", "white", "purple", "orange")
ATTACK = '</title><script>alert("x")</script><img src=https://evil.example/x>'


class Page(HTMLParser):
    """What a browser would see."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def words(self) -> str:
        return " ".join(self.text.split())


def picture(colour: str, border: str) -> bytes:
    image = Image.new("RGB", (40, 40), border)
    image.paste(Image.new("RGB", (28, 28), colour), (6, 6))
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


def data() -> tuple[DocList[ClipDoc], DocList[ClipDoc]]:
    """A query a colour, three pictures each; one of them is filed under another colour."""
    queries = DocList[ClipDoc](
        [ClipDoc(id=f"q-{c}", text=f"a {c} square", label=c) for c in COLOURS]
    )
    queries[0].text = ATTACK
    index = DocList[ClipDoc](
        [
            ClipDoc(id=f"{c}-{border}", image=picture(c, border), label=c)
            for c in COLOURS
            for border in ("grey", "brown", "teal")
        ]
    )
    index.append(ClipDoc(id="again", image=index[3].image, label="blue"))
    return queries, index


@pytest.fixture(scope="module")
def models(tiny_model: Path) -> tuple[ClipModel, ClipModel]:
    before, after = load_model(tiny_model), load_model(tiny_model)
    torch.manual_seed(2)
    with torch.no_grad():
        for weights in after.clip.parameters():
            weights.add_(torch.randn_like(weights) * 0.1)
    return before, after


def assert_self_contained(page: Page) -> int:
    """No script, nothing that is fetched, every picture decodes; returns how many there are."""
    pictures = 0
    for tag, attributes in page.tags:
        assert tag not in {"script", "iframe", "object", "embed", "link", "base", "form"}
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "srcset", "xlink:href", "action", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/jpeg;base64,", "#")), value
        if tag == "img":
            encoded = (attributes["src"] or "").partition(",")[2]
            with Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
                image.load()
                assert max(image.size) <= 224
            pictures += 1
    return pictures


def test_the_page_has_the_figures_of_an_evaluation_and_nothing_from_outside(
    models: tuple[ClipModel, ClipModel],
) -> None:
    before, after = models
    queries, index = data()
    train = DocList[ClipDoc]([doc.model_copy(update={"text": "a title"}) for doc in index[:5]])
    comparison = compare(before, after, queries, index, train=train, limit=5)
    for model, side in ((before, "before"), (after, "after")):
        towers = get_tower(model, "clip-text"), get_tower(model, "clip-vision")
        expected = evaluate(*towers, queries, index, limit=5).metrics
        found = {name: getattr(change, side).mean for name, change in comparison.changes.items()}
        assert found == pytest.approx(expected)
    for positions, sign in ((comparison.better(9), 1), (comparison.worse(9), -1)):
        gains = [sign * comparison.gains[i] for i in positions]
        assert gains == sorted(gains, reverse=True)
        assert all(gain > 0 for gain in gains)
    assert len(comparison.better(99)) + len(comparison.worse(99)) == np.count_nonzero(
        comparison.gains
    )
    assert comparison.shortened[32, "float32"].metrics == pytest.approx(comparison.after.metrics)
    assert [size for size, _ in comparison.shortened] == [n for n in (32, 16, 8, 4) for _ in "fiu"]
    same = [pair for pair in comparison.faults[0].duplicates if pair.is_same_file]
    assert [(comparison.index[p.first].id, comparison.index[p.second].id) for p in same] == [
        ("green-grey", "again")
    ]
    assert comparison.n_leaked == 6  # the five, and the copy of one

    options = {"model": "tiny", "note": ATTACK}
    html = render_report(comparison, About(ATTACK, {"by": ATTACK}, options))
    page = Page(html)
    assert assert_self_contained(page) > 10
    assert page.words().count(ATTACK) >= 3  # it is shown, as text
    change = comparison.changes["recall_at_k"]
    assert f"recall@k {change.before.mean:.3f}" in page.words()
    assert "6 of the 25 pictures searched are training pictures too" in page.words()
    assert "the same file" in page.words()
    recall = comparison.after.metrics["recall_at_k_textbook"]
    assert f"32float32128{recall:.3f}100.0 %" in page.words()


def test_bad_data_is_named(models: tuple[ClipModel, ClipModel]) -> None:
    queries, index = data()
    queries[2].text = None
    comparison = compare(*models, queries, index)
    assert [doc.id for doc in comparison.queries] == [q.id for q in queries if q.id != "q-blue"]
    for query in queries:
        query.text = " "
    with pytest.raises(BadData, match=r"queries: .*document 2 \(id q-blue\): an empty title"):
        compare(*models, queries, index)
    queries, index = data()
    index[7].image = b"no picture"
    comparison = compare(*models, queries, index)
    assert comparison.n_unreadable == 1
    assert "1 pictures of the index could not be read" in render_report(comparison, About("x", {}))


def test_a_report_of_an_artifact(
    models: tuple[ClipModel, ClipModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, after = models
    write_artifact(after, tmp_path / "tuned")
    for doc in data()[1][:-1]:
        folder = tmp_path / "pictures" / str(doc.label)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{doc.id}.png").write_bytes(doc.image or b"")
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["report", "tuned", "--queries", "pictures", "--limit", "3"])
    assert result.exit_code == 0, result.output
    assert "written: tuned-report.html" in result.output
    page = Page((tmp_path / "tuned-report.html").read_text())
    assert assert_self_contained(page) > 10
    assert "the best 3 results" in page.words()

    def refused(*arguments: str) -> BaseException | None:
        return CliRunner().invoke(app, ["report", *arguments]).exception

    for arguments, kind, words in (
        (("tuned",), BadInput, "tuned has no EvaluationCallback"),
        (("tuned", "--index", "pictures"), BadInput, "needs --queries"),
        (("tuned", "--queries", "pictures", "--training-data"), BadInput, "is an artifact"),
        (("no-such-run", "--queries", "pictures"), NotFound, "no-such-run"),
    ):
        error = refused(*arguments)
        assert isinstance(error, kind), (arguments, error)
        assert isinstance(error, CliptuneError)
        assert words in str(error)


@pytest.mark.e2e
def test_a_report_of_a_run(tiny_model: Path, tmp_path: Path) -> None:
    """The figures are those that the run has kept."""
    queries, index = data()
    queries[0].text = "a red square"
    train = DocList[ClipDoc](
        [ClipDoc(text=f"a {doc.label} square", image=doc.image) for doc in index[:-1]]
    )
    run = cliptune.fit(
        model=str(tiny_model), train_data=train, epochs=2, batch_size=8,
        callbacks=[EvaluationCallback(query_data=queries, index_data=index, limit=5)],
    )  # fmt: skip
    assert run.wait(120)["status"] == "FINISHED"
    out = tmp_path / "report.html"
    result = CliRunner().invoke(app, ["report", run.name, "--training-data", "--out", str(out)])
    assert result.exit_code == 0, result.output
    html = out.read_text()
    page = Page(html)
    assert_self_contained(page)
    for when, values in run.metrics().items():
        rank = values["clip-text-to-clip-vision_reciprocal_rank"]
        found = re.search(rf"reciprocal rank .*?{rank:.3f}", page.words())
        assert found, (when, rank)
    assert html.count("<svg") == 3  # the curves, and what smaller embeddings find
    assert json.dumps(str(tiny_model))[1:-1] in html
    assert "25 of the 25 pictures searched are training pictures too" in page.words()
