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


INDEX = """
from tempfile import TemporaryDirectory
from cliptune.index import open_index
with TemporaryDirectory() as folder:
    open_index(folder).close()
"""


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        (CLIENT, {"torch", "tensorflow", "jax", "jina", "open_clip", "pandas"}),
        # Encoding needs torch, and neither its compiler nor what looks for it.
        (NETWORK, {"torch._dynamo", "sympy", "triton", "transformers", "wandb", "pandas", "jina"}),
        # Calls to remote catalogues.
        (INDEX, {"lance_namespace_urllib3_client.api", "jina"}),
    ],
)
def test_what_is_not_needed_is_not_imported(code: str, absent: set[str]) -> None:
    assert _run(f"import sys\n{code}\nprint(*sorted({absent} & set(sys.modules)))") == ""


def test_a_client_for_catalogues_that_was_put_off_works_when_it_is_called() -> None:
    connects = (
        "import lancedb, tempfile; root = tempfile.mkdtemp()\n"
        "catalogue = lancedb.connect_namespace('dir', {'root': root})\n"
        "table = catalogue.create_table('a', [{'n': 1}])\n"
        "print(type(catalogue).__name__, catalogue.open_table('a').count_rows())\n"
        "print(type(lancedb.connect(root).list_namespaces()).__name__)"
    )
    whole = _run(connects)
    assert whole.splitlines()[0] == "LanceNamespaceDBConnection 1"
    assert _run(f"import cliptune.index.lance.library\n{connects}") == whole


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
