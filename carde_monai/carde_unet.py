"""The network of Gerçek et al. 2025 (code ``carde``), key by key, so that its trained weights run here."""

from __future__ import annotations

import itertools
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from carde_monai.errors import InputError

LEVELS, FEATURES = 3, 128  # of the published weights
ONLY_THEIRS = "carde-monai import-carde takes carde's checkpoint, everything else the file that it writes"


class DoubleConv(nn.Module):
    """Twice convolution, batch norm, ReLU; the width between is the mean of the two, rounded down."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        middle = (in_channels + out_channels) // 2
        self.conv = nn.Sequential(
            OrderedDict(
                conv0=nn.Conv2d(in_channels, middle, kernel_size=3, padding=1),
                batch_norm0=nn.BatchNorm2d(middle),
                relu0=nn.ReLU(inplace=True),
                conv1=nn.Conv2d(middle, out_channels, kernel_size=3, padding=1),
                batch_norm1=nn.BatchNorm2d(out_channels),
                relu1=nn.ReLU(inplace=True),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class CardeUNet(nn.Module):
    """carde's U-Net: ``features`` at the first of ``levels`` levels, doubled at each; skips after pooling.

    Input (B, 2, H, W), channel 0 InLens, channel 1 SE2, each minus its median over the frame and divided by
    its interquartile range (`carde_monai.transforms.RobustScaled`); H and W are multiples of 2 ** levels.
    Output (B, out_channels, H, W): the logit; with two channels also sigma, its standard deviation.
    Raises InputError for numbers that make no network and for images of other sizes.
    """

    def __init__(
        self, levels: int = LEVELS, features: int = FEATURES, in_channels: int = 2, out_channels: int = 1
    ) -> None:
        super().__init__()
        for name, number in {"levels": levels, "features": features}.items():
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise InputError(f"{name} {number}", "is no whole number above 0", "carde has 3 and 128")
        self.levels, self.features = levels, features
        widths = [features * 2**level for level in range(levels + 1)]
        steps = list(itertools.pairwise(widths))
        self.down = nn.ModuleList(DoubleConv(a, b) for a, b in [(in_channels, features), *steps[:-1]])
        self.middle = DoubleConv(*steps[-1])
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, kernel_size=2, stride=2) for a, b in steps)
        self.conv = nn.ModuleList(DoubleConv(b, a) for a, b in steps)
        self.final = nn.Sequential(nn.Conv2d(features, out_channels, kernel_size=1))

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any], source: str | Path = "the weights") -> CardeUNet:
        """The network with the weights ``state``; levels and widths are read from the shapes.

        Raises:
            InputError: naming ``source``, for the weights of any other network.
        """
        shapes = {name: tuple(getattr(one, "shape", ())) for name, one in state.items()}
        levels = sum(re.fullmatch(r"down\.\d+\.conv\.conv0\.weight", name) is not None for name in shapes)
        first, last = shapes.get("down.0.conv.conv0.weight", ()), shapes.get("final.0.weight", ())
        if len(first) != 4 or len(last) != 4:
            raise InputError(source, "holds no weights of carde's network", ONLY_THEIRS)
        size = {"levels": levels, "features": last[1], "in_channels": first[1], "out_channels": last[0]}
        with torch.device("meta"):  # shapes only
            expected = {name: tuple(one.shape) for name, one in cls(**size).state_dict().items()}
        differing = set(shapes.items()) ^ set(expected.items())
        if differing:
            wrong = f"holds weights of another network than carde's (first difference: {min(differing)[0]})"
            raise InputError(source, wrong, ONLY_THEIRS)
        network = cls(**size)
        network.load_state_dict(state)
        return network

    def forward(self, x: Tensor) -> Tensor:
        """Output (B, out_channels, H, W) of images (B, in_channels, H, W)."""
        if not torch.jit.is_scripting():
            self._check_size(x)
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(x)
            if level > 0:
                x = F.max_pool2d(x, 2)
            skips.append(x)
        x = self.middle(F.max_pool2d(x, 2))
        # TorchScript knows neither strict nor calls of the modules of a slice, only of their methods
        for up, conv in zip(self.up[::-1], self.conv[::-1]):  # noqa: B905
            x = conv.forward(torch.cat([up.forward(x), skips.pop()], dim=1))
        return self.final(x)

    def _check_size(self, x: Tensor) -> None:
        if torch.jit.is_tracing() or torch.compiler.is_compiling():  # for an export sizes are symbols
            return
        height, width = x.shape[-2:]
        if height % 2**self.levels or width % 2**self.levels:
            raise InputError(
                f"input of {width} x {height} px",
                f"does not fit carde's network of {self.levels} levels",
                f"give --roi_size and --window_size in multiples of {2**self.levels}",
            )


def carde_unet(
    weights: str | Path | None = None,
    levels: int | None = None,
    features: int | None = None,
    out_channels: int = 1,
) -> CardeUNet:
    """The network that a file of weights belongs to, for configs; without one, a new one of that size.

    ``levels`` and ``features`` are carde's 3 and 128 if not given, and read from the file if there is one.

    Raises:
        InputError: naming the file, if it holds another network, one of another size than is asked for, or
            other outputs: one is the logit, two are logit and sigma.
    """
    if weights is None:
        return CardeUNet(levels or LEVELS, features or FEATURES, out_channels=out_channels)
    if not Path(weights).is_file():  # those of an ensemble, a.pt,b.pt, are all of one network
        weights = str(weights).partition(",")[0].strip()
    content = torch.load(weights, map_location="cpu", weights_only=True)
    state = content.get("model", content) if isinstance(content, Mapping) else {}
    network = CardeUNet.from_state_dict(state, weights)
    size = (network.levels, network.features)
    if size != (levels or size[0], features or size[1]):
        wrong = f"has {size[0]} levels and {size[1]} features, not those asked for"
        raise InputError(weights, wrong, "leave --levels and --features out, or start with --weights None")
    outputs = len(state["final.0.weight"])
    if outputs != out_channels:
        wrong = f"has {outputs} output{'s, logit and sigma' if outputs == 2 else ''}, not {out_channels}"
        raise InputError(weights, wrong, "mean_variance.json is the overlay for two outputs")
    return network
