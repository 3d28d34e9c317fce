#!/usr/bin/env bash
# Fill the folder WHEELS (default: wheels) with all that benchmarks/gpu/run.sh needs on a machine
# without internet: cliptune's locked dependencies, the tests' too, and what open_clip_train imports
# besides. Some 3 GB, most of it CUDA's libraries. To be run on the same kind of system, with Python
# 3.11; ONNX Runtime's own CUDA wheel (onnxruntime-gpu) may take the place of onnxruntime's.
set -euo pipefail
cd "$(dirname "$0")/../.."
wheels="${WHEELS:-wheels}"
mkdir -p "$wheels"
python3.11 -m pip wheel --quiet --require-hashes --no-deps --wheel-dir "$wheels" \
  --requirement requirements.lock
python3.11 -m pip wheel --quiet --no-deps --wheel-dir "$wheels" \
  $(sed -n '/^REQUIREMENTS/,/^)/s/^ *"\(.*\)",$/\1/p' benchmarks/training/programs.py)
