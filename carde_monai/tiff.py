"""TIFF files of results, for Fiji and everybody else."""

from __future__ import annotations

import colorsys
import functools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

IMAGEJ = (np.uint8, np.uint16, np.float32)
LARGEST = 2**32 - 2**25  # bytes of pixels beyond which tifffile writes BigTIFF
COLOR_MAP = 320


def write_tiff(
    values: npt.NDArray[Any],
    path: str | Path,
    pixel_size_um: float | None,
    limits: tuple[float, float],
    *,
    numbers: bool = False,
) -> None:
    """Write an (H, W) image in ImageJ's dialect, with the pixel size in microns if it is known.

    Fiji takes unit and display range (``limits``) from it. ``numbers`` of particles get colours there: in
    greys, of a thousand the first hundred would be as black as the matrix. What the dialect lacks, uint32 for
    one or more than 4 GB, becomes plain TIFF with pixels per centimetre. Whole numbers are compressed.
    """
    options: dict[str, Any] = {}
    # Of float32 zlib would save a tenth of the bytes, in most of the time that all files of a frame take.
    if not np.issubdtype(values.dtype, np.floating):
        # without predictor, which ImageJ's reader does not know
        options = {"compression": "zlib", "compressionargs": {"level": 1}, "rowsperstrip": 64}
    if values.dtype not in IMAGEJ or values.nbytes > LARGEST:
        if pixel_size_um is not None:
            options |= {"resolution": (1e4 / pixel_size_um,) * 2, "resolutionunit": "CENTIMETER"}
        tifffile.imwrite(path, values, metadata=None, photometric="minisblack", **options)
        return
    low, high = map(float, limits)
    metadata: dict[str, Any] = {"axes": "YX", "min": low, "max": high}
    if pixel_size_um is not None:
        metadata["unit"] = "micron"
        options |= {"resolution": (1 / pixel_size_um,) * 2, "resolutionunit": "NONE"}
    if numbers:
        # 256 of them, spread over the display range: so ImageJ writes and reads 16 bits in colour
        options["extratags"] = [(COLOR_MAP, "H", 768, number_colours(), True)]
    tifffile.imwrite(path, values, imagej=True, metadata=metadata, **options)


@functools.cache  # written with every micrograph
def number_colours() -> list[int]:
    """256 reds, greens and blues (16 bit): black, then hues a golden section apart in several tones."""
    tones = [(place * 0.618034 % 1, (0.85, 0.55)[place % 2], (0.75, 1, 1)[place % 3]) for place in range(256)]
    colours = [(0.0, 0.0, 0.0), *(colorsys.hsv_to_rgb(*tone) for tone in tones[1:])]
    return [round(65535 * colour[channel]) for channel in range(3) for colour in colours]
