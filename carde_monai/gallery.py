"""Small pictures of micrographs for the report: grey image, and what was found as an overlay with alpha.

The picture holds the greys alone; outline and confidence lie in a palette PNG of their own above it, so that
the report can take them away. Numbers and scale bar are drawn by the page, sharp at every magnification.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from carde_monai.errors import InputError
from carde_monai.pictures import (
    BLUE,
    ORANGE,
    VERMILLION,
    Array,
    confidence_levels,
    outline,
    to_grey8,
)

LARGEST_SIDE, SMALLEST_SIDE = 2048, 400
THUMBNAIL_WIDTH, THUMBNAIL_HEIGHT = 320, 240
# Bytes that all large pictures together may take in the file (base64), and how many a pixel of a 4:3 picture
# takes there with its overlay: 0.22 to 0.35 measured on synthetic steel, 0.36 on pure shot noise at 600 px.
PICTURES_BUDGET = 40e6
BYTES_PER_PIXEL = 0.36
# of WebP, which stores a noisy micrograph in 60 to 70 % of the bytes of JPEG
HIGH_QUALITY, LOW_QUALITY = 75, 60

# Entries of the overlay's palette: colour and opacity. Only what the network is unsure of is tinted; where it
# is sure, the grey of the carbide shows.
CLEAR, UNLIKELY, LIKELY, OUTLINE = range(4)
PALETTE = ((0, 0, 0, 0), (*BLUE, 120), (*ORANGE, 120), (*VERMILLION, 255))
MASK_GREYS = (48, 208)  # matrix and carbide, where there is a mask but no image


@dataclass(frozen=True)
class GalleryPicture:
    """A micrograph of the report's gallery: its size in pixels, and three encoded pictures of it."""

    name: str
    sample: str
    width_px: int
    height_px: int
    pixel_size_um: float | None
    thumbnail: bytes  # WebP, outline drawn in
    picture: bytes  # WebP, grey
    overlay: bytes  # PNG with a transparent palette: outline, and tint where the network is unsure
    has_image: bool
    has_confidence: bool


def picture_side(count: int) -> int:
    """The longer side in pixels that pictures of ``count`` micrographs may have in one file.

    A few are shown in full; so many that the file would grow beyond some 60 MB are reduced.
    """
    side = math.isqrt(int(PICTURES_BUDGET / (max(count, 1) * BYTES_PER_PIXEL * 3 / 4)))
    return max(SMALLEST_SIDE, min(LARGEST_SIDE, side))


def gallery_picture(
    name: str,
    sample: str,
    labels: Array,
    pixel_size_um: float | None,
    *,
    image: Array | None = None,
    probability: Array | None = None,
    side: int = LARGEST_SIDE,
) -> GalleryPicture:
    """Draw one micrograph for the report.

    ``labels`` is (H, W), 0 in the matrix; ``image`` (C, H, W) raw greys, of which the first channel is shown
    (without it the mask itself); ``probability`` (H, W). No picture is longer than ``side`` pixels. Raises
    InputError for arrays of differing size.
    """
    labels = np.asarray(labels)
    for what, array in (("image", image), ("probability", probability)):
        if array is not None and array.shape[-2:] != labels.shape:
            raise InputError(name, f"{what} {array.shape[-2:]} and labels {labels.shape} differ in size")
    mask = separated(labels)
    grey = to_grey8(image[0]) if image is not None else np.where(mask, MASK_GREYS[1], MASK_GREYS[0])
    whole = Image.fromarray(grey.astype(np.uint8))
    shape = _reduced(whole.size, side, side)
    return GalleryPicture(
        name=name,
        sample=sample,
        width_px=whole.width,
        height_px=whole.height,
        pixel_size_um=pixel_size_um,
        thumbnail=_thumbnail(whole, mask),
        picture=_webp(
            whole.resize(shape, Image.Resampling.BOX), HIGH_QUALITY if max(shape) > 1000 else LOW_QUALITY
        ),
        overlay=_overlay(mask, probability, shape, side),
        has_image=image is not None,
        has_confidence=probability is not None,
    )


def separated(labels: Array) -> npt.NDArray[np.bool_]:
    """The mask of an (H, W) label image, with a gap of a pixel where two labels touch: they were split."""
    mask = labels > 0
    for one, other in (
        (np.s_[:, :-1], np.s_[:, 1:]),
        (np.s_[:-1], np.s_[1:]),
    ):
        mask[one] &= (labels[one] == labels[other]) | (labels[other] == 0)
    return mask


def _overlay(
    mask: npt.NDArray[np.bool_], probability: Array | None, shape: tuple[int, int], side: int
) -> bytes:
    """Palette PNG of outline and tint; small micrographs are doubled for a finer outline."""
    if 2 * max(mask.shape) <= side:
        shape = (2 * mask.shape[1], 2 * mask.shape[0])
    indices = np.zeros(shape[::-1], np.uint8)
    if probability is not None:
        levels = confidence_levels(_resized(probability, shape))
        indices[levels == 1] = UNLIKELY
        indices[levels == 2] = LIKELY
    # on a screen large pictures are reduced
    indices[outline(_shrunk(mask, shape), 2 if max(shape) > 1024 else 1)] = OUTLINE
    picture = Image.fromarray(indices)
    picture.putpalette([part for entry in PALETTE for part in entry[:3]])
    file = io.BytesIO()
    opacity = bytes(entry[3] for entry in PALETTE)
    picture.save(file, format="PNG", transparency=opacity, bits=2, compress_level=9)
    return file.getvalue()


def _thumbnail(whole: Image.Image, mask: npt.NDArray[np.bool_]) -> bytes:
    shape = _reduced(whole.size, THUMBNAIL_WIDTH, THUMBNAIL_HEIGHT)
    small = np.array(whole.resize(shape, Image.Resampling.BOX).convert("RGB"))
    small[outline(_shrunk(mask, shape))] = VERMILLION
    return _webp(Image.fromarray(small), LOW_QUALITY)


def _reduced(size: tuple[int, int], width: int, height: int) -> tuple[int, int]:
    """(width, height) of a picture made to fit; none is magnified."""
    zoom = min(1.0, width / size[0], height / size[1])
    return max(1, round(size[0] * zoom)), max(1, round(size[1] * zoom))


def _shrunk(mask: npt.NDArray[np.bool_], shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    # A third of a pixel is enough: the smallest carbides must not vanish from a reduced picture.
    return _resized(mask.astype(np.float32), shape) > 1 / 3


def _resized(values: Array, shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Mean of (H, W) ``values`` over each pixel of a picture of ``shape`` (width, height)."""
    if values.shape == shape[::-1]:
        return np.asarray(values, np.float32)
    return np.asarray(Image.fromarray(np.asarray(values, np.float32)).resize(shape, Image.Resampling.BOX))


def _webp(picture: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    picture.save(file, format="WEBP", quality=quality, method=4)
    return file.getvalue()
