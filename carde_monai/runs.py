"""Particles as runs of pixels along rows: ten times fewer numbers than pixels, whatever the frame's size.

SciPy and scikit-image label and measure whole frames: a stitched image of 300 megapixels would take several
arrays of a gigabyte each. Here the frame is read once, strip by strip.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Array = NDArray[Any]

STRIP = 1 << 22  # pixels: large enough for NumPy, small enough that a few copies are nothing
MOSAIC = 1 << 26  # pixels from which memory is scarcer than time: then one thing is done after the other


def strips(shape: tuple[int, ...], pixels: int = STRIP) -> Iterator[slice]:
    """Slices of rows that cover an (H, W) frame, each of about so many pixels."""
    height, width = shape
    rows = max(1, pixels // max(width, 1))
    return (slice(top, min(top + rows, height)) for top in range(0, height, rows))


class Runs(NamedTuple):
    """Pixels of equal value other than 0 along rows; in the order of ``np.ravel`` as `of` finds them."""

    values: Array  # (R,) what the pixels have in common
    rows: Array  # (R,)
    starts: Array  # (R,) first column
    stops: Array  # (R,) column behind the last

    @classmethod
    def of(cls, frame: Array, rule: Callable[[Array], Array] | None = None) -> Runs:
        """The runs of an (H, W) mask or label image, or of what ``rule`` makes of strips of it."""
        parts = []
        for strip in strips(frame.shape):
            pixels = frame[strip] if rule is None else rule(frame[strip])
            framed = np.zeros((pixels.shape[0], pixels.shape[1] + 2), pixels.dtype)
            framed[:, 1:-1] = pixels
            rows, starts = np.divmod(np.flatnonzero(framed[:, 1:] != framed[:, :-1]), framed.shape[1] - 1)
            values = framed[rows, starts + 1]
            # each row ends with a change to 0, so that a run's next change lies in its own row
            runs = np.flatnonzero(values)
            parts.append((values[runs], rows[runs] + strip.start, starts[runs], starts[runs + 1]))
        if not parts:
            none = np.zeros(0, int)
            return cls(none.astype(frame.dtype), none, none, none)
        return cls(*(np.concatenate(part) for part in zip(*parts, strict=True)))

    @property
    def lengths(self) -> Array:
        """(R,) pixels of each."""
        return self.stops - self.starts

    def ordered(self, order: Array) -> Runs:
        """The same runs in another order, or some of them."""
        return Runs(*(part[order] for part in self))

    def neighbours(self) -> tuple[Array, Array]:
        """Indices of the runs that touch, by a side or a corner, one in the row below: (upper, lower)."""
        pitch = self.stops.max(initial=0) + 2  # a run's end and the next row's beginning keep apart
        below = (self.rows + 1) * pitch
        first = np.searchsorted(self.rows * pitch + self.stops, below + self.starts, "left")
        behind = np.searchsorted(self.rows * pitch + self.starts, below + self.stops, "right")
        counts = np.maximum(behind - first, 0)
        upper = np.repeat(np.arange(len(counts)), counts)
        return upper, np.arange(len(upper)) + np.repeat(first - (np.cumsum(counts) - counts), counts)

    def components(self) -> Array:
        """(R,) index of the particle of each run of a mask, 8-neighbourhood, by the order of first pixels."""
        upper, lower = self.neighbours()
        count = len(self.rows)
        graph = coo_array((np.ones(len(upper), bool), (upper, lower)), shape=(count, count))
        return connected_components(graph, directed=False)[1] if count else np.zeros(0, np.int32)

    def painted(self, shape: tuple[int, ...], values: Array) -> NDArray[np.int32]:
        """(H, W) int32 frame with ``values`` (R,) on the runs, 0 elsewhere."""
        width = shape[1]
        at = self.rows * width
        edges = np.stack((at + self.starts, at + self.stops), 1).ravel()
        counts = np.diff(edges, prepend=0, append=shape[0] * width)
        numbers = np.zeros(len(counts), np.int32)
        numbers[1::2] = values
        return np.repeat(numbers, counts).reshape(shape)
