"""The train Flow: the SDK's calls from another process, over real gRPC and HTTP."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
import requests

import cliptune
from cliptune.client.remote import RemoteRun
from cliptune.data.store import parse_documents
from cliptune.errors import (
    AlreadyExists,
    BadInput,
    Forbidden,
    NotFound,
    Unauthorized,
    Unavailable,
)
from cliptune.gateway.access.api_keys import make_key
from cliptune.models.artifact import open_artifact
from cliptune.protocol.endpoints import FIT, LOGS
from cliptune.serving import serve_training
from cliptune.training.callbacks import EvaluationCallback
from tests.pictures import picture
from tests.ports import free_port, free_ports

pytestmark = pytest.mark.e2e
T = TypeVar("T")


@pytest.fixture(scope="module")
def server_home(shared_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("server-home")
    (folder / "cache").symlink_to(shared_cache)
    return folder


@pytest.fixture(scope="module")
def addresses(server_home: Path) -> Iterator[tuple[str, str]]:
    grpc_port, http_port = free_port(), free_port()
    with pytest.MonkeyPatch.context() as patch:
        # The server's runs and data sets are not in this process' home.
        patch.setenv("CLIPTUNE_HOME", str(server_home))
        with serve_training(grpc_port=grpc_port, http_port=http_port):
            yield f"grpc://127.0.0.1:{grpc_port}", f"http://127.0.0.1:{http_port}"


def test_a_run_from_afar(addresses: tuple[str, str], tmp_path: Path) -> None:
    session = cliptune.connect(addresses[0])
    processes = min(2, os.cpu_count() or 1)
    run = session.fit(
        model="builtin",
        train_data=cliptune.pull("catalogue-eval"),  # documents: they are sent along
        epochs=1,
        run_name="from-afar",
        to_onnx=True,
        num_processes=processes,
        callbacks=[EvaluationCallback(query_data=cliptune.pull("catalogue-eval")[:60])],
    )
    lines = list(run.stream_logs())
    assert run.status()["status"] == "FINISHED"
    assert "\n".join(lines) == run.logs().rstrip("\n")
    assert any("Training [1/1]" in line for line in lines)
    shared = any("pairs a step, shared by 2 processes" in line for line in lines)
    assert shared == (processes == 2), lines
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


def test_experiments_from_afar(addresses: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    session = cliptune.connect(addresses[0])
    made = session.create_experiment("shoes")
    assert made == session.get_experiment("shoes")
    with pytest.raises(AlreadyExists, match="shoes"):
        session.create_experiment("shoes")
    with pytest.raises(BadInput, match=r"'\.\./x'"):
        session.create_experiment("../x")
    with pytest.raises(NotFound, match="'shoes'"):
        session.get_experiment("shoe")
    for name in ("first", "second"):
        session.fit(train_data="catalogue-eval", experiment_name="shoes", run_name=name)
    assert [run.name for run in made.list_runs(page=2, size=1)] == ["first"]
    assert made.get_run("second").artifact_id == "shoes/second"
    made.delete_run("second")
    assert [run.name for run in session.list_runs("shoes")] == ["first"]
    made.delete_runs()
    assert made.list_runs() == []

    # The module's own calls go there too, where the environment says so.
    monkeypatch.setenv("CLIPTUNE_SERVER", addresses[0])
    assert "shoes" in [experiment.name for experiment in cliptune.list_experiments()]
    cliptune.delete_experiment("shoes")
    assert "shoes" not in [experiment.name for experiment in cliptune.list_experiments()]
    cliptune.delete_experiments()
    assert cliptune.list_experiments() == cliptune.list_runs() == []


def test_errors_from_afar(addresses: tuple[str, str]) -> None:
    session = cliptune.connect(addresses[0])
    with pytest.raises(NotFound, match="catalogue-train"):
        session.fit(train_data="catalogue-trian")
    with pytest.raises(BadInput, match="'epoch'.*'epochs'"):
        session.fit(train_data="catalogue-eval", epoch=3)
    with pytest.raises(BadInput, match="must be a name"):
        session.call(FIT, {"train_data": "/etc/passwd"})
    for callback, words in (
        ({"name": "TensorBoardLogger", "logging_dir": "/etc"}, "logging_dir is '/etc'"),
        ({"name": "MLflowLogger", "tracking_uri": "http://a"}, "tracking_uri is 'http://a'"),
        ({"name": "WandBLogger", "offline": False}, "offline is False"),
        ({"name": "EvaluationCallback", "query_data": "/etc/passwd"}, "must be a name"),
    ):
        with pytest.raises(BadInput, match=words):
            session.call(FIT, {"train_data": "catalogue-eval", "callbacks": [callback]})
    with pytest.raises(BadInput, match="num_processes is 5000"):
        session.call(FIT, {"train_data": "catalogue-eval", "num_processes": 5000})
    with pytest.raises(NotFound, match="nobody"):
        session.get_run("nobody")
    with pytest.raises(NotFound, match="nobody"):
        list(session.stream(LOGS, {"name": "nobody"}))
    answer = requests.get(f"{addresses[1]}/artifact", params={"name": "nobody"}, timeout=30)
    assert answer.status_code == 404
    assert "nobody" in answer.json()["error"]["message"]
    assert "Traceback" not in answer.text


def test_no_answer_tells_which_files_there_are(
    addresses: tuple[str, str], server_home: Path
) -> None:
    (server_home / "weights.pt").write_text("secret")
    files = [server_home / "weights.pt", Path("/etc/passwd"), Path("/etc"), server_home]
    missing = [server_home / "wejghts.pt", Path("/etc/pasvvd"), Path("/ecc"), Path("/no/home")]
    calls = {
        "/fit": ({"train_data": "catalogue-eval"}, ("model", "model_artifact", "train_data")),
        "/evaluate": ({"query_data": "catalogue-eval"}, ("model", "query_data", "index_data")),
    }
    told = []
    for paths in (files, missing):
        answers = []
        for endpoint, (given, names) in calls.items():
            for name in names:
                for prefix in ("", "ViT-B-32::", "ViT-B-32::openai::", "local-dir:", "hf-hub:"):
                    for path in paths:
                        sent = {**given, name: f"{prefix}{path}"}
                        answer = requests.post(f"{addresses[1]}{endpoint}", json=sent, timeout=60)
                        assert answer.status_code == 422, (sent, answer.text)
                        # Of what lies below CLIPTUNE_HOME, the answer has the end alone.
                        ends = (str(path), f"…/{path.parent.name}/{path.name}", f"…/{path.name}")
                        text = answer.text
                        for end in ends:
                            text = text.replace(end, "PATH")
                        assert "secret" not in text
                        assert "root:" not in text
                        answers.append(text)
        told.append(answers)
    assert told[0] == told[1]
    with pytest.raises(BadInput, match="takes no models of the hub"):
        cliptune.connect(addresses[0]).fit(model="hf-hub:laion/CLIP", train_data="catalogue-eval")
    with pytest.raises(BadInput, match="paths of the server"):
        cliptune.connect(addresses[0]).evaluate("./weights.pt", "catalogue-eval")


def eventually(call: Callable[[], T], patience: float = 60) -> T:
    """What `call` returns once the client has found the server again."""
    deadline = time.monotonic() + patience
    while True:
        try:
            return call()
        except Unavailable:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def test_pushing_a_table_takes_its_pictures_along(
    addresses: tuple[str, str], server_home: Path, tmp_path: Path
) -> None:
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(picture(number))
    table = tmp_path / "shop.csv"
    table.write_text("".join(f"thing {n},{n}.png\n" for n in range(3)))
    session = cliptune.connect(addresses[0])
    session.push(str(table), "shop")
    stored = parse_documents((server_home / "data" / "shop.docs").read_bytes(), "shop")
    assert [doc.text for doc in stored] == ["thing 0", "thing 1", "thing 2"]
    assert [doc.image for doc in stored] == [picture(n) for n in range(3)]

    table.write_text("new thing,1.png\n")
    with pytest.raises(AlreadyExists, match="shop"):
        session.push(str(table), "shop")
    session.push(str(table), "shop", replace=True)
    stored = parse_documents((server_home / "data" / "shop.docs").read_bytes(), "shop")
    assert [(doc.text, doc.image) for doc in stored] == [("new thing", picture(1))]
    assert list((server_home / "uploads").glob("*")) == [], "nothing is left over"
    for bad in ("../x", "a/b", ""):
        with pytest.raises(BadInput, match="name"):
            session.push(str(table), bad)


def test_a_log_goes_on_when_the_server_is_started_anew() -> None:
    ports = {"grpc_port": free_port(), "http_port": free_port()}
    lines: list[str] = []
    failures: list[BaseException] = []

    def follow(run: RemoteRun) -> None:
        try:
            lines.extend(run.stream_logs(interval=0.2))
        except BaseException as error:
            failures.append(error)

    with serve_training(**ports):
        session = cliptune.connect(f"grpc://127.0.0.1:{ports['grpc_port']}")
        few = cliptune.pull("catalogue-eval")[:16]
        run = session.fit(train_data=few, epochs=100_000, run_name="long")
        follower = threading.Thread(target=follow, args=(run,))
        follower.start()
        for line in run.stream_logs():
            if "Training [1/" in line:
                break
    with serve_training(**ports):
        seen = len(eventually(run.logs).splitlines())
        for number, _ in enumerate(run.stream_logs()):
            if number > seen:
                break
        assert run.cancel()["status"] == "CANCELLED"
        follower.join(120)
        assert not follower.is_alive()
        assert not failures
        assert lines == run.logs().splitlines(), "each line once"
        assert len(lines) > seen


def test_a_train_flow_asks_for_an_admins_key(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("".join(f"{make_key(r, r, r).line()}\n" for r in ("write", "admin")))
    grpc_port, http_port = free_ports(2)
    with serve_training(grpc_port=grpc_port, http_port=http_port, api_keys=keys):
        address = f"grpc://127.0.0.1:{grpc_port}"
        for key, refused in ((None, Unauthorized), ("wrong", Unauthorized), ("write", Forbidden)):
            session = cliptune.connect(address, api_key=key)
            with pytest.raises(refused):
                session.list_runs()
            with pytest.raises(refused):
                session.push(cliptune.pull("catalogue-eval")[:2], "mine")
            given = {"Authorization": f"Bearer {key}"} if key else {}
            log = requests.get(
                f"http://127.0.0.1:{http_port}/logs?name=x", headers=given, timeout=30
            )
            assert log.status_code == {Unauthorized: 401, Forbidden: 403}[refused]
        session = cliptune.connect(address, api_key="admin")
        session.push(cliptune.pull("catalogue-eval")[:2], "mine")
        assert session.list_runs() == []
