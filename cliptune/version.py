"""Which version of cliptune this is."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("cliptune")
except PackageNotFoundError:  # a checkout that is not installed
    __version__ = "0+unknown"
