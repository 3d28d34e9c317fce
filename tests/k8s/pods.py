"""A pod as the kubelet keeps it: its volumes, its container with probes and restarts, its end."""

from __future__ import annotations

import http.client
import signal
import ssl
import subprocess
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.k8s import network
from tests.k8s.container import Container, MemoryGroup, Spec

if TYPE_CHECKING:
    from tests.k8s.cluster import Cluster

Manifest = dict[str, Any]
TICK = 0.05


class Waiting(Exception):
    """What a pod needs isn't there yet; its text is the event."""


class Pod:
    """One pod of a workload: its container is started anew where it ends."""

    def __init__(self, cluster: Cluster, name: str, address: str, template: Manifest) -> None:
        """Start it; a thread watches it until `stop`."""
        self.cluster = cluster
        self.name = name
        self.address = address
        self.template = template
        self.is_ready = False
        self.restarts = 0
        self.told_to_end = threading.Event()
        self.container: Container | None = None
        self.memory = MemoryGroup.of(name)
        self.log = cluster.folder / f"{name}.log"
        self.thread = threading.Thread(target=self._run, daemon=True)

    def begin(self) -> None:
        """Start its thread, once it is on the network."""
        self.thread.start()

    @property
    def component(self) -> str:
        """Which part it is of."""
        return str(self.template["metadata"]["labels"]["app.kubernetes.io/component"])

    def stop(self) -> None:
        """Take it out of its Services, tell it to end, and wait until it has."""
        self.is_ready = False
        self.told_to_end.set()
        self.thread.join()
        network.remove_pod(self.name)
        if self.memory:
            self.memory.remove()

    def kill(self) -> None:
        """Kill its container, as the kernel does where memory runs out."""
        if self.container:
            self.container.signal(signal.SIGKILL)

    def execute(self, *command: str, given: bytes = b"", timeout: float = 300) -> str:
        """As `kubectl exec`: what the command printed.

        Raises:
            AssertionError: it failed.
        """
        assert self.container
        done = self.container.execute(list(command), timeout, given)
        printed = (done.stdout + done.stderr).decode()
        assert done.returncode == 0, f"{self.name}: {' '.join(command)}: {printed}"
        return printed

    def _run(self) -> None:
        if (specs := self._prepared()) is None:
            return
        *before, spec = specs
        if not self._initialized(before):
            return
        [described] = self.template["spec"]["containers"]
        while not self.told_to_end.is_set():
            self._watch(spec, described)
            if self.told_to_end.is_set():
                self._end(described)
                return
            self._restart()

    def _prepared(self) -> list[Spec] | None:
        """What its containers are, once all that they need is there; None: told to end."""
        told = ""
        while not self.told_to_end.is_set():
            try:
                return self.cluster.specs(self)
            except Waiting as waiting:
                if str(waiting) != told:
                    self.cluster.events.append(told := str(waiting))
                time.sleep(TICK)
        return None

    def _initialized(self, before: list[Spec]) -> bool:
        """Run the init containers, one after the other, each until it has done it."""
        for spec in before:
            while not self.told_to_end.is_set():
                with self.log.open("ab") as log:
                    self.container = spec.start(log)
                if self.container.process.wait() == 0:
                    break
                self._restart()
        return not self.told_to_end.is_set()

    def _watch(self, spec: Spec, described: Manifest) -> None:
        """Run the container until it ends, is told to end, or doesn't live."""
        with self.log.open("ab") as log:
            self.container = spec.start(log)
        probes = {
            kind: Probe(described[f"{kind}Probe"], described["ports"], self.address)
            for kind in ("startup", "readiness", "liveness")
        }
        while self.container.process.poll() is None and not self.told_to_end.is_set():
            time.sleep(TICK)
            if not probes["startup"].is_passed:
                if probes["startup"].check() is False:
                    self.cluster.events.append(f"{self.name}: did not start in time")
                    self._end(described)
                continue
            answer = probes["readiness"].check()
            if answer is not None and not self.told_to_end.is_set():
                self.is_ready = answer
            if probes["liveness"].check() is False:
                self.cluster.events.append(f"{self.name}: does not live")
                self._end(described)

    def _restart(self) -> None:
        assert self.container
        self.is_ready = False
        self.restarts += 1
        code = self.container.process.wait()
        out_of_memory = " (OOMKilled)" if self.memory and self.memory.was_exceeded() else ""
        self.cluster.events.append(f"{self.name}: ended with status {code}{out_of_memory}")
        # The kubelet waits, longer with each restart: 10 s before the second one.
        self.told_to_end.wait(min(10 * (self.restarts - 1), 60))

    def _end(self, described: Manifest) -> None:
        assert self.container
        deadline = time.monotonic() + self.template["spec"]["terminationGracePeriodSeconds"]
        with suppress(subprocess.TimeoutExpired):
            command = described["lifecycle"]["preStop"]["exec"]["command"]
            self.container.execute(command, max(deadline - time.monotonic(), 0.1))
        self.container.signal(signal.SIGTERM)
        try:
            self.container.process.wait(max(deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            self.cluster.events.append(f"{self.name}: killed, the grace period was over")
            self.container.signal(signal.SIGKILL)
            self.container.process.wait()


class Probe:
    """A probe of a container, with its periods and thresholds."""

    def __init__(self, probe: Manifest, ports: list[Manifest], address: str) -> None:
        """Take the probe as the manifest has it."""
        self.probe = probe
        self.ports = {port["name"]: port["containerPort"] for port in ports}
        self.address = address
        self.is_passed = False
        self._due = time.monotonic()
        self._failures = 0

    def check(self) -> bool | None:
        """Ask, if it is time to; None: nothing new, or the failure doesn't count yet."""
        if time.monotonic() < self._due:
            return None
        self._due = time.monotonic() + self.probe.get("periodSeconds", 10)
        if self._ask(self.probe.get("timeoutSeconds", 1)):
            self._failures = 0
            self.is_passed = True
            return True
        self._failures += 1
        return False if self._failures >= self.probe.get("failureThreshold", 3) else None

    def _ask(self, timeout: float) -> bool:
        if "grpc" in self.probe:
            with grpc.insecure_channel(f"{self.address}:{self.probe['grpc']['port']}") as channel:
                try:
                    request = health_pb2.HealthCheckRequest()
                    answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=timeout)
                except grpc.RpcError:
                    return False
                return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
        get = self.probe["httpGet"]
        port = self.ports.get(get["port"], get["port"])
        connection: http.client.HTTPConnection
        if get.get("scheme") == "HTTPS":
            unchecked = ssl._create_unverified_context()  # as the kubelet does
            connection = http.client.HTTPSConnection(
                self.address, port, timeout=timeout, context=unchecked
            )
        else:
            connection = http.client.HTTPConnection(self.address, port, timeout=timeout)
        try:
            connection.request("GET", get["path"])
            return 200 <= connection.getresponse().status < 400
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
