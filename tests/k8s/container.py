"""One container as its manifest says, in bubblewrap: files, user, environment, memory, signals."""

from __future__ import annotations

import base64
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from tests.k8s.network import RESOLV_CONF

ROOT = Path(__file__).resolve().parents[2]
PASSWD = "root:x:0:0::/root:/sbin/nologin\n"
"""Whom an image without users of its own knows: nobody by the number that pods run as."""
UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


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
    spec: Spec

    def signal(self, number: signal.Signals) -> None:
        """Send the command a signal."""
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            self.process.wait()

    def execute(
        self, command: list[str], timeout: float, given: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        """Run another command within, as a `preStop` is, and count its memory with the rest."""
        inside = ["nsenter", f"--target={self.pid}", "--all", "--root", "--wd", "--"]
        return subprocess.run(
            self.spec.counted([*inside, *self.spec.as_user(), *command]),
            input=given,
            capture_output=True,
            timeout=timeout,
            env=self.spec.environment,
        )


@dataclass
class Spec:
    """What the kubelet makes of a pod's manifest before it starts a container of it."""

    pod: dict[str, Any]
    """`spec` of the pod's template."""
    container: dict[str, Any]
    environment: dict[str, str]
    volumes: dict[str, Path]
    """Folders of this machine by the names of volumes."""
    memory: MemoryGroup | None
    """Of its pod; None: memory isn't limited here."""
    hostname: str
    files: dict[str, Path] = field(default_factory=dict)
    """What its image has beside ours, by where it is there."""

    def as_user(self) -> list[str]:
        """What runs a command as the manifest's user, without privileges."""
        security = self.pod["securityContext"] | self.container["securityContext"]
        user, group = security["runAsUser"], security["runAsGroup"]
        assert user != 0
        return [
            "setpriv", f"--reuid={user}", f"--regid={group}",
            f"--groups={self.pod['securityContext']['fsGroup']}", "--no-new-privs",
            "--inh-caps=-all", "--bounding-set=-all", "--",
        ]  # fmt: skip

    def counted(self, command: list[str]) -> list[str]:
        """The command in the pod's control group."""
        enter = f"echo $$ > {self.memory.folder}/cgroup.procs && " if self.memory else ""
        return ["sh", "-c", f'{enter}exec "$@"', "sh", *command]

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
        if self.memory:
            self.memory.limit(self.container["resources"]["limits"]["memory"])
        read_end, write_end = os.pipe()
        words = [
            "bwrap", *image(), "--proc", "/proc", "--dev", "/dev",
            "--perms", "1777", "--size", str(64 * 2**20), "--tmpfs", "/dev/shm",
        ]  # fmt: skip
        for there, path in self.files.items():
            words += ["--ro-bind", str(path), there]
        mounted = [Path(mount["mountPath"]) for mount in self.container["volumeMounts"]]
        for parent in _parents(*mounted):
            if parent != Path("/dev"):
                words += ["--perms", "0755", "--dir", str(parent)]
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
        words += [*self.as_user(), *self.container["command"]]
        process = subprocess.Popen(
            self.counted(["nsenter", f"--net=/run/netns/{self.hostname}", "--", *words]),
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
        return Container(process, json.loads(text)["child-pid"], self)


def write_volume(folder: Path, content: dict[str, bytes]) -> None:
    """The files of a ConfigMap or a Secret; those that change, change all at once.

    As the kubelet does it: the files are links into a folder that is a link itself.
    """
    folder.mkdir(parents=True, exist_ok=True)
    own = Path(tempfile.mkdtemp(prefix="..", dir=folder))
    own.chmod(0o755)
    for name, data in content.items():
        (own / name).write_bytes(data)
    (beside := folder / "..data_tmp").symlink_to(own.name)
    beside.replace(folder / "..data")
    for name in content:
        if not (link := folder / name).is_symlink():
            link.symlink_to(f"..data/{name}")
    for link in folder.iterdir():
        if link.name[:2] != ".." and link.name not in content:
            link.unlink()


def content_of(manifest: dict[str, Any]) -> dict[str, bytes]:
    """What a ConfigMap or a Secret holds."""
    plain = manifest.get("data", {}) if manifest["kind"] == "ConfigMap" else {}
    coded = manifest.get("data", {}) if manifest["kind"] == "Secret" else {}
    plain = plain | manifest.get("stringData", {})
    return {name: value.encode() for name, value in plain.items()} | {
        name: base64.b64decode(value) for name, value in coded.items()
    }


class MemoryGroup:
    """The control group of a pod's memory."""

    def __init__(self, folder: Path, limit: str, failures: str) -> None:
        """Take its folder, and the names of its files."""
        self.folder = folder
        self._limit, self._failures = limit, failures
        self._seen = 0

    @classmethod
    def of(cls, pod: str) -> MemoryGroup | None:
        """Make one; None where this machine lets nobody make one."""
        versions = {
            Path("/sys/fs/cgroup/memory"): ("memory.limit_in_bytes", "memory.oom_control"),
            Path("/sys/fs/cgroup"): ("memory.max", "memory.events"),
        }
        for parent, (limit, failures) in versions.items():
            if not (parent / "cgroup.procs").is_file():
                continue
            group = cls(parent / f"cliptune-{secrets.token_hex(4)}-{pod}", limit, failures)
            try:
                group.folder.mkdir()
                group.limit("1Ti")
            except OSError:
                group.remove()
                continue
            return group
        return None

    def limit(self, quantity: str) -> None:
        """Let it have that much."""
        (self.folder / self._limit).write_text(str(in_bytes(quantity)))

    def was_exceeded(self) -> bool:
        """Whether a process was killed for it since this was asked last."""
        lines = (self.folder / self._failures).read_text().splitlines()
        [count] = [int(line.split()[1]) for line in lines if line.split()[0] == "oom_kill"]
        before, self._seen = self._seen, count
        return count > before

    def remove(self) -> None:
        """Let it go; what is left of its processes goes a moment later."""
        with suppress(OSError):
            self.folder.rmdir()
