"""Runs the scenarios."""

import sys
from pathlib import Path

from tests.k8s.scenarios.search import main

main(sys.argv[1], Path(sys.argv[2]))
