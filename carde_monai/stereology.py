"""What one field of a plane section says: numbers, sizes and spacings of its carbides.

A field is one micrograph; ``u`` stands for the unit, ``um`` or, where the pixel size is unknown, ``px``.
:mod:`carde_monai.summary` pools fields to samples.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pandas as pd

from carde_monai.particles import components, label_particles
from carde_monai.runs import Runs, strips

THRESHOLDS = (0.025, 0.975)  # the confidence map's, on either side of the mask's 0.5


def measure_field(
    labels: np.ndarray,
    particles: pd.DataFrame,
    pixel_size_um: float | None = None,
    *,
    probability: np.ndarray | None = None,
    min_area: int = 1,
    large_um: float = 0.5,
    split_touching: bool = False,
) -> dict[str, float | int]:
    """Row of ``micrographs.csv`` for one field: ``labels`` (H, W) and its table from ``measure_particles``.

    Lengths are in micrometres, or in pixels without ``pixel_size_um``; the keys say which. NaN where
    something does not exist (the mean size of no carbides). With ``probability`` (H, W) the area fraction and
    number density are also measured at the thresholds 0.025 and 0.975, with the same ``min_area`` and
    ``split_touching``: the segmentation's own uncertainty.

    - Number density = carbides counted / area of the field. Counted are those that touch neither the bottom
      row nor the right column: Gundersen, J. Microsc. 111 (1977) 219, whose two lines are prolonged, though.
      That they are not adds the carbides of an area of (1 - pi/4) d^2 / 4 (discs of diameter d); one that
      ends just on the last row or column is lost. Together this is some 0.1 % of a full frame.
    - Area fraction = labelled pixels / pixels (Delesse 1847; ASTM E1245).
    - Sizes: uncut carbides, weighted with ``border_weight`` (Miles 1974, Lantuejoul 1978): a large carbide is
      cut by the frame more often and would be missing.
    - Mean free path and random nearest neighbour: see the functions of these names.
    """
    u = "px" if pixel_size_um is None else "um"
    p = 1.0 if pixel_size_um is None else pixel_size_um
    height, width = labels.shape
    area = height * width * p**2
    counted = int(particles["counted"].sum())
    fraction = np.count_nonzero(labels) / labels.size
    ends, length = intercepts(labels)
    row = {
        "width_px": width,
        "height_px": height,
        "pixel_size_um": math.nan if pixel_size_um is None else pixel_size_um,
        f"field_area_{u}2": area,
        "min_area_px": min_area,
        "carbides": len(particles),
        "carbides_counted": counted,
        "carbides_uncut": int((particles["border_weight"] > 0).sum()),
        f"number_density_per_{u}2": counted / area,
        "area_fraction": fraction,
        **_sizes(particles, u, large_um),
        "intercepts": ends,
        f"scan_length_{u}": length * p,
        f"mean_free_path_{u}": mean_free_path(fraction, ends, length * p),
        **_neighbours(particles, u, height * p, width * p),
    }
    if probability is not None:
        row |= _at_thresholds(probability, u, area, min_area, split_touching)
    return row


def weighted_moments(x: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Weighted mean and standard deviation of ``x`` (N,), with the divisor of ``numpy.cov(aweights=...)``."""
    total, squares = weights.sum(), (weights**2).sum()
    if not total:
        return math.nan, math.nan
    mean = float((weights * x).sum() / total)
    divisor = total - squares / total
    # of a single carbide the divisor is zero, or what rounding left of it
    if divisor <= 1e-9 * total:
        return mean, math.nan
    return mean, float(np.sqrt((weights * (x - mean) ** 2).sum() / divisor))


