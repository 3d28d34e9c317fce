"""An executor that can't start, as the only process of a container."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ports import free_port


@pytest.mark.e2e
def test_its_container_fails_too(tmp_path: Path) -> None:
    command = [
        *(Path(sys.executable).parent / "jina", "executor", "--native", "--name", "text"),
        *("--uses", "CLIPTextEncoder", "--py-modules", "cliptune.executors.text_encoder"),
        *("--port", str(free_port()), "--quiet-error"),
    ]
    environment = os.environ | {"CLIPTUNE_DEVICE": "cuda:99", "HOME": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "text can't start: device 'cuda:99' is not on this machine: use cpu" in done.stderr
