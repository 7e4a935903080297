"""Fields to a sample: the pooled estimate of each quantity, for many resamples of the fields at once.

All quantities but the percentiles come from sums over fields, so that 999 resamples are one matrix product.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from carde_monai import lognormal

PERCENTILES: Mapping[str, float] = {"ecd_median": 50, "ecd_p10": 10, "ecd_p90": 90, "ecd_p99": 99}


class Pooled(NamedTuple):
    """A sample's uncut carbides in order of size, (N,) each, and sums over each field, (F,) each."""

    ecd: np.ndarray
    weight: np.ndarray  # border weight: Miles 1974, Lantuejoul 1978
    field: np.ndarray
    sums: Mapping[str, np.ndarray]
    limit: float  # smallest diameter that is counted in every field


def pool(fields: pd.DataFrame, particles: pd.DataFrame, unit: str) -> Pooled:
    """What `estimate` needs of rows of ``micrographs.csv`` and ``particles.csv`` in one unit of length."""
    u = unit
    uncut = particles[particles["border_weight"] > 0]
    uncut = uncut.sort_values(f"equivalent_circle_diameter_{u}", kind="stable")
    ecd = uncut[f"equivalent_circle_diameter_{u}"].to_numpy(float)
    weight = uncut["border_weight"].to_numpy(float)
    field = pd.Index(fields["micrograph"]).get_indexer(uncut["micrograph"])
    limit = float(smallest_diameters(fields, unit).max())
    area = fields[f"field_area_{u}2"].to_numpy(float)
    nearest = fields[f"nearest_neighbour_mean_{u}"].to_numpy(float)
    random = fields[f"nearest_neighbour_random_{u}"].to_numpy(float)
    neighbours = np.where(np.isfinite(nearest), fields["carbides"].to_numpy(float), 0)
    sums = {
        "area": area,
        "counted": fields["carbides_counted"].to_numpy(float),
        "labelled": fields["area_fraction"].to_numpy(float) * area,
        "intercepts": fields["intercepts"].to_numpy(float),
        "scanned": fields[f"scan_length_{u}"].to_numpy(float),
        "neighbours": neighbours,
        "neighbour": neighbours * np.nan_to_num(nearest),
        "neighbour_random": neighbours * np.nan_to_num(random),
    }
    # below the coarsest field's limit only some fields count carbides: the log-normal is fitted above it
    fitted = np.where(ecd >= limit, weight, 0)
    log = np.log(ecd)
    terms = {
        "w": weight,
        "ww": weight**2,
        "wx": weight * ecd,
        "wxx": weight * ecd**2,
        "fit": fitted,
        "fit_l": fitted * log,
        "fit_ll": fitted * log**2,
    }
    sums |= {key: np.bincount(field, values, len(fields)) for key, values in terms.items()}
    return Pooled(ecd, weight, field, sums, limit)


def smallest_diameters(fields: pd.DataFrame, unit: str) -> np.ndarray:
    """Smallest diameter that each field counts, (F,): k pixels stand for areas from k - 0.5 on."""
    pixel = fields["pixel_size_um"].to_numpy(float) if unit == "um" else 1.0
    return np.sqrt(4 / np.pi * (fields["min_area_px"].to_numpy(float) - 0.5)) * pixel


def estimate(pooled: Pooled, times: np.ndarray, large: float) -> dict[str, np.ndarray]:
    """Each quantity, (B,), with the fields taken as often as each row of ``times`` (B, F) says.

    Number density, area fraction and mean free path are sums over fields divided by sums over fields, so that
    a large field counts for more than a small one. The nearest neighbour distance is a mean over carbides.
    ``large`` is the diameter above which a carbide is large, or NaN. NaN for what does not exist.
    """
    total = {key: times @ values for key, values in pooled.sums.items()}
    with np.errstate(divide="ignore", invalid="ignore"):
        fraction = total["labelled"] / total["area"]
        values = {
            "number_density": total["counted"] / total["area"],
            "area_fraction": fraction,
            "mean_free_path": (1 - fraction) * total["scanned"] / total["intercepts"],
            "nearest_neighbour": total["neighbour"] / total["neighbours"],
            "nearest_neighbour_ratio": total["neighbour"] / total["neighbour_random"],
            **_sizes(total, pooled.limit),
            **_percentiles(pooled, times, large),
        }
    return {key: np.where(np.isfinite(value), value, np.nan) for key, value in values.items()}


def _sizes(total: Mapping[str, np.ndarray], limit: float) -> dict[str, np.ndarray]:
    """Weighted mean and standard deviation of the ECD, as in `stereology.weighted_moments`, and its fit."""
    weight = total["w"]
    mean = total["wx"] / weight
    divisor = weight - total["ww"] / weight
    divisor = np.where(
        divisor > 1e-9 * weight, divisor, np.nan
    )  # of a single carbide: zero, but for rounding
    squares = np.maximum(total["wxx"] - weight * mean**2, 0)
    log_mean = total["fit_l"] / total["fit"]
    log_variance = total["fit_ll"] / total["fit"] - log_mean**2
    # a few carbides of one size: what rounding leaves is no spread
    log_variance = np.where(log_variance > 1e-12, log_variance, 0)
    mu, sigma = lognormal.fit_moments(log_mean, log_variance, limit)
    return {
        "ecd_mean": mean,
        "ecd_sd": np.sqrt(squares / divisor),
        "lognormal_median": np.exp(mu),
        "lognormal_gsd": np.exp(sigma),
    }


def _percentiles(pooled: Pooled, times: np.ndarray, large: float) -> dict[str, np.ndarray]:
    """Weighted percentiles of the ECD, and the weighted share of the carbides above ``large``.

    The percentile is the smallest diameter at which the weighted distribution function reaches it
    (NumPy's ``inverted_cdf``): sorted once, then one cumulative sum a resample.
    """
    # a shade below: where a step falls just on a level, rounding must not decide which carbide it is
    levels = np.array(list(PERCENTILES.values())) / 100 * (1 - 1e-12)
    found, share = np.full((len(times), len(levels)), np.nan), np.full(len(times), np.nan)
    first_large = int(np.searchsorted(pooled.ecd, large, side="right"))
    for row, drawn in enumerate(times):
        cumulative = np.cumsum(pooled.weight * drawn[pooled.field])
        if not len(cumulative) or not cumulative[-1]:
            continue
        found[row] = pooled.ecd[np.searchsorted(cumulative, levels * cumulative[-1])]
        if not math.isnan(large):
            share[row] = 1 - (cumulative[first_large - 1] / cumulative[-1] if first_large else 0)
    return {**dict(zip(PERCENTILES, found.T, strict=True)), "large_fraction": share}
