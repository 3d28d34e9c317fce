"""Reduced engines: admitted by their recall, refused otherwise, served under the same digest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from docarray import DocList

from cliptune.data.source import load_documents
from cliptune.documents import ClipDoc
from cliptune.errors import BadInput, NotFound
from cliptune.evaluation.quality_gate import QualityLost, add_engine
from cliptune.extras import is_installed
from cliptune.inference import get_tower
from cliptune.inference.engines import both_towers
from cliptune.inference.forwards import openvino_has_bf16
from cliptune.models.artifact import open_artifact
from cliptune.models.artifact_writer import write_artifact
from cliptune.models.loading import ClipModel, load_model


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_artifact(load_model("builtin"), tmp_path_factory.mktemp("a") / "artifact").path


@pytest.fixture(scope="module")
def data() -> tuple[DocList[ClipDoc], DocList[ClipDoc]]:
    return load_documents("catalogue-queries")[:40], load_documents("catalogue-index")[:120]


def test_int8_is_admitted_with_its_figures(
    artifact: Path, data: tuple[DocList[ClipDoc], DocList[ClipDoc]], tmp_path: Path
) -> None:
    report = add_engine(artifact, tmp_path / "int8", "int8", *data, tolerance=0.05)
    opened = open_artifact(tmp_path / "int8")  # checks the sums of all files
    kept = opened.metadata["engines"]["int8"]
    assert kept["fp32"] == report.fp32 > 0
    assert min(kept["reduced"], kept["mixed"]) >= 0.95 * report.fp32
    assert (kept["queries"], kept["index"], kept["tolerance"]) == (40, 120, 0.05)
    assert opened.digest == open_artifact(artifact).digest
    texts = [str(doc.text) for doc in data[0]]
    full = get_tower(opened.path, "clip-text", engine="onnx").encode(texts)
    reduced = get_tower(opened.path, "clip-text", precision="int8").encode(texts)
    cosines = (full * reduced).sum(axis=1)
    assert cosines.min() > 0.98
    assert np.abs(full - reduced).max() > 1e-4, "it is another engine"
    graph = onnx.load(opened.onnx_path("clip-text", "int8")).graph
    assert "MatMulInteger" in {node.op_type for node in graph.node}
    assert opened.onnx_path("clip-text", "int8").stat().st_size < (
        0.7 * opened.onnx_path("clip-text").stat().st_size
    )


def test_bf16_runs_in_bf16(
    artifact: Path, data: tuple[DocList[ClipDoc], DocList[ClipDoc]], tmp_path: Path
) -> None:
    report = add_engine(artifact, tmp_path / "bf16", "bf16", *data, tolerance=0.05, device="cpu")
    assert report.passed
    engines = ["torch", "openvino"] if has_openvino_bf16() else ["torch"]
    opened = open_artifact(tmp_path / "bf16")
    assert opened.metadata["engines"]["bf16"]["engines"] == engines == list(report.engines)
    assert opened.has_onnx, "for OpenVINO, here or elsewhere"
    texts = [str(doc.text) for doc in data[0]]
    full = get_tower(tmp_path / "bf16", "clip-text", device="cpu").encode(texts)
    tower = get_tower(tmp_path / "bf16", "clip-text", precision="bf16", device="cpu")
    reduced = tower.encode(texts)
    assert reduced.dtype == np.float32
    assert (full * reduced).sum(axis=1).min() > 0.99
    assert np.abs(full - reduced).max() > 1e-4


def has_openvino_bf16() -> bool:
    return is_installed("openvino") and openvino_has_bf16()


def test_the_worst_of_the_engines_counts(
    artifact: Path,
    data: tuple[DocList[ClipDoc], DocList[ClipDoc]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As if another engine computed something else than torch does."""
    from cliptune.evaluation import quality_gate

    def towers(*given: Any, engine: str = "torch", **options: Any) -> Any:
        text, vision = both_towers(*given, **options)
        if engine == "onnx":
            noise = np.random.default_rng(0)
            text.run = lambda batch: noise.random((len(batch), text.output_dim), np.float32)
        return text, vision

    monkeypatch.setattr(quality_gate, "both_towers", towers)
    monkeypatch.setattr(quality_gate, "possible_engines", lambda *given: ["torch", "onnx", "torch"])
    with pytest.raises(QualityLost, match=r"bf16 is not admitted: recall@10 by torch or onnx or"):
        add_engine(artifact, tmp_path / "bf16", "bf16", *data, tolerance=0.05, device="cpu")
    assert not list(tmp_path.iterdir())


def test_bf16_is_torch_s_alone_where_there_can_be_no_onnx(
    artifact: Path,
    data: tuple[DocList[ClipDoc], DocList[ClipDoc]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from cliptune.evaluation import quality_gate

    def fail(model: ClipModel, folder: Path) -> None:
        (folder / "clip-text" / "model.onnx").write_bytes(b"half of it")
        raise RuntimeError("no such operator")

    monkeypatch.setattr(quality_gate, "export_towers", fail)
    report = add_engine(artifact, tmp_path / "bf16", "bf16", *data, tolerance=0.05, device="cpu")
    assert report.engines == ("torch",)
    opened = open_artifact(tmp_path / "bf16")
    assert not opened.has_onnx
    assert not list(opened.path.rglob("*.onnx"))
    assert "stays without ONNX, so that torch alone runs bf16: no such operator" in caplog.text
    with pytest.raises(RuntimeError, match="no such operator"):
        add_engine(artifact, tmp_path / "int8", "int8", *data)


def test_an_engine_that_finds_less_is_refused_and_nothing_written(
    artifact: Path,
    data: tuple[DocList[ClipDoc], DocList[ClipDoc]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The quantised files are those of a model whose text projection was spoilt."""
    spoilt = load_model("builtin")
    generator = np.random.default_rng(0)
    projection = spoilt.clip.text_projection.data
    projection.copy_(projection.new_tensor(generator.standard_normal(tuple(projection.shape))))
    from cliptune.evaluation import quality_gate

    monkeypatch.setattr(quality_gate, "load_model", lambda name: spoilt)
    with pytest.raises(
        QualityLost, match=r"int8 is not admitted: recall@10 by onnx is 0\.\d+ .* against"
    ):
        add_engine(artifact, tmp_path / "int8", "int8", *data)
    assert not list(tmp_path.iterdir())


def test_what_was_not_admitted_is_not_served(artifact: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no int8 engine: `cliptune quantize .* --precision int8 "):
        get_tower(artifact, "clip-text", precision="int8")
    with pytest.raises(NotFound, match="no bf16 engine"):
        get_tower(artifact, "clip-text", precision="bf16")
    with pytest.raises(BadInput, match="'builtin' is not an artifact"):
        get_tower("builtin", "clip-text", precision="int8")
    with pytest.raises(BadInput, match="precision is 'int4': use fp32, int8, bf16"):
        get_tower(artifact, "clip-text", precision="int4")  # type: ignore[call-overload]
    with pytest.raises(
        BadInput, match="'bf16', which the engine 'onnx' does not run: use torch or"
    ):
        get_tower(artifact, "clip-text", engine="onnx", precision="bf16")


def test_a_wrong_tolerance_is_named(
    artifact: Path, data: tuple[DocList[ClipDoc], DocList[ClipDoc]], tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match="tolerance is 1.5"):
        add_engine(artifact, tmp_path / "int8", "int8", *data, tolerance=1.5)
