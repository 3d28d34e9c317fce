"""What a search Flow says of itself as a whole, from what its executors report."""

from __future__ import annotations

import pytest

from cliptune.protocol.documents import Report
from cliptune.protocol.status import FlowStatus

SERVED, OTHER = "a" * 64, "b" * 64


def status_of(held: str | None, **slots: str) -> FlowStatus:
    """Of a Flow that serves `SERVED`, with an index of the model `held` and generations by slot."""
    text: dict[str, object] = {"model_digest": SERVED, "output_dim": 8, "artifact": "a"}
    text |= {"onnx": False, "precision": "fp32", "loaded": [SERVED]}
    index: dict[str, object] = {"rows": 1, "dim": 8, "model_digest": held, "state": "flat"}
    index |= {"unindexed_rows": 0, "optimize_due": False, "store": "lance"}
    index |= {"storage": "float32", "place": "p"}
    index["generations"] = {
        slot: {"number": number, "model_digest": digest, "documents": 1, "complete": True}
        for number, (slot, digest) in enumerate(slots.items())
    } or None
    return FlowStatus.of(
        [Report(source="text", values=text), Report(source="indexer", values=index)]
    )


@pytest.mark.parametrize(
    ("held", "slots", "searchable"),
    [
        (None, {}, True),
        (SERVED, {}, True),
        (OTHER, {}, False),
        (SERVED, {"current": SERVED}, True),
        (OTHER, {"current": SERVED}, False),  # it was cleared and filled with another model's
        (OTHER, {"current": OTHER, "previous": SERVED}, True),
        (OTHER, {"current": OTHER, "next": SERVED}, True),
    ],
)
def test_searchable_is_what_some_generation_holds_embeddings_of(
    held: str | None, slots: dict[str, str], searchable: bool
) -> None:
    assert status_of(held, **slots).searchable is searchable
