"""Batch sizes found by measuring: what is predicted is what a backward pass takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cliptune.models.loading import load_model
from cliptune.training import memory
from cliptune.training.memory import free_bytes, largest_fitting

CPU = torch.device("cpu")


def test_a_container_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    whole = free_bytes(CPU)
    assert whole > 0
    (tmp_path / "memory.max").write_text("3000000")
    (tmp_path / "memory.current").write_text("1000000")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    assert free_bytes(CPU) == 2_000_000
    (tmp_path / "memory.max").write_text("max")
    assert free_bytes(CPU) > 2_000_000


_STEP = r"""
import json, re, sys
from pathlib import Path
import torch
from cliptune.models.loading import load_model
def peak():
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024
model, n = load_model("builtin"), int(sys.argv[1])
tokens = model.tokenizer(["a short red dress"], model.context_length)[:, :8].expand(n, -1)
pictures = torch.zeros(n, 3, *model.preprocessing.size)
before = peak()
(model.vision_module(pictures).sum() + model.text_module(tokens).sum()).backward()
print(json.dumps(peak() - before))
"""


@pytest.mark.e2e
def test_what_is_said_to_fit_does(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = 400 * 2**20
    monkeypatch.setattr(memory, "free_bytes", lambda device: limit)
    model = load_model("builtin")
    tokens = model.tokenizer(["a short red dress"], model.context_length)[:, :8]
    fitting = largest_fitting(model, tokens, CPU, None, 1)
    assert fitting == pytest.approx(2 * largest_fitting(model, tokens, CPU, None, 2), abs=2)
    command = [sys.executable, "-c", _STEP, str(fitting)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 0.2 * limit < json.loads(done.stdout) < limit
