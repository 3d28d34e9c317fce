"""`docker-compose.yml`: the same containers on one machine."""

from __future__ import annotations

from scripts.kubernetes.flows import Part
from scripts.kubernetes.tree import dump
from scripts.kubernetes.workloads import NAME, SIZES, USER, VERSION, Tree, environment, parts

ABOUT = """\
# cliptune on one machine, a container for each part.
# Made from flows/*.yml by `python -m scripts.kubernetes`: change those, or add a
# docker-compose.override.yml.
#
#   cliptune keys new ops --role admin --file keys && chmod 644 keys    # it holds digests alone
#   docker compose up --build                       # --profile train: the training side too
#   docker compose up --scale text=3
"""
_MERGE = "merge"
_LISTENS = (
    "import grpc; grpc.channel_ready_future(grpc.insecure_channel('127.0.0.1:{grpc}')).result(4)"
)
_READY = (
    "import urllib.request as u; u.urlopen('http://127.0.0.1:{http}/readyz?need=any', timeout=4)"
)


def file() -> str:
    """The file's text."""
    common: Tree = {
        "image": f"{NAME}:{VERSION}",
        "build": {"context": ".", "target": "cpu"},
        "user": f"{USER}:{USER}",
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "restart": "unless-stopped",
        "stop_grace_period": "60s",
        "environment": environment(),
    }
    tree: Tree = {
        "name": NAME,
        "x-part": common,
        "services": {part.name: _service(part) for part in parts()},
        "volumes": {f"{name}-data": {} for name, size in SIZES.items() if size.keeps},
        "secrets": {"keys": {"file": "./keys"}},
    }
    text = dump(tree).replace("x-part:", "x-part: &part")
    return ABOUT + text.replace(f"    {_MERGE}: null\n", "    <<: *part\n")


def _service(part: Part) -> Tree:
    size = SIZES[part.name]
    entry, *words = part.command
    temporary = ["/tmp"] if size.keeps else ["/tmp", f"/data:uid={USER}"]
    service: Tree = {
        _MERGE: None,
        "entrypoint": [entry],
        # Compose puts variables in where a $ is.
        "command": [word.replace("$", "$$") for word in words],
        "tmpfs": temporary,
        "mem_limit": (size.limit or size.memory).removesuffix("i").lower(),
    }
    if size.keeps:
        service["volumes"] = [f"{part.name}-data:/data"]
    if part.name in ("trainer", "train"):
        service["profiles"] = ["train"]
    if part.name == "trainer":
        service["shm_size"] = "2g"
    if part.is_gateway:
        service["ports"] = [f"{port}:{port}" for port in part.ports.values()]
        service["secrets"] = [{"source": "keys", "target": "/etc/cliptune/keys/keys"}]
        service["depends_on"] = list(part.executors)
    probe = _READY.format(**part.ports) if part.is_gateway else _LISTENS.format(**part.ports)
    service["healthcheck"] = {
        "test": ["CMD", "python", "-c", probe],
        "interval": "10s",
        "timeout": "5s",
        "start_period": "120s",
    }
    return service
