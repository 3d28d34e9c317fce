"""A training on two machines: the Job's own command, in two pods that meet by a Service's name."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from cliptune.models.artifact import TOWERS, open_artifact
from cliptune.training.state import list_checkpoints
from tests.k8s.container import image
from tests.k8s.rendering import Manifest, by_name, kustomized, own_overlay
from tests.pictures import picture
from tests.waiting import wait_until


@pytest.fixture
def objects(tmp_path: Path) -> list[Manifest]:
    """As somebody's own overlay has them, with GPUs."""
    return kustomized(own_overlay(tmp_path, "train-nodes", "gpu"))


@pytest.fixture
def volume(tiny_model: Path, tmp_path: Path) -> Path:
    """The volume that the pods share: a table, a model, and what is to be done."""
    folder = tmp_path / "volume"
    (folder / "run").mkdir(parents=True)
    shutil.copytree(tiny_model, folder / "model")
    lines = ["title,picture"]
    for number in range(24):
        (folder / f"{number}.png").write_bytes(picture((number * 10, 90, 255 - number * 10)))
        lines.append(f"shade {number},{number}.png")
    (folder / "products.csv").write_text("\n".join(lines))
    told = {
        "train_data": "/data/products.csv",
        "csv_options": {"text_column": "title", "image_column": "picture"},
        "model": "local-dir:/data/model",
        "epochs": 12,
        "batch_size": 11,
        "optimizer": "SGD",  # Adam's first steps enlarge rounding
        "learning_rate": 0.05,
        "device": "cpu",
    }
    (folder / "run" / "run.yml").write_text(yaml.safe_dump(told))
    subprocess.run(["chown", "-R", "10001:10001", str(folder)], check=True)
    return folder


def in_pod(job: dict[str, Any], index: int, volume: Path, command: list[str]) -> list[str]:
    """A command as the pod `index` runs one; its name and the first one's lead to this machine."""
    name = f"train-nodes-{index}"
    words = ["bwrap", *image(), "--proc", "/proc", "--dev", "/dev", "--perms", "1777"]
    words += [
        "--tmpfs",
        "/tmp",
        "--bind",
        str(volume),
        "/data",
        "--unshare-uts",
        "--hostname",
        name,
    ]
    hosts = volume.with_name("hosts")
    first = f"train-nodes-0.{job['spec']['template']['spec']['subdomain']}"
    hosts.write_text(f"127.0.0.1 localhost {first} {name}\n")
    words += ["--ro-bind", str(hosts), "/etc/hosts", "--remount-ro", "/", "--chdir", "/"]
    words += ["--die-with-parent", "--as-pid-1", "--unshare-pid", "--clearenv"]
    variables = {
        "PATH": f"{sys.prefix}/bin:/usr/bin",
        "HOME": "/tmp",
        "CLIPTUNE_HOME": "/data",
        "OMP_NUM_THREADS": "1",
        "JOB_COMPLETION_INDEX": str(index),
    }
    for variable, value in variables.items():
        words += ["--setenv", variable, value]
    words += ["setpriv", "--reuid=10001", "--regid=10001", "--clear-groups", "--no-new-privs", "--"]
    return words + [re.sub(r"\$\((\w+)\)", lambda found: variables[found[1]], w) for w in command]


def start(words: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as file:
        return subprocess.Popen(words, stdout=file, stderr=file, start_new_session=True)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    open_artifact(folder)
    state: dict[str, torch.Tensor] = {}
    for tower in TOWERS:
        state |= load_file(folder / "models" / tower / "model.safetensors")
    return state


def test_its_pods_find_one_another(objects: list[Manifest]) -> None:
    job = by_name(objects, "Job")["train-nodes"]
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    [container] = pod["containers"]
    service = by_name(objects, "Service")[pod["subdomain"]]["spec"]
    labels = spec["template"]["metadata"]["labels"]
    assert service["clusterIP"] == "None"
    assert service["selector"].items() <= labels.items()
    command = " ".join(container["command"])
    assert f"--nnodes={spec['completions']} " in command
    assert spec["parallelism"] == spec["completions"], "all must run at once"
    # An Indexed Job's pods are called by its name and their index.
    assert f"--master-addr={job['metadata']['name']}-0.{pod['subdomain']} " in command
    policy = by_name(objects, "NetworkPolicy")["train-nodes"]["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    [claimed] = [v["persistentVolumeClaim"] for v in pod["volumes"] if v["name"] == "data"]
    claim = by_name(objects, "PersistentVolumeClaim")[claimed["claimName"]]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    # What all pods have.
    assert pod["securityContext"]["runAsNonRoot"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert container["image"].endswith("-gpu")
    assert container["envFrom"]


@pytest.mark.e2e
def test_two_pods_train_as_one_does_and_go_on_where_they_were_stopped(
    objects: list[Manifest], volume: Path, tmp_path: Path
) -> None:
    if shutil.which("bwrap") is None or os.getuid():
        pytest.skip("needs bubblewrap, and root to run as the pods' user")
    job = by_name(objects, "Job")["train-nodes"]
    [container] = job["spec"]["template"]["spec"]["containers"]
    logs = [tmp_path / f"{index}.log" for index in (0, 1)]

    def both() -> list[subprocess.Popen[bytes]]:
        return [
            start(in_pod(job, index, volume, container["command"]), logs[index]) for index in (0, 1)
        ]

    def told() -> str:
        return "\n".join(log.read_text()[-3000:] for log in logs)

    pods = both()
    checkpoints = volume / "run" / "checkpoints"
    wait_until(lambda: list_checkpoints(checkpoints) or pods[0].poll() is not None, 120, told)
    assert pods[0].poll() is None, told()
    # Its node is lost: the other can't go on, and both are started again.
    os.killpg(pods[1].pid, signal.SIGKILL)
    assert pods[0].wait(90) != 0, told()
    assert not (volume / "run" / "artifact").exists()
    pods[1].wait(30)
    for pod in both():
        assert pod.wait(180) == 0, told()
    assert "resumed in epoch" in logs[0].read_text()
    before = open_artifact(volume / "run" / "artifact").metadata["created"]
    for pod in both():  # nothing is left to do
        assert pod.wait(60) == 0, told()
    assert open_artifact(volume / "run" / "artifact").metadata["created"] == before

    alone = tmp_path / "alone.log"
    command = ["python", "-m", "cliptune.training", "/data/run/run.yml", "/data/alone"]
    assert start(in_pod(job, 0, volume, command), alone).wait(180) == 0, alone.read_text()
    one, two = weights(volume / "alone" / "artifact"), weights(volume / "run" / "artifact")
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=1e-4, rtol=1e-3)
