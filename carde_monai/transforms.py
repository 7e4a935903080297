"""What MONAI's transforms do not have."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type, convert_to_numpy


def robust_scale(image: Any) -> Any:
    """Each channel of (C, H, W) minus its median, divided by its interquartile range over the frame; float32.

    What scikit-learn's RobustScaler does with pixels as samples: quartiles are interpolated linearly, and a
    channel whose quartiles are equal is not divided. The result is of the image's kind (array, tensor).
    """
    greys = convert_to_numpy(image).astype(np.float64)
    lower, middle, upper = np.percentile(greys, (25, 50, 75), axis=(1, 2), keepdims=True)
    spread = np.where(upper > lower, upper - lower, 1.0)
    return convert_to_dst_type((greys - middle) / spread, image, dtype=np.float32)[0]


class RobustScaled(MapTransform):
    """`robust_scale` for items, with the channels in the order that ``channels`` says: [1, 0] swaps two."""

    def __init__(
        self, keys: KeysCollection, channels: Sequence[int] | None = None, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.channels = None if channels is None else list(channels)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            image = item[key] if self.channels is None else item[key][self.channels]
            item[key] = robust_scale(image)
        return item
