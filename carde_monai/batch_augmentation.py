"""Random augmentation of a whole training batch at once, on the device the network is on."""

from __future__ import annotations

from typing import Any

import torch
from monai.data import MetaTensor
from monai.engines.utils import PrepareBatchDefault
from monai.networks.layers import GaussianFilter
from torch import Tensor
from torch.nn import functional

Range = tuple[float, float]
EDGES = (2, 3)


class BatchAugmentation(PrepareBatchDefault):
    """``prepare_batch`` of a trainer: image and label on the device, augmented, in channels-last layout.

    The same distributions and arithmetic as MONAI's RandZoomd (reflecting, labels "nearest-exact"),
    RandRotate90d, RandFlipd on both axes, RandScaleIntensityd, RandShiftIntensityd (channel-wise),
    RandGaussianNoised and RandGaussianSmoothd in this order, each tile drawing its own. Those work on the
    CPU, tile by tile on MetaTensors, and take several times as long. Images (B, C, H, W), labels
    (B, 1, H, W); the batch itself stays as it is.

    Every ``*_prob`` is a probability per tile; ``scale`` and ``shift`` are the largest change to either side;
    ``noise`` is the largest standard deviation (the one in force is uniform below it), ``sigma`` the range of
    both axes in pixels. Draws come from torch's global generators. Tiles that are not square are turned by
    180 degrees only.
    """

    def __init__(
        self,
        zoom: Range = (0.8, 1.25),
        zoom_prob: float = 0.3,
        rotate_prob: float = 0.75,
        flip_prob: float = 0.5,
        scale: float = 0.2,
        scale_prob: float = 0.5,
        shift: float = 0.1,
        shift_prob: float = 0.5,
        noise: float = 0.05,
        noise_prob: float = 0.3,
        sigma: Range = (0.25, 1.0),
        smooth_prob: float = 0.2,
    ) -> None:
        self.zoom, self.zoom_prob = zoom, zoom_prob
        self.rotate_prob, self.flip_prob = rotate_prob, flip_prob
        self.scale, self.scale_prob = scale, scale_prob
        self.shift, self.shift_prob = shift, shift_prob
        self.noise, self.noise_prob = noise, noise_prob
        self.sigma, self.smooth_prob = sigma, smooth_prob

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        image, label = (_plain(one) for one in super().__call__(*args, **kwargs))
        image, label = self.move(image, label)
        return self.vary(image).contiguous(memory_format=torch.channels_last), label

    def move(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Copies of image and label, zoomed, turned and flipped alike."""
        both = torch.cat([image, label], 1)
        channels = image.shape[1]
        for tile in drawn(len(both), self.zoom_prob):
            factor = uniform(*self.zoom)
            both[tile, :channels] = zoomed(image[tile], factor, "bilinear")
            # MONAI's "nearest" would lay the label half a pixel beside the image
            both[tile, channels:] = zoomed(label[tile], factor, "nearest-exact")
        square = both.shape[2] == both.shape[3]
        turns = torch.randint(1, 4, (len(both),)) if square else torch.full((len(both),), 2)
        turns *= torch.rand(len(both)) < self.rotate_prob
        for turn in (1, 2, 3):
            _apply(both, (turns == turn).nonzero()[:, 0], lambda tiles, turn=turn: tiles.rot90(turn, EDGES))
        for axis in EDGES:
            chosen = torch.tensor(drawn(len(both), self.flip_prob), dtype=torch.long)
            _apply(both, chosen, lambda tiles, axis=axis: tiles.flip(axis))
        return both[:, :channels], both[:, channels:]

    def vary(self, image: Tensor) -> Tensor:
        """The image with other greys."""
        gain = 1 + self._channel_wise(image, self.scale, self.scale_prob)
        image = image * gain + self._channel_wise(image, self.shift, self.shift_prob)
        for tile in drawn(len(image), self.noise_prob):
            image[tile] += torch.randn_like(image[tile]) * uniform(0, self.noise)
        for tile in drawn(len(image), self.smooth_prob):
            sigmas = [uniform(*self.sigma), uniform(*self.sigma)]
            image[tile] = GaussianFilter(2, sigmas).to(image.device)(image[tile][None])[0]
        return image

    @staticmethod
    def _channel_wise(image: Tensor, largest: float, prob: float) -> Tensor:
        draws = (2 * torch.rand(*image.shape[:2], 1, 1) - 1) * largest
        draws *= torch.rand(len(image), 1, 1, 1) < prob
        return draws.to(image)


def zoomed(tile: Tensor, factor: float, mode: str) -> Tensor:
    """``tile`` (C, H, W) enlarged ``factor`` times about its centre, as `monai.transforms.Zoom` does it.

    The size stays: what sticks out is cut, what is missing mirrored. ``mode`` is that of PyTorch, such as
    "bilinear" or "nearest-exact".
    """
    resized = functional.interpolate(tile[None], scale_factor=factor, mode=mode, recompute_scale_factor=True)
    gaps = [want - got for want, got in zip(tile.shape[1:], resized.shape[2:], strict=True)]
    pads = [(max(gap, 0) // 2, max(gap, 0) - max(gap, 0) // 2) for gap in gaps]
    padded = functional.pad(resized, [*pads[1], *pads[0]], mode="reflect")
    starts = [got // 2 - want // 2 for want, got in zip(tile.shape[1:], padded.shape[2:], strict=True)]
    rows, columns = (slice(start, start + want) for start, want in zip(starts, tile.shape[1:], strict=True))
    return padded[0, :, rows, columns]


def _plain(values: Tensor) -> Tensor:
    return values.as_tensor() if isinstance(values, MetaTensor) else values


def uniform(low: float, high: float) -> float:
    """A number between the two."""
    return low + (high - low) * torch.rand(()).item()


def drawn(tiles: int, prob: float) -> list[int]:
    """Numbers of the tiles that are chosen with this probability; at 0 nothing is drawn."""
    return (torch.rand(tiles) < prob).nonzero()[:, 0].tolist() if prob else []


def _apply(batch: Tensor, chosen: Tensor, change: Any) -> None:
    if len(chosen):
        chosen = chosen.to(batch.device)
        batch[chosen] = change(batch[chosen])
