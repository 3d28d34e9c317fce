"""A Flow in a process of its own: `python -m cliptune.serving.flow_process FLOW.yml STATE.json`.

Jina forks its executors, and a process in which torch or LanceDB has run can't be forked safely:
so `serve` starts this module in a fresh one. It ends when its standard input does (its parent has
gone), or on SIGTERM or SIGINT. Ports and host come from the environment.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import threading
import time
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import cliptune.serving  # noqa: F401  (first: it keeps Jina from calling home)
from cliptune.files import write_text
from cliptune.serving import settings

GRPC_PORT, HTTP_PORT, HOST = "CLIPTUNE_GRPC_PORT", "CLIPTUNE_HTTP_PORT", "CLIPTUNE_HOST"
CLIP_SERVICE_PORT = "CLIPTUNE_CLIP_SERVICE_PORT"
GATEWAY = "gateway"
"""Jina's name for it."""
ENCODER = "text"
"""The name that a search Flow's text encoder has."""


def main(flow_yml: Path, state_file: Path) -> None:
    """Run the Flow until told to end; the state file says how far it is."""
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    threading.Thread(target=_wait_for_parent, args=(ended,), daemon=True).start()
    # How long Jina waits for each part to end (seconds); it is read when Jina is imported.
    os.environ.setdefault("JINA_DEFAULT_TIMEOUT_CTRL", str(settings.drain_seconds() + 20))
    # Before prometheus_client is imported: all processes of the Flow keep their metrics here.
    shared = state_file.parent / "metrics"
    shared.mkdir()
    os.environ[settings.METRICS_FOLDER] = str(shared)
    from cliptune.serving import logs

    logs.setup("flow")
    flow = load(flow_yml)
    if ENCODER in dict(iter(flow)):
        # Both encoders need it, and it takes seconds: Jina's forks then find it here and share its
        # memory. No thread is started by it, which a fork would lose.
        import cliptune.models.openclip  # noqa: F401
    gc.freeze()  # a collection in a fork would write to all of it, and so make copies
    threading.Thread(target=_watch_children, args=(ended, state_file), daemon=True).start()
    with flow:
        _write(state_file, "ready")
        ended.wait()
        # Before the executors: the gateway answers what it has taken.
        flow[GATEWAY].close()


def load(flow_yml: Path) -> Any:
    """The Flow, with host and ports of the environment in place of its file's."""
    import yaml
    from jina import Flow

    description = yaml.safe_load(flow_yml.read_text())
    gateway = description["gateway"]
    ports = gateway["port"]
    for place, variable in enumerate((GRPC_PORT, HTTP_PORT)):
        ports[place] = int(os.environ.get(variable) or ports[place])
    if "uses_with" in gateway:
        options = gateway["uses_with"]
        given = os.environ.get(CLIP_SERVICE_PORT)
        options["clip_service_port"] = int(given or options["clip_service_port"])
    gateway["host"] = os.environ.get(HOST) or gateway["host"]
    return Flow.load_config(description, extra_search_paths=[str(flow_yml.parent)])


def _wait_for_parent(ended: threading.Event) -> None:
    # Not through `sys.stdin`: its lock would be held across the fork, and a child closes it.
    while os.read(0, 1):
        pass
    ended.set()


def _watch_children(ended: threading.Event, state_file: Path) -> None:
    # Jina waits for all executors to start, even when one has died, and does without one that
    # dies later: requests would fail one by one. Whoever runs the service should start it again.
    seen: set[int] = set()
    while not ended.wait(0.2):
        # `active_children` leaves out those that have ended.
        now = {process.pid for process in active_children() if process.pid}
        if seen - now:
            _write(state_file, "failed", "an executor ended by itself")
            time.sleep(0.5)  # let it finish its log
            for process in active_children():
                process.kill()
            os._exit(1)
        seen |= now


def _write(state_file: Path, state: str, reason: str = "") -> None:
    write_text(state_file, json.dumps({"state": state, "reason": reason}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
