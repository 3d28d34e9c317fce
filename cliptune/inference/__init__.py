"""From texts and pictures to embeddings: two engines (torch, ONNX Runtime) behind one interface."""

from cliptune.inference.encode import encode
from cliptune.inference.engines import get_tower
from cliptune.inference.towers import TextTower, VisionTower

__all__ = ["TextTower", "VisionTower", "encode", "get_tower"]
