"""A real Milvus server for tests: started, killed and started again."""

from __future__ import annotations

import itertools
import logging
import os
import subprocess
import sys
from pathlib import Path

from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[1]
INSTALLED = ROOT / ".milvus" / ".ready"
_names = itertools.count()


class MilvusProcess:
    """A server with data of its own."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.port = 0
        self.process: subprocess.Popen[str] | None = None

    def start(self, *, wait: bool = True) -> None:
        """Start it, or start it again with the same data and port."""
        self.process = subprocess.Popen(
            [sys.executable, ROOT / "scripts" / "milvus_server.py", "--quick", "--data", self.data],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        self.port = int(said.rsplit(":", 1)[1])
        if wait:
            self.wait()

    def wait(self) -> None:
        """Until it answers."""
        from pymilvus import MilvusClient, MilvusException

        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)

        def answers() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, "Milvus ended: see its logs"
            try:
                client = MilvusClient(self.address, timeout=2, dedicated=True)
                client.list_collections(timeout=2)
                client.close()
                return True
            except MilvusException:
                return False

        wait_until(answers, 120, lambda: "Milvus doesn't answer: see its logs")

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        with self.process:  # waits, and closes the pipe
            self.process.kill()

    def stop(self) -> None:
        """Kill it, if it was started."""
        if self.process is not None:
            self.kill()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def new_uri(self) -> str:
        """The address of an index that isn't there yet."""
        return f"{self.address}/test_{os.getpid()}_{next(_names)}"
