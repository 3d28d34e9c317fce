"""Limits that an operator can change by environment variables."""

from __future__ import annotations

import os

from cliptune.errors import BadInput


def limit(variable: str, default: int) -> int:
    """A limit, from the environment.

    Raises:
        BadInput: the variable holds no whole number from 1 to 2^31 - 1.
    """
    value = os.environ.get(variable, "").strip()
    if not value:
        return default
    if not value.isascii() or not value.isdigit() or not 1 <= int(value) < 2**31:
        raise BadInput(f"{variable} is {value!r}: use a whole number from 1 to {2**31 - 1}")
    return int(value)
