"""CHANGELOG.md is kept in the form that it names, and the version says what has changed since."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
KINDS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
UNRELEASED, *RELEASES = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)


def sections() -> dict[str, str]:
    """What is below each heading of a version."""
    parts = re.split(r"^## .*$", (ROOT / "CHANGELOG.md").read_text("utf-8"), flags=re.M)
    return dict(zip([UNRELEASED, *RELEASES], parts[1:], strict=True))


def test_versions_follow_one_another_newest_first() -> None:
    assert UNRELEASED == "Unreleased"
    versions = [Version(release.split(" - ")[0]) for release in RELEASES]
    assert versions == sorted(set(versions), reverse=True)


def test_changes_are_of_known_kinds_and_none_is_empty() -> None:
    for version, section in sections().items():
        kinds = re.findall(r"^### (.*)$", section, re.M)
        assert set(kinds) <= KINDS, version
        assert len(kinds) == len(set(kinds)), version
        below = re.split(r"^### .*$", section, flags=re.M)[1:]
        for kind, entries in zip(kinds, below, strict=True):
            assert entries.strip().startswith("- "), f"{version}: {kind} has no entry"


def test_the_version_says_whether_there_are_changes_since_the_last_release() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    version, last = Version(project["version"]), Version(RELEASES[0])
    if sections()[UNRELEASED].strip():
        assert version.is_devrelease
        assert version > last
    else:
        assert version == last


def test_the_image_that_people_are_told_to_build_is_of_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    for name in (
        "Dockerfile",
        "k8s/README.md",
        "docker-compose.yml",
        "k8s/components/pods/all.yaml",
    ):
        tags = re.findall(r"cliptune:(\d[\w.]*)", (ROOT / name).read_text("utf-8"))
        assert set(tags) == {version}, name
    label = re.search(r'image\.version="([^"]*)"', (ROOT / "Dockerfile").read_text("utf-8"))
    assert label
    assert label[1] == version
