"""Small pictures of micrographs for the report: grey image, and what was found as an overlay with alpha.

The picture holds the greys alone; outline and confidence lie in a palette PNG of their own above it, so that
the report can take them away. Numbers and scale bar are drawn by the page, sharp at every magnification.
"""

from __future__ import annotations

import io
import math
import zlib
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
    grey_picture,
    outline,
    reduced,
    resized,
    shrunk,
)
from carde_monai.runs import strips

LARGEST_SIDE, SMALLEST_SIDE = 2048, 400
THUMBNAIL_WIDTH, THUMBNAIL_HEIGHT = 320, 240
# Bytes that all large pictures together may take in the file (base64), and how many a pixel of a 4:3 picture
# takes there with its overlay: 0.22 to 0.35 measured on synthetic steel, 0.36 on pure shot noise at 600 px.
PICTURES_BUDGET = 40e6
BYTES_PER_PIXEL = 0.36
# Quality and effort of WebP, which stores a noisy micrograph in 60 to 70 % of the bytes of JPEG. The effort
# saves a large picture no bytes, but a small one a fifth, and costs four times the time.
LARGE, SMALL = (75, 1), (60, 4)

# Entries of the overlay's palette: colour and opacity. Only what the network is unsure of is tinted; where it
# is sure, the grey of the carbide shows.
CLEAR, UNLIKELY, LIKELY, OUTLINE = range(4)
PALETTE = ((0, 0, 0, 0), (*BLUE, 120), (*ORANGE, 120), (*VERMILLION, 255))
MASK_GREYS = np.uint8((48, 208))  # matrix and carbide, where there is a mask but no image


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
    if image is not None:
        whole = grey_picture(image[0])
    else:
        whole = Image.fromarray(np.where(mask, MASK_GREYS[1], MASK_GREYS[0]))
    shape = reduced(mask.shape[::-1], side, side)
    return GalleryPicture(
        name=name,
        sample=sample,
        width_px=mask.shape[1],
        height_px=mask.shape[0],
        pixel_size_um=pixel_size_um,
        thumbnail=_thumbnail(whole, mask),
        picture=_webp(whole.resize(shape, Image.Resampling.BOX), *(LARGE if max(shape) > 1000 else SMALL)),
        overlay=_overlay(mask, probability, shape, side),
        has_image=image is not None,
        has_confidence=probability is not None,
    )


def separated(labels: Array) -> npt.NDArray[np.bool_]:
    """The mask of an (H, W) label image, with a gap of a pixel where two labels touch: they were split."""
    mask = np.empty(labels.shape, bool)
    for strip in strips(labels.shape):
        lines = labels[strip.start : strip.stop + 1]  # with a row of the next strip
        inside = lines > 0
        for one, other in (
            (np.s_[:, :-1], np.s_[:, 1:]),
            (np.s_[:-1], np.s_[1:]),
        ):
            inside[one] &= (lines[one] == lines[other]) | (lines[other] == 0)
        mask[strip] = inside[: strip.stop - strip.start]
    return mask


def _overlay(
    mask: npt.NDArray[np.bool_], probability: Array | None, shape: tuple[int, int], side: int
) -> bytes:
    """Palette PNG of outline and tint; small micrographs are doubled for a finer outline."""
    if 2 * max(mask.shape) <= side:
        shape = (2 * mask.shape[1], 2 * mask.shape[0])
    indices = np.zeros(shape[::-1], np.uint8)
    if probability is not None:
        levels = confidence_levels(resized(probability, shape))
        indices[levels == 1] = UNLIKELY
        indices[levels == 2] = LIKELY
    # on a screen large pictures are reduced
    indices[outline(shrunk(mask, shape), 2 if max(shape) > 1024 else 1)] = OUTLINE
    picture = Image.fromarray(indices)
    picture.putpalette([part for entry in PALETTE for part in entry[:3]])
    file = io.BytesIO()
    opacity = bytes(entry[3] for entry in PALETTE)
    # a search for matches longer than runs takes twenty times as long, for a larger file
    picture.save(file, format="PNG", transparency=opacity, bits=2, compress_type=zlib.Z_RLE)
    return file.getvalue()


def _thumbnail(whole: Image.Image, mask: npt.NDArray[np.bool_]) -> bytes:
    shape = reduced(mask.shape[::-1], THUMBNAIL_WIDTH, THUMBNAIL_HEIGHT)
    small = np.array(whole.resize(shape, Image.Resampling.BOX).convert("RGB"))
    small[outline(shrunk(mask, shape))] = VERMILLION
    return _webp(Image.fromarray(small), *SMALL)


def _webp(picture: Image.Image, quality: int, effort: int) -> bytes:
    file = io.BytesIO()
    picture.save(file, format="WEBP", quality=quality, method=effort)
    return file.getvalue()
