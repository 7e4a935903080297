"""What MONAI's transforms do not have: robust scaling, and scaling that waits until a window is cut."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor, list_data_collate
from monai.transforms import MapTransform, ScaleIntensityRangePercentilesd
from monai.utils import convert_to_dst_type, convert_to_numpy, convert_to_tensor
from torch import Tensor

Array = npt.NDArray[Any]

SCALING = "scaling"  # of an integer image's meta data
GREYS = 2**16  # a histogram of more is no longer small


def percentiles(greys: Tensor, ranks: Sequence[float]) -> npt.NDArray[np.float64]:
    """Percentiles (0 to 100) of an integer tensor, interpolated as np.percentile does, from its histogram."""
    flat = greys.reshape(-1)
    if flat.dtype != torch.uint8 and (flat.min() < 0 or flat.max() >= GREYS):
        return np.percentile(flat.double().numpy(), ranks)  # 16 bits would overflow between two of them
    up_to = torch.bincount(flat).cumsum(0).numpy()
    place = np.asarray(ranks) / 100 * (flat.numel() - 1)
    lower = np.searchsorted(up_to, np.floor(place), side="right")
    upper = np.searchsorted(up_to, np.ceil(place), side="right")
    return lower + (upper - lower) * (place % 1)


def scale_into(out: Tensor, greys: Tensor, scaling: Tensor | None) -> Tensor:
    """Write (greys - offset) * factor of (..., C, H, W) to ``out``; ``scaling`` (..., C, 2) holds both.

    Floating-point images, and those without a ``scaling``, keep their values. Returns ``out``.
    """
    if scaling is None or greys.is_floating_point():
        return out.copy_(greys)
    offset, factor = scaling[..., None, None, :].unbind(-1)
    return out.copy_(greys).sub_(offset).mul_(factor)


def scaled(greys: Tensor, scaling: Tensor | None) -> Tensor:
    """`scale_into` a tensor of its own, float32; a floating-point image is returned as it is."""
    if greys.is_floating_point():
        return greys
    return scale_into(torch.empty_like(greys, dtype=torch.float32), greys, scaling)


def scaled_later(image: Tensor, offset: npt.ArrayLike, factor: npt.ArrayLike) -> MetaTensor:
    """``image`` (C, H, W) of up to 16 bits, its memory shared, with offset and factor (C,) in its meta data.

    They stand there as ``scaling`` (C, 2), which `FlatWindowInferer` applies to one window after the other.
    """
    scaling = torch.from_numpy(np.stack(np.broadcast_arrays(offset, factor), axis=-1).astype(np.float64))
    return MetaTensor(convert_to_tensor(image), meta={**getattr(image, "meta", {}), SCALING: scaling})


def is_integer(image: Any) -> bool:
    """Whether ``image`` is a tensor of whole numbers."""
    return isinstance(image, Tensor) and not (image.is_floating_point() or image.is_complex())


class PercentileScaled(ScaleIntensityRangePercentilesd):
    """ScaleIntensityRangePercentilesd, but an integer image is left to be `scaled_later` where that can be.

    Arguments and values are MONAI's. It can be if each channel is scaled to a range of its own and not
    clipped. A channel whose percentiles are equal is shifted and not divided, as by MONAI, but silently.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item, scaler = dict(data), self.scaler
        linear = scaler.channel_wise and not (
            scaler.clip or scaler.relative or None in (scaler.b_min, scaler.b_max)
        )
        for key in self.key_iterator(item):
            image = item[key]
            if is_integer(image):
                item[key] = self._later(image) if linear else scaler(image.float())
            else:
                item[key] = scaler(image)
        return item

    def _later(self, image: Tensor) -> MetaTensor:
        scaler = self.scaler
        ranks = (scaler.lower, scaler.upper)
        lower, upper = np.transpose([percentiles(channel, ranks) for channel in convert_to_tensor(image)])
        factor = np.where(upper > lower, (scaler.b_max - scaler.b_min) / _divisor(lower, upper), 1.0)
        return scaled_later(image, lower - scaler.b_min / factor, factor)


def robust_scale(image: Any) -> Any:
    """Each channel of (C, H, W) minus its median, divided by its interquartile range over the frame; float32.

    What scikit-learn's RobustScaler does with pixels as samples: quartiles are interpolated linearly, and a
    channel whose quartiles are equal is not divided. The result is of the image's kind (array, tensor).
    """
    greys = convert_to_numpy(image).astype(np.float64)
    lower, middle, upper = np.percentile(greys, (25, 50, 75), axis=(1, 2), keepdims=True)
    return convert_to_dst_type((greys - middle) / _divisor(lower, upper), image, dtype=np.float32)[0]


def _divisor(lower: Array, upper: Array) -> Array:
    return np.where(upper > lower, upper - lower, 1.0)


class RobustScaled(MapTransform):
    """`robust_scale` for items, with the channels in the order that ``channels`` says: [1, 0] swaps two.

    Integer images are `scaled_later`.
    """

    def __init__(
        self, keys: KeysCollection, channels: Sequence[int] | None = None, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.channels = None if channels is None else list(channels)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            image = item[key] if self.channels is None else item[key][self.channels]
            if is_integer(image):
                lower, middle, upper = np.transpose(
                    [percentiles(one, (25, 50, 75)) for one in convert_to_tensor(image)]
                )
                item[key] = scaled_later(image, middle, 1 / _divisor(lower, upper))
            else:
                item[key] = robust_scale(image)
        return item


def collate_one(batch: Sequence[dict[Hashable, Any]]) -> dict[Hashable, Any]:
    """MONAI's ``list_data_collate``, without a copy of the images where there is only one item."""
    if len(batch) != 1:
        return list_data_collate(batch)
    images = {key: one for key, one in batch[0].items() if isinstance(one, MetaTensor)}
    collated = list_data_collate([batch[0] | {key: one[..., :0] for key, one in images.items()}])
    for key, one in images.items():
        collated[key] = MetaTensor(one.as_tensor()[None]).copy_meta_from(collated[key], copy_attr=False)
    return collated
