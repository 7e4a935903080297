"""What MONAI's networks and engines cannot do: bfloat16 on any device, other depths, carde's network."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from monai.networks.nets.basic_unet import Down, TwoConv, UpCat
from torch import Tensor, nn

from carde_monai.carde_unet import CardeUNet, carde_unet
from carde_monai.errors import InputError

__all__ = ["CardeUNet", "UNet", "autocast", "bf16_is_fast", "carde_unet", "for_training"]

DEEPEST = 5
LEAKY_RELU = ("LeakyReLU", {"negative_slope": 0.1, "inplace": True})  # BasicUNet's


def bf16_is_fast(device: torch.device | str) -> bool:
    """Whether bfloat16 beats float32 on this device: every CUDA GPU from Ampere on, and CPUs with AMX.

    AVX-512 BF16 alone does not pay: there float32 in channels-last layout is faster (docs/README.md).
    """
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)  # torch has no public name for it
    return bool(supported and supported())


def autocast(network: nn.Module, enabled: bool) -> nn.Module:
    """Let ``network`` compute in bfloat16 on whatever device its input is on, and return float32.

    MONAI's engines autocast on "cuda" only. The instance gets a class of its own, so that parameter names,
    and with them checkpoints, are the same with and without, and so that copies of it (a moving average of
    its weights) compute alike; bfloat16 has float32's range and needs no loss scaling.
    """
    kind = type(network)
    if not enabled or hasattr(kind, "in_bfloat16"):
        return network

    @functools.wraps(kind.forward)
    def forward(self: nn.Module, image: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        with torch.autocast(image.device.type, torch.bfloat16):
            return kind.forward(self, image, *args, **kwargs).float()

    network.__class__ = type(f"Mixed{kind.__name__}", (kind,), {"forward": forward, "in_bfloat16": True})
    return network


def for_training(network: nn.Module, device: torch.device | str, amp: bool) -> nn.Module:
    """The network itself, on ``device`` in channels-last layout, with `autocast` if ``amp``.

    MONAI's UpCat pads even by nothing, which copies the largest activations and takes them out of that
    layout; here it pads only where sizes differ. Outputs are the same.
    """
    for block in network.modules():
        if isinstance(block, UpCat):
            block.register_forward_pre_hook(_pad_where_needed)
    return autocast(network.to(device, memory_format=torch.channels_last), amp)


def _pad_where_needed(block: nn.Module, inputs: tuple[Tensor, Tensor | None]) -> None:
    deep, skip = inputs
    block.is_pad = skip is not None and any(
        2 * a != b for a, b in zip(deep.shape[2:], skip.shape[2:], strict=True)
    )


class UNet(nn.ModuleDict):
    """MONAI's 2-D BasicUNet with ``depth`` down-samplings, 1 to 5; 4 has BasicUNet's names and output.

    ``features`` is the width of the first level, doubled at every further one, or ``depth + 2`` widths as
    BasicUNet takes six: of the levels from the top, then of the last up-sampling. Input (B, C, H, W), output
    (B, out_channels, H, W); sides that are no multiples of 2 ** depth are padded inside as BasicUNet does.
    A ModuleDict because TorchScript runs through its blocks in order, and calls them by BasicUNet's names.
    Raises InputError for a depth or widths that make no network and for an image smaller than 2 ** depth.
    """

    def __init__(
        self,
        depth: int = 4,
        features: int | Sequence[int] = 32,
        in_channels: int = 2,
        out_channels: int = 1,
        norm: str | tuple[Any, ...] = "batch",
        act: str | tuple[Any, ...] = LEAKY_RELU,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.depth = depth
        widths = _widths(depth, features)
        block: dict[str, Any] = {"act": act, "norm": norm, "bias": True, "dropout": dropout}
        self["conv_0"] = TwoConv(2, in_channels, widths[0], **block)
        for level in range(1, depth + 1):
            self[f"down_{level}"] = Down(2, widths[level - 1], widths[level], **block)
        for level in range(depth, 0, -1):
            skip = widths[level - 1]
            out = skip if level > 1 else widths[-1]
            self[f"upcat_{level}"] = UpCat(2, widths[level], skip, out, halves=level > 1, **block)
        self["final_conv"] = nn.Conv2d(widths[-1], out_channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, out_channels, H, W) of images (B, C, H, W)."""
        if not torch.jit.is_scripting():
            self._check_size(x)
        skips: list[Tensor] = []
        for name, block in self.items():
            if hasattr(block, "upsample"):  # an UpCat; TorchScript may not see that with isinstance
                x = block(x, skips.pop())
            else:
                x = block(x)
                if name != f"down_{self.depth}":
                    skips.append(x)
        return x

    def _check_size(self, x: Tensor) -> None:
        if torch.jit.is_tracing() or torch.compiler.is_compiling():  # for an export sizes are symbols
            return
        height, width = x.shape[-2:]
        if min(height, width) < 2**self.depth:
            raise InputError(
                f"input of {width} x {height} px",
                f"is too small for a U-Net of depth {self.depth}",
                f"give --roi_size and --window_size of at least {2**self.depth}, best multiples of it",
            )


def _widths(depth: int, features: int | Sequence[int]) -> list[int]:
    """Widths of the ``depth + 1`` levels and of the last up-sampling."""
    if isinstance(depth, bool) or not isinstance(depth, int) or not 1 <= depth <= DEEPEST:
        raise InputError(f"depth {depth}", f"is no whole number from 1 to {DEEPEST}", "4 is BasicUNet's")
    if isinstance(features, int):
        widths = [features * 2**level for level in range(depth + 1)] + [features]
    else:
        widths = list(features)
    if len(widths) != depth + 2 or any(not isinstance(one, int) or one < 1 for one in widths):
        raise InputError(
            f"features {features}",
            f"are not the widths of a U-Net of depth {depth}",
            f"give the first level's width or {depth + 2} widths",
        )
    return widths
