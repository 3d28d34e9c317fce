"""A small stand-in for a cluster: runs what manifests say, as a kubelet and its controllers would.

What it takes of the manifests: commands, environment, ConfigMaps, Secrets, volumes, users and
restrictions, memory limits, all three probes with their periods, `preStop`, the grace period,
Services (headless ones by DNS, others with an address of their own), rolling updates of
Deployments and of StatefulSets. What it leaves out: the scheduler, autoscaling, NetworkPolicies.
"""

from __future__ import annotations

import http.client
import itertools
import signal
import ssl
import subprocess
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.k8s import network
from tests.k8s.container import Container, Spec, content_of, limit_memory, write_volume

Manifest = dict[str, Any]
TICK = 0.05


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
        self.memory: Path | None = None
        self.log = cluster.folder / f"{name}.log"
        self.thread = threading.Thread(target=self._run, daemon=True)
        network.add_pod(name, address)
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
            with suppress(OSError):  # what is left of its processes goes a moment later
                self.memory.rmdir()

    def kill(self) -> None:
        """Kill its container, as the kernel does where memory runs out."""
        if self.container:
            self.container.signal(signal.SIGKILL)

    def _run(self) -> None:
        spec = self.cluster.spec(self.name, self.template)
        self.memory = spec.memory
        [described] = self.template["spec"]["containers"]
        while not self.told_to_end.is_set():
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
            if self.told_to_end.is_set():
                self._end(described)
                return
            self.is_ready = False
            self.restarts += 1
            code = self.container.process.returncode
            self.cluster.events.append(f"{self.name}: ended with status {code}")
            # The kubelet waits, longer with each restart: 10 s before the second one.
            time.sleep(min(10 * (self.restarts - 1), 60))

    def _end(self, described: Manifest) -> None:
        assert self.container
        deadline = time.monotonic() + self.template["spec"]["terminationGracePeriodSeconds"]
        with suppress(subprocess.CalledProcessError):  # it has ended meanwhile
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


