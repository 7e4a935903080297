from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import minimize

from carde_monai.lognormal import LogNormal, fit, fit_moments, ks_distance


@settings(max_examples=20, deadline=None)
@given(st.floats(-4, 4), st.floats(0.05, 2), st.floats(-30, 1.5))
def test_the_moments_of_a_truncated_normal_give_back_its_parameters(
    mu: float, sigma: float, z: float
) -> None:
    # moments by numerical integration: scipy's own cancel digits for a truncation far out
    seen = stats.truncnorm(z, np.inf)
    mean = seen.expect(lambda t: t, lb=max(z, -12), ub=12)
    variance = seen.expect(lambda t: (t - mean) ** 2, lb=max(z, -12), ub=12)
    found = fit_moments(mu + sigma * mean, sigma**2 * variance, math.exp(mu + sigma * z))
    assert np.allclose(found, (mu, sigma), rtol=1e-3, atol=1e-3 * sigma)


def test_without_a_limit_it_is_mean_and_standard_deviation() -> None:
    model = fit([1, math.e, math.e**2])
    assert model.mu == pytest.approx(1)
    assert model.sigma == pytest.approx(math.sqrt(2 / 3))  # divisor n: maximum likelihood
    assert model.median == pytest.approx(math.e)
    assert model.gsd == pytest.approx(math.exp(math.sqrt(2 / 3)))
    assert model.unseen == 0


def test_a_weight_of_two_is_a_carbide_twice() -> None:
    assert fit([2, 3, 7], [1, 2, 1], 1.5) == pytest.approx(fit([2, 3, 3, 7], limit=1.5))


def test_it_is_the_maximum_of_the_likelihood() -> None:
    rng = np.random.default_rng(3)
    x, limit = rng.lognormal(-2.6, 0.65, 500), 0.05
    x = x[x >= limit]
    weights = rng.uniform(1, 1.5, len(x))

    def loss(theta: np.ndarray) -> float:
        mu, sigma = theta[0], math.exp(theta[1])
        log = stats.norm.logpdf(np.log(x), mu, sigma) - stats.norm.logsf(math.log(limit), mu, sigma)
        return -float(weights @ log)

    best = minimize(loss, (-2.6, -0.4), method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-8})
    model = fit(x, weights, limit)
    assert (model.mu, math.log(model.sigma)) == pytest.approx(tuple(best.x), abs=1e-5)


def test_a_known_log_normal_comes_back_although_small_carbides_are_missing() -> None:
    x = np.random.default_rng(0).lognormal(math.log(0.075), 0.65, 40_000)
    limit = 0.05
    seen = x[x >= limit]
    model = fit(seen, limit=limit)
    assert model.median == pytest.approx(0.075, rel=0.02)
    assert model.sigma == pytest.approx(0.65, rel=0.02)
    assert model.unseen == pytest.approx((x < limit).mean(), abs=0.01)
    # without a word of the limit the fit is wrong, which is why it is told
    naive = fit(seen)
    assert naive.median > 0.09
    assert naive.sigma < 0.52
    assert ks_distance(seen, np.ones(len(seen)), model) < 0.01 < ks_distance(seen, np.ones(len(seen)), naive)


def test_sizes_below_the_limit_are_left_out() -> None:
    assert fit([0.1, 2, 3, 7], limit=1) == fit([2, 3, 7], limit=1)


@pytest.mark.parametrize("x", [[], [2.0], [2.0, 2.0], [0.5]])
def test_no_fit_without_a_spread(x: list[float]) -> None:
    model = fit(x, limit=1)
    assert math.isnan(model.mu) and math.isnan(model.sigma) and math.isnan(model.unseen)
    assert math.isnan(ks_distance(np.array(x), np.ones(len(x)), model))


def test_no_fit_to_sizes_that_only_fall_from_the_limit() -> None:
    # ln x exponential from the limit on: no normal is as steep
    x = np.exp(np.random.default_rng(0).exponential(1, 1000))
    assert math.isnan(fit(x, limit=1).mu)


def test_many_samples_are_fitted_at_once() -> None:
    mean, variance = np.array([0.5, 1.0, np.nan, 2.0]), np.array([0.2, 0.3, 1.0, 0.0])
    mu, sigma = fit_moments(mean, variance, 1.0)
    assert np.isnan(mu[2:]).all() and np.isnan(sigma[2:]).all()
    assert mu[1] == fit_moments(1.0, 0.3, 1.0)[0]


def test_density_and_distribution_agree() -> None:
    model = LogNormal(-2.6, 0.65, 0.05)
    x = np.linspace(0.05, 3, 20_001)
    assert np.trapezoid(model.pdf(x), x) == pytest.approx(1, abs=1e-4)
    assert np.allclose(np.gradient(model.cdf(x), x)[1:-1], model.pdf(x)[1:-1], atol=1e-2)
    assert model.pdf(0.04) == model.cdf(0.04) == 0


def test_ks_distance_is_scipys_for_equal_weights() -> None:
    x = np.random.default_rng(1).lognormal(0, 1, 50)
    model = LogNormal(0.2, 0.8)
    expected = stats.kstest(x, model.cdf).statistic
    assert ks_distance(x, np.full(50, 3.0), model) == pytest.approx(expected)
