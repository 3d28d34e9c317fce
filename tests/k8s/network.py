"""A cluster's network in one namespace of this machine: a bridge, pods' namespaces, DNS, Services.

To be used within `unshare --net --mount --pid`, where everything ends with the process.
"""

from __future__ import annotations

import random
import selectors
import socket
import struct
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress

NODE = "10.244.0.1"
"""Where the cluster's DNS answers."""
RESOLV_CONF = (
    f"nameserver {NODE}\n"
    "search cliptune.svc.cluster.local svc.cluster.local cluster.local\n"
    "options ndots:5\n"
)
Addresses = Callable[[str, str], list[str] | None]
"""Of a Service by its name and namespace; None: there is none."""


def ip(*words: str) -> None:
    """Run `ip`."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"


def set_up_node() -> None:
    """Make the bridge that all pods are on."""
    ip("link", "set", "lo", "up")
    ip("link", "add", "pods", "type", "bridge")
    ip("addr", "add", f"{NODE}/16", "dev", "pods")
    ip("link", "set", "pods", "up")


def add_pod(name: str, address: str) -> None:
    """Make a pod's namespace, with an address on the bridge."""
    number = address.rpartition(".")[2] + address.split(".")[2]
    ip("netns", "add", name)
    ip("link", "add", f"veth{number}", "type", "veth", "peer", "name", "eth0", "netns", name)
    ip("link", "set", f"veth{number}", "master", "pods", "up")
    ip("-n", name, "addr", "add", f"{address}/16", "dev", "eth0")
    ip("-n", name, "link", "set", "eth0", "up")
    ip("-n", name, "link", "set", "lo", "up")


def remove_pod(name: str) -> None:
    """Its connections break off, as those of a node that is gone."""
    ip("netns", "delete", name)


def serve_dns(addresses: Addresses) -> None:
    """Answer for Services, for as long as the process lives."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((NODE, 53))

    def serve() -> None:
        while True:
            query, client = server.recvfrom(4096)
            with suppress(OSError):
                server.sendto(_answer(query, addresses), client)

    threading.Thread(target=serve, daemon=True).start()


def _answer(query: bytes, addresses: Addresses) -> bytes:
    labels, place = [], 12
    while length := query[place]:
        labels.append(query[place + 1 : place + 1 + length].decode().lower())
        place += 1 + length
    question = query[12 : place + 5]
    kind = struct.unpack("!H", query[place + 1 : place + 3])[0]
    is_service = labels[2:] == ["svc", "cluster", "local"]
    known = addresses(labels[0], labels[1]) if is_service else None
    found = [] if known is None or kind != 1 else known  # nothing but A
    random.shuffle(found)
    flags = 0x8583 if known is None else 0x8580  # authoritative; no such name
    records = b"".join(
        b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 5, 4) + socket.inet_aton(one) for one in found
    )
    return query[:2] + struct.pack("!HHHHH", flags, 1, len(found), 0, 0) + question + records


def serve_virtual(address: str, ports: list[int], endpoints: Callable[[], list[str]]) -> None:
    """A Service's own address: each connection goes to one of its pods, as kube-proxy does it."""
    ip("addr", "add", f"{address}/32", "dev", "pods")
    for port in ports:
        listener = socket.create_server((address, port), backlog=512)
        arguments = (listener, port, endpoints)
        threading.Thread(target=_accept, args=arguments, daemon=True).start()


def _accept(listener: socket.socket, port: int, endpoints: Callable[[], list[str]]) -> None:
    while True:
        client, _ = listener.accept()
        threading.Thread(target=_forward, args=(client, port, endpoints), daemon=True).start()


def _forward(client: socket.socket, port: int, endpoints: Callable[[], list[str]]) -> None:
    with client:
        if not (pods := endpoints()):
            return
        try:
            pod = socket.create_connection((random.choice(pods), port), timeout=5)
        except OSError:
            return
        pod.settimeout(None)
        with pod, selectors.DefaultSelector() as selector, suppress(OSError):
            for one, other in ((client, pod), (pod, client)):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                selector.register(one, selectors.EVENT_READ, other)
            while True:
                for key, _ in selector.select():
                    source = key.fileobj
                    assert isinstance(source, socket.socket)
                    if not (data := source.recv(65_536)):
                        return
                    key.data.sendall(data)