class Cluster:
    """What `kubectl apply` was given, at work."""

    def __init__(self, objects: list[Manifest], folder: Path, environment: dict[str, str]) -> None:
        """Take rendered manifests, a folder for volumes and logs, and the image's environment."""
        self.objects = {(one["kind"], one["metadata"]["name"]): one for one in objects}
        self.folder = folder
        self.image_environment = environment
        self.pods: list[Pod] = []
        self.events: list[str] = []
        """What a cluster would tell of: probes that failed, containers that ended."""
        self._addresses = itertools.count(2)
        self._names = itertools.count()
        network.set_up_node()
        network.serve_dns(self.addresses)
        self._virtual: dict[str, str] = {}
        for number, service in enumerate(self._of_kind("Service"), start=1):
            name = service["metadata"]["name"]
            if service["spec"].get("clusterIP") != "None":
                self._virtual[name] = f"10.244.255.{number}"
                ports = [port["port"] for port in service["spec"]["ports"]]
                network.serve_virtual(self._virtual[name], ports, lambda n=name: self.ready(n))

    def _of_kind(self, kind: str) -> list[Manifest]:
        return [one for (its, _), one in self.objects.items() if its == kind]

    def workload(self, name: str) -> Manifest:
        """A Deployment or StatefulSet."""
        return self.objects.get(("Deployment", name)) or self.objects["StatefulSet", name]

    def ready(self, service: str) -> list[str]:
        """The addresses of a Service's pods that are ready."""
        selector = self.objects["Service", service]["spec"]["selector"].items()
        labelled = [
            pod for pod in list(self.pods) if selector <= pod.template["metadata"]["labels"].items()
        ]
        return [pod.address for pod in labelled if pod.is_ready]

    def addresses(self, name: str) -> list[str] | None:
        """What DNS knows of a Service."""
        if ("Service", name) not in self.objects:
            return None
        return [self._virtual[name]] if name in self._virtual else self.ready(name)

    def of(self, name: str) -> list[Pod]:
        """The pods of a workload."""
        return [pod for pod in self.pods if pod.component == name]

    def spec(self, pod: str, template: Manifest) -> Spec:
        """What the kubelet makes of a pod's template."""
        [container] = template["spec"]["containers"]
        environment = dict(self.image_environment) | {"HOSTNAME": pod}
        for source in container.get("envFrom", ()):
            config = self.objects["ConfigMap", source["configMapRef"]["name"]]
            environment |= config["data"]
        for variable in container.get("env", ()):
            if "value" in variable:
                environment[variable["name"]] = variable["value"]
            else:
                key = variable["valueFrom"]["secretKeyRef"]
                if secret := self.objects.get(("Secret", key["name"])):
                    environment[variable["name"]] = content_of(secret)[key["key"]].decode()
                assert secret or key.get("optional"), f"{pod}: no Secret {key['name']}"
        volumes = {one["name"]: self._volume(pod, one, template) for one in self._volumes(template)}
        limit = container["resources"]["limits"]["memory"]
        memory = limit_memory(pod, limit)
        return Spec(template["spec"], container, environment, volumes, memory, pod)

    def _volumes(self, template: Manifest) -> list[Manifest]:
        component = template["metadata"]["labels"]["app.kubernetes.io/component"]
        claims = self.workload(component)["spec"].get("volumeClaimTemplates", [])
        own = [{"name": one["metadata"]["name"], "claimed": True} for one in claims]
        return [*template["spec"].get("volumes", []), *own]

    def _volume(self, pod: str, volume: Manifest, template: Manifest) -> Path:
        name = volume["name"]
        folder = self.folder / "volumes" / pod / name
        if "persistentVolumeClaim" in volume:
            claim = volume["persistentVolumeClaim"]["claimName"]
            assert ("PersistentVolumeClaim", claim) in self.objects, f"{pod}: no claim {claim}"
            folder = self.folder / "volumes" / claim
        for kind, key in (("Secret", "secretName"), ("ConfigMap", "name")):
            if kind.lower() in volume or (kind == "ConfigMap" and "configMap" in volume):
                described = volume.get("secret") or volume["configMap"]
                source = self.objects.get((kind, described[key]))
                assert source or described.get("optional"), f"{pod}: no {kind} {described[key]}"
                write_volume(folder, content_of(source) if source else {})
                return folder
        folder.mkdir(parents=True, exist_ok=True)
        # As the kubelet does for `fsGroup`.
        group = template["spec"]["securityContext"]["fsGroup"]
        subprocess.run(["chgrp", "-R", str(group), str(folder)], check=True)
        folder.chmod(0o2770)
        return folder

    def start(self, name: str, count: int = 1) -> list[Pod]:
        """Start more pods of a workload, without waiting for them."""
        workload = self.workload(name)
        started = []
        for _ in range(count):
            is_set = workload["kind"] == "StatefulSet"
            number = len(self.of(name)) if is_set else next(self._names)
            address = f"10.244.0.{next(self._addresses)}"
            pod = Pod(self, f"{name}-{number}", address, deepcopy(workload["spec"]["template"]))
            self.pods.append(pod)
            started.append(pod)
        return started

    def scale(self, name: str, count: int) -> None:
        """Have `count` pods of a workload: new ones are ready, and old ones gone, at the end."""
        there = self.of(name)
        started = self.start(name, max(count - len(there), 0))
        self.wait_for(*started)
        self._remove(there[count:])

    def _remove(self, pods: list[Pod]) -> None:
        with ThreadPoolExecutor(max(len(pods), 1)) as pool:
            ended: list[Future[None]] = [pool.submit(pod.stop) for pod in pods]
        for pod, future in zip(pods, ended, strict=True):
            future.result()
            self.pods.remove(pod)

    def roll_out(self, name: str) -> None:
        """Replace all pods of a workload, as its strategy says."""
        old = self.of(name)
        for pod in old:
            if self.workload(name)["kind"] == "StatefulSet":
                self._remove([pod])
                self.wait_for(*self.start(name))
            else:
                strategy = self.workload(name)["spec"].get("strategy", {}).get("rollingUpdate", {})
                assert strategy.get("maxUnavailable", 0) == 0
                self.wait_for(*self.start(name))
                self._remove([pod])

    def wait_for(self, *pods: Pod, timeout: float = 240) -> None:
        """Wait until pods are ready.

        Raises:
            AssertionError: they aren't in time; with the end of the log.
        """
        deadline = time.monotonic() + timeout
        before = {pod.name: pod.restarts for pod in pods}
        for pod in pods:
            while not pod.is_ready:
                is_crashing = pod.restarts > before[pod.name] + 2 or not pod.thread.is_alive()
                if time.monotonic() > deadline or is_crashing:
                    raise AssertionError(f"{pod.name} is not ready:\n{pod.log.read_text()[-3000:]}")
                time.sleep(TICK)

    def stop(self) -> None:
        """End all pods at once."""
        self._remove(list(self.pods))
