"""Overlays with keys and TLS: what strangers get, and what changes while it runs."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
import trustme

from cliptune.errors import Unauthorized
from cliptune.serving import Client
from tests.k8s.cluster import Cluster, Manifest
from tests.k8s.load import Load
from tests.k8s.rendering import K8S, kustomized, own_overlay
from tests.k8s.scenarios.common import ENCODE, SEARCH_SIDE, admin_key, running, secret, unharmed
from tests.pictures import shop
from tests.waiting import wait_until

NAMES = ("search", "search.cliptune.svc")


def tls(folder: Path) -> None:
    """`overlays/tls`: clients check the certificate, which is renewed under load, as keys are."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(ca := folder / "ca.pem"))
    key, keys = admin_key()
    objects = kustomized(K8S / "overlays" / "tls")
    with running(objects, folder, ("text", "vision", "indexer"), most=1) as cluster:
        start_with_secrets(cluster, [keys, certificate(authority)])
        trusting(str(ca), key)
        renew(cluster, authority, key, ca)
        changed = own_overlay(folder, "tls", settings=["CLIPTUNE_MAX_MATCHES=999"])
        change_setting(cluster, kustomized(changed), renew_key(cluster, key, ca), ca)


def cpu(folder: Path) -> None:
    """`overlays/cpu`, as many pods as it says: keys are required, before and after an apply."""
    key, keys = admin_key()
    objects = [*kustomized(K8S / "overlays" / "cpu"), keys]
    with running(objects, folder) as cluster:
        changed = own_overlay(folder, settings=["CLIPTUNE_MAX_MATCHES=999"])
        change_setting(cluster, kustomized(changed), key, None)


def start_with_secrets(cluster: Cluster, secrets: list[Manifest]) -> None:
    """Gateways wait for each Secret that is required."""
    for one in secrets:
        if not cluster.of("search"):
            cluster.start("search")
        missing = f'secret "{one["metadata"]["name"]}" not found'
        wait_until(lambda missing=missing: missing in " ".join(cluster.events))
        cluster.apply([one])
    cluster.wait_for(*cluster.of("search"))


def certificate(authority: trustme.CA) -> Manifest:
    """A certificate of the Service's names, as the Secret that the overlay asks for."""
    issued = authority.issue_cert(*NAMES)
    chain = b"".join(part.bytes() for part in issued.cert_chain_pems)
    return secret("cliptune-tls", tls_crt=chain, tls_key=issued.private_key_pem.bytes())


def trusting(ca: str, key: str) -> None:
    """Clients that know the authority and have a key get in; others don't."""
    for address in ("grpcs://search:51000", "https://search:51001"):
        client = Client(address, api_key=key, ca_file=ca)
        assert client.index(shop()) == 6
        assert client.search("red thing", limit=2).matches
        with pytest.raises(Unauthorized):
            Client(address, ca_file=ca).search("red", limit=1)
    with pytest.raises(requests.exceptions.SSLError):
        requests.get("https://search:51001/healthz", timeout=20)
    with pytest.raises(requests.exceptions.SSLError):  # not the name that it was issued for
        requests.get(f"https://{socket.gethostbyname('search')}:51001/", verify=ca, timeout=20)
    with pytest.raises(requests.exceptions.ConnectionError):
        requests.get("http://search:51001/healthz", timeout=20)


def renew(cluster: Cluster, authority: trustme.CA, key: str, ca: Path) -> None:
    """Another certificate in the Secret is shown by each gateway, without a restart."""
    began = time.monotonic()
    gateways = cluster.of("search")
    context = ssl.create_default_context(cafile=str(ca))
    before = {serial(pod.address, port, context) for pod in gateways for port in (51000, 51001)}
    with Load("search", "/encode", ENCODE, key=key, trust=context) as tally:
        time.sleep(1)
        rolled = cluster.apply([certificate(authority)])
        after = {
            serial(pod.address, port, context) for pod in gateways for port in (51000, 51001, 51002)
        }
        time.sleep(2)
    unharmed("renew the certificate", tally, began, rolled=rolled)
    assert (len(before), len(after)) == (1, 1)
    assert before != after
    assert rolled == []
    assert cluster.of("search") == gateways
    assert not any(pod.restarts for pod in gateways)


def serial(address: str, port: int, context: ssl.SSLContext) -> str:
    """Of the certificate that is shown there."""
    with (
        socket.create_connection((address, port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname="search") as secured,
    ):
        return str((secured.getpeercert() or {})["serialNumber"])


def renew_key(cluster: Cluster, old: str, ca: Path) -> str:
    """Other keys in the Secret: the new one is let in, the old one no more. Returns the new one."""
    new, keys = admin_key()
    assert cluster.apply([keys]) == []

    def status(key: str) -> int:
        headers = {"Authorization": f"Bearer {key}"}
        address = "https://search:51001/status"
        return requests.get(address, headers=headers, verify=str(ca), timeout=20).status_code

    wait_until(lambda: (status(new), status(old)) == (200, 401))
    return new


def change_setting(cluster: Cluster, objects: list[Manifest], key: str, ca: Path | None) -> None:
    """A changed ConfigMap rolls all pods out under load; no apply ever opens the service."""
    began = time.monotonic()
    trust = ssl.create_default_context(cafile=str(ca)) if ca else None
    old = set(cluster.pods)
    with strangers(ca) as answers, Load("search", "/encode", ENCODE, key=key, trust=trust) as tally:
        rolled = cluster.apply(objects)
        time.sleep(1)
    unharmed("change a setting", tally, began, rolled=sorted(rolled), strangers=dict(answers))
    assert sorted(rolled) == sorted(SEARCH_SIDE)
    assert not old & set(cluster.pods)
    assert answers.keys() <= {"401", "closed"}, answers
    assert answers["401"] > 10
    assert cluster.apply(objects) == [], "nothing has changed"


@contextmanager
def strangers(ca: Path | None) -> Iterator[Counter[str]]:
    """What those without a key are answered meanwhile."""
    answers, ending = Counter[str](), threading.Event()
    address = f"http{'s' if ca else ''}://search:51001/encode"

    def ask() -> None:
        while not ending.wait(0.1):
            try:
                answer = requests.post(address, json=ENCODE, verify=str(ca or True), timeout=20)
                answers[str(answer.status_code)] += 1
            except requests.exceptions.ConnectionError:
                answers["closed"] += 1

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield answers
    finally:
        ending.set()
        thread.join()
