"""NetworkPolicies as packet filters of the pods' own namespaces, as a network plugin makes them.

Whoever is selected by no policy is reached by all and reaches all; else what some policy allows
goes through, and the rest is dropped. Answers to what was allowed go through, and what a node sends
to its pods (probes) always does.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.k8s.network import NODE

Manifest = dict[str, Any]


@dataclass(frozen=True)
class Peer:
    """A pod, as policies know it."""

    name: str
    address: str
    namespace: str
    labels: tuple[tuple[str, str], ...]

    @property
    def namespace_labels(self) -> dict[str, str]:
        """Those that every namespace has."""
        return {"kubernetes.io/metadata.name": self.namespace}


DNS = Peer("dns", NODE, "kube-system", (("k8s-app", "kube-dns"),))


def enforce(policies: list[Manifest], peers: list[Peer]) -> None:
    """Have all peers with a namespace of their own let through what policies allow them."""
    for peer in peers:
        text = "\n".join(_table(policies, peer, [*peers, DNS])) + "\n"
        command = ["nsenter", f"--net=/run/netns/{peer.name}", "iptables-restore"]
        done = subprocess.run(command, input=text, capture_output=True, text=True)
        assert done.returncode == 0, f"{done.stderr}\n{text}"


def _table(policies: list[Manifest], peer: Peer, peers: list[Peer]) -> Iterator[str]:
    yield "*filter"
    lines = []
    for kind, chain, other in (("Ingress", "INPUT", "from"), ("Egress", "OUTPUT", "to")):
        binding = [policy for policy in policies if _selects(policy, kind, peer)]
        yield f":{chain} {'DROP' if binding else 'ACCEPT'} [0:0]"
        device = "-i" if chain == "INPUT" else "-o"
        lines.append(f"-A {chain} {device} lo -j ACCEPT")
        lines.append(f"-A {chain} -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT")
        if chain == "INPUT":
            lines.append(f"-A {chain} -s {NODE} -j ACCEPT")
        for policy in binding:
            for rule in policy["spec"].get(kind.lower(), ()):
                lines += _rule(chain, rule.get(other), rule.get("ports"), policy, peers)
    yield from lines
    yield "COMMIT"


def _selects(policy: Manifest, kind: str, peer: Peer) -> bool:
    spec = policy["spec"]
    is_here = policy["metadata"]["namespace"] == peer.namespace
    return is_here and kind in spec["policyTypes"] and _matches(spec["podSelector"], peer.labels)


def _matches(selector: Manifest, labels: Iterable[tuple[str, str]]) -> bool:
    assert selector.keys() <= {"matchLabels"}, f"the runner doesn't know {selector}"
    return selector.get("matchLabels", {}).items() <= dict(labels).items()


def _rule(
    chain: str,
    others: list[Manifest] | None,
    ports: list[Manifest] | None,
    policy: Manifest,
    peers: list[Peer],
) -> Iterator[str]:
    side = "-s" if chain == "INPUT" else "-d"
    whom = [""]
    if others:
        chosen = [p for p in peers if any(_is_meant(one, p, policy) for one in others)]
        whom = [f" {side} {peer.address}" for peer in chosen]
    what = [""]
    if ports:
        what = [f" -p {p.get('protocol', 'TCP').lower()} --dport {p['port']}" for p in ports]
    for address in whom:
        for port in what:
            yield f"-A {chain}{address}{port} -j ACCEPT"


def _is_meant(other: Manifest, peer: Peer, policy: Manifest) -> bool:
    assert other.keys() <= {"namespaceSelector", "podSelector"}, f"the runner doesn't know {other}"
    if "namespaceSelector" in other:
        is_there = _matches(other["namespaceSelector"], peer.namespace_labels.items())
    else:
        is_there = peer.namespace == policy["metadata"]["namespace"]
    return is_there and _matches(other.get("podSelector", {}), peer.labels)
