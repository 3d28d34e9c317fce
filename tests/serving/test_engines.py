"""A Flow by OpenVINO, and by the quickest engine: the same embeddings, and it says which."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from docarray import DocList
from typer.testing import CliRunner

from cliptune.cli.app import app
from cliptune.documents import ClipDoc
from cliptune.errors import BadInput, Unavailable
from cliptune.extras import is_installed
from cliptune.inference.engines import both_towers
from cliptune.models.artifact_writer import write_artifact
from cliptune.models.loading import load_model
from cliptune.serving import Client, serve
from cliptune.settings import ENGINES
from tests.pictures import picture
from tests.ports import free_ports


@pytest.mark.e2e
@pytest.mark.parametrize("engine", ["openvino", "auto"])
def test_a_flow_is_run_by_the_engine_that_is_asked_for(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    if engine == "openvino" and not is_installed("openvino"):
        pytest.skip("needs cliptune[openvino]")
    monkeypatch.setenv("CLIPTUNE_HOME", str(tmp_path))
    monkeypatch.setenv("CLIPTUNE_LOG_FORMAT", "json")  # which has what is worth knowing, too
    artifact = write_artifact(load_model(tiny_model), tmp_path / "artifact", to_onnx=True).path
    text, vision = both_towers(artifact, device="cpu")
    grpc_port, http_port = free_ports(2)
    texts = ["a red shoe", "boots of leather", "a"]
    with serve(artifact, engine=engine, grpc_port=grpc_port, http_port=http_port):
        for address in (f"grpc://127.0.0.1:{grpc_port}", f"http://127.0.0.1:{http_port}"):
            with Client(address, timeout=60) as client:
                found = client.encode(texts)
                assert np.abs(np.asarray(found) - text.encode(texts)).max() < 1e-5
                docs = DocList[ClipDoc]([ClipDoc(image=picture(i)) for i in range(3)])
                shown = np.stack([doc.embedding for doc in client.encode(docs)])
                expected = vision.encode([picture(i) for i in range(3)])
                assert np.abs(shown - expected).max() < 1e-5
                status = client.status()
                for part in ("model", "vision"):
                    told = status[part]
                    assert told["engine"] in (ENGINES if engine == "auto" else [engine])
                    assert told["onnx"] is (told["engine"] == "onnx")
                    assert told.get("chosen") is (True if engine == "auto" else None)
    kept = list((tmp_path / "cache").glob("engines/*.json"))
    assert len(kept) == (2 if engine == "auto" else 0), "one for each tower"
    log = (tmp_path / "logs" / f"search-{grpc_port}.log").read_text()
    assert ("titles a second; " in log and "pictures a second; " in log) is (engine == "auto")


@pytest.mark.e2e
def test_what_an_engine_can_not_do_is_why_a_flow_does_not_start(
    tiny_model: Path, tmp_path: Path
) -> None:
    artifact = write_artifact(load_model(tiny_model), tmp_path / "artifact").path
    grpc_port, http_port = free_ports(2)
    with (
        pytest.raises(Unavailable, match="no ONNX models: `cliptune export"),
        serve(artifact, is_onnx=True, grpc_port=grpc_port, http_port=http_port),
    ):
        pass


def test_contradictions_are_refused_before_anything_starts(tiny_model: Path) -> None:
    with (
        pytest.raises(BadInput, match="'onnx', and engine is 'openvino': give only one"),
        serve(tiny_model, is_onnx=True, engine="openvino"),
    ):
        pass
    for flag, engine in (("--onnx", "openvino"), ("--onnx", "auto"), ("--torch", "onnx")):
        done = CliRunner().invoke(
            app, ["serve", "--artifact", str(tiny_model), flag, "--engine", engine]
        )
        assert done.exit_code == 1
        assert isinstance(done.exception, BadInput)
        assert f"{flag} means --engine {flag[2:]}, and --engine is {engine}" in str(done.exception)
