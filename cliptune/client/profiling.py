"""`Client.profile`: where the time of one call goes."""

from __future__ import annotations

import base64
from datetime import datetime

from cliptune.client.inputs import Content, to_doc, to_encode
from cliptune.client.messages import Call, Json
from cliptune.protocol.endpoints import ENCODE, POST, ROOT, STATUS
from cliptune.protocol.jina_messages_pb2 import DocumentsRequest

Routes = list[tuple[str, float]]
"""The gateway and the executors, and the milliseconds that each took."""


def call(content: Content) -> Call[Routes]:
    """A call that embeds `content`, or with nothing reaches the executors and comes back."""
    doc = to_encode(to_doc(content, 0)) if content else None
    item: Json = {"text": ""}
    if doc is not None and doc.image is not None:
        item = {"blob": base64.b64encode(doc.image).decode()}
    elif doc is not None:
        item = {"text": doc.text}
    # clip-as-service's form of an answer is the only one over HTTP with Jina's routes.
    over_http: tuple[str, Json] = (POST, {"data": [item], "execEndpoint": ROOT.path})
    docs = None if doc is None else [doc]
    endpoint = STATUS if doc is None else ENCODE
    return Call(endpoint, _of_message, _of_json, docs, over_http=over_http)


def _of_message(message: DocumentsRequest) -> Routes:
    return [
        (route.executor, (route.end_time.ToNanoseconds() - route.start_time.ToNanoseconds()) / 1e6)
        for route in message.routes
    ]


def _of_json(body: Json) -> Routes:
    routes = body["routes"]
    return [
        (str(route["executor"]), _between(str(route["startTime"]), str(route["endTime"])))
        for route in (routes if isinstance(routes, list) else ())
    ]


def _between(start: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds() * 1000


def parts(roundtrip: float, routes: Routes) -> dict[str, float]:
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


def show(spent: dict[str, float]) -> None:
    """Print the parts as a tree, each with its share of what it is a part of."""
    from rich.console import Console
    from rich.table import Table
    from rich.tree import Tree

    def row(name: str, whole: str) -> Table:
        table = Table(show_header=False, box=None)
        share = spent[name] / spent[whole] if spent[whole] else 0.0
        table.add_row(name, f"[b]{spent[name]:.0f}[/b] ms", f"[dim]{share:.0%}[/dim]")
        return table

    tree = Tree(row("Roundtrip", "Roundtrip"))
    tree.add(row("Client-server network", "Roundtrip"))
    server = tree.add(row("Server", "Roundtrip"))
    server.add(row("Gateway-CLIP network", "Server"))
    server.add(row("CLIP model", "Server"))
    Console().print(tree)
