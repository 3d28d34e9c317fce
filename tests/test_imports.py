"""What is not imported: what takes seconds, and that nobody asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

CLIENT = "import cliptune; cliptune.Client, cliptune.ClipDoc"
NETWORK = (
    "import numpy as np, torch; from cliptune.inference import get_tower\n"
    "get_tower('builtin', 'clip-text').encode(['a'])\n"
    "get_tower('builtin', 'clip-vision').encode([np.zeros((9, 9, 3), np.uint8)])\n"
    "assert torch.compiler.disable.__module__ == 'torch.compiler'\n"
)


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        (CLIENT, {"torch", "tensorflow", "jax", "jina", "open_clip", "pandas"}),
        # Encoding needs torch, and neither its compiler nor what looks for it.
        (NETWORK, {"torch._dynamo", "sympy", "triton", "transformers", "wandb", "pandas", "jina"}),
    ],
)
def test_what_is_not_needed_is_not_imported(code: str, absent: set[str]) -> None:
    assert _run(f"import sys\n{code}\nprint(*sorted({absent} & set(sys.modules)))") == ""


def test_who_imports_torch_before_docarray_has_its_tensors() -> None:
    declares = (
        "from docarray import BaseDoc, DocVec; from docarray.typing import TorchTensor\n"
        "class Doc(BaseDoc):\n    tensor: TorchTensor[3]\n"
        "print(type(DocVec[Doc]([Doc(tensor=torch.zeros(3))] * 2).tensor).__name__)"
    )
    assert _run(f"import cliptune, torch; {declares}") == "TorchTensor"


def _run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
