"""What MONAI's networks and engines cannot do by themselves: bfloat16 on any device."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn


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

    MONAI's engines autocast on "cuda" only. Wrapping the instance's ``forward`` keeps the parameter names,
    so the checkpoint is the same with and without; bfloat16 has float32's range and needs no loss scaling.
    """
    if not enabled:
        return network
    forward = network.forward

    @functools.wraps(forward)
    def mixed(image: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        with torch.autocast(image.device.type, torch.bfloat16):
            return forward(image, *args, **kwargs).float()

    network.forward = mixed  # type: ignore[method-assign]
    return network
