"""The gateway of both Flows, where Jina's YAML finds it."""

from cliptune.serving.gateway import ClipGateway

__all__ = ["ClipGateway"]
