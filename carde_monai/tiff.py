"""TIFF files of results, for Fiji and everybody else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

IMAGEJ = (np.uint8, np.uint16, np.float32)


def write_tiff(
    values: npt.NDArray[Any], path: str | Path, pixel_size_um: float | None, limits: tuple[float, float]
) -> None:
    """Write an (H, W) image in ImageJ's dialect, with the pixel size in microns if it is known.

    Fiji takes unit and display range (``limits``) from it. What the dialect lacks, uint32 for one, becomes
    plain TIFF with pixels per centimetre.
    """
    # zlib without predictor, which ImageJ's reader does not know
    options: dict[str, Any] = {"compression": "zlib", "compressionargs": {"level": 1}, "rowsperstrip": 64}
    if values.dtype not in IMAGEJ:
        if pixel_size_um is not None:
            options |= {"resolution": (1e4 / pixel_size_um,) * 2, "resolutionunit": "CENTIMETER"}
        tifffile.imwrite(path, values, metadata=None, photometric="minisblack", **options)
        return
    low, high = map(float, limits)
    metadata: dict[str, Any] = {"axes": "YX", "min": low, "max": high}
    if pixel_size_um is not None:
        metadata["unit"] = "micron"
        options |= {"resolution": (1 / pixel_size_um,) * 2, "resolutionunit": "NONE"}
    tifffile.imwrite(path, values, imagej=True, metadata=metadata, **options)
