"""Random fields for synthetic micrographs: smooth noise, the nearest of scattered points, paired numbers."""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy import ndimage
from scipy.spatial import cKDTree


def enlarge(coarse: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear enlargement to (H, W); Pillow's is ten times faster than scipy's."""
    return np.asarray(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BILINEAR))


def smooth_noise(rng: np.random.Generator, size: tuple[int, int], scale: float) -> np.ndarray:
    """Smooth unit-variance noise (H, W), float32, correlated over ``scale`` pixels."""
    shape = tuple(int(side * 2 // scale) + 3 for side in size)
    coarse = ndimage.gaussian_filter(rng.standard_normal(shape, np.float32), 1.2)
    return enlarge(coarse * (2 * np.sqrt(np.pi) * 1.2), size)  # unit variance again


def correlated(
    rng: np.random.Generator, count: int, correlation: float, dtype: type[np.floating] = np.float64
) -> np.ndarray:
    """Standard normal numbers (2, count) whose rows correlate."""
    first, second = rng.standard_normal((2, count), dtype)
    return np.stack([first, correlation * first + dtype(np.sqrt(1 - correlation**2)) * second])


class Scatter:
    """Points scattered over the plane, about ``spacing`` pixels apart, and which of them is nearest."""

    def __init__(self, rng: np.random.Generator, spacing: float, frame: tuple[int, int]) -> None:
        low, high = -1.5 * spacing, np.array(frame) + 1.5 * spacing
        count = max(4, round(float(np.prod(high - low)) / spacing**2))
        self.points = rng.uniform(low, high, (count, 2)).astype(np.float32)
        self.tree = cKDTree(self.points)
        self.step = int(np.clip(spacing / 8, 1, 8))

    def nearest(self, places: np.ndarray) -> np.ndarray:
        """Index (H, W) of the point nearest to each of the ``places`` (2, H, W), which change slowly.

        The three nearest points are looked up for every block of pixels, then each pixel takes its own.
        """
        step, size = self.step, places.shape[1:]
        blocks = places[:, step // 2 :: step, step // 2 :: step]
        near = self.tree.query(np.moveaxis(blocks, 0, -1), k=3)[1].astype(np.int32)
        y, x = np.ascontiguousarray(self.points.T)
        best, closest = np.zeros(size, np.int32), np.full(size, np.inf, np.float32)
        for rank in range(3):
            index = np.repeat(np.repeat(near[..., rank], step, 0), step, 1)
            index = np.pad(index, [(0, max(0, size[k] - index.shape[k])) for k in range(2)], mode="edge")
            index = index[: size[0], : size[1]]
            distance = (places[0] - y.take(index)) ** 2 + (places[1] - x.take(index)) ** 2
            nearer = distance < closest
            np.copyto(best, index, where=nearer)
            np.copyto(closest, distance, where=nearer)
        return best
