"""Finding the options of a training by trials, within a budget of time: `tune.tune`.

The folder's `options` need nothing that an extra brings.
"""

from cliptune.tuning.options import TuneOptions as TuneOptions
