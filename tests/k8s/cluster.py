"""A small stand-in for a cluster: runs what manifests say, as a kubelet and its controllers would.

What it takes of the manifests: commands, environment, ConfigMaps, Secrets, volumes, users and
restrictions, memory limits, init containers, all three probes with their periods, `preStop`, the
grace period, Services (headless ones by DNS, others with an address of their own), NetworkPolicies,
rolling updates of Deployments and of StatefulSets, and of GPUs that there is none. What it leaves
out: the rest of the scheduler, and autoscaling.
"""

from __future__ import annotations

import itertools
import subprocess
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path
from typing import Any

from tests.k8s import network
from tests.k8s.container import Spec, content_of, write_volume
from tests.k8s.pods import TICK, Pod, Waiting
from tests.k8s.policies import Peer, enforce

Manifest = dict[str, Any]
NAMESPACE = "cliptune"
GPU = "nvidia.com/gpu"


class NotReady(AssertionError):
    """Pods don't get ready."""


class Cluster:
    """What `kubectl apply` was given, at work."""

    def __init__(
        self,
        objects: list[Manifest],
        folder: Path,
        environment: dict[str, str],
        *,
        images: dict[str, dict[str, Path]] | None = None,
        gpus: bool = False,
    ) -> None:
        """Take rendered manifests.

        Args:
            objects: all of them.
            folder: for volumes and logs.
            environment: the image's.
            images: what images other than ours have, by name: paths by where they are there.
            gpus: whether a device plugin says that there are any.
        """
        self.objects = {(one["kind"], one["metadata"]["name"]): one for one in objects}
        self.folder = folder
        self.image_environment = environment
        self.images = images or {}
        self.gpus = gpus
        self.pods: list[Pod] = []
        self.events: list[str] = []
        """What a cluster would tell of: probes that failed, containers that ended."""
        self._strangers: list[Peer] = []
        self._addresses = itertools.count(2)
        self._names = itertools.count()
        self._lock = threading.Lock()
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

    def addresses(self, name: str, namespace: str) -> list[str] | None:
        """What DNS knows of a Service."""
        if namespace != NAMESPACE:
            named = [
                one for one in self._strangers if (one.name, one.namespace) == (name, namespace)
            ]
            return [one.address for one in named] or None
        if ("Service", name) not in self.objects:
            return None
        return [self._virtual[name]] if name in self._virtual else self.ready(name)

    def of(self, name: str) -> list[Pod]:
        """The pods of a workload."""
        return [pod for pod in self.pods if pod.component == name]

    def specs(self, pod: Pod) -> list[Spec]:
        """What the kubelet makes of a pod's template: its init containers, and its container.

        Raises:
            Waiting: something isn't there that it needs.
        """
        spec = pod.template["spec"]
        [container] = spec["containers"]
        if GPU in container["resources"]["limits"] and not self.gpus:
            raise Waiting(f"{pod.name}: Insufficient {GPU}")
        volumes, missing = {}, []
        for one in self._volumes(pod):
            try:
                volumes[one["name"]] = self._volume(pod, one)
            except Waiting as waiting:
                missing.append(str(waiting))
        if missing:
            raise Waiting("; ".join(missing))
        return [
            Spec(
                spec,
                one,
                self._environment(pod, one),
                volumes,
                pod.memory,
                pod.name,
                self.images.get(one["image"].rpartition(":")[0] or one["image"], {}),
            )
            for one in [*spec.get("initContainers", ()), container]
        ]

    def _environment(self, pod: Pod, container: Manifest) -> dict[str, str]:
        environment = dict(self.image_environment) | {"HOSTNAME": pod.name}
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
                elif not key.get("optional"):
                    raise Waiting(f'{pod.name}: secret "{key["name"]}" not found')
        return environment

    def _volumes(self, pod: Pod) -> list[Manifest]:
        claims = self.workload(pod.component)["spec"].get("volumeClaimTemplates", [])
        own = [{"name": one["metadata"]["name"], "claimed": True} for one in claims]
        return [*pod.template["spec"].get("volumes", []), *own]

    def _volume(self, pod: Pod, volume: Manifest) -> Path:
        folder = self.volume(pod.name, volume["name"])
        if source := _source(volume):
            kind, name, is_optional = source
            found = self.objects.get((kind, name))
            if not found and not is_optional:
                raise Waiting(f'{pod.name}: {kind.lower()} "{name}" not found')
            write_volume(folder, content_of(found) if found else {})
            return folder
        if "persistentVolumeClaim" in volume:
            claim = volume["persistentVolumeClaim"]["claimName"]
            assert ("PersistentVolumeClaim", claim) in self.objects, f"{pod.name}: no claim {claim}"
            folder = self.folder / "volumes" / claim
        folder.mkdir(parents=True, exist_ok=True)
        # As the kubelet does for `fsGroup`.
        group = pod.template["spec"]["securityContext"]["fsGroup"]
        subprocess.run(["chgrp", "-R", str(group), str(folder)], check=True)
        folder.chmod(0o2770)
        return folder

    def volume(self, pod: str, name: str) -> Path:
        """Where the files of a pod's volume are on this machine."""
        return self.folder / "volumes" / pod / name

    def apply(self, objects: list[Manifest]) -> list[str]:
        """As `kubectl apply`: changed files get to the pods, changed workloads are rolled out.

        Returns the workloads that were rolled out.

        Raises:
            NotReady: new pods don't get ready.
        """
        before = {name: self._template(name) for name in {pod.component for pod in self.pods}}
        self.objects |= {(one["kind"], one["metadata"]["name"]): one for one in objects}
        for pod in list(self.pods):
            for volume in self._volumes(pod):
                source = _source(volume)
                if source and (found := self.objects.get(source[:2])):
                    write_volume(self.volume(pod.name, volume["name"]), content_of(found))
        changed = [name for name, template in before.items() if template != self._template(name)]
        with ThreadPoolExecutor(max(len(changed), 1)) as pool:
            for future in [pool.submit(self.roll_out, name) for name in changed]:
                future.result()
        return changed

    def _template(self, name: str) -> Manifest:
        template: Manifest = self.workload(name)["spec"]["template"]
        return template

    def add_stranger(self, name: str, namespace: str, /, **labels: str) -> Peer:
        """A pod of somebody else's, with an address and a name in DNS."""
        found = tuple((f"app.kubernetes.io/{key}", value) for key, value in labels.items())
        with self._lock:
            stranger = Peer(name, f"10.244.1.{len(self._strangers) + 1}", namespace, found)
            network.add_pod(name, stranger.address)
            self._strangers.append(stranger)
            self.enforce()
        return stranger

    def peers(self) -> list[Peer]:
        """All pods, as policies know them."""
        ours = [
            Peer(
                pod.name, pod.address, NAMESPACE, tuple(pod.template["metadata"]["labels"].items())
            )
            for pod in self.pods
        ]
        return [*ours, *self._strangers]

    def enforce(self) -> None:
        """Have pods let through what NetworkPolicies allow."""
        enforce(self._of_kind("NetworkPolicy"), self.peers())

    def start(self, name: str, count: int = 1) -> list[Pod]:
        """Start more pods of a workload, without waiting for them."""
        workload = self.workload(name)
        started = []
        for _ in range(count):
            is_set = workload["kind"] == "StatefulSet"
            with self._lock:
                number = len(self.of(name)) if is_set else next(self._names)
                address = f"10.244.0.{next(self._addresses)}"
                pod = Pod(self, f"{name}-{number}", address, deepcopy(workload["spec"]["template"]))
                network.add_pod(pod.name, address)
                self.pods.append(pod)
                self.enforce()
            pod.begin()
            started.append(pod)
        return started

    def replicas(self, name: str) -> int:
        """How many pods a workload has at least: by its autoscaler, or what it says itself."""
        if scaler := self.objects.get(("HorizontalPodAutoscaler", name)):
            return int(scaler["spec"]["minReplicas"])
        return int(self.workload(name)["spec"].get("replicas", 1))

    def scale(self, name: str, count: int) -> None:
        """Have `count` pods of a workload: new ones are ready, and old ones gone, at the end."""
        there = self.of(name)
        started = self.start(name, max(count - len(there), 0))
        self.wait_for(*started)
        self.remove(there[count:])

    def remove(self, pods: list[Pod]) -> None:
        """End pods, all at once."""
        with ThreadPoolExecutor(max(len(pods), 1)) as pool:
            ended: list[Future[None]] = [pool.submit(pod.stop) for pod in pods]
        for pod, future in zip(pods, ended, strict=True):
            future.result()
            with self._lock:
                self.pods.remove(pod)

    def roll_out(self, name: str) -> None:
        """Replace all pods of a workload, as its strategy says."""
        old = self.of(name)
        for pod in old:
            if self.workload(name)["kind"] == "StatefulSet":
                self.remove([pod])
                self.wait_for(*self.start(name))
            else:
                strategy = self.workload(name)["spec"].get("strategy", {}).get("rollingUpdate", {})
                assert strategy.get("maxUnavailable", 0) == 0
                self.wait_for(*self.start(name))
                self.remove([pod])

    def wait_for(self, *pods: Pod, timeout: float = 300) -> None:
        """Wait until pods are ready.

        Raises:
            NotReady: they aren't in time; with the end of the log.
        """
        deadline = time.monotonic() + timeout
        before = {pod.name: pod.restarts for pod in pods}
        for pod in pods:
            while not pod.is_ready:
                is_crashing = pod.restarts > before[pod.name] + 2 or not pod.thread.is_alive()
                if time.monotonic() > deadline or is_crashing:
                    log = pod.log.read_text()[-3000:] if pod.log.is_file() else ""
                    raise NotReady(f"{pod.name} is not ready:\n{self.events}\n{log}")
                time.sleep(TICK)

    def stop(self) -> None:
        """End all pods at once."""
        self.remove(list(self.pods))


def _source(volume: Manifest) -> tuple[str, str, bool] | None:
    """The Secret or ConfigMap that a volume's files are of, and whether it may be missing."""
    for kind, field, key in (
        ("Secret", "secret", "secretName"),
        ("ConfigMap", "configMap", "name"),
    ):
        if field in volume:
            return kind, volume[field][key], bool(volume[field].get("optional"))
    return None
