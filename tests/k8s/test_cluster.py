"""The manifests run as they are written, under their own restrictions, and go through changes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.k8s.rendering import ROOT, tool

NAMESPACES = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]


def run(scenario: str, folder: Path) -> dict[str, dict[str, Any]]:
    """What a program of `scenarios` reports, by scenario; skips where it can't run."""
    tool("kubectl")
    for name in ("bwrap", "ip", "setpriv", "nsenter"):
        if shutil.which(name) is None:
            pytest.skip(f"no {name} here: scripts/install-kubernetes-tools installs it")
    tried = subprocess.run([*NAMESPACES, "ip", "link", "add", "br0", "type", "bridge"])
    if os.geteuid() != 0 or tried.returncode != 0:
        pytest.skip("this user may not make network namespaces")
    program = [sys.executable, "-m", "tests.k8s.scenarios", scenario, str(folder)]
    done = subprocess.run([*NAMESPACES, *program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {line["scenario"]: line for line in lines}


@pytest.mark.e2e
def test_pods_run_under_their_restrictions_and_scale_under_load(tmp_path: Path) -> None:
    reports = run("short", tmp_path)
    for report in reports.values():
        assert report["failures"] == 0, report
    assert reports["index and search"]["requests"] == 6
    parts = {"text", "vision", "indexer", "search"}
    assert reports["watch"]["figures"] == dict.fromkeys(parts, True)
    assert reports["watch"]["logged"] == dict.fromkeys(parts, True)
    assert reports["watch"]["public_metrics"] == 404
    assert reports["batches of 16 clients"]["rows_a_batch"] > 1.3
    # The rest goes on while the index is away, and nothing is lost of it.
    killed = reports["kill the indexer"]
    assert killed["requests"] > 50
    assert (killed["restarts"], killed["documents"]) == (1, 6)
    shares = reports["scale 1, 3, 1"]["shares"]
    assert len(shares) == 3
    assert all(0.7 < share < 1.3 for share in shares.values()), shares
    assert reports["end"]["events"] == ["indexer-0: ended with status 137"]
