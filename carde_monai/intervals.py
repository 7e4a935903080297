"""How far a measured quantity may be off: intervals over fields, never over carbides.

Carbides of one field share its grains, its focus and its grey; they are no independent sample. SciPy's
``bootstrap`` draws indices and cuts plain percentiles. Here fields are drawn as multiplicities, so that all
quantities come from the same resamples by one matrix product, and the intervals hold for few fields, too.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 999
IN_TAIL = 5  # resamples beyond an expanded percentile, at the least, for it to be read off
MIN_VALID = 0.9  # share of the resamples in which a quantity must exist


def multiplicities(fields: int, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """How often each field is drawn in each resample, (resamples, fields) integers; rows sum to ``fields``.

    The non-parametric bootstrap over fields (Efron 1979): ``fields`` draws with replacement.
    """
    rng = np.random.default_rng(seed)
    return rng.multinomial(fields, np.full(fields, 1 / fields), size=resamples)


def expanded_tail(fields: int, confidence: float = CONFIDENCE) -> float:
    """Tail probability at which to cut the bootstrap distribution of ``fields`` >= 2 fields.

    Phi(-sqrt(n / (n - 1)) t_{1 - alpha/2, n - 1}) in the place of alpha/2, because the plain percentile
    interval is narrower than Student's by the factor z sqrt((n - 1) / n) / t. Hesterberg, "What teachers
    should know about the bootstrap", The American Statistician 69 (2015) 371: expanded percentile interval.
    """
    return float(stats.norm.cdf(-_student(fields, confidence)))


def interval(
    values: np.ndarray, fields: float, value: float | None = None, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Interval (low, high) from the bootstrap ``values`` (resamples,) of a quantity of ``fields`` fields.

    The expanded percentile interval, where the resamples resolve its tail: with 999, from eight fields on.
    Resamples never leave the range from the smallest to the largest field, and three fields have the truth
    between them in 3 of 4 cases only. For few fields the interval is the one that the percentiles expand to:
    Student's t with the bootstrap's standard error, ``value`` -+ sqrt(n / (n - 1)) t se (Hesterberg 2015),
    the textbook's mean -+ t s / sqrt(n) for a mean over fields. Without ``value`` the mean of ``values``.

    (NaN, NaN) for one field, and where the quantity exists in less than 90 % of the resamples.
    """
    valid = values[np.isfinite(values)]
    if fields < 2 or len(valid) < max(1, MIN_VALID * len(values)):
        return math.nan, math.nan
    tail = expanded_tail(fields, confidence)
    if tail * len(values) >= IN_TAIL:
        low, high = np.quantile(valid, [tail, 1 - tail])
        return float(low), float(high)
    centre = float(valid.mean()) if value is None else value
    half = _student(fields, confidence) * float(valid.std())
    return centre - half, centre + half


def _student(fields: int, confidence: float) -> float:
    """Half width of Student's interval in bootstrap standard errors, whose divisor is n and not n - 1."""
    return math.sqrt(fields / (fields - 1)) * float(stats.t.ppf((1 + confidence) / 2, fields - 1))


def astm_interval(fractions: ArrayLike, areas: ArrayLike) -> dict[str, float]:
    """Mean area fraction over fields as in ASTM E562 and E1245: mean, s, half width t s / sqrt(n) at 95 %.

    ``relative_accuracy_percent`` is 100 half width / mean. The standards take fields of one size. For fields
    of differing ``areas`` the mean is weighted by area (all labelled area over all area) and s is that of the
    ratio estimator (Cochran, Sampling Techniques, 3rd ed. 1977, section 2.11):
    s^2 = sum (area_i / mean area)^2 (fraction_i - mean)^2 / (n - 1). Equal areas give the standards' own.
    NaN where n is too small: mean for none, the others for one field.
    """
    x, area = np.asarray(fractions, float), np.asarray(areas, float)
    n = len(x)
    mean = float(np.average(x, weights=area)) if n else math.nan
    spread = half = math.nan
    if n > 1:
        spread = float(np.sqrt(np.sum((area / area.mean() * (x - mean)) ** 2) / (n - 1)))
        half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * spread / math.sqrt(n)
    accuracy = 100 * half / mean if mean else math.nan
    return {
        "mean": mean,
        "standard_deviation": spread,
        "half_width": half,
        "relative_accuracy_percent": accuracy,
        "n": n,
    }


def carbides_needed(percentile: float, sigma: float, relative_error: float = 0.1) -> int:
    """Carbides for a percentile (0..100) of log-normal sizes to be within ``relative_error``, at 95 %.

    n = (1.96 / delta)^2 sigma^2 (1 + z_p^2 / 2), because ln x_p = mu + z_p sigma has variance
    sigma^2 (1 + z_p^2 / 2) / n. The reasoning of Masuda and Iinoya (J. Chem. Eng. Japan 4 (1971) 60), which
    ISO 13322-1:2014 follows for mean diameters. A lower bound: for independent carbides and a fitted
    percentile; a counted one needs p (1 - p) / phi(z_p)^2 in the place of the bracket (3.8 times as
    many at 99 %).
    """
    z = stats.norm.ppf(percentile / 100)
    return math.ceil((1.96 / relative_error) ** 2 * sigma**2 * (1 + z**2 / 2))
