from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.metrics import CalibrationErrorMetric
from monai.networks.nets import BasicUNet
from scipy.optimize import minimize_scalar
from torch import Tensor

from carde_monai.calibration import LogitHistogram, fit_temperature, fold_temperature, reliability
from carde_monai.errors import InputError


def calibrated(copies: int = 100_000) -> tuple[Tensor, Tensor]:
    """Logits whose share of positives is their sigmoid, up to rounding: T = 1 by construction."""
    logits, labels = [], []
    for z in np.linspace(-5, 3, 9):
        positives = round(copies * torch.sigmoid(torch.tensor(z)).item())
        logits.append(torch.full((copies,), z))
        labels.append(torch.arange(copies) < positives)
    return torch.cat(logits), torch.cat(labels).float()


def noisy(count: int = 20_000, seed: int = 0) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(count, generator=random, dtype=torch.float64) - 2
    return logits, (torch.rand(count, generator=random) < torch.sigmoid(logits / 1.7)).float()


def filled(logits: Tensor, labels: Tensor) -> LogitHistogram:
    histogram = LogitHistogram()
    histogram.update(logits, labels)
    return histogram


def nll(logits: Tensor, labels: Tensor, temperature: float = 1.0) -> float:
    z = logits.double() / temperature
    return torch.nn.functional.binary_cross_entropy_with_logits(z, labels.double()).item()


@pytest.mark.parametrize("temperature", [0.2, 0.7, 1.0, 2.5, 10.0])
def test_fit_recovers_the_factor_that_the_logits_were_multiplied_with(temperature: float) -> None:
    logits, labels = calibrated()
    fit = fit_temperature(filled(temperature * logits, labels))
    assert fit.temperature == pytest.approx(temperature, rel=1e-3)
    assert fit.nll_after == pytest.approx(nll(logits, labels), abs=1e-5)
    assert fit.nll_after <= fit.nll_before + 1e-12
    assert 0 <= fit.iterations <= 30


def test_fit_agrees_with_a_scalar_search_on_the_single_pixels() -> None:
    logits, labels = noisy()
    best = minimize_scalar(lambda t: nll(logits, labels, math.exp(t)), bounds=(-2, 2), method="bounded")
    fit = fit_temperature(filled(logits, labels))
    assert fit.temperature == pytest.approx(math.exp(best.x), rel=1e-4)
    assert fit.nll_before == pytest.approx(nll(logits, labels), abs=1e-5)
    assert fit.nll_after == pytest.approx(best.fun, abs=1e-5)


@settings(max_examples=20, deadline=None)
@given(factor=st.floats(0.1, 5))
def test_temperature_scales_with_the_logits(factor: float) -> None:
    logits, labels = noisy(2000)
    base = fit_temperature(filled(logits, labels)).temperature
    assert fit_temperature(filled(factor * logits, labels)).temperature == pytest.approx(
        factor * base, rel=2e-3
    )


def test_a_folded_layer_needs_no_second_temperature() -> None:
    image, labels = noisy()
    image = image.float().reshape(1, 1, 100, 200)
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1))
    torch.nn.init.constant_(network[0].weight, 1.3)
    torch.nn.init.constant_(network[0].bias, -0.1)
    first = fit_temperature(filled(network(image), labels.reshape(image.shape)))
    assert first.temperature > 1.5
    network.load_state_dict(fold_temperature(network.state_dict(), first.temperature, "0"))
    second = fit_temperature(filled(network(image), labels.reshape(image.shape)))
    assert second.temperature == pytest.approx(1, abs=1e-4)
    assert second.nll_before == pytest.approx(first.nll_after, abs=1e-6)


def test_histogram_is_the_same_in_parts_merged_and_in_other_number_types() -> None:
    logits, labels = noisy()
    logits = logits.bfloat16()
    whole = filled(logits, labels)
    parts = filled(logits[:7000], labels[:7000]).merge(filled(logits[7000:], labels[7000:]))
    shaped = filled(MetaTensor(logits.float().reshape(1, 100, 200)), labels.bool().reshape(1, 100, 200))
    for other in (parts, shaped):
        torch.testing.assert_close(other.counts, whole.counts, rtol=0, atol=0)
        torch.testing.assert_close(other.sums, whole.sums)
    assert whole.counts.sum() == 20_000
    assert whole.all_reduce() is whole and whole.counts.sum() == 20_000


def test_logits_beyond_the_grid_still_count_exactly() -> None:
    logits = torch.tensor([-900.0, -260.0, 255.0, 270.0, 1000.0])
    labels = torch.tensor([0.0, 1.0, 0.0, 1.0, 1.0])
    assert reliability(filled(logits, labels)).nll == pytest.approx((260 + 255) / 5, rel=1e-12)


