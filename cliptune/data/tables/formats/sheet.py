"""A process that reads one sheet of a workbook and writes its rows as JSON lines.

    python -I sheet.py MEMORY PATH [SHEET]

The first line is [[name of each sheet], name of the one that is read or null]; the others are
[line, [cells]]. It knows nothing of cliptune, so that it starts quickly.
"""

from __future__ import annotations

import datetime
import json
import sys

DAMAGED = 3
"""The exit code for what can't be read; stderr says why."""
Cells = tuple[int, list[str]]
"""A row's number and its cells."""


def main(memory: int, path: str, wanted: str | None = None) -> int:
    """Write the sheet `wanted`, or else the first that isn't empty; returns the exit code."""
    _limit(memory)
    from python_calamine import CalamineWorkbook

    try:
        book = CalamineWorkbook.from_path(path)
        sheets, rows, name = book.sheet_names, list[Cells](), None
        for name in sheets if wanted is None else [wanted] * (wanted in sheets):
            given = book.get_sheet_by_name(name).to_python(skip_empty_area=False)
            rows = [
                (line, cells)
                for line, row in enumerate(given, start=1)
                if any(cells := [_text(cell) for cell in row])
            ]
            if rows:
                break
    except MemoryError:
        return 1
    except BaseException as error:  # a panic of the library's is no Exception
        sys.stderr.write(str(error))
        return DAMAGED
    sys.stdout.write(f"{json.dumps([sheets, name])}\n")
    for row in rows:
        sys.stdout.write(f"{json.dumps(row)}\n")
    return 0


def _limit(memory: int) -> None:
    """Have the process end, or raise MemoryError, rather than take more than `memory` bytes."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = memory if most == resource.RLIM_INFINITY else min(memory, most)
    resource.setrlimit(resource.RLIMIT_AS, (limit, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _text(cell: object) -> str:
    """A cell as a CSV has it."""
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 1e15:
        return str(int(cell))
    if isinstance(cell, datetime.datetime | datetime.date | datetime.time):
        return cell.isoformat()
    return str(cell).strip()


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), *sys.argv[2:]))
