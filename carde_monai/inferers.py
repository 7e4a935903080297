"""Sliding windows over images of any size, in the memory of the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import product
from typing import Any

import torch
from monai.data import MetaTensor
from monai.data.utils import compute_importance_map, dense_patch_slices
from monai.inferers import SlidingWindowInferer
from monai.utils import (
    PytorchPadMode,
    convert_to_dst_type,
    convert_to_tensor,
    ensure_tuple_rep,
    fall_back_tuple,
)
from torch import Tensor, nn
from tqdm import tqdm

from carde_monai.transforms import SCALING, scale_into, scaled


@dataclass(frozen=True)
class Grid:
    """Where the windows of an image (H, W) stand, and how they are blended.

    ``tops`` and ``lefts`` are their first rows and columns. ``weights`` (h, w) are those of the pixels of a
    window, ``row`` (h, W) their sums over the windows that stand side by side.
    """

    tops: tuple[int, ...]
    lefts: tuple[int, ...]
    weights: Tensor
    row: Tensor

    def finish(self, image: Tensor, top: int) -> None:
        """Divide ``image`` (K, H, W) by the weights, from ``top`` to where the next row of windows starts."""
        end = min((one for one in self.tops if one > top), default=image.shape[-2])
        total = self.row.new_zeros(end - top, self.row.shape[1])
        for one in self.tops:
            first, last = max(one, top), min(one + len(self.row), end)
            if first < last:
                total[first - top : last - top] += self.row[first - one : last - one]
        image[:, top:end] /= total


@lru_cache(maxsize=2)  # an image and the same on its side
def grid_of(
    size: tuple[int, ...],
    window: tuple[int, ...],
    overlap: tuple[float, ...],
    mode: str,
    sigma_scale: tuple[float, ...],
    device: torch.device,
) -> Grid:
    """The windows of an image, placed and weighted as MONAI's ``sliding_window_inference`` does."""
    tops, lefts = (_starts(*axis) for axis in zip(size, window, overlap, strict=True))
    weights = compute_importance_map(window, mode=mode, sigma_scale=sigma_scale, device=device)
    row = weights.new_zeros(window[0], size[1])
    for left in lefts:
        row[:, left : left + window[1]] += weights
    return Grid(tops, lefts, weights, row)


def _starts(length: int, window: int, overlap: float) -> tuple[int, ...]:
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap must be >= 0 and < 1, got {overlap}.")
    interval = window if window == length else max(int(window * (1 - overlap)), 1)
    return tuple(int(start) for ((start, _),) in dense_patch_slices([length], [window], [interval], False))


class FlatWindowInferer(SlidingWindowInferer):
    """SlidingWindowInferer for 2-D images that needs the memory of the image and of the result, and no more.

    Arguments and result (N, K, H, W) are MONAI's up to the rounding of float32: MONAI keeps a map of weights
    as large as the image and divides by it at the end, here rows are divided when their last window is done.
    Integer images (N, C, H, W) stay integers; each window becomes float32, scaled as the meta data say
    (`transforms.scaled_later`). The network returns one tensor of its input's height and width, else
    ValueError. Not for training: windows share their memory.
    """

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Tensor:
        if self.with_coord or "condition" in kwargs:
            raise ValueError("FlatWindowInferer knows neither with_coord nor a condition")
        device = kwargs.pop("device", self.device)
        for buffering in ("buffer_steps", "buffer_dim"):  # MONAI's way to save memory of the device
            kwargs.pop(buffering, None)
        if device is None and self.cpu_thresh is not None and inputs.shape[2:].numel() > self.cpu_thresh:
            device = "cpu"
        image, scaling = convert_to_tensor(inputs, track_meta=False), _scaling(inputs)
        height, width = image.shape[2:]
        window = fall_back_tuple(self.roi_size, (height, width))
        below, beside = max(window[0] - height, 0), max(window[1] - width, 0)
        top, left = below // 2, beside // 2
        if below or beside:
            pads = [left, beside - left, top, below - top]
            mode = PytorchPadMode(self.padding_mode).value
            image = nn.functional.pad(scaled(image, scaling), pads, mode=mode, value=self.cval)
        device = torch.device(device or image.device)
        found = self._blend(image, scaling, window, device, partial(_called, network, args, kwargs))
        found = found[..., top : top + height, left : left + width]
        return convert_to_dst_type(found, inputs, dtype=found.dtype, device=device)[0]

    def _blend(
        self,
        image: Tensor,
        scaling: Tensor | None,
        window: tuple[int, ...],
        device: torch.device,
        network: Callable[[Tensor], Tensor],
    ) -> Tensor:
        rows, columns = window
        overlap, sigmas = (ensure_tuple_rep(one, 2) for one in (self.overlap, self.sigma_scale))
        grid = grid_of(tuple(image.shape[2:]), window, overlap, str(self.mode), sigmas, device)
        places = list(product(range(len(image)), grid.tops, grid.lefts))
        kind = image.dtype if image.is_floating_point() else torch.float32
        shape = (min(self.sw_batch_size, len(places)), image.shape[1], rows, columns)
        seen = image.new_empty(shape, dtype=kind, device=self.sw_device)
        scaling = None if scaling is None else scaling.to(seen.device)
        result = image.new_empty(0)
        for start in tqdm(range(0, len(places), len(seen)), disable=not self.progress):
            batch = places[start : start + len(seen)]
            for one, (index, top, left) in zip(seen, batch, strict=False):
                cut = image[index, :, top : top + rows, left : left + columns]
                scale_into(one, cut, None if scaling is None else scaling[index])
            found = network(seen[: len(batch)]).to(device)
            if not start:
                result = found.new_zeros((len(image), found.shape[1], *image.shape[2:]), dtype=kind)
            for one, (index, top, left) in zip(found, batch, strict=True):
                result[index, :, top : top + rows, left : left + columns].addcmul_(one, grid.weights)
                if left == grid.lefts[-1]:
                    grid.finish(result[index], top)
        return result


def _called(network: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], seen: Tensor) -> Tensor:
    found = network(seen, *args, **kwargs)
    if not isinstance(found, Tensor) or found.shape[2:] != seen.shape[2:]:
        raise ValueError("FlatWindowInferer needs a network that returns one tensor of its input's size")
    return convert_to_tensor(found, track_meta=False)


def _scaling(inputs: Tensor) -> Tensor | None:
    """The ``scaling`` (N, C, 2) in the meta data of an integer image, if there is one."""
    meta = inputs.meta if isinstance(inputs, MetaTensor) and not inputs.is_floating_point() else {}
    if SCALING not in meta:
        return None
    return torch.as_tensor(meta[SCALING], dtype=torch.float32, device=inputs.device).reshape(
        *inputs.shape[:2], 2
    )
