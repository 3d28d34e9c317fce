"""`Client.profile`: where the time of one call goes."""

from __future__ import annotations

import base64
import time
from datetime import datetime
from typing import Any

from docarray import DocList
from rich.console import Console
from rich.table import Table
from rich.tree import Tree

from cliptune.client.transport import GrpcTransport, HttpTransport
from cliptune.documents import ClipDoc
from cliptune.protocol.status import Report


def measure(transport: GrpcTransport | HttpTransport, doc: ClipDoc | None) -> dict[str, float]:
    """Embed `doc`, or with None reach the executors and come back; see `parts`."""
    began = time.perf_counter()
    if isinstance(transport, GrpcTransport):
        routes: list[Any] = []
        if doc is None:
            transport.post("/status", DocList[ClipDoc](), None, Report, routes)
        else:
            transport.post("/encode", DocList[ClipDoc]([doc]), None, ClipDoc, routes)
        spent = [(r.executor, _milliseconds(r.start_time, r.end_time)) for r in routes]
    else:
        item: dict[str, Any] = {"text": ""}
        if doc is not None and doc.image is not None:
            item = {"blob": base64.b64encode(doc.image).decode()}
        elif doc is not None:
            item = {"text": doc.text}
        found = transport.json("/post", {"data": [item], "execEndpoint": "/"})
        spent = [
            (route["executor"], _between(route["startTime"], route["endTime"]))
            for route in found["routes"]
        ]
    return parts((time.perf_counter() - began) * 1000, spent)


def _milliseconds(start: Any, end: Any) -> float:
    return (end.ToNanoseconds() - start.ToNanoseconds()) / 1e6


def _between(start: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds() * 1000


def parts(roundtrip: float, routes: list[tuple[str, float]]) -> dict[str, float]:
    """The parts of a call in milliseconds, by clip-as-service's names.

    Args:
        roundtrip: milliseconds at the client.
        routes: the gateway's and each executor's milliseconds.
    """
    gateway = max((spent for name, spent in routes if name == "gateway"), default=0.0)
    model = max((spent for name, spent in routes if name != "gateway"), default=0.0)
    return {
        "Roundtrip": roundtrip,
        "Client-server network": max(0.0, roundtrip - gateway),
        "Server": gateway,
        "Gateway-CLIP network": max(0.0, gateway - model),
        "CLIP model": model,
    }


def show(found: dict[str, float]) -> None:
    """Print the parts as a tree, each with its share of what it is a part of."""

    def row(name: str, whole: str) -> Any:
        table = Table(show_header=False, box=None)
        share = found[name] / found[whole] if found[whole] else 0.0
        table.add_row(name, f"[b]{found[name]:.0f}[/b] ms", f"[dim]{share:.0%}[/dim]")
        return table

    tree = Tree(row("Roundtrip", "Roundtrip"))
    tree.add(row("Client-server network", "Roundtrip"))
    server = tree.add(row("Server", "Roundtrip"))
    server.add(row("Gateway-CLIP network", "Server"))
    server.add(row("CLIP model", "Server"))
    Console().print(tree)