@pytest.mark.parametrize("bins", [15, 20])
def test_scores_agree_with_monai_and_with_the_single_pixels(bins: int) -> None:
    logits, labels = noisy(200_000)
    metric = CalibrationErrorMetric(num_bins=bins)
    metric(torch.sigmoid(logits / 1.3).reshape(1, 1, -1), labels.reshape(1, 1, -1))
    found = reliability(filled(logits, labels), 1.3, bins)
    # Cells of the histogram that straddle the edge of a bin may fall on its other side.
    assert found.ece == pytest.approx(metric.aggregate().item(), abs=2e-4)
    assert found.brier == pytest.approx(((torch.sigmoid(logits / 1.3) - labels) ** 2).mean().item(), abs=1e-5)
    assert found.nll == pytest.approx(nll(logits, labels, 1.3), abs=1e-5)


def test_reliability_of_two_probabilities_by_hand() -> None:
    # ten pixels at p = 0.2, four of them carbide; ten at p = 0.9, all carbide
    logits = torch.logit(torch.tensor([0.2] * 10 + [0.9] * 10, dtype=torch.float64))
    labels = torch.tensor([1.0] * 4 + [0.0] * 6 + [1.0] * 10)
    found = reliability(filled(logits, labels), bins=4)
    assert found.points == [
        {"predicted": pytest.approx(0.2), "observed": pytest.approx(0.4), "count": 10},
        {"predicted": pytest.approx(0.9), "observed": pytest.approx(1.0), "count": 10},
    ]
    assert found.ece == pytest.approx((0.2 + 0.1) / 2)
    assert found.brier == pytest.approx((4 * 0.64 + 6 * 0.04 + 10 * 0.01) / 20)


def test_calibration_lowers_the_calibration_error() -> None:
    logits, labels = calibrated()
    histogram = filled(3 * logits, labels)
    before, after = reliability(histogram), reliability(histogram, fit_temperature(histogram).temperature)
    assert before.ece > 0.01 and after.ece < 1e-4 and after.brier < before.brier


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        ([], [], "no pixels"),
        ([1.0, -1.0], [1.0, 1.0], "all 2 pixels have the label 1"),
        ([1.0, -1.0], [0.0, 0.0], "all 2 pixels have the label 0"),
        ([1.0, -1.0], [1.0, 0.0], "every pixel is classified correctly"),
        ([1.0, -1.0], [0.0, 1.0], "no better than chance"),
    ],
)
def test_fit_says_why_there_is_no_temperature(logits: list, labels: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_temperature(filled(torch.tensor(logits), torch.tensor(labels)))


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        ([1.0, math.nan], [1.0, 0.0], "not finite"),
        ([1.0, math.inf], [1.0, 0.0], "not finite"),
        ([1.0, 2.0], [255.0, 0.0], "labels must be 0 or 1"),
        ([1.0, 2.0], [1.0], "differ in shape"),
    ],
)
def test_histogram_refuses_what_it_cannot_count(logits: list, labels: list, message: str) -> None:
    histogram = LogitHistogram()
    with pytest.raises(ValueError, match=message):
        histogram.update(torch.tensor(logits), torch.tensor(labels))
    assert histogram.counts.sum() == 0


def test_histograms_need_a_grid_and_the_same_one() -> None:
    with pytest.raises(ValueError, match="step"):
        LogitHistogram(step=0)
    with pytest.raises(ValueError, match="different grids"):
        LogitHistogram().merge(LogitHistogram(limit=20))


def test_fold_divides_the_networks_logits_and_touches_no_other_tensor() -> None:
    network = BasicUNet(2, 2, 1, features=(4, 4, 4, 4, 4, 4), norm="batch").eval()
    image = torch.randn(1, 2, 32, 32, generator=torch.Generator().manual_seed(0))
    state_dict = network.state_dict()
    with torch.no_grad():
        before = network(image)
    folded = fold_temperature(state_dict, 2.5, "final_conv")
    assert folded.keys() == state_dict.keys()
    changed = [name for name in folded if folded[name] is not state_dict[name]]
    assert changed == ["final_conv.weight", "final_conv.bias"]
    network.load_state_dict(folded)
    with torch.no_grad():
        torch.testing.assert_close(network(image), before / 2.5)


def test_fold_names_the_layers_when_the_wanted_one_is_missing() -> None:
    state_dict = BasicUNet(2, 2, 1, features=(4, 4, 4, 4, 4, 4)).state_dict()
    with pytest.raises(InputError, match=r"layer 'last'.*final_conv"):
        fold_temperature(state_dict, 2.0, "last")


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_fold_refuses_an_impossible_temperature(temperature: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        fold_temperature({"a.weight": torch.ones(1, 1)}, temperature, "a")
