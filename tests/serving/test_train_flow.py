"""The train Flow: the SDK's calls from another process, over real gRPC and HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

import cliptune
from cliptune.errors import AlreadyExists, BadInput, NotFound
from cliptune.models.artifact import open_artifact
from cliptune.serving import serve_training
from cliptune.training.callbacks import EvaluationCallback
from tests.serving.conftest import free_port

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    grpc_port, http_port = free_port(), free_port()
    with pytest.MonkeyPatch.context() as patch:
        # The server's runs and data sets are not in this process' home.
        patch.setenv("CLIPTUNE_HOME", str(tmp_path_factory.mktemp("server-home")))
        with serve_training(grpc_port=grpc_port, http_port=http_port):
            yield f"grpc://127.0.0.1:{grpc_port}", f"http://127.0.0.1:{http_port}"


def test_a_run_from_afar(addresses: tuple[str, str], tmp_path: Path) -> None:
    session = cliptune.connect(addresses[0])
    run = session.fit(
        model="builtin",
        train_data=cliptune.pull("catalogue-eval"),  # documents: they are sent along
        epochs=1,
        run_name="from-afar",
        to_onnx=True,
        callbacks=[EvaluationCallback(query_data=cliptune.pull("catalogue-eval")[:60])],
    )
    lines = list(run.stream_logs())
    assert run.status()["status"] == "FINISHED"
    assert "\n".join(lines) == run.logs().rstrip("\n")
    assert any("Training [1/1]" in line for line in lines)
    metrics = run.metrics()
    assert metrics["before"].keys() == metrics["after"].keys() != set()
    path = run.save_artifact(tmp_path)
    assert open_artifact(path).digest
    assert [r.name for r in session.list_runs()] == ["from-afar"]
    assert session.get_run("from-afar").metrics() == metrics
    assert cliptune.list_runs() == [], "nothing ran here"
    with pytest.raises(AlreadyExists, match="from-afar"):
        session.fit(train_data="catalogue-eval", run_name="from-afar")

    log = requests.get(f"{addresses[1]}/logs", params={"name": "from-afar"}, timeout=30)
    assert log.text.splitlines() == lines
    rest = requests.get(
        f"{addresses[1]}/logs", params={"name": "from-afar", "start": 3}, timeout=30
    )
    assert rest.text.splitlines() == lines[3:]
    zipped = requests.get(f"{addresses[1]}/artifact", params={"name": "from-afar"}, timeout=60)
    assert zipped.content == path.read_bytes()


def test_cancelling(addresses: tuple[str, str]) -> None:
    run = cliptune.connect(addresses[0]).fit(train_data="catalogue-eval", epochs=1000)
    for line in run.stream_logs():
        if "Training [1/" in line:
            break
    assert run.cancel()["status"] == "CANCELLED"
    assert run.wait(60)["status"] == "CANCELLED"


def test_errors_from_afar(addresses: tuple[str, str]) -> None:
    session = cliptune.connect(addresses[0])
    with pytest.raises(NotFound, match="catalogue-train"):
        session.fit(train_data="catalogue-trian")
    with pytest.raises(BadInput, match="'epoch'.*'epochs'"):
        session.fit(train_data="catalogue-eval", epoch=3)
    with pytest.raises(BadInput, match="must be a name"):
        session.call("/fit", {"train_data": "/etc/passwd"})
    with pytest.raises(NotFound, match="nobody"):
        session.get_run("nobody")
    with pytest.raises(NotFound, match="nobody"):
        list(session.stream("/logs", {"name": "nobody"}))
    answer = requests.get(f"{addresses[1]}/artifact", params={"name": "nobody"}, timeout=30)
    assert answer.status_code == 404
    assert "nobody" in answer.json()["error"]["message"]
    assert "Traceback" not in answer.text
