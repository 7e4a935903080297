"""Pixel sizes that the user gives: one for all micrographs, or a table."""

from __future__ import annotations

import csv
from fnmatch import fnmatchcase
from pathlib import Path

from carde_monai.errors import InputError
from carde_monai.sem import check_pixel_size

COLUMNS = ("name", "pixel_size_um")


class PixelSizes:
    """What ``--pixel_size`` says: micrometres, or a CSV file with the columns name and pixel_size_um.

    A name may be a pattern (``WD6mm_*``); the first row that fits a micrograph counts, and where none fits
    its own metadata do. None gives nothing.

    Raises:
        InputError: it is no pixel size, or the table cannot be read or lacks a column or holds no sizes.
    """

    def __init__(self, given: float | str | Path | None) -> None:
        self.rows: list[tuple[str, float]] = []
        self._used: set[str] = set()
        if isinstance(given, str | Path):
            self.rows = _read(Path(given))
        else:
            check_pixel_size(given)
            self.rows = [] if given is None else [("*", float(given))]

    def of(self, *names: str) -> float | None:
        """The pixel size of a micrograph in micrometres, by any of its names; None if it is not given."""
        for pattern, size in self.rows:
            if any(name == pattern or fnmatchcase(name, pattern) for name in names):
                self._used.add(pattern)
                return size
        return None

    def complaints(self) -> list[str]:
        """A line on the rows that have fitted no micrograph, if there are any."""
        idle = [pattern for pattern, _ in self.rows if pattern not in self._used]
        return [f"--pixel_size: no micrograph is called {', '.join(idle)}"] if idle else []


def _read(path: Path) -> list[tuple[str, float]]:
    if not path.is_file():
        remedy = f"give micrometres, or a CSV file with the columns {', '.join(COLUMNS)}"
        raise InputError("--pixel_size", f"{path} is neither a number nor a file", remedy)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(path, f"cannot be read as CSV ({error})", "save it as CSV in UTF-8") from error
    missing = [column for column in COLUMNS if not rows or column not in rows[0]]
    if missing:
        raise InputError(path, f"has no column {missing[0]}", f"its first line must be {','.join(COLUMNS)}")
    table = []
    for row in rows:
        try:
            size = float(row["pixel_size_um"])
            check_pixel_size(size)
        except (TypeError, ValueError) as error:
            wrong = f"the pixel size of {row['name']}, '{row['pixel_size_um']}', is none"
            raise InputError(path, wrong, "give micrometres, for example 0.00698") from error
        table.append((str(row["name"]), size))
    return table
