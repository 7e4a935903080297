"""Carbides of a random scene, drawn in bulk: outlines, signed distances, and laying them without overlap.

What :mod:`carde_monai.synthetic_scene` does carbide by carbide for the two documented steels is done here on
arrays of many carbides, twenty times as fast. Lengths are pixels unless a name says ``um``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from carde_monai.synthetic_outlines import ANGLES, star
from carde_monai.synthetic_random import RandomSteel

MARGIN_PX = 7  # distances are known so far outside an outline
FAR = -8.0  # the distance further away
CANDIDATES = 14  # places tried for a carbide
# half sides of windows: carbides whose windows are of one size are drawn together
HALVES = np.unique(np.round(np.geomspace(MARGIN_PX + 2, 300, 22)).astype(int))
AT_ONCE = 400_000  # pixels of windows drawn together: they stay in the cache


class Body(NamedTuple):
    """A carbide that has been laid."""

    row: float
    column: float
    ecd: float
    thickest: float  # the largest depth of any pixel of it
    shape: str
    aspect: float
    angle: float


@dataclass
class Bodies:
    """Carbides that are to be laid, one entry an array."""

    shape: np.ndarray
    ecd: np.ndarray
    aspect: np.ndarray
    angle: np.ndarray
    radius: np.ndarray  # (N, 257) at ANGLES
    places: np.ndarray  # (N, CANDIDATES, 2): rows and columns where it may lie, best first


def sizes(rng: np.random.Generator, steel: RandomSteel, count: int) -> np.ndarray:
    """Equivalent circle diameters in pixels, the log-normal inside its limits; largest first."""
    drawn = np.empty(0)
    while len(drawn) < count:
        more = rng.lognormal(np.log(steel.ecd_median_um), steel.ecd_sigma, count + 20)
        drawn = np.append(drawn, more[(more >= steel.ecd_min_um) & (more <= steel.ecd_max_um)])
    return np.sort(drawn[:count])[::-1] / steel.pixel_size_um


def outlines(rng: np.random.Generator, names: np.ndarray, aspect: np.ndarray, roughness: float) -> np.ndarray:
    """Radii (N, 257) at ``ANGLES`` of outlines of these shapes and aspects, of the unit circle's area."""
    radius = np.empty((len(names), len(ANGLES)), np.float32)
    power = rng.uniform(0, 0.6, (len(names), 1))
    wobble = rng.standard_normal((len(names), 5)), rng.uniform(0, 2 * np.pi, (len(names), 5))
    for name in np.unique(names):
        chosen = names == name
        radius[chosen] = star(
            str(name), aspect[chosen, None], power[chosen], *(part[chosen] for part in wobble), roughness
        )
    return radius


def depths(radius: np.ndarray, angle: np.ndarray, shift: np.ndarray, half: int) -> np.ndarray:
    """Signed distances (N, 2 half + 1, 2 half + 1), inside positive, of outlines about a window's centre.

    ``shift`` (N, 2) moves an outline by parts of a pixel. First order, as `synthetic_outlines.signed_depth`.
    """
    span = np.arange(-half, half + 1, dtype=np.float32)
    shift, angle = shift.astype(np.float32), angle.astype(np.float32)
    dy = span[None, :, None] - shift[:, 0, None, None]
    dx = span[None, None, :] - shift[:, 1, None, None]
    distance = np.sqrt(dy**2 + dx**2)
    steps = len(ANGLES) - 1
    turn = (np.arctan2(dy, dx) - angle[:, None, None]) * np.float32(steps / (2 * np.pi))
    turn = turn + np.float32(steps / 2)
    low = np.floor(turn)
    part = turn - low
    low = low.astype(np.int32) % steps
    low += (np.arange(len(radius), dtype=np.int32) * len(ANGLES))[:, None, None]
    rise = np.diff(radius, append=0).ravel()
    slope = rise.take(low)
    here = radius.ravel().take(low) + part * slope
    slope *= np.float32(steps / (2 * np.pi))
    depth = (here - distance) / np.sqrt(1 + (slope / here) ** 2)
    return np.minimum(depth, radius.min(1)[:, None, None])


def windows(rng: np.random.Generator, bodies: Bodies) -> list[np.ndarray]:
    """The signed distances of each body, moved by a part of a pixel, in a window just large enough."""
    needed = bodies.radius.max(1) + MARGIN_PX
    half = HALVES[np.searchsorted(HALVES, needed).clip(0, len(HALVES) - 1)]
    shift = rng.uniform(-0.5, 0.5, (len(needed), 2))
    drawn: list[np.ndarray] = [np.empty(0)] * len(needed)
    for side in np.unique(half):
        members = np.flatnonzero(half == side)
        chunk = max(1, AT_ONCE // (2 * int(side) + 1) ** 2)
        for start in range(0, len(members), chunk):
            part = members[start : start + chunk]
            for body, window in zip(
                part, depths(bodies.radius[part], bodies.angle[part], shift[part], int(side)), strict=True
            ):
                drawn[body] = window
    return drawn


class Canvas:
    """Signed distance to the nearest body and which body that is, (H, W) each; bodies may stick out of it."""

    def __init__(self, frame: tuple[int, int], room: int) -> None:
        self.frame, self.room = frame, room
        padded = frame[0] + 2 * room, frame[1] + 2 * room
        self._depth, self._body = np.full(padded, FAR, np.float32), np.full(padded, -1, np.int32)
        inner = slice(room, room + frame[0]), slice(room, room + frame[1])
        self.depth, self.body = self._depth[inner], self._body[inner]

    def lay(self, window: np.ndarray, places: np.ndarray, gap: float, body: int) -> int:
        """Lay a body on the first of the ``places`` that is free; returns which, or -1."""
        half, solid = window.shape[0] // 2, window > -gap
        for number, (row, column) in enumerate(places.tolist()):
            row, column = row + self.room, column + self.room
            if self._depth[row, column] > -gap:
                continue
            here = slice(row - half, row + half + 1), slice(column - half, column + half + 1)
            there = self._depth[here]
            if (solid & (there > 0)).any():
                continue
            nearer = window > there
            np.copyto(there, window, where=nearer)
            np.copyto(self._body[here], body, where=nearer)
            return number
        return -1