def intercepts(mask: np.ndarray) -> tuple[int, int]:
    """Carbides met by scan lines along all rows and columns of ``mask`` (H, W), and the length in pixels.

    An intercept is a run of foreground, counted where it ends. So a run that the frame cuts at its end is
    left to the next field and one cut at its beginning is counted, as the border rule does with carbides: one
    of two cut runs counts, as in ASTM E112 each counts a half. An end shows between two pixels, so that
    a line of W pixels is W - 1 long.
    """
    mask = np.asarray(mask)
    height, width = mask.shape
    ends = 0
    for strip in strips(mask.shape):
        inside = mask[strip.start : strip.stop + 1] != 0  # with a row of the next strip
        lines = inside[: strip.stop - strip.start]
        ends += np.count_nonzero(lines[:, :-1] & ~lines[:, 1:]) + np.count_nonzero(inside[:-1] & ~inside[1:])
    return ends, height * (width - 1) + width * (height - 1)


def mean_free_path(area_fraction: float, intercepted: float, scan_length: float) -> float:
    """Mean edge-to-edge distance through the matrix along a line, (1 - A_A) / N_L, in the unit of the length.

    N_L is the number of carbides intercepted per scan length. ASTM E1245; Underwood, Quantitative
    Stereology (1970), eq. 4.7. NaN if no carbide was met.
    """
    return (1 - area_fraction) * scan_length / intercepted if intercepted else math.nan


def random_nearest_neighbour(count: int, height: float, width: float) -> float:
    """Expected mean distance to the nearest neighbour, for ``count`` random points in a rectangle.

    0.5 sqrt(A / N) (Clark and Evans, Ecology 35 (1954) 445) + (0.0514 + 0.041 / sqrt(N)) P / N for the
    neighbours hidden outside the frame of perimeter P (Donnelly, in: Simulation Studies in Archaeology, ed.
    Hodder, 1978, p. 91). In the unit of the sides; NaN for fewer than two points.
    """
    if count < 2:
        return math.nan
    perimeter = 2 * (height + width)
    return 0.5 * math.sqrt(height * width / count) + (0.0514 + 0.041 / math.sqrt(count)) * perimeter / count


def _sizes(particles: pd.DataFrame, u: str, large_um: float) -> dict[str, float]:
    uncut = particles[particles["border_weight"] > 0]
    ecd = uncut[f"equivalent_circle_diameter_{u}"].to_numpy(float)
    weight = uncut["border_weight"].to_numpy(float)
    mean, deviation = weighted_moments(ecd, weight)
    median = large = math.nan
    if len(ecd):
        median = float(np.quantile(ecd, 0.5, weights=weight, method="inverted_cdf"))
        if u == "um":
            large = float(weight[ecd > large_um].sum() / weight.sum())
    return {
        f"ecd_mean_{u}": mean,
        f"ecd_median_{u}": median,
        f"ecd_sd_{u}": deviation,
        "large_fraction": large,
    }


def _neighbours(particles: pd.DataFrame, u: str, height: float, width: float) -> dict[str, float]:
    """Mean nearest neighbour of centroids against a random pattern: < 1 clustered, > 1 regular.

    Carbides have a size and do not overlap, which alone lifts the ratio a little above 1.
    """
    measured = math.nan
    if len(particles) > 1:
        measured = float(particles[f"nearest_neighbour_{u}"].mean())
    expected = random_nearest_neighbour(len(particles), height, width)
    return {
        f"nearest_neighbour_mean_{u}": measured,
        f"nearest_neighbour_random_{u}": expected,
        "nearest_neighbour_ratio": measured / expected,
    }


def _at_thresholds(
    probability: np.ndarray, u: str, area: float, min_area: int, split_touching: bool
) -> dict[str, float]:
    fractions: dict[str, float] = {}
    densities: dict[str, float] = {}
    height, width = probability.shape
    for threshold in THRESHOLDS:
        if split_touching:
            runs = Runs.of(label_particles(probability > threshold, split_touching=True, min_area=min_area))
            numbers = runs.values
        else:
            runs, numbers = components(probability, min_area, partial(np.less, threshold))
        cut = np.union1d(0, numbers[(runs.rows == height - 1) | (runs.stops == width)])
        counted = int(numbers.max(initial=0)) - np.count_nonzero(cut)
        fractions[f"area_fraction_at_{threshold}"] = float(runs.lengths[numbers > 0].sum() / probability.size)
        densities[f"number_density_at_{threshold}_per_{u}2"] = counted / area
    return fractions | densities
