"""Augmentation for micrographs of other detectors, voltages and etching than those annotated."""

from __future__ import annotations

import math
from typing import Any

import torch
from monai.networks.layers import GaussianFilter
from monai.transforms import AdjustContrast, RandHistogramShift
from torch import Tensor
from torch.nn import functional

from carde_monai.batch_augmentation import BatchAugmentation, Range, drawn, uniform

MOST_PORES = 4  # a tile
SHADE_NODES = 3  # the fields of charging and of a tilted specimen vary over the whole frame


class DetectorAugmentation(BatchAugmentation):
    """A `BatchAugmentation` that also varies what detector, voltage and etching do to the greys.

    ``contrast``: range of the exponent of MONAI's AdjustContrast, drawn on a logarithmic scale.
    ``levels``: range of the number of control points of MONAI's RandHistogramShift, which stretches some
    greys and squeezes others: particles of one contrast get another than those of the next.
    ``edge``: largest amount of bright (or, negative, dark) edges: so many times the difference between the
    tile and a smoothed copy (unsharp masking) is added, as secondary electrons leave at edges more easily.
    ``relief``: largest amount of light from one side, any side, as of a detector beside the specimen: the
    slope of the smoothed tile in that direction, times the width of the smoothing.
    ``shade``: largest standard deviation of a slow change of brightness over the tile.
    ``width``: range of the standard deviation of the smoothing in pixels.
    ``pore``: range of the semi-axes, in pixels and on a logarithmic scale, of ellipses, one to four a tile,
    that are darker than all else there. Labels stay: a hole in a particle is part of it, one in the matrix
    of that.

    Every ``*_prob`` is a probability per tile; all channels of a tile change alike. Further settings are
    those of `BatchAugmentation`, which varies the greys afterwards.
    """

    def __init__(
        self,
        *,
        contrast: Range = (0.5, 2.0),
        contrast_prob: float = 0.0,
        levels: tuple[int, int] = (4, 8),
        levels_prob: float = 0.0,
        edge: Range = (-0.5, 2.0),
        edge_prob: float = 0.0,
        relief: float = 2.0,
        relief_prob: float = 0.0,
        shade: float = 0.5,
        shade_prob: float = 0.0,
        width: Range = (1.0, 4.0),
        pore: Range = (6.0, 24.0),
        pore_prob: float = 0.0,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.contrast, self.contrast_prob = contrast, contrast_prob
        self.levels, self.levels_prob = levels, levels_prob
        self.edge, self.edge_prob = edge, edge_prob
        self.relief, self.relief_prob = relief, relief_prob
        self.shade, self.shade_prob = shade, shade_prob
        self.width = width
        self.pore, self.pore_prob = pore, pore_prob

    def vary(self, image: Tensor) -> Tensor:
        image = image.clone()
        for tile in drawn(len(image), self.contrast_prob):
            image[tile] = torch.as_tensor(AdjustContrast(_log_uniform(*self.contrast))(image[tile]))
        for tile in drawn(len(image), self.levels_prob):
            shift = RandHistogramShift(self.levels, prob=1.0)
            shift.set_random_state(int(torch.randint(2**31, ())))
            image[tile] = torch.as_tensor(shift(image[tile]))
        for tile in drawn(len(image), self.edge_prob):
            image[tile] += uniform(*self.edge) * (image[tile] - self._smooth(image[tile], self._width()))
        for tile in drawn(len(image), self.relief_prob):
            width, side = self._width(), uniform(0, 2 * math.pi)
            down, right = torch.gradient(self._smooth(image[tile], width), dim=(1, 2))
            slope = width * (math.cos(side) * right + math.sin(side) * down)
            image[tile] += uniform(0, self.relief) * slope
        for tile in drawn(len(image), self.shade_prob):
            nodes = torch.randn(1, 1, SHADE_NODES, SHADE_NODES) * uniform(0, self.shade)
            size = image.shape[2:]
            image[tile] += functional.interpolate(nodes, size, mode="bicubic", align_corners=True)[0].to(
                image
            )
        for tile in drawn(len(image), self.pore_prob):
            for _ in range(int(torch.randint(1, MOST_PORES + 1, ()))):
                self._paint_pore(image[tile])
        return super().vary(image)

    def _paint_pore(self, tile: Tensor) -> None:
        """An ellipse with a soft edge, darker than the tile by up to the range of its greys."""
        rows, columns = (torch.arange(length) - uniform(0, length) for length in tile.shape[1:])
        turn, long, short = uniform(0, math.pi), _log_uniform(*self.pore), _log_uniform(*self.pore)
        along = rows[:, None] * math.cos(turn) + columns * math.sin(turn)
        across = columns * math.cos(turn) - rows[:, None] * math.sin(turn)
        inside = torch.sigmoid(2 * min(long, short) * (1 - torch.hypot(along / long, across / short)))
        least, most = tile.amin((1, 2), keepdim=True), tile.amax((1, 2), keepdim=True)
        tile.lerp_(least - uniform(0, 1) * (most - least), inside.to(tile))

    def _width(self) -> float:
        return uniform(*self.width)

    @staticmethod
    def _smooth(tile: Tensor, width: float) -> Tensor:
        return GaussianFilter(2, width).to(tile.device)(tile[None])[0]


def _log_uniform(low: float, high: float) -> float:
    return math.exp(uniform(math.log(low), math.log(high)))
