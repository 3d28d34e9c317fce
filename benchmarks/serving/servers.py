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
                env={**os.environ, "JINA_OPTOUT_TELEMETRY": "1", "JINA_HIDE_SURVEY": "1"},
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
        with log.open("wb") as output:
            process = subprocess.Popen(
                [python, "-m", "clip_server", file],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, "JINA_OPTOUT_TELEMETRY": "1", "JINA_HIDE_SURVEY": "1"},
                start_new_session=True,
            )
        try:
            _wait_for(process, log)
            yield f"grpc://127.0.0.1:{port}"
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # its executors, where they are left


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
        _wait_for(process, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        assert process.stdin
        process.stdin.close()
        process.wait(60)


def _wait_for(process: subprocess.Popen[bytes], log: Path) -> None:
    """Until Jina says in its log that the Flow is ready."""
    deadline = time.monotonic() + START_TIMEOUT
    while "ready to serve" not in log.read_text(errors="replace"):
        if process.poll() is not None or time.monotonic() > deadline:
            end = log.read_text(errors="replace")[-3000:]
            raise RuntimeError(f"{process.args!r} did not start:\n{end}")
        time.sleep(0.2)


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
