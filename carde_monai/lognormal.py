"""Log-normal size distribution, fitted to what a lower limit of size has left of it.

SciPy's ``truncnorm.fit`` knows neither weights nor many resamples at once, hence this module.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import log_ndtr
from scipy.stats import norm

MOST_UNSEEN = 2.0  # a fit is refused if the limit lies further above the median, in sigmas: 98 % unseen


class LogNormal(NamedTuple):
    """``ln x`` is normal with mean ``mu`` and standard deviation ``sigma``; only ``x >= limit`` is seen."""

    mu: float
    sigma: float
    limit: float = 0.0

    @property
    def median(self) -> float:
        """Median of the whole population, in the unit of x."""
        return float(np.exp(self.mu))

    @property
    def gsd(self) -> float:
        """Geometric standard deviation exp(sigma), no unit."""
        return float(np.exp(self.sigma))

    @property
    def unseen(self) -> float:
        """Share of the whole population that lies below the limit."""
        return float(norm.cdf(_log(self.limit), self.mu, self.sigma))

    def cdf(self, x: ArrayLike) -> np.ndarray:
        """Distribution function of the carbides that are seen, those of at least ``limit``."""
        whole = norm.cdf(np.log(np.maximum(x, np.finfo(float).tiny)), self.mu, self.sigma)
        return np.clip((whole - self.unseen) / (1 - self.unseen), 0, 1)

    def pdf(self, x: ArrayLike) -> np.ndarray:
        """Probability density of the carbides that are seen, per unit of ``x`` (positive)."""
        x = np.asarray(x, float)
        whole = norm.pdf(np.log(x), self.mu, self.sigma) / x
        return np.where(x >= self.limit, whole / (1 - self.unseen), 0.0)


def fit_moments(mean: ArrayLike, variance: ArrayLike, limit: float) -> tuple[np.ndarray, np.ndarray]:
    """Maximum-likelihood mu and sigma from mean and variance (divisor n) of ln x, truncated below ``limit``.

    The normal distribution is an exponential family, also when truncated: its maximum-likelihood fit is the
    one whose mean and variance are the sample's. With z = (ln limit - mu) / sigma and the inverse Mills ratio
    m(z), variance / (mean - ln limit)^2 = (1 + z m - m^2) / (m - z)^2 depends on z alone and increases
    with it (Cohen, Technometrics 1 (1959) 217), so that one bisection fits any number of samples.
    Not truncated (``limit`` 0), this is the mean and the standard deviation themselves.

    Arguments broadcast; NaN where no log-normal fits: no spread, or sizes that fall so steeply from the limit
    that more than 98 % of the carbides would lie unseen below it.
    """
    mean, variance = np.broadcast_arrays(np.asarray(mean, float), np.asarray(variance, float))
    fits = np.isfinite(mean) & (variance > 0)
    above = np.where(fits, mean - _log(limit), 1.0)
    spread = np.where(fits, variance, 1.0)
    low, high = np.full(mean.shape, -40.0), np.full(mean.shape, MOST_UNSEEN)
    with np.errstate(divide="ignore", invalid="ignore"):
        target = spread / above**2
    fits &= (above > 0) & (target < _spread(np.array(MOST_UNSEEN)))
    for _ in range(60):
        middle = (low + high) / 2
        less = _spread(middle) < target
        low, high = np.where(less, middle, low), np.where(less, high, middle)
    z = (low + high) / 2
    mills = _mills(z)
    sigma = np.sqrt(spread / (1 + z * mills - mills**2))
    mu = np.where(fits, mean, 0.0) - sigma * mills
    return np.where(fits, mu, np.nan), np.where(fits, sigma, np.nan)


def fit(x: ArrayLike, weights: ArrayLike | None = None, limit: float = 0.0) -> LogNormal:
    """Weighted maximum-likelihood log-normal of the sizes ``x`` (N,); those below ``limit`` are left out.

    The weights multiply each size's log-likelihood. Why truncated: carbides below the smallest area that is
    counted are missing; without a word of that the fit has too large a median and too small a sigma.
    """
    x = np.asarray(x, float)
    weights = np.ones(x.shape) if weights is None else np.asarray(weights, float)
    seen = (x >= limit) & (weights > 0)
    if not seen.any():
        return LogNormal(np.nan, np.nan, limit)
    log, weights = np.log(x[seen]), weights[seen]
    mean = np.average(log, weights=weights)
    mu, sigma = fit_moments(mean, np.average((log - mean) ** 2, weights=weights), limit)
    return LogNormal(float(mu), float(sigma), limit)


def ks_distance(x: np.ndarray, weights: np.ndarray, model: LogNormal) -> float:
    """Kolmogorov-Smirnov distance of the weighted sizes ``x`` (N,) from ``model``, 0..1; NaN for no sizes.

    The largest difference of the two distribution functions, left and right of each step.
    """
    seen = x >= model.limit  # fields of finer pixels show smaller ones, which the fit leaves out
    x, weights = x[seen], weights[seen]
    order = np.argsort(x)
    x, weights = x[order], weights[order]
    if not len(x) or not np.isfinite(model.mu):
        return float("nan")
    after = np.cumsum(weights) / weights.sum()
    before = after - weights / weights.sum()
    expected = model.cdf(x)
    return float(max(np.abs(after - expected).max(), np.abs(before - expected).max()))


def _log(limit: float) -> float:
    return float(np.log(limit)) if limit > 0 else -np.inf


def _mills(z: np.ndarray) -> np.ndarray:
    """Inverse Mills ratio: density over upper tail of the standard normal."""
    return np.exp(norm.logpdf(z) - log_ndtr(-z))


def _spread(z: np.ndarray) -> np.ndarray:
    """variance / (mean - limit)^2 of a standard normal truncated below z."""
    mills = _mills(z)
    return (1 + z * mills - mills**2) / (mills - z) ** 2
