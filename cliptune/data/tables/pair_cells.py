"""What a table's cells say of a pair: its weight, its grade, its wrong answers."""

from __future__ import annotations

import json
import math

from cliptune.data.validation import is_missing
from cliptune.documents import HIGHEST_GRADE


def weight_of(value: object) -> float:
    """A weight: a finite number above 0.

    Raises:
        ValueError: it is none; the message repeats it.
    """
    weight = _number(value)
    if weight is None or not 0 < weight < math.inf:
        raise ValueError(f"the weight {value!r} is no finite number above 0")
    return weight


def grade_of(value: object) -> int:
    """A grade: a whole number from 0 to `HIGHEST_GRADE`.

    Raises:
        ValueError: it is none; the message repeats it.
    """
    grade = _number(value)
    if grade is None or grade not in range(HIGHEST_GRADE + 1):
        raise ValueError(f"the grade {value!r} is no whole number from 0 to {HIGHEST_GRADE}")
    return int(grade)


def values_of(cell: object) -> list[object]:
    """What is in a cell of one value or of several: a list, or JSON of one."""
    if isinstance(cell, str) and cell.lstrip().startswith("["):
        try:
            listed = json.loads(cell)
        except ValueError:
            listed = cell
        cell = listed if isinstance(listed, list) else cell
    values = cell if isinstance(cell, list) else [cell]
    return [value for value in values if isinstance(value, bytes) or not is_missing(value)]


def ids_of(cell: object) -> list[str]:
    """The ids in a cell of one or several, each once."""
    return list(dict.fromkeys(str(value).strip() for value in values_of(cell)))


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except ValueError:
        return None
