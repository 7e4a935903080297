"""How much two samples differ: each quantity with an interval over fields, paired where it can be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from carde_monai.intervals import CONFIDENCE, interval, multiplicities
from carde_monai.size_test import size_test
from carde_monai.summary import QUANTITIES, Sample, quantities, resampled
from carde_monai.summary_warnings import FEW_FIELDS

Floats = npt.NDArray[np.float64]

SAME_SIZE = 0.01  # smallest sizes counted that differ relatively by less are taken as equal


class Pair(NamedTuple):
    """Two samples to compare; if ``paired``, row i of both ``fields`` is the same micrograph."""

    a: Sample
    b: Sample
    paired: bool
    reason: str
    warnings: tuple[str, ...] = ()


class Drawn(NamedTuple):
    """A quantity of one sample: point estimate, (B,) bootstrap values, and the number of fields."""

    value: float
    resampled: Floats
    fields: int

    def log(self) -> Drawn:
        """The same on a logarithmic scale, on which a ratio is a difference; NaN where it is 0."""
        logs = np.log(self.resampled, out=np.full_like(self.resampled, np.nan), where=self.resampled > 0)
        return Drawn(math.log(self.value), logs, self.fields)


def difference(
    a: Sample, b: Sample, *, paired: bool | None = None, large_um: float = 0.5, seed: int = 0
) -> dict[str, Any]:
    """Difference B - A of each of `QUANTITIES` with its 95 % interval, and the `size_test` of the ECD.

    The intervals are by bootstrap over fields. ``paired``: both samples hold the same micrographs, and a
    resample draws the same ones on both sides; what makes one field differ from the next then cancels. None:
    paired if names and sizes of the micrographs are the same. True: the common micrographs alone are
    compared. False: both sides are resampled by themselves.

    Returns a dict ready for JSON (None where a value does not exist):

    - ``a``, ``b``: dicts of name, micrographs, carbides, carbides_uncut.
    - ``unit`` ("um", "px"), ``paired``, ``reason`` (of pairing or not), ``confidence``, ``large_um``,
      ``seed``.
    - ``quantities``: by key a dict of name, unit, a, b, difference, low, high, relative_percent, relative_low
      and relative_high. The last three are (B - A) / A in % and its interval, that of the ratio B / A.
    - ``sizes``: see `size_test`.
    - ``warnings``: lines.

    Raises:
        ValueError: the units differ, or ``paired`` is True and no micrograph is common.
    """
    return pair_difference(pair_up(a, b, paired), large_um=large_um, seed=seed)


def pair_difference(pair: Pair, *, large_um: float = 0.5, seed: int = 0) -> dict[str, Any]:
    """`difference` of two samples that have been paired, or not, by `pair_up`."""
    unit = pair.a.unit
    # other draws for B unless paired: equal ones would pair fields by their place in the tables
    sides = [_draw(pair.a, seed, large_um), _draw(pair.b, seed if pair.paired else seed + 1, large_um)]
    rows = {}
    for key, quantity in QUANTITIES.items():
        name = {"name": quantity.name, "unit": quantity.unit.format(u="µm" if unit == "um" else "px")}
        rows[key] = name | _row(sides[0][key], sides[1][key], pair.paired)
    _widen_unseen(rows["large_fraction"], pair)
    return {
        "a": _facts(pair.a),
        "b": _facts(pair.b),
        "unit": unit,
        "paired": pair.paired,
        "reason": pair.reason,
        "confidence": CONFIDENCE,
        "large_um": large_um,
        "seed": seed,
        "quantities": rows,
        "sizes": size_test(pair.a, pair.b, paired=pair.paired, seed=seed),
        "warnings": [*pair.warnings, *_warnings(pair)],
    }


def pair_up(a: Sample, b: Sample, paired: bool | None = None) -> Pair:
    """Put the micrographs of both samples in the same order if they are the same; as in `difference`."""
    if a.unit != b.unit:
        raise ValueError(f"one sample is measured in {a.unit}, the other in {b.unit}")
    names = common_micrographs(a, b)
    first, second = (_only(sample, names) for sample in (a, b))
    alone = len(a.fields) + len(b.fields) - 2 * len(names)
    if paired:
        if not names:
            raise ValueError("the samples have no micrograph in common")
        left_out = (f"left out, as they are on one side only: {alone} micrographs",) if alone else ()
        return Pair(first, second, True, "by the names of the micrographs, as asked for", left_out)
    if paired is False:
        return Pair(a, b, False, "as asked for")
    if alone:
        taken = (f"{len(names)} micrographs are in both samples, but others in one only: not paired",)
        return Pair(a, b, False, "the micrographs differ", taken if names else ())
    sizes = [sample.fields[["width_px", "height_px"]].to_numpy() for sample in (first, second)]
    if not np.array_equal(*sizes):
        return Pair(a, b, False, "the micrographs have the same names, but other sizes")
    return Pair(first, second, True, "micrographs of the same names and sizes are taken for the same")


def common_micrographs(a: Sample, b: Sample) -> list[str]:
    """Names that both samples have, in the order of ``a``."""
    there = set(b.fields["micrograph"])
    return [name for name in a.fields["micrograph"] if name in there]


def _only(sample: Sample, names: Sequence[str]) -> Sample:
    fields = sample.fields.set_index("micrograph", drop=False).loc[list(names)].reset_index(drop=True)
    particles = sample.particles[sample.particles["micrograph"].isin(names)].reset_index(drop=True)
    return replace(sample, fields=fields, particles=particles)


def _draw(sample: Sample, seed: int, large_um: float) -> dict[str, Drawn]:
    values = quantities(sample, large_um=large_um)
    fields = len(sample.fields)
    drawn = resampled(sample, multiplicities(fields, seed=seed), large_um=large_um)
    return {key: Drawn(values[key], drawn[key], fields) for key in QUANTITIES}


def _row(a: Drawn, b: Drawn, paired: bool) -> dict[str, float | None]:
    low, high = _limits(a, b, paired)
    relative, ratio_limits = math.nan, (math.nan, math.nan)
    if a.value > 0:
        relative = b.value / a.value - 1
    if a.value > 0 and b.value > 0:
        ratio_limits = _limits(a.log(), b.log(), paired)
    values = {"a": a.value, "b": b.value, "difference": b.value - a.value, "low": low, "high": high}
    values["relative_percent"] = 100 * relative
    values |= zip(("relative_low", "relative_high"), (100 * math.expm1(x) for x in ratio_limits), strict=True)
    return {key: value if math.isfinite(value) else None for key, value in values.items()}


def _limits(a: Drawn, b: Drawn, paired: bool) -> tuple[float, float]:
    """Interval of b - a; (NaN, NaN) for a single field.

    Independent samples: what `interval` does for one sample, with the degrees of freedom of Welch and
    Satterthwaite (Welch, Biometrika 34 (1947) 28), and the spread of each side made up for being short by
    sqrt((n - 1) / n). Simulated for means of normal fields, 2 to 12 a side, it holds the truth in 93 to 98 %
    of the cases, as often as Welch's own.
    """
    value, fewer = b.value - a.value, min(a.fields, b.fields)
    exist = np.isfinite(a.resampled) & np.isfinite(b.resampled)
    if paired or fewer < 2 or not exist.any():
        return interval(b.resampled - a.resampled, fewer, value)
    deviations = [
        np.where(exist, x.resampled - x.value, np.nan) * math.sqrt(x.fields / (x.fields - 1)) for x in (a, b)
    ]
    of_a, of_b = (float(np.nanvar(x)) for x in deviations)
    free = a.fields + b.fields - 2.0
    if of_a + of_b > 0:
        free = (of_a + of_b) ** 2 / (of_a**2 / (a.fields - 1) + of_b**2 / (b.fields - 1))
        free = max(free, fewer - 1.0)  # but for rounding it is never below
    # `interval` takes n = free + 1 fields and makes up for a spread that is short by sqrt((n - 1) / n)
    short = math.sqrt(free / (free + 1))
    return interval(value + short * (deviations[1] - deviations[0]), free + 1, value)


def _widen_unseen(row: dict[str, Any], pair: Pair) -> None:
    """A share of none among n carbides may be up to 3 / n, which no resample shows: add it to the interval.

    Rule of three: Hanley and Lippman-Hand, JAMA 249 (1983) 1743.
    """
    if row["low"] is None:
        return
    if row["a"] == 0:
        row["low"] -= min(1.0, 3 / len(pair.a.pooled.ecd))
    if row["b"] == 0:
        row["high"] += min(1.0, 3 / len(pair.b.pooled.ecd))


def _facts(sample: Sample) -> dict[str, Any]:
    return {
        "name": sample.name,
        "micrographs": len(sample.fields),
        "carbides": int(sample.fields["carbides"].sum()),
        "carbides_uncut": len(sample.pooled.ecd),
    }


def _warnings(pair: Pair) -> list[str]:
    """What makes the comparison less sure than its figures look."""
    found = []
    for letter, sample in (("A", pair.a), ("B", pair.b)):
        fields = len(sample.fields)
        if fields == 1:
            found.append(f"{letter} has one micrograph: no intervals, as nothing tells how micrographs vary")
        elif fields < FEW_FIELDS:
            found.append(f"{letter} has {fields} micrographs: the intervals are wide and unreliable")
    limits = (pair.a.pooled.limit, pair.b.pooled.limit)
    if max(limits) > (1 + SAME_SIZE) * min(limits):
        unit = "µm" if pair.a.unit == "um" else "px"
        sizes = f"A {limits[0]:.3g} {unit}, B {limits[1]:.3g} {unit}"
        found.append(
            f"the smallest ECD counted is not the same ({sizes}): numbers and sizes differ by that, too"
        )
    return found
