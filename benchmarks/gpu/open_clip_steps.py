"""open_clip_train's steps on its own synthetic data: pairs a second, as its log says.

Its pictures are made without decoding, so that it waits for none. `--precision amp_bf16`, without
and with `--torchcompile`; its other options are its defaults. Memory is the device's.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import statistics
import subprocess
import sys
import tempfile

RATE = re.compile(r"([\d.]+)/s, [\d.]+/s/gpu")
NEEDED = ("open_clip_train", "webdataset", "pandas", "braceexpand")


def main() -> None:
    """Train a few steps of each batch size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(f"not measured: {', '.join(missing)} is not installed")
        return
    sizes = [8] if args.tiny else [256, 1024]
    for size in sizes:
        for compiled in [False] if args.tiny else [False, True]:
            rate = measure(size, 4 if args.tiny else 12, args.device, compiled)
            row = {"program": "open_clip_train", "batch": size, "compiled": compiled,
                   "step, ms": 1000 * size / rate, "pairs a second": rate}  # fmt: skip
            print(json.dumps(row), flush=True)


def measure(size: int, steps: int, device: str, compiled: bool) -> float:
    """Pairs a second of the later half of the steps."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "-m", "open_clip_train.main", "--model", "ViT-B-32"),
            *("--dataset-type", "synthetic", "--train-num-samples", str(size * steps)),
            *("--batch-size", str(size), "--epochs", "1", "--workers", "2"),
            *("--precision", "amp_bf16", "--device", device, "--log-every-n-steps", "1"),
            *("--logs", folder, "--name", "run", "--save-frequency", "0"),
            *(["--torchcompile"] if compiled else []),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
    rates = [float(found) for found in RATE.findall(done.stdout + done.stderr)]
    if done.returncode or not rates:
        raise RuntimeError(f"open_clip_train ended with {done.returncode}: {done.stderr[-2000:]}")
    return statistics.median(rates[len(rates) // 2 :])


if __name__ == "__main__":
    main()
