"""A figure of the benchmark, what it should reach, and the table and document of all figures."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from benchmarks.timing import quartiles, ratios

HEAD = ("section", "what", "reference", "ours", "ratio (quartiles)", "target", "met")


@dataclass(frozen=True)
class Target:
    """What the median has to reach: a ``ratio`` of at least ``bound``, or a ``value`` of at most that."""

    of: Literal["ratio", "value"]
    bound: float
    note: str = ""


@dataclass(frozen=True)
class Row:
    """A figure: raw values of ours and, where there is one, of the reference, both in ``unit``.

    With ``items`` the values are the seconds that so many items take, and items a second are shown. The ratio
    is reference over ours: above 1 ours is better.
    """

    section: str
    what: str
    ours: Sequence[float]
    reference: Sequence[float] = ()
    unit: str = "s"
    items: float | None = None
    target: Target | None = None
    note: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    def ratio(self) -> tuple[float, float, float] | None:
        """Lower quartile, median and upper quartile of the ratios; None without a reference."""
        return quartiles(ratios(self.reference, self.ours)) if self.reference and self.ours else None

    def met(self) -> bool | None:
        """Whether the median reaches the target; None without one."""
        if self.target is None or not self.ours:
            return None
        if self.target.of == "value":
            return statistics.median(self.ours) <= self.target.bound
        ratio = self.ratio()
        return None if ratio is None else ratio[1] >= self.target.bound

    def cells(self) -> list[str]:
        """The row of the table."""
        ratio, met = self.ratio(), self.met()
        return [
            self.section,
            f"{self.what}; {self.note}" if self.note else self.what,
            self._shown(self.reference),
            self._shown(self.ours),
            f"{ratio[1]:.3g} ({ratio[0]:.3g}, {ratio[2]:.3g})" if ratio else "",
            self._wanted(),
            "" if met is None else "yes" if met else "no",
        ]

    def line(self) -> str:
        """The row in a line for the terminal."""
        return " | ".join(cell for cell in self.cells() if cell)

    def record(self) -> dict[str, Any]:
        """The row for the JSON document."""
        ratio = self.ratio()
        return {
            "section": self.section,
            "what": self.what,
            "note": self.note,
            "unit": self.unit,
            "items": self.items,
            "reference": list(self.reference),
            "ours": list(self.ours),
            "ratio": dict(zip(("lower_quartile", "median", "upper_quartile"), ratio, strict=True))
            if ratio
            else None,
            "target": self._wanted() or None,
            "met": self.met(),
            **self.extra,
        }

    def _shown(self, values: Sequence[float]) -> str:
        if not values:
            return ""
        if self.items:
            return f"{self.items / statistics.median(values):.3g}/s"
        return _quantity(statistics.median(values), self.unit)

    def _wanted(self) -> str:
        if self.target is None:
            return ""
        bound, note = self.target.bound, f" ({self.target.note})" if self.target.note else ""
        wanted = f"at least {bound:g}" if self.target.of == "ratio" else f"at most {bound:g} {self.unit}"
        return wanted.strip() + note


def _quantity(value: float, unit: str) -> str:
    number = f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{number} {unit}".strip()


def markdown(
    command: str, machine: Mapping[str, Any], rows: Sequence[Row], failed: Mapping[str, str], seconds: float
) -> str:
    """Command, machine and table, to paste into a page; a line for each section that failed."""
    facts = [f"{name.replace('_', ' ')}: {value}" for name, value in machine.items()]
    lines = [f"    {command}", "", f"{'; '.join(facts)}; duration: {seconds / 60:.1f} min", ""]
    cells = [HEAD, ["---"] * len(HEAD), *(row.cells() for row in rows)]
    if rows:
        lines += ["| " + " | ".join(one.replace("|", "\\|") for one in each) + " |" for each in cells]
    return "\n".join([*lines, *(f"\nfailed: {name}: {reason}" for name, reason in failed.items())])


def document(
    command: str, machine: Mapping[str, Any], rows: Sequence[Row], failed: Mapping[str, str], seconds: float
) -> dict[str, Any]:
    """The same with all raw values."""
    return {
        "command": command,
        "machine": dict(machine),
        "seconds": seconds,
        "rows": [row.record() for row in rows],
        "failed": [{"section": name, "reason": reason} for name, reason in failed.items()],
    }
