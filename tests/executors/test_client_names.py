"""Names from a train Flow's clients: only what is listed is taken, and nothing says what exists."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import cliptune
from cliptune.documents import ClipDoc
from cliptune.errors import BadInput, CliptuneError, NotFound
from cliptune.executors import client_names, training
from cliptune.models.artifact_writer import write_artifact
from cliptune.models.loading import load_model
from cliptune.runs.documents import referred_documents
from cliptune.runs.experiments import create_run
from cliptune.settings import Settings
from tests.pictures import picture


@pytest.fixture
def there(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, the server's own, with whatever a client might want to name in it."""
    folder = tmp_path / "there"
    shutil.copytree(tiny_model, folder / "model")
    write_artifact(load_model(tiny_model), folder / "artifact")
    shutil.make_archive(str(folder / "artifact"), "zip", folder / "artifact")
    for name in ("weights.pt", "openai", "opanai", "ViT-B-32", "shop", "shop.csv", "table.csv"):
        (folder / name).write_text("text,picture\nsecret,secret.png\n")
    monkeypatch.chdir(folder)
    return folder


def hostile(folder: Path) -> list[Any]:
    """Names that lead out of the lists, of things in `folder` and around it."""
    up = os.path.relpath("/etc/passwd", folder)
    paths = [
        *("/etc/passwd", "/etc", "/etc/shadow", "/proc/self/environ", f"{folder}/weights.pt"),
        *(up, "..", ".", "./model", "../there/model", "~/.ssh/id_rsa", "~root", "\\\\host\\share"),
        *("weights.pt", "model", "artifact", "artifact.zip", "./artifact.zip", "table.csv"),
        *("C:\\secret", "file:///etc/passwd", "s3://bucket/name", "http://localhost/x"),
        f"{folder}/artifact",
    ]
    prefixes = [
        *("ViT-B-32::", "ViT-B-32::openai::", "ViT-B-32::OPENAI::", "ViT-B-32::random::", "RN50::"),
        *("local-dir:", "hf-hub:", "LOCAL-DIR:", "Hf-Hub:", " ", "default/", "builtin::"),
    ]
    joined = [f"{prefix}{path}" for path in paths for prefix in prefixes]
    odd = [
        *("", " ", "\0", "/etc/passwd\0", "ViT-B-32::openai\0/etc/passwd", "ViT-B-32::openai\n"),
        *("ViT-B-32:: openai", "ViT-B-32::", "::", "::openai", "ViT-B-32::opanai", "ViT-B-32"),
        *(
            "vit-b-32::openai",
            "ViT-B/32::openai",
            "a/b/c",
            "../default/x",
            "default/..",
            "x" * 5000,
        ),
        *("\ud800", "\uff36iT-B-32::openai", "ViT-B-32::\uff4fpenai", "hf-hub:laion/../../etc"),
        *(
            "hf-hub:laion-evil/CLIP",
            "hf-hub:LAION/CLIP",
            "hf-hub:laion/CLIP::openai",
            "hf-hub:/etc",
        ),
        *("hf-hub:laion", "hf-hub:laion/CLIP@main", "hf-hub:laion/a/b", "hf-hub:laion/", "hf-hub:"),
        *(7, True, None, 1.5, ["builtin"], {"name": "builtin"}),
    ]
    return [*paths, *joined, *odd]


def answer(call: Callable[[Any], Any], value: Any) -> str:
    """What a client is told; anything but a deliberate error fails the test."""
    try:
        return f"taken: {call(value)}"
    except CliptuneError as error:
        return f"{type(error).__name__}: {error}"


LOOK_UPS: dict[str, Callable[[Any], Any]] = {
    "model": lambda value: client_names.model_name(value, ("laion",)),
    "artifact": client_names.artifact_id,
    "either": lambda value: client_names.model_or_run(value, ("laion",)),
    "data": lambda value: client_names.data_set(value, "train_data"),
    "fit": lambda value: training.fit({"model": value or "", "train_data": "catalogue-eval"}),
    "fit-artifact": lambda value: training.fit(
        {"model_artifact": value or "", "train_data": "catalogue-eval"}
    ),
    "fit-data": lambda value: training.fit({"train_data": value or ""}),
    "fit-eval-data": lambda value: training.fit(
        {"train_data": "catalogue-eval", "eval_data": value or ""}
    ),
    "fit-robust-data": lambda value: training.fit(
        {"train_data": "catalogue-eval", "tune": True, "robust_data": value or ""}
    ),
    "callback": lambda value: training.fit(
        {
            "train_data": "catalogue-eval",
            "callbacks": [{"name": "EvaluationCallback", "query_data": value or ""}],
        }
    ),
    "callback-index": lambda value: training.fit(
        {
            "train_data": "catalogue-eval",
            "callbacks": [
                {
                    "name": "EvaluationCallback",
                    "query_data": "catalogue-eval",
                    "index_data": value or "",
                }
            ],
        }
    ),
    "evaluate": lambda value: training.evaluate(
        {"model": value or " ", "query_data": "catalogue-eval"}
    ),
    "evaluate-data": lambda value: training.evaluate({"query_data": value or ""}),
}


