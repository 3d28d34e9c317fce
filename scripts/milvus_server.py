"""Run the Milvus server that `scripts/install-milvus` installed, until it is ended.

    scripts/install-milvus
    .venv/bin/python scripts/milvus_server.py --data milvus-data --port 19530
    cliptune serve --index http://localhost:19530/shop

For tests and trials on one machine: the server has no password, and listens to all that can reach
it. Started again with the same `--data`, it goes on with the same data and ports.
"""

from __future__ import annotations

import argparse
import os
import re
import socket
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
INSTALLED = ROOT / ".milvus" / "server"
_PLACE = re.compile(r"\{\{\s*(\w+)(?:\(\w+\))?\s*(?::\s*([^}]*?))?\s*\}\}")

QUICK: dict[str, Any] = {
    # Strong consistency waits for the next tick; new collections for the coordinator's next look.
    "proxy.timeTickInterval": 20,
    "queryCoord.checkInterval": 100,
    "queryCoord.checkChannelInterval": 100,
    "queryCoord.checkSegmentInterval": 100,
    "queryCoord.distPullInterval": 100,
    "queryCoord.leaderViewUpdateInterval": 100,
}


def prepare(data: Path, port: int, quick: bool) -> int:
    """Write the configuration into the folder `data`, unless one is there; returns the port."""
    path = data / "configs" / "milvus.yaml"
    if not path.is_file():
        names = set(re.findall(r"(\w+_port)\(int\)", _template()))
        ports = dict(zip(sorted(names), _free_ports(len(names)), strict=True))
        ports["proxy_port"] = port or ports["proxy_port"]
        storage = data / "data"
        values = {
            **{name: str(one) for name, one in ports.items()},
            "etcd_log_path": str(data / "logs" / "etcd.log"),
            "system_log_path": str(data / "logs"),
            "etcd_data_dir": str(storage / "etcd.data"),
            "local_storage_dir": str(storage),
            "rocksmq_data_dir": str(storage / "rocksmq"),
        }
        config = yaml.safe_load(
            _PLACE.sub(lambda place: values.get(place[1], place[2] or ""), _template())
        )
        for name, value in (QUICK if quick else {}).items():
            section, key = name.split(".")
            config[section][key] = value
        etcd = data / "configs" / "etcd.yaml"
        config["etcd"]["config"] = {"path": str(etcd)}
        for folder in ("configs", "logs", "data"):
            (data / folder).mkdir(parents=True, exist_ok=True)
        etcd.write_text(yaml.safe_dump(_etcd(ports["etcd_port"], values["etcd_data_dir"])))
        (data / "configs" / "glog.conf").write_text((INSTALLED / "glog.conf").read_text())
        path.write_text(yaml.safe_dump(config))
    return int(yaml.safe_load(path.read_text())["proxy"]["port"])


def _template() -> str:
    return (INSTALLED / "config.yaml.template").read_text(encoding="utf-8")


def _etcd(port: int, folder: str) -> dict[str, str]:
    """The configuration of the etcd within: its ports, too, must not meet another's."""
    [peers] = _free_ports(1)
    client, peer = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peers}"
    return {
        "name": "default",
        "data-dir": folder,
        "listen-client-urls": client,
        "advertise-client-urls": client,
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        "initial-cluster": f"default={peer}",
    }


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def main() -> None:
    """Become the server."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True, help="The folder for data and logs.")
    parser.add_argument("--port", type=int, default=0, help="Default: a free one.")
    parser.add_argument("--quick", action="store_true", help="Answer sooner, for more idle work.")
    given = parser.parse_args()
    if not (INSTALLED / "bin" / "milvus").is_file():
        parser.error("no Milvus is installed: run scripts/install-milvus")
    data = given.data.absolute()
    port = prepare(data, given.port, given.quick)
    print(f"Milvus at http://localhost:{port}", flush=True)
    [metrics] = _free_ports(1)
    environment = {
        **os.environ,
        "DEPLOY_MODE": "STANDALONE",
        "METRICS_PORT": str(metrics),
        "MILVUS_RUN_DIR": str(data / "run"),
        "LD_LIBRARY_PATH": f"{INSTALLED / 'bin'}:{os.environ.get('LD_LIBRARY_PATH', '')}",
    }
    os.chdir(data)
    log = os.open(data / "logs" / "milvus-output.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    program = str(INSTALLED / "bin" / "milvus")
    os.execve(program, [program, "run", "standalone"], environment)


if __name__ == "__main__":
    main()
