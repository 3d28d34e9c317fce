"""Models plugged into clip-as-service: the folder, and its real server with it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from cliptune.cli.app import app
from cliptune.data.pictures.images import decode_pixels
from cliptune.data.pictures.preprocessing import normalise
from cliptune.errors import BadInput
from cliptune.inference import get_tower
from cliptune.models.exports.to_clip_service import MEAN, STD, server_name, write_clip_service
from cliptune.models.loading import load_model
from cliptune.models.openclip import open_clip
from tests.pictures import picture
from tests.ports import free_port
from tests.tiny_model import TINY_CONFIG
from tests.waiting import wait_until

TEXTS = ["red rain boots", "a &amp; b", "Ein GRÜNER Schuh 👢", "word " * 100, "x"]


def tiny(folder: Path, size: int = 224, context: int = 77, **preprocess: object) -> Path:
    """A model of random weights whose pictures have a size that the server knows."""
    config = json.loads(json.dumps(TINY_CONFIG))
    config["model_cfg"]["vision_cfg"] |= {"image_size": size, "patch_size": 32}
    config["model_cfg"]["text_cfg"]["context_length"] = context
    config["preprocess_cfg"] |= {"size": [size, size], **preprocess}
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(3)
    clip = open_clip.CLIP(**json.loads(json.dumps(config["model_cfg"])))
    weights = {name: value.contiguous() for name, value in clip.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny(tmp_path_factory.mktemp("plug") / "model")


@pytest.fixture(scope="module")
def folder(model: Path) -> Path:
    out = model.parent / "plugged"
    done = CliRunner().invoke(
        app, ["export", str(model), "--out", str(out), "--format", "clip-as-service"]
    )
    assert done.exit_code == 0, done.output
    assert "ViT-B-32::openai" in done.output
    assert sorted(p.name for p in out.iterdir()) == [
        "flow.yml", "model_digest.txt", "textual.onnx", "visual.onnx",
    ]  # fmt: skip
    return out


def test_the_graphs_take_what_the_server_sends(model: Path, folder: Path) -> None:
    loaded = load_model(model)
    tokens = loaded.tokenizer(TEXTS).numpy().astype(np.int32)
    session = onnxruntime.InferenceSession(folder / "textual.onnx")
    asked = {"input_ids": tokens, "attention_mask": (tokens != 0).astype(np.int32)}
    [found] = session.run(None, asked)
    assert np.abs(found - get_tower(model, "clip-text").encode(TEXTS)).max() < 1e-5
    [alone] = session.run(None, {name: value[:1] for name, value in asked.items()})
    assert np.abs(alone - found[:1]).max() < 1e-5

    # The model's own mean and deviation are others than those that the server takes.
    pixels = np.stack([decode_pixels(picture(i), loaded.preprocessing) for i in range(3)])
    theirs = (pixels.astype(np.float32) / 255 - np.array(MEAN)) / np.array(STD)
    assert np.abs(theirs.transpose(0, 3, 1, 2) - normalise(pixels, loaded.preprocessing)).max() > 0
    session = onnxruntime.InferenceSession(folder / "visual.onnx")
    [found] = session.run(None, {"pixel_values": theirs.transpose(0, 3, 1, 2).astype(np.float32)})
    expected = get_tower(model, "clip-vision").encode([picture(i) for i in range(3)])
    assert np.abs(found - expected).max() < 1e-5


def test_the_size_says_the_name(tmp_path: Path) -> None:
    assert server_name(load_model(tiny(tmp_path / "large", size=384))) == "RN50x16::openai"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 256}, "256 x 256, and the server's one of 224, 240"),
        ({"context": 64}, "reads 64 tokens"),
        ({"interpolation": "bilinear"}, "bilinear"),
        ({"resize_mode": "squash"}, "squash"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        write_clip_service(load_model(tiny(tmp_path / "m", **options)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_vocabulary_is_refused() -> None:
    with pytest.raises(BadInput, match="tokenizer is not CLIP's own"):
        server_name(load_model("builtin"))


PROGRAM = """
import sys
from pathlib import Path
import numpy as np
from clip_client import Client
from docarray import Document

address, folder = sys.argv[1], Path(sys.argv[2])
client = Client(address)
texts = (folder / "texts.txt").read_text().splitlines()
pictures = sorted(str(p) for p in folder.glob("*.png"))
doc = Document(uri=pictures[0], matches=[Document(text=t) for t in texts])
ranked = client.rank([doc])[0].matches
np.savez(
    folder / "found.npz",
    texts=client.encode(texts, batch_size=2),
    pictures=client.encode(pictures),
    ranked=np.array([m.text for m in ranked]),
    scores=np.array(
        [[m.scores["clip_score"].value, m.scores["clip_score_cosine"].value] for m in ranked]
    ),
)
"""


@contextmanager
def clip_server(python: Path, folder: Path) -> Iterator[str]:
    """The real server with the folder's own flow.yml, on a port of ours."""
    port = free_port()
    flow = (folder / "flow.yml").read_text().replace("51000", str(port))
    environment = {
        **os.environ,
        "JINA_OPTOUT_TELEMETRY": "1",
        "JINA_HIDE_SURVEY": "1",
        "NO_VERSION_CHECK": "1",
    }
    log_file, flow_file = folder.parent / "server.log", folder.parent / "flow.yml"
    flow_file.write_text(flow)
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [python, "-W", "ignore", "-m", "clip_server", flow_file],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def said() -> str:
        return log_file.read_text(errors="replace")[-3000:]

    try:

        def serving() -> bool:
            assert process.poll() is None, said()
            return "ready to serve" in log_file.read_text(errors="replace")

        wait_until(serving, 240, said)
        yield f"grpc://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.e2e
def test_the_real_server_gives_our_embeddings(
    model: Path, folder: Path, tmp_path: Path, peer_python: Callable[[str], Path]
) -> None:
    texts = [re.sub(r"\s+", " ", text).strip() for text in TEXTS]
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(picture(i, (300, 260)))
    with clip_server(peer_python("clip-server"), folder) as address:
        command = [peer_python("clip-client"), "-W", "ignore", "-c", PROGRAM, address, tmp_path]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    ours = get_tower(model, "clip-text").encode(texts)
    pictures = get_tower(model, "clip-vision").encode([picture(i, (300, 260)) for i in range(3)])
    with np.load(tmp_path / "found.npz") as found:
        assert np.abs(found["texts"] - ours).max() < 1e-5
        assert np.abs(found["pictures"] - pictures).max() < 2e-3  # resized by another library
        cosines = ours @ pictures[0]
        order = np.argsort(-cosines)
        assert list(found["ranked"]) == [texts[i] for i in order]
        assert np.abs(found["scores"][:, 1] - cosines[order]).max() < 2e-3
