"""Mean-variance estimation: a network that gives a mean logit and its standard deviation for every pixel.

The logit of a pixel is normally distributed, f + sigma * epsilon with epsilon ~ N(0, 1), and its probability
is the mean of sigmoid(f + sigma * epsilon) over draws of epsilon (Kendall & Gal 2017, equation 12). The
network's two outputs are f and a number that a link turns into sigma, for which that paper gives no form:
softplus, or "abs" for networks that put out sigma itself, as carde's do (epsilon is symmetric, only the size
of sigma counts). Trained from the start with "abs", sigma changes its sign in the frame, and its map has
lines of zeros there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.losses import DiceLoss
from monai.transforms import MapTransform
from torch import Tensor, nn

from carde_monai.errors import InputError
from carde_monai.uncertainty import log_odds

DRAWS = 40
LINKS: dict[str, Callable[[Tensor], Tensor]] = {"softplus": nn.functional.softplus, "abs": torch.abs}


def normal_draws(count: int = DRAWS, seed: int = 0) -> Tensor:
    """``count`` seeded draws of N(0, 1): half of them and their negatives, scaled to a variance of one.

    The pairs make the mean probability exceed 0.5 exactly where the mean logit is positive; the scaling
    removes the error that so few draws would make everywhere alike. ValueError for an odd count.
    """
    if count < 2 or count % 2:
        raise ValueError(f"draws come in pairs, {count} is no even number from 2")
    half = torch.randn(count // 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    half /= half.square().mean().sqrt()
    return torch.cat([half, -half]).float()


def mean_sigmoid_logit(logit: Tensor, sigma: Tensor, draws: Tensor) -> Tensor:
    """The logit of the mean of sigmoid(logit + sigma * draw) over ``draws`` (n,), which all pixels share.

    ``logit`` and ``sigma`` have one shape, that of the result. The draws are taken one after the other, so
    that memory does not grow with them. Both tails keep float32's relative precision, for 1 - p is a mean
    of its own.
    """
    logit, sigma = logit.float(), sigma.float()
    positive, negative = torch.zeros_like(logit), torch.zeros_like(logit)
    for draw in draws.tolist():
        drawn = torch.add(logit, sigma, alpha=draw)
        positive += torch.sigmoid(drawn)
        negative += torch.sigmoid(-drawn)
    return log_odds(positive / len(draws), negative / len(draws))


class MonteCarloDiceLoss(nn.Module):
    """Dice loss of the mean probability over ``draws``, mixed with that of the mean logit.

    Loss = weight * Dice(mean over draws of sigmoid(f + sigma * epsilon)) + (1 - weight) * Dice(sigmoid(f)).
    Every pixel has draws of its own, from torch's global generator. The handler `WarmUp` sets ``weight``.
    Input (N, 2, H, W) is the network's output; (N, 1, H, W) is a logit already, as in a validation, and gets
    plain Dice. Other arguments are those of MONAI's DiceLoss. InputError for another number of channels.
    """

    def __init__(self, draws: int = DRAWS, weight: float = 1.0, link: str = "softplus", **dice: Any) -> None:
        super().__init__()
        if draws < 1:
            raise ValueError(f"a Monte-Carlo loss needs at least one draw, not {draws}")
        self.draws, self.weight, self.link = draws, weight, _link(link)
        self.dice = DiceLoss(**dice)

    def forward(self, output: Tensor, label: Tensor) -> Tensor:
        if output.shape[1] == 1:
            return self.dice(torch.sigmoid(output), label)
        logit, sigma = _two_channels(output, 1)
        plain = self.dice(torch.sigmoid(logit), label) if self.weight < 1 else torch.zeros(())
        if self.weight == 0:
            return plain
        noise = torch.randn((self.draws, *logit.shape), dtype=logit.dtype, device=logit.device)
        mean = torch.sigmoid(logit + self.link(sigma) * noise).mean(dim=0)
        return self.weight * self.dice(mean, label) + (1 - self.weight) * plain


class MeanSigmoidd(MapTransform):
    """Turn a network's two outputs (2, H, W) into the logit (1, H, W) of the mean probability.

    Sigma goes to the key ``sigma``, (1, H, W), in units of the logit. The draws are `normal_draws`.
    InputError for another number of channels.
    """

    def __init__(
        self, keys: KeysCollection = "pred", draws: int = DRAWS, seed: int = 0, link: str = "softplus"
    ) -> None:
        super().__init__(keys)
        self.draws, self.link = normal_draws(draws, seed), _link(link)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            logit, sigma = _two_channels(item[key].float(), 0)
            item["sigma"] = self.link(sigma)
            item[key] = mean_sigmoid_logit(logit, item["sigma"], self.draws)
        return item


def set_prior(layer: nn.Module, prior: float) -> None:
    """Let the outputs of the last ``layer`` start at the logit of the share ``prior`` and at 0."""
    bias = layer.bias
    if not isinstance(bias, Tensor) or bias.shape != (2,):
        raise ValueError("mean-variance estimation needs a last layer with two biases")
    with torch.no_grad():
        bias.copy_(torch.tensor([math.log(prior / (1 - prior)), 0.0]))


def _link(name: str) -> Callable[[Tensor], Tensor]:
    if name not in LINKS:
        raise InputError(f"--sigma_link {name}", "is no link", f"choose from {', '.join(LINKS)}")
    return LINKS[name]


def _two_channels(output: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    if output.shape[dim] != 2:
        wrong = f"needs a network's two outputs, logit and sigma, not {output.shape[dim]}"
        raise InputError("mean-variance estimation", wrong, "use it without tta.json and ensemble.json")
    return output.narrow(dim, 0, 1), output.narrow(dim, 1, 1)
