"""Measured carbides as ImageJ's regions of interest, for the ROI manager of Fiji."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from roifile import ROI_OPTIONS, ROI_TYPE, ImagejRoi, roiwrite
from scipy import ndimage
from skimage.measure import find_contours
from tqdm import tqdm

from carde_monai.errors import Failure, InputError
from carde_monai.locking import claimed
from carde_monai.measurement import ROIS
from carde_monai.replacing import replace_file
from carde_monai.result_files import FOREIGN, read_labels, read_table
from carde_monai.runs import Runs

logger = logging.getLogger("carde_monai")


def write_rois(folder: str | Path) -> list[Failure]:
    """Write ``<name>_rois.zip`` beside each ``<name>_labels.tif`` that ``measure`` or ``segment`` wrote.

    A region is called like the carbide's number in ``particles.csv``. A micrograph without carbides gets no
    file, as ImageJ cannot open an empty one. Returns what could not be read.

    Raises:
        InputError: ``folder`` does not exist or was not written by ``measure`` or ``segment``, or another
            run writes there.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(folder, "is a file" if folder.exists() else "no such folder", FOREIGN)
    failures = []
    names = _names(folder / "micrographs.csv")
    with claimed(folder):
        for name in tqdm(names, desc="rois", unit="micrograph"):
            target = folder / f"{name}{ROIS}"
            target.unlink(missing_ok=True)  # an earlier call's may be of other carbides
            try:
                regions = [
                    region_of(around, number)
                    for number, around in outlines(read_labels(folder / f"{name}_labels.tif")).items()
                ]
                if regions:
                    replace_file(target, lambda path, regions=regions: roiwrite(path, regions, mode="w"))
            except (InputError, OSError) as error:
                failures.append(Failure.of(name, error))
    done = len(names) - len(failures)
    logger.info("%s: regions of %d micrographs; open *%s in ImageJ's ROI manager", folder, done, ROIS)
    return failures


def _names(path: Path) -> list[str]:
    table = read_table(path)
    if "micrograph" not in table:
        raise InputError(path, "has no column micrograph", FOREIGN)
    for name in table["micrograph"]:
        if name != Path(name).name:  # files would be removed elsewhere
            raise InputError(path, f"names {name!r}, which is no file name", FOREIGN)
    return list(table["micrograph"])


def outlines(labels: npt.NDArray[Any]) -> dict[int, list[npt.NDArray[np.float32]]]:
    """Outlines of each carbide of (H, W) numbered ones: (N, 2) of x, y, not closed.

    Several where a carbide has holes, or parts that do not touch. In ImageJ's coordinates, where the first
    pixel reaches from 0 to 1. A region there consists of the pixels whose centre lies inside an odd number of
    outlines: just the carbide's own.
    """
    runs = Runs.of(labels)
    numbers, which = np.unique(runs.values, return_inverse=True)
    # numbers may be as large as 32 bits hold; find_objects makes a list of as many
    places = ndimage.find_objects(runs.painted(labels.shape, which + 1))
    found = {}
    for number, window in zip(numbers.tolist(), places, strict=True):
        inside = np.pad(labels[window] == number, 1)
        corner = window[1].start, window[0].start
        found[number] = [
            (outline[:-1, ::-1] + corner - 0.5).astype(np.float32)
            for outline in find_contours(inside, 0.5, fully_connected="high")  # carbides are 8-connected
        ]
    return found


def region_of(outlines: Sequence[npt.NDArray[np.float32]], number: int) -> ImagejRoi:
    """The freehand region, or composite of several, of a carbide's `outlines`; called like its number."""
    region = ImagejRoi.frompoints(np.concatenate(outlines), name=str(number))
    if len(outlines) > 1:
        path = np.concatenate([_path(outline) for outline in outlines])
        region.roitype = ROI_TYPE.RECT  # so ImageJ marks a composite, besides the size
        region.shape_roi_size, region.multi_coordinates = len(path), path
        region.options &= ~ROI_OPTIONS.SUB_PIXEL_RESOLUTION
        region.n_coordinates, region.integer_coordinates, region.subpixel_coordinates = 0, None, None
    return region


def _path(outline: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """A closed outline in the segments of java.awt.geom.PathIterator: 0 x y moves, 1 x y draws, 4 closes."""
    segments = np.column_stack((np.ones(len(outline), np.float32), outline))
    segments[0, 0] = 0
    return np.append(segments.ravel(), np.float32(4))
