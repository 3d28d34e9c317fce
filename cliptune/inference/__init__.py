"""From texts and pictures to embeddings: torch, ONNX Runtime, OpenVINO behind one interface."""

from cliptune.inference.encode import encode
from cliptune.inference.engines import get_tower
from cliptune.inference.towers import TextTower, VisionTower

__all__ = ["TextTower", "VisionTower", "encode", "get_tower"]
