"""What README.md prints is done as it is printed, with real products: each command, each script."""

from __future__ import annotations

import csv
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cliptune.cli.app import app
from cliptune.evaluation.metrics import METRICS
from tests.ports import free_ports
from tests.waiting import wait_until_ready

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
ELSEWHERE = ("make demo", "make test", "jina flow ", "CLIPTUNE_ARTIFACT=tuned.zip jina flow ")
"""Commands with tests of their own: the demo from the wheel, the Flows, these tests."""


def commands(block: str) -> list[str]:
    """The commands of a shell block, without comments; continued lines are one."""
    joined = re.sub(r"\\\n\s*", " ", block)
    return [line for line in (re.sub(r"\s+# .*", "", each) for each in joined.splitlines()) if line]


@pytest.fixture
def shop(shared_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as a user has it: a table of real products with their pictures, outside of ours."""
    fashion = shared_dir / "fashion"
    with (fashion / "products.csv").open(encoding="utf-8") as file:
        products = [row for row in csv.DictReader(file) if "Dress" in row["articleType"]][:30]
    (tmp_path / "images").mkdir()
    with (tmp_path / "products.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["title", "picture", "price", "brand"])
        for number, row in enumerate(products):
            picture = f"images/{row['id']}.jpg"
            shutil.copy(fashion / picture, tmp_path / picture)
            brand = "Nordvik" if number % 2 else "Halden"
            table.writerow([row["productDisplayName"], picture, 10 + number, brand])
    shutil.copy(tmp_path / picture, tmp_path / "boots.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Reader:
    """Somebody who does what the README prints, from its first line to its last.

    But for the ports, and a model that is trained sooner.
    """

    def __init__(self, ports: list[int], model: Path) -> None:
        self.ports = dict(zip(("51000", "51001"), map(str, ports), strict=True))
        self.others = {
            **self.ports,
            "--model builtin": f"--model {model}",
            'model="builtin"': f"model={str(model)!r}",
        }
        self.names: dict[str, Any] = {}
        self.outputs: dict[str, str] = {}
        self.servers: list[subprocess.Popen] = []

    def read(self, kind: str, block: str) -> None:
        for printed, own in self.others.items():
            block = block.replace(printed, own)
        if kind == "python":
            exec(compile(block, "README.md", "exec"), self.names)
        elif kind == "bash":
            for command in commands(block):
                self.run(command)

    def run(self, command: str) -> None:
        if command.startswith(ELSEWHERE):
            return
        name, *arguments = shlex.split(command)
        if command.startswith("cliptune serve "):
            self.serve(arguments)
        elif name == "cliptune":
            done = CliRunner().invoke(app, arguments)
            assert done.exit_code == 0, (command, done.output, done.exception)
            self.outputs[arguments[0]] = done.output
        elif name == "curl":
            done = subprocess.run([name, *arguments], capture_output=True, text=True, check=True)
            self.outputs[name] = done.stdout
        else:
            raise AssertionError(f"what is it? {command}")

    def serve(self, arguments: list[str]) -> None:
        grpc, http = self.ports.values()
        ports = ["--grpc-port", grpc, "--http-port", http, "--clip-service-port", "0"]
        command = [sys.executable, "-m", "cliptune", *arguments, *ports]
        self.servers.append(subprocess.Popen(command))
        wait_until_ready(f"http://localhost:{http}", self.servers[-1])


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch, tiny_model: Path) -> Iterator[Reader]:
    reader = Reader(free_ports(2), tiny_model)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("CLIPTUNE_SEARCH_SERVER", f"grpc://localhost:{reader.ports['51000']}")
    yield reader
    for server in reader.servers:
        server.terminate()
        server.wait(60)


def test_the_readme_from_its_first_line_to_its_last(
    reader: Reader, shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds = [kind for kind, _ in BLOCKS]
    assert kinds.count("bash") >= 6
    assert kinds.count("python") >= 2
    assert all(any(printed in block for _, block in BLOCKS) for printed in reader.others)
    for kind, block in BLOCKS:
        reader.read(kind, block)
    assert "products-held-out.csv" in reader.outputs["split"]
    assert METRICS[0] in reader.outputs["fit"]
    assert (shop / "my-shop-report.html").stat().st_size > 10_000
    assert "30 documents indexed" in reader.outputs["index"]
    assert reader.outputs["search"].count("images/") == 0
    assert '"matches"' in reader.outputs["curl"]
    printed = capsys.readouterr().out
    assert "Training [5/5]" in printed
    assert "before" in printed
    assert reader.names["run"].folder.joinpath("examples.png").is_file()
    found = reader.names["client"].search("red rain boots", limit=100)
    assert {"1234"} <= {match.id for match in found.matches}


def test_what_it_links_to_is_there() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(links) > 15
    for link in links:
        if not link.startswith(("http://", "https://")):
            assert (ROOT / link).exists(), link


def test_its_make_targets_and_flows_are_there() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`?make ([a-z-]+)", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for flow in re.findall(r"--uses (\S+)", README):
        assert (ROOT / flow).is_file(), flow
