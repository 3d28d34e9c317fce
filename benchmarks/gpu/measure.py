"""Each part of the GPU's benchmark in a process of its own, within the time that there is.

python benchmarks/gpu/measure.py OUT [--device cuda] [--minutes 8] [--tiny]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
RESERVE = 15
"""Seconds that writing the results may take."""


@dataclass(frozen=True)
class Part:
    """A program, and how much of the time it gets."""

    name: str
    command: list[str]
    share: float
    """Of what is left when it begins."""


def main() -> None:
    """Run all parts, and write what they found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--tiny", action="store_true", help="small sizes: only that it works")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device is seen by torch: --device cpu --tiny tries the script")
    end = time.monotonic() + 60 * args.minutes - RESERVE
    results: dict[str, Any] = {"machine": machine(args.device), "parts": {}}
    for part in parts(args.device, args.tiny):
        seconds = max(0.0, part.share * (end - time.monotonic()))
        results["parts"][part.name] = run(part, args.out, seconds, args.device)
        (args.out / "results.json").write_text(json.dumps(results, indent=2))
        (args.out / "results.md").write_text(markdown(results))
    print(markdown(results))


def parts(device: str, tiny: bool) -> list[Part]:
    """What is measured, the most telling first; each tells by its lines what it has by then."""
    python, own = sys.executable, ["--device", device, *(["--tiny"] if tiny else [])]
    found = [
        Part("encoding", [python, str(HERE / "encoding.py"), *own], 0.4),
        Part("training", [python, str(HERE / "training.py"), *own], 0.5),
        Part("open_clip_train", [python, str(HERE / "open_clip_steps.py"), *own], 0.5),
    ]
    theirs = os.environ.get("CLIP_SERVER_PYTHON")
    if theirs:
        found.append(Part("clip_server", [theirs, str(HERE / "clip_server_torch.py"), *own], 0.4))
    tests = ["-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests"]
    found.append(Part("tests", [python, *tests], 0.7))
    if torch.cuda.device_count() > 1:
        two = [*own, "--processes", "2"]
        found.append(Part("two processes", [python, str(HERE / "training.py"), *two], 1.0))
    return found


def run(part: Part, out: Path, seconds: float, device: str) -> dict[str, Any]:
    """What a part printed as JSON, a line each, and how it ended."""
    log = out / f"{part.name.replace(' ', '-')}.log"
    began = time.monotonic()
    environment = {**os.environ, "GPU_TESTS_ON": device}
    if part.name == "clip_server":
        environment.pop("PYTHONPATH", None)
    with log.open("w") as errors:
        process = subprocess.Popen(
            part.command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=max(1.0, seconds))
            ended = "done" if process.returncode == 0 else f"failed, see {log.name}"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with what it has started
            output, _ = process.communicate()
            ended = f"stopped after {seconds:.0f} s: there was no more time"
    with log.open("a") as file:
        file.write(output)
    rows = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    said = [] if rows else output.strip().splitlines()[-1:]
    spent = round(time.monotonic() - began, 1)
    return {"ended": ended, "seconds": spent, "rows": rows, "said": said}


def machine(device: str) -> dict[str, Any]:
    """What was measured on."""
    found: dict[str, Any] = {
        "device": device,
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    if device == "cuda":
        found["gpu"] = torch.cuda.get_device_name()
        found["gpus"] = torch.cuda.device_count()
        found["memory_gb"] = round(torch.cuda.get_device_properties(0).total_memory / 1e9, 1)
    return found


def markdown(results: Mapping[str, Any]) -> str:
    """A heading and a table for each part."""
    text = [", ".join(f"{name}: {value}" for name, value in results["machine"].items()), ""]
    for name, part in results["parts"].items():
        text += [f"## {name}", "", f"{part['ended']}, {part['seconds']} s", *part["said"], ""]
        if part["rows"]:
            header = list(dict.fromkeys(key for row in part["rows"] for key in row))
            text += [f"| {' | '.join(header)} |", f"|{' --- |' * len(header)}"]
            for row in part["rows"]:
                text.append(f"| {' | '.join(_shown(row.get(key)) for key in header)} |")
            text.append("")
    return "\n".join(text)


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.3g}" if abs(value) < 100 else f"{value:,.0f}"
    return "" if value is None else str(value)


if __name__ == "__main__":
    main()
