"""A model reaches an encoder's pod by an init container, run as its manifest says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from cliptune.files import zip_folder
from cliptune.models.artifact import open_artifact
from tests.k8s.container import image
from tests.k8s.rendering import Manifest, by_name, kustomized, own_overlay, templated
from tests.s3 import s3_server

ENCODERS = ("text", "vision")


@pytest.fixture
def bucket(
    models: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[dict[str, str]]:
    """An S3 server with the first of the models, and the Secret that lets pods read it."""
    with s3_server(monkeypatch, tmp_path) as address:
        fsspec.filesystem("s3").mkdir("models")
        tuned = zip_folder(models[0], tmp_path / "tuned.zip")
        fsspec.filesystem("s3").put_file(str(tuned), "models/tuned.zip")
        yield {
            "AWS_ENDPOINT_URL": address,
            "AWS_ACCESS_KEY_ID": "somebody",
            "AWS_SECRET_ACCESS_KEY": "secret",
        }


def by_overlay(folder: Path, digest: str) -> list[Manifest]:
    """As somebody's own overlay has them."""
    settings = ["MODEL_SOURCE=s3://models/tuned.zip", f"MODEL_DIGEST={digest}"]
    return kustomized(own_overlay(folder, "model-source", settings=settings))


def by_chart(digest: str) -> list[Manifest]:
    values = f"model.source=s3://models/tuned.zip,model.digest={digest}"
    return templated("--set", values)


def environment(container: dict[str, Any], objects: list[Manifest], secret: dict[str, str]) -> dict:
    """What the kubelet makes of `envFrom`."""
    config, own = container["envFrom"]
    [found] = [
        one for one in objects
        if one["kind"] == "ConfigMap" and one["metadata"]["name"] == config["configMapRef"]["name"]
    ]  # fmt: skip
    assert own["secretRef"] == {"name": "cliptune-model", "optional": True}
    return found["data"] | secret


def run(container: dict[str, Any], variables: dict[str, str], pod: Path) -> str:
    """Run it to its end; returns what it said, or raises."""
    command = [
        re.sub(r"\$\((\w+)\)", lambda match: variables[match[1]], word)
        for word in container["command"]
    ]
    words = ["bwrap", *image(), "--proc", "/proc", "--dev", "/dev"]
    for mount in container["volumeMounts"]:
        volume = pod / mount["name"]
        volume.mkdir(parents=True, exist_ok=True)
        volume.chmod(0o777)
        words += ["--bind", str(volume), mount["mountPath"]]
    words += ["--remount-ro", "/", "--chdir", "/", "--clearenv"]
    words += ["--setenv", "PATH", f"{sys.prefix}/bin:/usr/bin"]  # the image's
    for name, value in variables.items():
        words += ["--setenv", name, value]
    words += ["setpriv", "--reuid=10001", "--regid=10001", "--clear-groups", "--no-new-privs"]
    words += ["--inh-caps=-all", "--bounding-set=-all", "--", *command]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return done.stdout


def pod_of(objects: list[Manifest], name: str) -> dict[str, Any]:
    found: dict[str, Any] = by_name(objects, "Deployment")[name]["spec"]["template"]["spec"]
    return found


def test_overlay_and_chart_bring_it_alike_to_both_encoders(tmp_path: Path) -> None:
    by_both = by_overlay(tmp_path, "a" * 64), by_chart("a" * 64)
    for name in ENCODERS:
        first = [pod_of(objects, name)["initContainers"] for objects in by_both]
        for objects, [container] in zip(by_both, first, strict=True):
            config = by_name(objects, "ConfigMap")["cliptune"]["metadata"]["name"]
            assert container["envFrom"].pop(0) == {"configMapRef": {"name": config}}
        assert first[0] == first[1]
    said = []
    for objects in by_both:
        config = by_name(objects, "ConfigMap")["cliptune"]["data"]
        names = ("CLIPTUNE_ARTIFACT", "MODEL_SOURCE", "MODEL_DIGEST")
        said.append({name: config[name] for name in names})
        policy = by_name(objects, "NetworkPolicy")["encoders-to-models"]["spec"]
        assert {"port": 443} in [port for rule in policy["egress"] for port in rule["ports"]]
    assert said[0] == said[1]


@pytest.mark.e2e
def test_it_comes_from_a_bucket_before_the_encoder_starts(
    models: tuple[Path, Path, Path], bucket: dict[str, str], tmp_path: Path
) -> None:
    if shutil.which("bwrap") is None or os.getuid():
        pytest.skip("needs bubblewrap, and root to run as the pods' user")
    digest = open_artifact(models[0]).digest
    objects = by_overlay(tmp_path, digest)
    config = by_name(objects, "ConfigMap")["cliptune"]["data"]
    pod = pod_of(objects, "text")
    [first], [encoder] = pod["initContainers"], pod["containers"]
    assert first["image"] == encoder["image"]
    assert first["securityContext"] == encoder["securityContext"]
    [volume] = [one for one in pod["volumes"] if one["name"] == "models"]
    assert "emptyDir" in volume, "of the pod alone"
    [mount] = [one for one in encoder["volumeMounts"] if one["name"] == "models"]
    place = Path(config["CLIPTUNE_ARTIFACT"]).relative_to(mount["mountPath"])
    for _ in range(2):  # a pod's init containers may run again
        said = run(first, environment(first, objects, bucket), tmp_path / "pod")
        assert digest in said.replace("\n", "")
        assert open_artifact(tmp_path / "pod" / "models" / place).digest == digest
    other = environment(first, objects, bucket) | {"MODEL_DIGEST": "0" * 64}
    with pytest.raises(RuntimeError, match="is meant"):
        run(first, other, tmp_path / "another")
    assert list((tmp_path / "another" / "models").iterdir()) == []


def test_another_digest_rolls_the_encoders_out(tmp_path: Path) -> None:
    for before, after in (
        (by_overlay(tmp_path / "a", "a" * 64), by_overlay(tmp_path / "b", "b" * 64)),
        (by_chart("a" * 64), by_chart("b" * 64)),
    ):
        pods = [
            {n: o["spec"]["template"] for n, o in by_name(one, "Deployment", "StatefulSet").items()}
            for one in (before, after)
        ]
        assert {name for name in pods[0] if pods[0][name] != pods[1][name]} >= set(ENCODERS)


def test_the_chart_wants_a_digest() -> None:
    with pytest.raises(AssertionError, match=r"model\.digest"):
        templated("--set", "model.source=s3://models/tuned.zip")
    with pytest.raises(AssertionError, match="pattern"):
        by_chart("latest")
