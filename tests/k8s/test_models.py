"""A model reaches an encoder's pod by an init container, run as its manifest says."""

from __future__ import annotations

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


@pytest.mark.e2e
@pytest.mark.parametrize("way", ["overlay", "chart"])
def test_it_comes_from_a_bucket_before_the_encoder_starts(
    way: str, models: tuple[Path, Path, Path], bucket: dict[str, str], tmp_path: Path
) -> None:
    if shutil.which("bwrap") is None:
        pytest.skip("no bubblewrap here: scripts/install-kubernetes-tools installs it")
    digest = open_artifact(models[0]).digest
    objects = by_overlay(tmp_path, digest) if way == "overlay" else by_chart(digest)
    config = by_name(objects, "ConfigMap")["cliptune"]["data"]
    for name in ENCODERS:
        pod = by_name(objects, "Deployment")[name]["spec"]["template"]["spec"]
        [first] = pod["initContainers"]
        assert first["image"] == pod["containers"][0]["image"]
        assert first["securityContext"] == pod["containers"][0]["securityContext"]
        [models_volume] = [one for one in pod["volumes"] if one["name"] == "models"]
        assert "emptyDir" in models_volume, "of the pod alone"
        [mount] = [m for m in pod["containers"][0]["volumeMounts"] if m["name"] == "models"]
        said = run(first, environment(first, objects, bucket), tmp_path / name)
        assert digest in said.replace("\n", "")
        place = Path(config["CLIPTUNE_ARTIFACT"]).relative_to(mount["mountPath"])
        assert open_artifact(tmp_path / name / "models" / place).digest == digest
    # A pod's init containers may run again; and one whose digest is another doesn't get by.
    run(first, environment(first, objects, bucket), tmp_path / "vision")
    other = environment(first, objects, bucket) | {"MODEL_DIGEST": "0" * 64}
    with pytest.raises(RuntimeError, match="is meant"):
        run(first, other, tmp_path / "another")
    assert list((tmp_path / "another" / "models").iterdir()) == []
    policy = by_name(objects, "NetworkPolicy")["encoders-to-models"]["spec"]
    assert {"port": 443} in [port for rule in policy["egress"] for port in rule["ports"]]


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
