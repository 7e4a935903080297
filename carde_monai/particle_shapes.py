"""Shapes of many particles at once: sums, ellipses, perimeters and convex hulls, in pixels."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull

from carde_monai.runs import STRIP, Runs

Array = NDArray[Any]

ROUND = 1e-9  # two axes that differ relatively by less are equal: they define no direction


class Particles(NamedTuple):
    """The runs of all particles, particle by particle and in each row by row from the left."""

    ids: Array  # (N,) the particles' numbers
    which: Array  # (R,) index into ids
    runs: Runs

    @classmethod
    def of(cls, labels: Array) -> Particles:
        runs = Runs.of(labels)
        ids, which = np.unique(runs.values, return_inverse=True)
        order = np.argsort(which, kind="stable")
        return cls(ids, which[order], runs.ordered(order))

    @property
    def starts(self) -> Array:
        """(N,) index of each particle's first run."""
        return np.searchsorted(self.which, np.arange(len(self.ids)))

    def sums(self, values: Array) -> Array:
        """(N,) sum over each particle of what its runs have."""
        return np.bincount(self.which, values, minlength=len(self.ids)).astype(float)

    def pixel_sums(self, plane: Array) -> Array:
        """(N,) sum over each particle's pixels of an (H, W) plane."""
        pixels, sums = plane.ravel(), np.zeros(len(self.ids))
        at, lengths = self.runs.rows * plane.shape[1] + self.runs.starts, self.runs.lengths
        ends = np.cumsum(lengths)
        total = int(ends[-1]) if len(ends) else 0
        cuts = np.searchsorted(ends, np.arange(0, total, STRIP), "right")  # the pixels of few runs at a time
        for first, last in pairwise([*cuts.tolist(), len(ends)]):
            part = lengths[first:last]
            offsets = at[first:last] - np.cumsum(part) + part
            places = np.repeat(offsets, part) + np.arange(part.sum())
            which = np.repeat(self.which[first:last], part)
            sums += np.bincount(which, pixels[places], minlength=len(self.ids))
        return sums


def ellipses(
    particles: Particles, x: Array, y: Array, area: Array, scale: float, unit: str
) -> dict[str, Array]:
    """Axes of the ellipses of equal second moments: 4 sqrt(eigenvalue) of the covariance."""
    runs, n = particles.runs, particles.runs.lengths
    dx = (runs.starts + runs.stops - 1) / 2 - x[particles.which]  # of the run's middle
    dy = y[particles.which] - runs.rows  # up, as on the screen
    # (n^3 - n) / 12 is the sum of squares within a run, 1/12 the variance within a pixel, a square
    xx = particles.sums(n * dx * dx + (n**3 - n) / 12) / area + 1 / 12
    yy = particles.sums(n * dy * dy) / area + 1 / 12
    xy = particles.sums(n * dx * dy) / area
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


def perimeters(particles: Particles, area: Array) -> Array:
    """(N,) perimeters of the particles in pixels; what lies outside the frame is outside them.

    Crofton's formula (Lehmann and Legland, Insight Journal 2012, as in SimpleITK): pi / 4 times the lines'
    exits from the particle along rows, columns and, over sqrt(2), diagonals, whose lines are so much closer.
    """
    order = np.lexsort((particles.runs.starts, particles.runs.rows))
    which, runs = particles.which[order], particles.runs.ordered(order)
    upper, lower = runs.neighbours()
    same = which[upper] == which[lower]
    upper, lower = upper[same], lower[same]
    exits = np.bincount(which, minlength=len(area)).astype(float)
    for shift, weight in ((0, 1.0), (1, np.sqrt(0.5)), (-1, np.sqrt(0.5))):
        left = np.maximum(runs.starts[upper], runs.starts[lower] + shift)
        right = np.minimum(runs.stops[upper], runs.stops[lower] + shift)
        inside = np.bincount(which[upper], np.maximum(right - left, 0), minlength=len(area))
        exits += weight * (area - inside)
    return np.pi / 4 * exits


def hulls(particles: Particles) -> tuple[Array, Array]:
    """(N,) areas and (N,) largest diameters, in pixels, of the convex hulls of the pixels as squares."""
    which, runs = particles.which, particles.runs
    # Within a row of a particle only the outer corners of the first and the last run can be on the hull.
    new = (np.diff(which, prepend=-1) != 0) | (np.diff(runs.rows, prepend=-1) != 0)
    first = np.flatnonzero(new)
    last = np.append(first[1:], len(which))[: len(first)] - 1
    row, left, right = runs.rows[first], runs.starts[first], runs.stops[last]
    corners = np.stack([(row, left), (row, right), (row + 1, left), (row + 1, right)], 1).T  # (rows, 4, 2)
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
