"""What a run of the command line over a corpus has left."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Run:
    """Exit status, lines on stderr, folder of the results, and reasons in its failures.csv by name."""

    status: int
    lines: list[str]
    output: Path
    failures: dict[str, str]


def listed(output: Path) -> dict[str, str]:
    """The reasons in failures.csv by name; nothing if there is none."""
    path = output / "failures.csv"
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return {row["name"]: row["reason"] for row in csv.DictReader(file)}
