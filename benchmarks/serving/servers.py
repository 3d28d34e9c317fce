"""The servers that are measured, each in processes of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

START_TIMEOUT = 300.0
JINA_READY = "ready to serve"
INFINITY_MODEL = "clip"
"""The name that infinity serves its model by."""
UNREPORTED = {
    "JINA_OPTOUT_TELEMETRY": "1",
    "JINA_HIDE_SURVEY": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
}
"""Servers and clients tell nobody of their use, and fetch nothing."""


class Worker:
    """A process that does tasks, one line of JSON each; see `work.py`."""

    def __init__(self, command: Sequence[str | Path], log: Path) -> None:
        """Start it."""
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, **UNREPORTED},
            )
        self.log = log

    def do(self, kind: str, items: list[str], batch_size: int = 32) -> dict[str, Any]:
        """One task's answer."""
        assert self.process.stdin
        assert self.process.stdout
        task = {"kind": kind, "items": items, "batch_size": batch_size}
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(
                f"a worker has ended, see {self.log}:\n{self.log.read_text()[-2000:]}"
            )
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End it."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(30)


@contextmanager
def clip_server(python: Path, model: Path, log: Path) -> Iterator[str]:
    """clip_server's own ONNX Flow with the model at `model`; gives its gRPC address."""
    port = free_port()
    flow = f"""
jtype: Flow
version: '1'
with:
  port: {port}
  host: 127.0.0.1
executors:
  - name: clip_o
    uses:
      jtype: CLIPEncoder
      with:
        name: ViT-B-32::openai
        model_path: {model}
      metas:
        py_modules:
          - clip_server.executors.clip_onnx
    timeout_ready: 3000000
    replicas: 1
"""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "flow.yml"
        file.write_text(flow)
        with _running([python, "-m", "clip_server", file], log, JINA_READY):
            yield f"grpc://127.0.0.1:{port}"


@contextmanager
def infinity(python: Path, model: Path, dtype: str, log: Path) -> Iterator[str]:
    """infinity's own server with the CLIP of transformers' at `model`; gives its HTTP address.

    torch is the one engine that it has for CLIP. Neither its BetterTransformer nor, on a CPU, its
    `bfloat16` and `float16` do anything to one; `int8` is torch's dynamic quantization. Texts are
    cut to 20 tokens, the `max_length` that transformers gives to a config that has none.
    """
    port = free_port()
    options = {
        "--model-id": model,
        "--served-model-name": INFINITY_MODEL,
        "--engine": "torch",
        "--device": "cpu",
        "--dtype": dtype,
        "--host": "127.0.0.1",
        "--port": port,
    }
    words = [str(word) for option in options.items() for word in option]
    program = python.with_name("infinity_emb")
    with _running([program, "v2", *words], log, "Uvicorn running on"):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def _running(command: Sequence[str | Path], log: Path, ready: str) -> Iterator[None]:
    """A server from when it writes `ready`; it is ended with all processes that it has started."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **UNREPORTED},
            start_new_session=True,
        )
    try:
        _wait_for(process, log, ready)
        yield
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its executors, where they are left
        process.wait()


@contextmanager
def jina_json(log: Path) -> Iterator[str]:
    """Jina's own HTTP gateway before an executor that answers at once; gives its address."""
    port = free_port()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("jina_default.py"), str(port)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
        )
    try:
        _wait_for(process, log, JINA_READY)
        yield f"http://127.0.0.1:{port}"
    finally:
        assert process.stdin
        process.stdin.close()
        process.wait(60)


def _wait_for(process: subprocess.Popen[bytes], log: Path, ready: str) -> None:
    """Until a server says in its log that it is ready."""
    deadline = time.monotonic() + START_TIMEOUT
    while ready not in log.read_text(errors="replace"):
        if process.poll() is not None or time.monotonic() > deadline:
            end = log.read_text(errors="replace")[-3000:]
            raise RuntimeError(f"{process.args!r} did not start:\n{end}")
        time.sleep(0.2)


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
