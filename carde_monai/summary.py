"""What the fields of a sample say together: pooled quantities with intervals, fit, and warnings.

Everything here reads two tables, ``micrographs.csv`` and ``particles.csv`` (see
:func:`carde_monai.stereology.measure_field` and :mod:`carde_monai.particles`), and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from carde_monai.errors import InputError
from carde_monai.intervals import CONFIDENCE, astm_interval, interval, multiplicities
from carde_monai.lognormal import LogNormal, ks_distance
from carde_monai.pooling import PERCENTILES, Pooled, estimate, pool
from carde_monai.saltykov import saltykov as unfold_sizes
from carde_monai.stereology import THRESHOLDS
from carde_monai.summary_warnings import summary_warnings

# where a quantity ends by its nature; all others are positive
RANGES = {"area_fraction": (0, 1), "large_fraction": (0, 1), "lognormal_gsd": (1, math.inf)}


class Quantity(NamedTuple):
    """Name, unit with ``{u}`` for the unit of length, and one line of explanation."""

    name: str
    unit: str
    explanation: str


QUANTITIES: Mapping[str, Quantity] = MappingProxyType(
    {
        "number_density": Quantity(
            "number density",
            "1/{u}²",
            "carbides per area; those that touch the bottom row or the right column are not counted",
        ),
        "area_fraction": Quantity(
            "area fraction", "", "share of the area that is carbide (ASTM E562, ASTM E1245)"
        ),
        "ecd_mean": Quantity("mean ECD", "{u}", "mean equivalent circle diameter of the uncut carbides"),
        "ecd_median": Quantity("median ECD", "{u}", "half of the carbides are smaller"),
        "ecd_sd": Quantity("standard deviation of ECD", "{u}", "spread of the equivalent circle diameters"),
        "ecd_p10": Quantity("10th percentile of ECD", "{u}", "10 % of the carbides are smaller"),
        "ecd_p90": Quantity("90th percentile of ECD", "{u}", "90 % of the carbides are smaller"),
        "ecd_p99": Quantity("99th percentile of ECD", "{u}", "99 % of the carbides are smaller"),
        "lognormal_median": Quantity(
            "log-normal median",
            "{u}",
            "median of the fitted log-normal, which includes the carbides too small to be counted",
        ),
        "lognormal_gsd": Quantity(
            "geometric standard deviation",
            "",
            "of the fitted log-normal: two thirds of the sizes lie within this factor of its median",
        ),
        "large_fraction": Quantity("share of large carbides", "", "carbides with an ECD above --large"),
        "mean_free_path": Quantity(
            "mean free path", "{u}", "mean distance through the matrix from edge to edge, along a line"
        ),
        "nearest_neighbour": Quantity(
            "nearest neighbour", "{u}", "mean distance from a carbide's centre to the nearest other centre"
        ),
        "nearest_neighbour_ratio": Quantity(
            "nearest neighbour ratio",
            "",
            "that distance over a random pattern's: below 1 clustered, above 1 regular (carbides have a "
            "size: placed at random they come out a little above 1)",
        ),
    }
)


@dataclass(frozen=True, eq=False)
class Sample:
    """A set of fields: rows of ``micrographs.csv``, and their rows of ``particles.csv``.

    ``unit`` is "um" or "px": which of the columns hold the lengths.
    """

    name: str
    unit: str
    fields: pd.DataFrame
    particles: pd.DataFrame

    @cached_property
    def pooled(self) -> Pooled:
        """What all estimates need of the two tables, gathered once."""
        return pool(self.fields, self.particles, self.unit)


def check_large(large_um: float) -> None:
    """Raise InputError unless ``large_um`` is a size in micrometres."""
    number = isinstance(large_um, int | float) and not isinstance(large_um, bool)
    if not number or not 0 < large_um < math.inf:
        raise InputError("--large", f"{large_um} is no size", "give micrometres, for example 0.5")


def samples(fields: pd.DataFrame, particles: pd.DataFrame) -> list[Sample]:
    """The samples of the two tables in the order of their names, by the column ``sample``.

    Fields of unknown pixel size are measured in pixels: beside known ones they make a sample of their own,
    "NAME (pixel size unknown)". Raises InputError if a micrograph occurs twice in a sample.
    """
    found = []
    for name, rows in fields.groupby("sample"):
        carbides = particles[particles["sample"] == name]
        known = rows["pixel_size_um"].notna()
        for unit, part in (("um", rows[known]), ("px", rows[~known])):
            if part.empty:
                continue
            twice = part["micrograph"][part["micrograph"].duplicated()]
            if len(twice):
                raise InputError(
                    f"sample {name}", f"has two micrographs {twice.iloc[0]}", "rename one of them"
                )
            title = f"{name} (pixel size unknown)" if unit == "px" and known.any() else str(name)
            of_part = carbides[carbides["micrograph"].isin(part["micrograph"])]
            found.append(Sample(title, unit, part.reset_index(drop=True), of_part.reset_index(drop=True)))
    return found


def quantities(sample: Sample, times: np.ndarray | None = None, *, large_um: float = 0.5) -> dict[str, float]:
    """Pooled point estimates by key of `QUANTITIES`; NaN for what does not exist.

    ``times`` (fields,) says how often each field counts, as a bootstrap draws them; once each without.
    For many resamples `resampled` is faster.
    """
    times = np.ones(len(sample.fields)) if times is None else np.asarray(times, float)
    return {key: float(value[0]) for key, value in resampled(sample, times[None], large_um=large_um).items()}


def resampled(sample: Sample, times: np.ndarray, *, large_um: float = 0.5) -> dict[str, np.ndarray]:
    """`quantities` for each row of ``times`` (B, fields): (B,) values a quantity."""
    values = estimate(sample.pooled, times, large_um if sample.unit == "um" else math.nan)
    return {key: values[key] for key in QUANTITIES}


def summarise(
    sample: Sample, *, large_um: float = 0.5, saltykov: bool = False, seed: int = 0
) -> dict[str, Any]:
    """Everything a report says of a sample, ready for JSON (None where a value does not exist).

    The 95 % intervals ``low``..``high`` come from a bootstrap over fields (see `carde_monai.intervals`). They
    are None for one field: its carbides cannot tell how fields differ.
    """
    pooled, fields = sample.pooled, sample.fields
    values = quantities(sample, large_um=large_um)
    times = multiplicities(len(fields), seed=seed)
    median, gsd = values["lognormal_median"], values["lognormal_gsd"]
    model = LogNormal(math.log(median), math.log(gsd), pooled.limit)
    summary = {
        "sample": sample.name,
        "unit": sample.unit,
        "micrographs": len(fields),
        "carbides": int(fields["carbides"].sum()),
        "carbides_counted": int(fields["carbides_counted"].sum()),
        "carbides_uncut": len(pooled.ecd),
        "area": float(pooled.sums["area"].sum()),
        "confidence": CONFIDENCE,
        "smallest_counted": _smallest(fields),
        "large_um": large_um,
        "quantities": _with_intervals(sample, values, resampled(sample, times, large_um=large_um)),
        "area_fraction_astm": astm_interval(fields["area_fraction"], pooled.sums["area"]),
        "lognormal": {
            "mu": model.mu,
            "sigma": model.sigma,
            "median": median,
            "gsd": gsd,
            "ks_distance": ks_distance(pooled.ecd, pooled.weight, model),
            "limit": model.limit,
            "unseen": model.unseen,
        },
        "largest_weight": float(pooled.weight.max() / pooled.weight.sum()) if len(pooled.ecd) else math.nan,
        "thresholds": _thresholds(sample, values),
        "saltykov": unfold_sizes(pooled, times) if saltykov else None,
    }
    summary["warnings"] = summary_warnings(fields, summary)
    return _plain(summary)


def summary_table(summaries: list[dict[str, Any]]) -> pd.DataFrame:
    """``summary.csv``: a row for each sample and quantity."""
    columns = ["sample", "quantity", "name", "unit", "value", "low", "high", "micrographs", "carbides"]
    rows = [
        {**summary, "quantity": key, **quantity}
        for summary in summaries
        for key, quantity in summary["quantities"].items()
    ]
    return pd.DataFrame(rows, columns=columns).astype({"value": float, "low": float, "high": float})


def _with_intervals(
    sample: Sample, values: Mapping[str, float], drawn: Mapping[str, np.ndarray]
) -> dict[str, dict[str, Any]]:
    """The block ``quantities`` of a summary.

    A percentile is the size of some carbide, and areas come in whole pixels: its interval is not narrower
    than the half pixel of area to either side that the carbide stands for.
    """
    count, found = len(sample.fields), {}
    pixel = float(sample.fields["pixel_size_um"].max()) if sample.unit == "um" else 1.0
    half_pixel = 2 / math.pi * pixel**2  # in squared diameters
    for key, quantity in QUANTITIES.items():
        low, high = interval(drawn[key], count, values[key])
        lowest, highest = RANGES.get(key, (0, math.inf))
        low, high = max(low, lowest), min(high, highest)
        if key in PERCENTILES:
            low, high = math.sqrt(max(low**2 - half_pixel, 0)), math.sqrt(high**2 + half_pixel)
        found[key] = {
            "name": quantity.name,
            "unit": quantity.unit.format(u="µm" if sample.unit == "um" else "px"),
            "value": values[key],
            "low": low,
            "high": high,
        }
    if not sample.fields["carbides"].sum():  # none in any resample either; rule of three for Poisson
        found["number_density"]["high"] = 3 / float(sample.pooled.sums["area"].sum())
        found["area_fraction"]["low"] = found["area_fraction"]["high"] = math.nan
    large = found["large_fraction"]
    if large["value"] == 0 and count > 1:
        # none in any resample either; rule of three: Hanley and Lippman-Hand, JAMA 249 (1983) 1743
        large["high"] = min(1.0, 3 / len(sample.pooled.ecd))
    return found


def _smallest(fields: pd.DataFrame) -> dict[str, float]:
    """The smallest carbide that every field counts: of min_area_px pixels."""
    diameters = np.sqrt(4 / np.pi * fields["min_area_px"].to_numpy(float))
    return {
        "area_px": int(fields["min_area_px"].max()),
        "diameter_px": diameters.max(),
        "diameter_nm": (1000 * diameters * fields["pixel_size_um"].to_numpy(float)).max(),
    }


def _thresholds(sample: Sample, values: Mapping[str, float]) -> list[dict[str, float]]:
    """Area fraction and number density at each threshold; empty unless every field has them."""
    found = [{"threshold": 0.5, **{key: values[key] for key in ("area_fraction", "number_density")}}]
    for threshold in THRESHOLDS:
        columns = {
            "area_fraction": f"area_fraction_at_{threshold}",
            "number_density": f"number_density_at_{threshold}_per_{sample.unit}2",
        }
        entry = {"threshold": threshold}
        for key, column in columns.items():
            if column not in sample.fields or sample.fields[column].isna().any():
                return []
            entry[key] = float(np.average(sample.fields[column], weights=sample.pooled.sums["area"]))
        found.append(entry)
    return sorted(found, key=lambda entry: entry["threshold"])


def _plain(value: Any) -> Any:
    """Python's own numbers, None for NaN."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
