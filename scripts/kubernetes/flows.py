"""What the Flows say, as the commands of containers: one for the gateway, one for each executor."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import yaml

EXECUTOR_PORT = 8080
"""Where an executor listens, each in a pod of its own."""


@dataclass(frozen=True)
class Part:
    """A container: a Flow's gateway, by the Flow's name, or one of its executors."""

    name: str
    command: list[str]
    ports: dict[str, int]
    """By what is spoken there."""
    is_gateway: bool
    executors: tuple[str, ...] = ()
    """Those that a gateway asks."""


def read_flow(path: Path) -> list[Part]:
    """The gateway and the executors of a Flow's file.

    Every key becomes the option of the same name of Jina's command line, so that whatever is said
    of a part in the file holds in its container too. Only where it listens is another matter.
    """
    flow = yaml.safe_load(path.read_text("utf-8"))
    settings: dict[str, object] = flow["with"]
    name = str(settings.pop("name"))
    executors = [_executor(part) for part in flow["executors"]]
    gateway: dict[str, object] = flow["gateway"] | settings
    names = [part.name for part in executors]
    steps = ["start-gateway", *names, "end-gateway"]
    graph = {step: [following] for step, following in pairwise(steps)}
    addresses = {part: [f"grpc://{part}:{EXECUTOR_PORT}"] for part in names}
    command = [
        "jina",
        "gateway",
        *_options(gateway | {"host": "0.0.0.0"}),
        *_options({"graph_description": graph, "deployments_addresses": addresses}),
    ]
    ports = dict(zip(flow["gateway"]["protocol"], flow["gateway"]["port"], strict=True))
    if clip_service := flow["gateway"].get("uses_with", {}).get("clip_service_port"):
        ports["clip-service"] = clip_service
    return [*executors, Part(name, command, ports, True, tuple(names))]


def _executor(described: dict[str, object]) -> Part:
    where = {"host": "0.0.0.0", "port": EXECUTOR_PORT}
    command = ["jina", "executor", "--native", *_options(described | where)]
    return Part(str(described["name"]), command, {"grpc": EXECUTOR_PORT}, False)


def _options(described: dict[str, object]) -> list[str]:
    words: list[str] = []
    for key, value in described.items():
        option = f"--{key.replace('_', '-')}"
        if value is True:
            words.append(option)
        elif isinstance(value, dict):
            words += [option, json.dumps(value)]
        elif value is not False:
            words += [option, *map(str, value if isinstance(value, list) else [value])]
    return words
