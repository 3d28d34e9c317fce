"""The manifests run as they are written, under their own restrictions, and go through changes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.k8s.rendering import ROOT, tool
from tests.k8s.scenarios.__main__ import APART, SCENARIOS

SHORT = ("dev", "train", "tls")
"""What others there are, `python -m tests.k8s.scenarios` tells, and runs."""


@pytest.mark.e2e
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("scenario", SHORT)
def test_pods_run_under_their_restrictions(scenario: str, tmp_path: Path) -> None:
    assert scenario in SCENARIOS
    tool("kubectl")
    for name in ("bwrap", "ip", "iptables-restore", "setpriv", "nsenter"):
        if shutil.which(name) is None:
            pytest.skip(f"no {name} here: scripts/install-kubernetes-tools installs it")
    tried = subprocess.run([*APART, "ip", "link", "add", "br0", "type", "bridge"])
    if os.geteuid() != 0 or tried.returncode != 0:
        pytest.skip("this user may not make network namespaces")
    program = [sys.executable, "-m", "tests.k8s.scenarios", scenario, str(tmp_path)]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
