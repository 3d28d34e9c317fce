"""The gateway of both Flows, where Jina's YAML finds it."""

from cliptune.gateway.gateway import ClipGateway

__all__ = ["ClipGateway"]
