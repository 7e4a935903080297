"""Mean-variance estimation: against plain Dice, numerical integration and a folded temperature."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from engines import trainer
from hypothesis import given, settings
from hypothesis import strategies as st
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.losses import DiceLoss
from torch import Tensor

from carde_monai.calibration import LogitHistogram, fit_temperature, fold_temperature
from carde_monai.errors import InputError
from carde_monai.handlers.mean_variance import WarmUp
from carde_monai.mean_variance import (
    MeanSigmoidd,
    MonteCarloDiceLoss,
    mean_sigmoid_logit,
    normal_draws,
    set_prior,
)


def integrated(logit: Tensor, sigma: Tensor) -> Tensor:
    """The mean of sigmoid(logit + sigma * epsilon) by Gauss-Hermite quadrature, 200 nodes."""
    nodes, weights = (torch.from_numpy(one) for one in np.polynomial.hermite_e.hermegauss(200))
    values = torch.sigmoid(logit.double()[..., None] + sigma.double()[..., None] * nodes)
    return (values * weights).sum(-1) / math.sqrt(2 * math.pi)


def grid() -> tuple[Tensor, Tensor]:
    logit, sigma = torch.meshgrid(torch.linspace(-8, 8, 33), torch.linspace(0, 5, 11), indexing="ij")
    return logit, sigma


def output_and_label(sigma: float, size: int = 16) -> tuple[Tensor, Tensor]:
    """Two random images (2, 2, size, size) of logit and ``sigma`` (link "abs"), and their labels."""
    random = torch.Generator().manual_seed(0)
    logit = 3 * torch.randn(2, 1, size, size, generator=random)
    label = (logit > 1).float()
    return torch.cat([logit, torch.full_like(logit, sigma)], dim=1), label


def test_draws_are_seeded_and_have_the_moments_of_the_standard_normal() -> None:
    draws = normal_draws(40, seed=3)
    assert draws.shape == (40,) and torch.equal(draws, normal_draws(40, seed=3))
    assert not torch.equal(draws, normal_draws(40, seed=4))
    assert draws.sum().item() == 0 and draws.square().mean().item() == pytest.approx(1, abs=1e-6)
    with pytest.raises(ValueError, match="pairs"):
        normal_draws(7)


@pytest.mark.parametrize(("count", "within"), [(40, 0.03), (20_000, 0.002)])
def test_mean_probability_agrees_with_numerical_integration(count: int, within: float) -> None:
    logit, sigma = grid()
    found = torch.sigmoid(mean_sigmoid_logit(logit, sigma, normal_draws(count)).double())
    torch.testing.assert_close(found, integrated(logit, sigma), rtol=0, atol=within)


def test_without_sigma_the_logit_stays_in_both_tails() -> None:
    logit = torch.linspace(-80, 80, 1601)
    found = mean_sigmoid_logit(logit, torch.zeros_like(logit), normal_draws())
    torch.testing.assert_close(found, logit, rtol=1e-6, atol=1e-5)
    assert torch.isfinite(mean_sigmoid_logit(10 * logit, 100 * torch.ones_like(logit), normal_draws())).all()


@settings(max_examples=100, deadline=None)
@given(logit=st.floats(-30, 30), sigma=st.floats(-10, 10))
def test_noise_draws_probabilities_towards_one_half_and_never_across(logit: float, sigma: float) -> None:
    one = [torch.tensor(value) for value in (logit, sigma)]
    found = mean_sigmoid_logit(*one, normal_draws()).item()
    assert found == pytest.approx(mean_sigmoid_logit(one[0], -one[1], normal_draws()).item(), abs=1e-5)
    assert abs(found) <= abs(logit) + 1e-5
    assert found * logit >= 0 or abs(found) < 1e-5


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_loss_without_sigma_is_plain_dice(weight: float) -> None:
    output, label = output_and_label(0)
    expected = DiceLoss(sigmoid=True)(output[:, :1], label)
    torch.testing.assert_close(MonteCarloDiceLoss(weight=weight, link="abs")(output, label), expected)
    torch.testing.assert_close(MonteCarloDiceLoss()(output[:, :1], label), expected)


def test_loss_is_dice_of_the_mean_probability() -> None:
    output, label = output_and_label(2)
    torch.manual_seed(0)
    found = MonteCarloDiceLoss(draws=2000, link="abs")(output, label)
    expected = DiceLoss()(integrated(output[:, :1], output[:, 1:]).float(), label)
    assert found.item() == pytest.approx(expected.item(), abs=2e-3)
    plain = DiceLoss(sigmoid=True)(output[:, :1], label)
    assert abs(found - plain) > 0.005, "another loss than without noise"


def test_weight_mixes_the_losses_linearly() -> None:
    output, label = output_and_label(2)
    found = []
    for weight in (0.0, 0.25, 1.0):
        torch.manual_seed(0)
        found.append(MonteCarloDiceLoss(weight=weight, link="abs")(output, label).item())
    assert found[1] == pytest.approx(0.75 * found[0] + 0.25 * found[2], abs=1e-6)


def test_every_pixel_has_its_own_draws_from_the_global_generator() -> None:
    output, label = output_and_label(2)
    torch.manual_seed(0)
    first, second = (MonteCarloDiceLoss(draws=2)(output, label) for _ in range(2))
    torch.manual_seed(0)
    again = MonteCarloDiceLoss(draws=2)(output, label)
    assert torch.equal(first, again) and not torch.equal(first, second)


def test_gradient_reaches_sigma_once_the_weight_is_above_zero() -> None:
    output, label = output_and_label(1)
    output.requires_grad_()
    loss = MonteCarloDiceLoss(weight=0.0)
    loss(output, label).backward()
    assert output.grad is not None and (output.grad[:, 1] == 0).all() and (output.grad[:, 0] != 0).any()
    loss.weight = 0.1
    loss(output, label).backward()
    assert (output.grad[:, 1] != 0).any()


def test_dice_can_be_lowered_by_learning_sigma_alone() -> None:
    label = torch.zeros(1, 1, 8, 8)
    label[..., :4] = 1
    logit = torch.where(label > 0, 4.0, -4.0)
    logit[..., 0, :] *= -1  # wrong in one row: there the noise helps, elsewhere it does not
    sigma = torch.full_like(logit, 1.0).requires_grad_()
    optimizer, loss = torch.optim.Adam([sigma], lr=0.2), MonteCarloDiceLoss()
    torch.manual_seed(0)
    for _ in range(60):
        optimizer.zero_grad()
        loss(torch.cat([logit, sigma], dim=1), label).backward()
        optimizer.step()
    found = torch.nn.functional.softplus(sigma.detach())
    assert found[..., 0, :].min() > 3 > 0.7 > found[..., 1:, :].max()


@pytest.mark.parametrize("channels", [3, 4])
def test_other_numbers_of_channels_are_refused(channels: int) -> None:
    with pytest.raises(InputError, match=f"not {channels}"):
        MonteCarloDiceLoss()(torch.zeros(1, channels, 4, 4), torch.zeros(1, 1, 4, 4))
    with pytest.raises(InputError, match=f"not {channels}"):
        MeanSigmoidd()({"pred": torch.zeros(channels, 4, 4)})


def test_transform_gives_logit_and_size_of_sigma_and_keeps_the_meta_data() -> None:
    logit, sigma = grid()
    output = MetaTensor(torch.stack([logit, -sigma]), meta={"filename_or_obj": "a.tif"})
    item = MeanSigmoidd(draws=40, link="abs")({"pred": output, "label": 1})
    torch.testing.assert_close(
        item["pred"][0].as_tensor(), mean_sigmoid_logit(logit, sigma, normal_draws(40))
    )
    assert torch.equal(item["sigma"][0].as_tensor(), sigma) and item["label"] == 1
    for key in ("pred", "sigma"):
        assert item[key].shape == (1, 33, 11) and item[key].meta["filename_or_obj"] == "a.tif"


def test_sigma_is_positive_by_softplus_unless_the_network_puts_it_out_itself() -> None:
    output = torch.tensor([1.0, -2.0])[:, None, None]
    assert MeanSigmoidd()({"pred": output})["sigma"].item() == pytest.approx(math.log1p(math.exp(-2)))
    assert MeanSigmoidd(link="abs")({"pred": output})["sigma"].item() == 2
    with pytest.raises(InputError, match="--sigma_link exp: is no link; choose from softplus, abs"):
        MonteCarloDiceLoss(link="exp")


def test_the_prediction_of_a_pixel_does_not_depend_on_the_frame_around_it() -> None:
    output = torch.stack(grid())
    whole = MeanSigmoidd()({"pred": output})["pred"]
    part = MeanSigmoidd()({"pred": output[:, 5:9, 2:]})["pred"]
    torch.testing.assert_close(whole[:, 5:9, 2:], part)


@pytest.mark.parametrize("temperature", [0.6, 1.8])
def test_a_folded_temperature_leaves_little_to_fold(temperature: float) -> None:
    """The fit knows the logit of the mean probability alone; the fold divides the mean logit."""
    random = torch.Generator().manual_seed(0)
    image = torch.randn(2, 300, 300, generator=random)
    weight = torch.tensor([[5.0, 0], [0, 2]])[..., None, None]
    layer = {"last.weight": weight, "last.bias": torch.tensor([-2.0, 0])}

    def logits(state: dict[str, Tensor]) -> Tensor:
        output = torch.nn.functional.conv2d(image, state["last.weight"], state["last.bias"])
        return MeanSigmoidd(link="abs")({"pred": output})["pred"]

    share = torch.sigmoid(logits(layer) / temperature)
    label = (torch.rand(share.shape, generator=random) < share).float()

    def fitted(state: dict[str, Tensor]) -> float:
        histogram = LogitHistogram()
        histogram.update(logits(state), label)
        return fit_temperature(histogram).temperature

    found = fitted(layer)
    assert found == pytest.approx(temperature, rel=0.02)
    folded = fold_temperature(layer, found, "last")
    assert fitted(folded) == pytest.approx(1, abs=0.07)
    both = {name: value / found for name, value in layer.items()}
    assert abs(fitted(both) - 1) > 0.1, "which dividing sigma, too, would not reach"


def test_prior_sets_both_outputs() -> None:
    layer = torch.nn.Conv2d(4, 2, 1)
    set_prior(layer, 0.01)
    assert torch.sigmoid(layer.bias[0]).item() == pytest.approx(0.01) and layer.bias[1].item() == 0
    with pytest.raises(ValueError, match="two biases"):
        set_prior(torch.nn.Conv2d(4, 1, 1), 0.01)


def test_warm_up_sets_the_weight_of_every_epoch() -> None:
    loss, seen = MonteCarloDiceLoss(), []
    engine = trainer([WarmUp(loss, 4)], epochs=7)
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: seen.append(loss.weight))
    engine.run()
    assert seen == [0, 0.25, 0.5, 0.75, 1, 1, 1]


def test_warm_up_of_a_resumed_training_goes_on() -> None:
    loss = MonteCarloDiceLoss()
    engine = Engine(lambda engine, batch: None)
    engine.state.epoch = 5
    WarmUp(loss)(engine)
    assert loss.weight == pytest.approx(0.4)


def test_warm_up_refuses_what_it_cannot_warm_up() -> None:
    with pytest.raises(ValueError, match="at least one epoch"):
        WarmUp(MonteCarloDiceLoss(), 0)
    with pytest.raises(TypeError, match="DiceLoss has no weight"):
        WarmUp(DiceLoss())
    assert WarmUp(SimpleNamespace(weight=1)).epochs == 10
