"""The SDK's surface, as a user's script meets it."""

from __future__ import annotations

import inspect
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from docarray import DocList
from PIL import Image

import cliptune
from cliptune.client.remote import RemoteRun, RemoteSession
from cliptune.documents import ClipDoc
from cliptune.errors import AlreadyExists, BadInput, NotFound
from cliptune.models.registry import BUILTIN_FOLDER
from cliptune.runs.session import AnyRun, Session
from cliptune.sdk.local import LocalSession

FIT_PARAMETERS = """
model train_data eval_data val_split model_artifact run_name description experiment_name
model_options loss miner miner_options optimizer optimizer_options learning_rate epochs
batch_size callbacks scheduler scheduler_options freeze output_dim device num_workers
to_onnx csv_options num_items_per_class sampler loss_optimizer loss_optimizer_options
"""
EXAMPLE = Path(__file__).parents[1] / "examples" / "text_to_image_search.py"


@pytest.mark.e2e
def test_importing_is_quick_and_loads_neither_torch_nor_jina() -> None:
    code = (
        "import sys, time; begin = time.perf_counter(); import cliptune\n"
        "print(time.perf_counter() - begin)\n"
        "heavy = {'torch', 'jina', 'docarray', 'numpy', 'open_clip'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "import cliptune.runs\n"
        "assert not {'torch', 'jina', 'docarray'} & set(sys.modules)\n"
        "import cliptune.protocol.jina_compat\n"
        "import os; print(os.environ['JINA_OPTOUT_TELEMETRY'], os.environ['JINA_HIDE_SURVEY'])"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JINA")}
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    seconds, switches = ran.stdout.splitlines()
    assert float(seconds) < 0.3
    assert switches == "1 1"


def test_everything_offered_is_there_and_documented() -> None:
    assert re.match(r"\d+[.+]", cliptune.__version__)
    for name in cliptune.__all__:
        assert inspect.getdoc(getattr(cliptune, name)), name
        assert name in dir(cliptune)
    with pytest.raises(AttributeError, match="fitt"):
        cliptune.fitt  # noqa: B018


def test_fit_takes_finetuners_parameters_in_their_order() -> None:
    expected = FIT_PARAMETERS.split()
    parameters = inspect.signature(cliptune.fit).parameters
    assert list(parameters)[: len(expected)] == expected
    defaults = {name: parameters[name].default for name in expected}
    assert (defaults["optimizer"], defaults["epochs"], defaults["num_workers"]) == ("auto", 5, 4)
    assert (defaults["sampler"], defaults["num_items_per_class"]) == ("auto", 4)


def test_discovery(capsys: pytest.CaptureFixture[str]) -> None:
    assert {"EvaluationCallback", "WiSEFTCallback"} <= set(cliptune.list_callbacks())
    names = cliptune.list_models()
    assert names[0] == "builtin"
    assert {"clip-base-en", "clip-large-en", "clip-base-multi", "siglip-base"} <= set(names[:13])
    assert "ViT-B-32::openai" in names
    assert cliptune.list_model_options()["builtin"] == []
    cliptune.describe_models()
    assert "clip-base-en" in capsys.readouterr().out
    with pytest.raises(BadInput, match="text-to-image"):
        cliptune.describe_models(task="text-to-imag")


def encoded(colour: str) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (40, 40), colour).save(data, "PNG")
    return data.getvalue()


def test_data_sets_have_names() -> None:
    docs = DocList[ClipDoc]([ClipDoc(text="red", image=encoded("red"))])
    cliptune.push(docs, "mine")
    assert cliptune.pull("mine") == docs
    with pytest.raises(AlreadyExists):
        cliptune.push(docs, "mine")
    more = DocList[ClipDoc]([*docs, ClipDoc(text="blue", image=encoded("blue"))])
    cliptune.push(more, "mine", replace=True)
    assert len(cliptune.pull("mine")) == 2
    with pytest.raises(NotFound, match="'mine'"):
        cliptune.pull("mime")


