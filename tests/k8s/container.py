"""One container as its manifest says, in bubblewrap: files, user, environment, memory, signals."""

from __future__ import annotations

import base64
import json
import os
import secrets
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tests.k8s.network import RESOLV_CONF

ROOT = Path(__file__).resolve().parents[2]
PASSWD = "root:x:0:0::/root:/sbin/nologin\n"
"""Whom an image without users of its own knows: nobody by the number that pods run as."""
UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def in_bytes(quantity: str) -> int:
    """A quantity of memory, such as `2Gi`."""
    return int(quantity[:-2]) * UNITS[quantity[-2:]]


def _parents(*paths: Path) -> list[Path]:
    return sorted({parent for path in paths for parent in path.parents if parent != Path("/")})


def image() -> list[str]:
    """The image's files, as options of bubblewrap: this machine's system, Python and checkout."""
    python, environment = Path(sys.base_prefix), Path(sys.prefix)
    own = [python, environment, ROOT / "cliptune", ROOT / "flows"]
    words = ["--ro-bind", "/usr", "/usr", "--perms", "0755", "--dir", "/etc"]
    words += ["--ro-bind", "/etc/ssl", "/etc/ssl"]
    for link in ("bin", "sbin", "lib", "lib64"):
        words += ["--symlink", f"usr/{link}", f"/{link}"]
    for folder in _parents(*own):
        if not folder.is_relative_to("/usr"):
            words += ["--perms", "0755", "--dir", str(folder)]
    for path in own:
        words += ["--ro-bind", str(path), str(path)]
    return words


@dataclass
class Container:
    """A container that runs."""

    process: subprocess.Popen[bytes]
    pid: int
    """Of the command itself, which is process 1 within."""
    user: int

    def signal(self, number: signal.Signals) -> None:
        """Send the command a signal."""
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            self.process.wait()

    def execute(self, command: list[str], timeout: float) -> None:
        """Run another command within, as a `preStop` is."""
        inside = ["nsenter", f"--target={self.pid}", "--all", "--root", "--wd"]
        user = ["setpriv", f"--reuid={self.user}", f"--regid={self.user}", "--clear-groups"]
        subprocess.run([*inside, "--", *user, *command], timeout=timeout, check=True)


@dataclass
class Spec:
    """What the kubelet makes of a pod's manifest before it starts a container of it."""

    pod: dict[str, Any]
    """`spec` of the pod's template."""
    container: dict[str, Any]
    environment: dict[str, str]
    volumes: dict[str, Path]
    """Folders of this machine by the names of volumes."""
    memory: Path | None
    """The control group of its memory; None: memory isn't limited here."""
    hostname: str

    def start(self, log: IO[bytes]) -> Container:
        """Start its command.

        Raises:
            AssertionError: the manifest asks for less than the runner enforces.
        """
        security = self.pod["securityContext"] | self.container["securityContext"]
        assert security["runAsNonRoot"]
        assert security["readOnlyRootFilesystem"]
        assert not security["allowPrivilegeEscalation"]
        assert security["capabilities"] == {"drop": ["ALL"]}
        user, group = security["runAsUser"], security["runAsGroup"]
        assert user != 0
        read_end, write_end = os.pipe()
        words = [
            "bwrap", *image(), "--proc", "/proc", "--dev", "/dev",
            "--perms", "1777", "--size", str(64 * 2**20), "--tmpfs", "/dev/shm",
        ]  # fmt: skip
        for mount in self.container["volumeMounts"]:
            bind = "--ro-bind" if mount.get("readOnly") else "--bind"
            words += [bind, str(self.volumes[mount["name"]]), mount["mountPath"]]
        inputs = {
            "passwd": PASSWD,
            "resolv.conf": RESOLV_CONF,
            "hostname": self.hostname,
        }
        pipes = []
        for name, text in inputs.items():
            source, sink = os.pipe()
            os.write(sink, text.encode())
            os.close(sink)
            pipes.append(source)
            words += ["--perms", "0644", "--ro-bind-data", str(source), f"/etc/{name}"]
        words += ["--remount-ro", "/", "--unshare-pid", "--unshare-ipc", "--unshare-uts"]
        words += ["--hostname", self.hostname, "--as-pid-1", "--die-with-parent", "--new-session"]
        words += ["--info-fd", str(write_end), "--chdir", "/", "--clearenv"]
        for name, value in self.environment.items():
            words += ["--setenv", name, value]
        words += ["setpriv", f"--reuid={user}", f"--regid={group}"]
        words += [f"--groups={self.pod['securityContext']['fsGroup']}", "--no-new-privs"]
        words += ["--inh-caps=-all", "--bounding-set=-all", "--", *self.container["command"]]
        enter = f"nsenter --net=/run/netns/{self.hostname} -- "
        limited = f"echo $$ > {self.memory}/cgroup.procs && " if self.memory else ""
        process = subprocess.Popen(
            ["sh", "-c", f'{limited}exec {enter}"$@"', "sh", *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(write_end, *pipes),
        )
        for descriptor in (write_end, *pipes):
            os.close(descriptor)
        with os.fdopen(read_end) as told:
            text = told.read()
        assert text, "bubblewrap did not start: see the pod's log"
        return Container(process, json.loads(text)["child-pid"], user)


def write_volume(folder: Path, content: dict[str, bytes]) -> None:
    """The files of a ConfigMap or a Secret."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in content.items():
        (folder / name).write_bytes(data)


def content_of(manifest: dict[str, Any]) -> dict[str, bytes]:
    """What a ConfigMap or a Secret holds."""
    plain = manifest.get("data", {}) if manifest["kind"] == "ConfigMap" else {}
    coded = manifest.get("data", {}) if manifest["kind"] == "Secret" else {}
    plain = plain | manifest.get("stringData", {})
    return {name: value.encode() for name, value in plain.items()} | {
        name: base64.b64decode(value) for name, value in coded.items()
    }


def limit_memory(name: str, quantity: str) -> Path | None:
    """A control group with that much memory; None where this machine lets nobody make one."""
    versions = {
        Path("/sys/fs/cgroup/memory"): "memory.limit_in_bytes",
        Path("/sys/fs/cgroup"): "memory.max",
    }
    for parent, file in versions.items():
        if not (parent / "cgroup.procs").is_file():
            continue
        group = parent / f"cliptune-{secrets.token_hex(4)}-{name}"
        try:
            group.mkdir()
            (group / file).write_text(str(in_bytes(quantity)))
        except OSError:
            if group.is_dir():
                group.rmdir()
            continue
        return group
    return None
