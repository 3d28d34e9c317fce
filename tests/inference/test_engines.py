"""Engines: each gives the embeddings of torch, and what one can't do is refused in words."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from cliptune import build_model, get_model
from cliptune.demo.catalogue import load_catalogue
from cliptune.errors import BadInput, NotFound, Unavailable
from cliptune.extras import import_openvino, is_installed
from cliptune.inference import forwards, get_tower
from cliptune.inference.engines import RUNS, both_towers, possible_engines
from cliptune.inference.forwards import openvino_has_bf16
from cliptune.models.artifact import open_artifact, write_checksums
from cliptune.models.artifact_writer import write_artifact
from cliptune.models.loading import load_model
from cliptune.settings import ENGINES, Engine, Precision

needs_openvino = pytest.mark.skipif(not is_installed("openvino"), reason="needs cliptune[openvino]")
LEAST = {"fp32": 0.9999, "bf16": 0.999}
"""Cosine with torch in fp32."""


def admit(artifact: Path, *precisions: str) -> Path:
    """Have an artifact say that precisions were measured."""
    file = artifact / "metadata.yml"
    metadata = yaml.safe_load(file.read_text())
    metadata["engines"] = {precision: {} for precision in precisions}
    file.write_text(yaml.safe_dump(metadata))
    write_checksums(artifact)
    return artifact


@pytest.fixture(scope="module", params=["builtin", "a ViT of random weights"])
def artifact(
    request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    model = load_model("builtin" if request.param == "builtin" else tiny_model)
    folder = tmp_path_factory.mktemp("engines") / "artifact"
    return admit(write_artifact(model, folder, to_onnx=True).path, "bf16")


@pytest.fixture(scope="module")
def tiny_artifact(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny-engines") / "artifact"
    return admit(write_artifact(load_model(tiny_model), folder, to_onnx=True).path, "bf16")


def inputs() -> tuple[list[str], list[Any]]:
    docs = load_catalogue("catalogue-eval")[:20]
    texts = [str(doc.text) for doc in docs]
    return [*texts, "a", "long " * 90], [doc.image or doc.uri for doc in docs]


@pytest.mark.parametrize(
    ("engine", "precision"),
    [
        (engine, precision)
        for engine, able in RUNS.items()
        for precision in able
        if precision != "int8"
    ],
)
def test_embeddings_are_those_of_torch(
    artifact: Path, engine: Engine, precision: Precision
) -> None:
    if engine == "openvino":
        pytest.importorskip("openvino", reason="needs cliptune[openvino]")
        if precision == "bf16" and not openvino_has_bf16():
            pytest.skip("this CPU can't compute in bfloat16")
    expected = both_towers(artifact, device="cpu")
    towers = both_towers(artifact, engine=engine, precision=precision, device="cpu", batch_size=7)
    for exact, tower, given in zip(expected, towers, inputs(), strict=True):
        ours, theirs = exact.encode(given), tower.encode(given)
        assert tower.engine == engine
        assert (ours * theirs).sum(axis=1).min() >= LEAST[precision]
        difference = np.abs(ours - theirs).max()
        # What is called float32 is none of the faster kinds that engines like to take for it.
        assert difference < 1e-4 if precision == "fp32" else difference > 1e-4


@needs_openvino
def test_many_threads_at_once_get_each_its_own_embeddings(artifact: Path) -> None:
    texts, pictures = inputs()
    text, vision = both_towers(artifact, engine="openvino", device="cpu")
    alone = [text.encode([one]) for one in texts], vision.encode(pictures)
    together = threading.Barrier(8)

    def ask(number: int) -> None:
        together.wait()
        for _ in range(5):
            for position in np.random.default_rng(number).permutation(len(texts)):
                found = text.encode([texts[position]])
                assert np.abs(found - alone[0][position]).max() < 1e-5
            some = slice(number, number + 4)
            assert np.abs(vision.encode(pictures[some]) - alone[1][some]).max() < 1e-5

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(8)))


@needs_openvino
def test_openvino_takes_as_many_threads_as_it_is_given(
    tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[Any] = []

    class Core(import_openvino("this test").Core):  # type: ignore[misc]
        def compile_model(self, *given: Any) -> Any:
            compiled.append(super().compile_model(*given))
            return compiled[-1]

    monkeypatch.setattr(import_openvino("this test"), "Core", Core)
    for threads in (1, 2):
        get_tower(tiny_artifact, "clip-text", engine="openvino", threads=threads)
        assert compiled[-1].get_property("INFERENCE_NUM_THREADS") == threads
    assert compiled[-1].get_property("ENABLE_CPU_PINNING") is False
    assert compiled[-1].get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"


@needs_openvino
def test_openvino_without_bfloat16_says_so(
    tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forwards, "_has_bf16", lambda core: False)
    with pytest.raises(BadInput, match=r"'bf16', and OpenVINO can't .* on this CPU \(\w.*\): use "):
        get_tower(tiny_artifact, "clip-text", engine="openvino", precision="bf16")
    assert possible_engines(open_artifact(tiny_artifact), "bf16", "cpu") == ["torch"]
    assert get_tower(tiny_artifact, "clip-text", engine="auto", precision="bf16").engine == "torch"


@needs_openvino
def test_openvino_is_for_the_cpu(tiny_artifact: Path) -> None:
    tower = get_tower(tiny_artifact, "clip-text", engine="openvino", device=None)
    assert tower.encode(["a red shoe"]).shape == (1, 32)
    with pytest.raises(BadInput, match="device is 'meta': the engine openvino runs on the CPU"):
        get_tower(tiny_artifact, "clip-text", engine="openvino", device="meta")


def test_without_openvino_its_extra_is_named(
    tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(Unavailable, match=r"openvino needs: pip install 'cliptune\[openvino\]'"):
        get_tower(tiny_artifact, "clip-text", engine="openvino")
    assert possible_engines(open_artifact(tiny_artifact), "fp32", "cpu") == ["torch", "onnx"]


@needs_openvino
@pytest.mark.e2e
def test_openvino_tells_its_makers_nothing() -> None:
    """Its import alone would begin to send: through sockets, from a thread."""
    told = (
        "import socket, sys, threading\n"
        "def refuse(*given): print('CONNECTS', flush=True)\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from cliptune.extras import import_openvino\n"
        "import_openvino('this test').Core()\n"
        "print([name for name in sys.modules if name.startswith('openvino_telemetry')])\n"
        "print(threading.active_count())\n"
    )
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]", "1"]


def test_each_precision_has_an_engine_that_runs_it_by_itself(tiny_artifact: Path) -> None:
    assert get_tower(tiny_artifact, "clip-text").engine == "torch"
    assert get_tower(tiny_artifact, "clip-text", precision="bf16").engine == "torch"
    assert get_tower(tiny_artifact, "clip-text", engine="onnx").engine == "onnx"
    assert list(RUNS) == list(ENGINES)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"engine": "tpu"}, "engine is 'tpu': use torch, onnx, openvino or auto"),
        ({"precision": "int4"}, "precision is 'int4': use fp32, int8, bf16"),
        (
            {"engine": "torch", "precision": "int8"},
            "'int8', which the engine 'torch' does not run: use onnx, or precision fp32 or bf16",
        ),
        (
            {"engine": "onnx", "precision": "bf16"},
            "'onnx' does not run: use torch or openvino, or precision fp32 or int8",
        ),
        ({"engine": "openvino", "precision": "int8"}, "'openvino' does not run: use onnx, or"),
    ],
)
def test_what_an_engine_does_not_run_is_refused(
    tiny_artifact: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(BadInput, match=words):
        get_tower(tiny_artifact, "clip-text", **options)


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_without_onnx_files_it_is_said_how_they_are_made(
    tiny_model: Path, tmp_path: Path, engine: Engine
) -> None:
    if engine == "openvino":
        pytest.importorskip("openvino", reason="needs cliptune[openvino]")
    model = load_model(tiny_model)
    without = write_artifact(model, tmp_path / "without").path
    with pytest.raises(NotFound, match="no ONNX models: `cliptune export"):
        get_tower(without, "clip-text", engine=engine)
    with pytest.raises(BadInput, match="is not an artifact, and only artifacts hold ONNX"):
        get_tower(tiny_model, "clip-text", engine=engine)
    with pytest.raises(BadInput, match=f"in memory is run by torch in fp32, not by {engine} in"):
        get_tower(model, "clip-text", engine=engine)
    for one in (without, tiny_model, model):
        assert get_tower(one, "clip-text", engine="auto").engine == "torch", "nothing else can"


def test_the_calls_of_others_name_one_engine_in_their_way(tiny_artifact: Path) -> None:
    for options, expected in (
        ({}, "torch"),
        ({"is_onnx": True}, "onnx"),
        ({"engine": "onnx"}, "onnx"),
        ({"engine": "onnx", "is_onnx": True}, "onnx"),
    ):
        tower = get_model(tiny_artifact, select_model="clip-text", **options)  # type: ignore[arg-type]
        assert tower.engine == expected  # type: ignore[union-attr]
    for engine in ("torch", "openvino", "auto"):
        with pytest.raises(BadInput, match=f"'onnx', and engine is '{engine}': give only one"):
            get_model(tiny_artifact, is_onnx=True, engine=engine)  # type: ignore[arg-type]
        with pytest.raises(BadInput, match="give only one"):
            build_model("builtin", is_onnx=True, engine=engine)  # type: ignore[arg-type]


def test_an_engine_that_was_not_measured_is_told(
    tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    artifact = write_artifact(load_model(tiny_model), tmp_path / "artifact", to_onnx=True).path
    file = artifact / "metadata.yml"
    metadata = yaml.safe_load(file.read_text())
    for measured, told in ((["torch"], False), (["openvino"], True)):
        metadata["engines"] = {"bf16": {"engines": measured}}
        file.write_text(yaml.safe_dump(metadata))
        write_checksums(artifact)
        caplog.clear()
        get_tower(artifact, "clip-text", precision="bf16", device="cpu")
        assert ("was measured by openvino, and torch runs it" in caplog.text) is told