def test_a_model_encodes_before_it_is_tuned(tiny_model: Path) -> None:
    text = cliptune.build_model(str(tiny_model), select_model="clip-text", device="cpu")
    array = cliptune.encode(text, ["a red dress", "a blue dress", "a red dress"])
    assert array.shape == (3, 32)
    assert array.dtype == np.float32
    assert np.allclose(np.linalg.norm(array, axis=1), 1, atol=1e-5)
    assert np.array_equal(array[0], array[2])

    both = cliptune.build_model(str(tiny_model), device="cpu")
    vision = cliptune.build_model(str(tiny_model), select_model="clip-vision", device="cpu")
    docs = DocList[ClipDoc](
        [ClipDoc(image=encoded("red")), ClipDoc(text="a red dress"), ClipDoc(image=encoded("blue"))]
    )
    assert cliptune.encode(both, docs) is docs
    pictures = cliptune.encode(vision, [encoded("red"), encoded("blue")])
    expected = np.stack([pictures[0], array[0], pictures[1]])
    assert np.allclose(np.stack([doc.embedding for doc in docs]), expected, atol=1e-6)
    assert len({doc.model_digest for doc in docs}) == 1
    listed = cliptune.encode(text, [ClipDoc(text="a red dress")])
    assert isinstance(listed, DocList)
    assert np.allclose(listed[0].embedding, array[0], atol=1e-6)
    with pytest.raises(BadInput, match="clip-txt"):
        cliptune.build_model(str(tiny_model), select_model="clip-txt")
    with pytest.raises(NotFound, match="'clip-base-en'"):
        cliptune.build_model("clip-base-fr", select_model="clip-text")
    with pytest.raises(BadInput, match="model_options"):
        cliptune.build_model(str(tiny_model), {"a": 1})


def test_an_artifact_that_is_not_there() -> None:
    with pytest.raises(NotFound, match=r"nowhere\.zip"):
        cliptune.get_model("nowhere.zip", select_model="clip-text")


def test_the_server_in_the_environment_gets_the_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    class Session:
        """Takes the place of a train Flow; the real one is tested with the services."""

        def fit(self, model: str, train_data: str, **values: object) -> str:
            calls.append({"model": model, "train_data": train_data, **values})
            return "remote run"

        def list_runs(self, *values: object) -> list[str]:
            return ["remote run"]

    monkeypatch.setenv("CLIPTUNE_SERVER", "grpc://trainer:52000")
    monkeypatch.setattr(
        "cliptune.sdk.session.connect", lambda address: calls.append(address) or Session()
    )
    assert cliptune.fit("builtin", "catalogue-train", epochs=3, seed=1) == "remote run"
    arguments = {"model": "builtin", "train_data": "catalogue-train", "epochs": 3, "seed": 1}
    assert calls == ["grpc://trainer:52000", arguments]
    assert cliptune.list_runs() == ["remote run"]


def calls_of(kind: type) -> dict[str, list[str]]:
    """The parameters of each public call of a class."""
    functions = inspect.getmembers(kind, inspect.isfunction)
    return {
        name: [p for p in inspect.signature(function).parameters if p != "self"]
        for name, function in functions
        if not name.startswith("_")
    }


@pytest.mark.parametrize(
    ("protocol", "here", "there"),
    [
        (Session, LocalSession, RemoteSession),
        (AnyRun, cliptune.Run, RemoteRun),
    ],
)
def test_this_machine_and_a_train_flow_offer_the_same_calls(
    protocol: type, here: type, there: type
) -> None:
    for name, parameters in calls_of(protocol).items():
        assert calls_of(here)[name][: len(parameters)] == parameters, name
        assert calls_of(there)[name][: len(parameters)] == parameters, name
        # What a subclass overrides has its docstring still.
        assert inspect.getdoc(getattr(here, name)), name
    public = calls_of(Session).items() if protocol is Session else ()
    for name, parameters in public:
        of_function = list(inspect.signature(getattr(cliptune, name)).parameters)
        named = parameters[:2] if name == "fit" else parameters
        assert of_function[: len(named)] == named


@pytest.mark.e2e
def test_the_example_runs_as_it_is_printed(tmp_path: Path) -> None:
    if not (BUILTIN_FOLDER / "open_clip_config.json").is_file():
        pytest.skip("the built-in model is not in this checkout")
    ran = subprocess.run(
        [sys.executable, str(EXAMPLE)],
        cwd=tmp_path,
        env={**os.environ, "EPOCHS": "1"},
        capture_output=True,
        text=True,
        timeout=570,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "INFO     Done ✨" in ran.stdout
    assert ran.stdout.count("(256,)") == 2
    assert "precision_at_k" in ran.stdout
    assert len(list((tmp_path / "clip-model").glob("*.zip"))) == 2
