"""Shapes of many particles at once: ellipses, perimeters and convex hulls, in pixels."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy.spatial import ConvexHull

Array = NDArray[Any]

ROUND = 1e-9  # two axes that differ relatively by less are equal: they define no direction


class Pixels(NamedTuple):
    """The particles' pixels, particle by particle and in each row by row from the left."""

    ids: Array  # (N,) the particles' numbers
    which: Array  # (P,) index into ids
    rows: Array  # (P,)
    columns: Array  # (P,)
    at: Array  # (P,) place in the flat frame

    @classmethod
    def of(cls, labels: Array) -> Pixels:
        at = np.flatnonzero(labels)
        ids, which = np.unique(labels.ravel()[at], return_inverse=True)
        order = np.argsort(which, kind="stable")
        at = at[order]
        rows, columns = np.divmod(at, labels.shape[1])
        return cls(ids, which[order], rows, columns, at)

    def sums(self, values: Array | None = None) -> Array:
        """(N,) sum of the pixels' values over each particle; their number without values."""
        return np.bincount(self.which, values, minlength=len(self.ids)).astype(float)


def ellipses(particles: Pixels, x: Array, y: Array, area: Array, scale: float, unit: str) -> dict[str, Array]:
    """Axes of the ellipses of equal second moments: 4 sqrt(eigenvalue) of the covariance."""
    dx = particles.columns - x[particles.which]
    dy = y[particles.which] - particles.rows  # up, as on the screen
    # 1/12 is the variance within a pixel, a square
    xx, yy = (particles.sums(d * d) / area + 1 / 12 for d in (dx, dy))
    xy = particles.sums(dx * dy) / area
    mean, half = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
    major, minor = 4 * np.sqrt(mean + half), 4 * np.sqrt(mean - half)
    angle = np.degrees(np.arctan2(2 * xy, xx - yy) / 2) % 180
    angle[angle >= 180] = 0  # a tiny negative angle is rounded up to 180
    angle[half <= ROUND * mean] = np.nan
    return {
        f"major_axis_{unit}": major * scale,
        f"minor_axis_{unit}": minor * scale,
        "aspect_ratio": major / minor,
        "orientation_deg": angle,
    }


def perimeters(particles: Pixels, shape: tuple[int, int]) -> Array:
    """(N,) perimeters in pixels."""
    numbered = np.zeros(shape, np.uint32)  # the labels' own numbers may not fit ITK's types
    numbered.ravel()[particles.at] = particles.which + 1
    shapes = sitk.LabelShapeStatisticsImageFilter()
    shapes.Execute(sitk.GetImageFromArray(numbered))
    return np.array([shapes.GetPerimeter(number) for number in range(1, len(particles.ids) + 1)], float)


def hulls(particles: Pixels) -> tuple[Array, Array]:
    """(N,) areas and (N,) largest diameters, in pixels, of the convex hulls of the pixels as squares."""
    which, rows, columns = particles.which, particles.rows, particles.columns
    # Within a row of a particle only the outer corners of the first and the last pixel can be on the hull.
    new = (np.diff(which, prepend=-1) != 0) | (np.diff(rows, prepend=-1) != 0)
    first = np.flatnonzero(new)
    last = np.append(first[1:], len(which))[: len(first)] - 1
    row = rows[first]
    left, right = columns[first], columns[last] + 1
    corners = np.stack([(row, left), (row, right), (row + 1, left), (row + 1, right)], 1).T  # (runs, 4, 2)
    ends = np.searchsorted(which[first], np.arange(len(particles.ids) + 1))
    hull_area, feret = np.zeros(len(particles.ids)), np.zeros(len(particles.ids))
    for number, (start, end) in enumerate(pairwise(ends)):
        hull = ConvexHull(corners[start:end].reshape(-1, 2))
        hull_area[number] = hull.volume  # Qhull's name for the area in two dimensions
        feret[number] = _diameter(hull.points[hull.vertices])
    return hull_area, feret


def _diameter(points: Array) -> float:
    """Largest distance of two of the points (N, 2); for a few, sooner done than SciPy's pdist is called."""
    place = points[:, 0] + 1j * points[:, 1]
    return float(np.abs(place[:, None] - place).max())
