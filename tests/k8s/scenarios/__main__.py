"""Do to a running cluster what a scenario does: `python -m tests.k8s.scenarios NAME [FOLDER]`.

It runs in namespaces of its own, for which it asks to be root, prints a line of JSON for each step,
and fails where that isn't as it must be. The logs of all pods are in FOLDER. Without a name it says
which there are.
"""

from __future__ import annotations

import inspect
import os
import sys
import tempfile
from pathlib import Path

from tests.k8s.rendering import ROOT
from tests.k8s.scenarios.gpu import gpu
from tests.k8s.scenarios.kills import kills
from tests.k8s.scenarios.milvus import milvus
from tests.k8s.scenarios.scarcity import memory, volume
from tests.k8s.scenarios.search import changes, dev
from tests.k8s.scenarios.secured import cpu, tls
from tests.k8s.scenarios.training import train

SCENARIOS = {
    one.__name__: one for one in (dev, train, tls, cpu, milvus, gpu, changes, memory, volume, kills)
}
APART = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
INSIDE = "CLIPTUNE_SCENARIO_IS_APART"


def main() -> None:
    """Run the scenario that the command line names."""
    if len(sys.argv) < 2 or sys.argv[1] not in SCENARIOS:
        for name, scenario in SCENARIOS.items():
            print(f"{name:10}", (inspect.getdoc(scenario) or "").splitlines()[0])
        sys.exit(2)
    if INSIDE not in os.environ:
        command = [*APART, sys.executable, "-m", "tests.k8s.scenarios", *sys.argv[1:]]
        os.chdir(ROOT)
        os.execvpe(command[0], command, os.environ | {INSIDE: "1"})
    folder = Path(sys.argv[2] if len(sys.argv) > 2 else tempfile.mkdtemp(prefix="cliptune-"))
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["CLIPTUNE_HOME"] = str(folder / "home")
    SCENARIOS[sys.argv[1]](folder)


if __name__ == "__main__":
    main()
