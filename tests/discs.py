"""Discs of known size at random places, without overlap, cut into fields as a microscope does."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from carde_monai.particles import label_particles, measure_particles
from carde_monai.stereology import measure_field

TRIES = 200


def disc_plane(diameters: np.ndarray, side: int, seed: int = 0) -> np.ndarray:
    """Mask (side, side) of discs (diameters in pixels), largest first, a pixel of matrix or more between two.

    Discs that leave the plane come in again on the other side, so that the plane has no border of its own.
    """
    rng = np.random.default_rng(seed)
    mask, free = np.zeros((side, side), bool), np.ones((side, side), bool)
    for diameter in np.sort(diameters)[::-1]:
        reach = int(diameter / 2) + 3
        offset = np.arange(-reach, reach + 1)
        for _ in range(TRIES):
            centre = rng.uniform(0, side, 2)
            near = np.floor(centre).astype(int)
            rows, columns = near[0] + offset, near[1] + offset
            distance = np.hypot(*np.meshgrid(rows - centre[0], columns - centre[1], indexing="ij"))
            window = np.ix_(rows % side, columns % side)
            inside = distance < diameter / 2
            if free[window][inside].all():
                break
        else:
            raise ValueError("no room for another disc")
        mask[window] |= inside
        free[window] &= distance >= diameter / 2 + 2
    return mask


def tiles(plane: np.ndarray, side: int) -> Iterator[np.ndarray]:
    """Cut a plane into the square fields that tile it."""
    for row in range(0, plane.shape[0] - side + 1, side):
        for column in range(0, plane.shape[1] - side + 1, side):
            yield plane[row : row + side, column : column + side]


def tables(
    fields: list[np.ndarray], pixel_size_um: float | None = None, *, min_area: int = 1, sample: str = "discs"
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """``micrographs.csv`` and ``particles.csv`` of masks, as tables."""
    rows, particles = [], []
    for number, mask in enumerate(fields):
        key = {"micrograph": f"field {number}", "sample": sample}
        labels = label_particles(mask, min_area=min_area)
        table = measure_particles(labels, pixel_size_um)
        rows.append(key | measure_field(labels, table, pixel_size_um, min_area=min_area))
        particles.append(table.assign(**key))
    return pd.DataFrame(rows), pd.concat(particles, ignore_index=True)
