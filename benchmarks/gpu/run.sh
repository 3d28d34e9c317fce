#!/usr/bin/env bash
# Measure cliptune on a GPU: encoding, training, the tests that need one. At most eight minutes.
#
#   benchmarks/gpu/run.sh OUT                      on the machine's GPU
#   benchmarks/gpu/run.sh OUT --device cpu --tiny  that it works, in a few minutes
#
# Nothing is downloaded. Without PYTHON (of an environment that has what cliptune needs) one is made
# of the folder WHEELS (default: wheels), which benchmarks/gpu/wheels.sh fills on a machine with
# internet. CLIP_SERVER_PYTHON is that of an environment with clip_server, if it is to be measured.
# OUT gets results.json, results.md and a log of each part; a part that fails or takes too long is
# said there, and the others go on.
set -euo pipefail
out=$(mkdir -p "$1" && cd "$1" && pwd)
shift
cd "$(dirname "$0")/../.."
if [ -z "${PYTHON:-}" ]; then
  wheels=$(cd "${WHEELS:-wheels}" && pwd)
  python3.11 -m venv "$out/environment"
  PYTHON="$out/environment/bin/python"
  "$PYTHON" -m pip install --quiet --no-index --no-deps "$wheels"/*.whl
fi
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" CLIPTUNE_HOME="$out/home" HF_HUB_OFFLINE=1 JINA_OPTOUT_TELEMETRY=1
exec "$PYTHON" benchmarks/gpu/measure.py "$out" "$@"
