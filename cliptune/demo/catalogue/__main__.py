"""Draw every N-th picture: `python -m cliptune.demo.catalogue PART SHARE N FOLDER`."""

import sys
from pathlib import Path

from cliptune.demo.catalogue.dataset import draw_share

draw_share(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