@pytest.mark.parametrize("look_up", LOOK_UPS)
def test_nothing_hostile_is_taken_and_no_answer_tells_what_exists(
    look_up: str, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cliptune.runs.Run.start", lambda run: pytest.fail(f"started {run}"))
    cases = hostile(there)
    with_files = [answer(LOOK_UPS[look_up], value) for value in cases]
    for value, told in zip(cases, with_files, strict=True):
        assert not told.startswith("taken"), value
        assert len(told) < 2000, value
    for path in there.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert [answer(LOOK_UPS[look_up], value) for value in cases] == with_files


def test_what_clients_may_name() -> None:
    for name in ("builtin", "clip-base-en", "ViT-B-32::openai", "RN50::random",
                 "ViT-B-16-SigLIP::webli", "ViT-B-32::laion2b-s34b-b79k"):  # fmt: skip
        assert client_names.model_name(name) == client_names.model_or_run(name) == name
    hub = "hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K"
    with pytest.raises(BadInput, match=r"takes no models of the hub.*CLIPTUNE_HUB_MODELS"):
        client_names.model_name(hub)
    for allowed, is_taken in (
        ("laion", True), ("laion/", True), ("timm, laion/CLIP-ViT-B", True), (hub[7:], True),
        ("lai", False), ("laion/CLIP-ViT-L", False), ("timm", False), ("", False),
    ):  # fmt: skip
        hub_models = Settings.read(hub_models=allowed).hub_models
        told = answer(partial(client_names.model_name, hub_models=hub_models), hub)
        assert told.startswith("taken") == is_taken, allowed
    for wrong in ("laion/a/b", "../x", "hf-hub:laion", "*"):
        with pytest.raises(BadInput, match="hub_models"):
            Settings.read(hub_models=wrong)
    assert client_names.data_set("catalogue-eval", "x") == "catalogue-eval"
    with pytest.raises(NotFound, match="did you mean 'openai'"):
        client_names.model_name("ViT-B-32::opanai")


def test_a_runs_artifact_is_the_runs(
    there: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where a folder of its name lies in the server's working directory."""
    started: list[Any] = []
    monkeypatch.setattr("cliptune.runs.Run.start", lambda run: started.append(run))
    run = create_run({}, {}, "mine", "shoes")
    write_artifact(load_model(tiny_model), run.folder / "artifact")
    record = json.loads((run.folder / "run.json").read_text())
    (run.folder / "run.json").write_text(json.dumps({**record, "status": "FINISHED"}))
    (there / "shoes").mkdir()
    shutil.copytree(there / "artifact", there / "shoes" / "mine")
    shutil.copytree(there / "artifact", there / "mine")
    assert client_names.model_or_run("shoes/mine") == run.folder / "artifact"
    assert client_names.model_or_run("mine") == run.folder / "artifact"
    training.fit({"model_artifact": "shoes/mine", "train_data": "catalogue-eval"})
    assert started[0].config["options"]["model"] == str(run.folder / "artifact")
    assert started[0].config["model_artifact"] == "shoes/mine"
    with pytest.raises(NotFound, match="'mien'.*'mine'"):
        client_names.artifact_id("shoes/mien")


def test_a_data_set_that_is_called_like_a_file_is_the_data_set(
    there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client chooses the names of what it sends, and may guess those of the server's files."""
    started: list[Any] = []
    monkeypatch.setattr("cliptune.runs.Run.start", lambda run: started.append(run))
    sent = [ClipDoc(id=str(n), text=f"thing {n}", image=picture(n)) for n in range(4)]
    for name in ("shop.csv", "shop", "table.csv"):
        cliptune.push(sent, name)
        training.fit({"train_data": name, "eval_data": name})
        reference = started[-1].config["train_data"]
        assert reference == started[-1].config["eval_data"] == {"name": name}
        read = referred_documents(reference, started[-1].folder)
        assert [doc.text for doc in read] == [doc.text for doc in sent]
        assert client_names.data_set(name, "x") == name


@pytest.mark.parametrize("count", ["5000", 5000.0, True, 5000, [1]])
def test_limits_hold_for_every_form_of_a_number(count: Any) -> None:
    with pytest.raises(BadInput, match="num_processes"):
        training.fit({"train_data": "catalogue-eval", "num_processes": count})


@pytest.mark.parametrize(
    "callback",
    [
        {"name": "TensorBoardLogger", "logging_dir": "/tmp/x"},
        {"name": "MLflowLogger", "tracking_uri": "file:///etc"},
        {"name": "WandBLogger", "offline": False},
        {"name": "WandBLogger", "offline": 0},
        {"name": "WandBLogger", "offline": "no"},
    ],
)
def test_callbacks_write_and_send_only_where_the_operator_said(callback: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="server"):
        training.fit({"train_data": "catalogue-eval", "callbacks": [callback]})
