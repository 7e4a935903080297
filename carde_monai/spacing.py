"""What configs/spacing.json leaves to Python: integer greys, and images of an absurd size."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from monai.data import MetaTensor, decollate_batch

from carde_monai.errors import InputError
from carde_monai.handlers.segmentation import pixel_size_um, source_file
from carde_monai.transforms import SCALING, scaled

LEAST_SIDE = 32  # pixels; of less the deepest level of the network sees nothing
MOST_PIXELS = 64_000_000  # some twenty frames


class AbsurdSize(InputError):
    """An image cannot be resampled to the pixel sizes of the network; its own is probably wrong."""


def greys(images: MetaTensor, size: Sequence[int]) -> MetaTensor:
    """Images (N, C, H, W) ready to be interpolated to ``size`` (rows, columns): float32, scaled.

    Integers become what their meta data say (`transforms.scaled_later`). Raises AbsurdSize if a side is
    below 32 px, or there are more than 64 megapixels and more than the images have now.
    """
    if min(size) < LEAST_SIDE or math.prod(size) > max(MOST_PIXELS, images.shape[2:].numel()):
        image = decollate_batch(images)[0]
        wrong = f"of {pixel_size_um(image):g} um a pixel would be resampled to {size[1]} x {size[0]} px"
        remedy = "check its pixel size, or give the network's own with --pixel_sizes"
        raise AbsurdSize(source_file({"raw": image}) or "an image", wrong, remedy)
    if images.is_floating_point():
        return images
    scaling = images.meta.get(SCALING)
    plain = scaled(images.as_tensor(), None if scaling is None else torch.as_tensor(scaling))
    return MetaTensor(plain, meta=images.meta)
