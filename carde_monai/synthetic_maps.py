"""A random scene as maps: which grain, which carbide, how deep inside it, for every pixel.

From maps, any part can be painted again and again with other greys (:mod:`carde_monai.synthetic_paint`), at a
fraction of what the scene costs. Lengths are pixels unless a name says ``um``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special

from carde_monai.synthetic_bodies import (
    CANDIDATES,
    HALVES,
    Bodies,
    Body,
    Canvas,
    outlines,
    sizes,
    windows,
)
from carde_monai.synthetic_fields import Scatter, smooth_noise
from carde_monai.synthetic_large import crowd, film
from carde_monai.synthetic_random import RandomSteel
from carde_monai.synthetic_scene import boundary_points

REGIONS = 8192  # numbers of regions: two far apart may share one
BLOCK = 4  # carbides choose their places by blocks of pixels
SMALL_PER_MEGAPIXEL = 600  # ghosts, and pores, at most


@dataclass(frozen=True)
class Scene:
    """Maps (H, W), and one entry a body in the other arrays."""

    steel: RandomSteel
    depth: np.ndarray  # signed distance to the nearest body, inside positive, FAR where there is none
    body: np.ndarray  # which body that is, -1 where there is none
    grain: np.ndarray
    region: np.ndarray  # grains, and the cells or laths inside them
    ghost: np.ndarray  # bodies below the surface, of the grey of a body
    pore: np.ndarray  # holes negative, lips beside them positive
    row: np.ndarray
    column: np.ndarray
    ecd: np.ndarray
    thickest: np.ndarray  # the largest depth of the body
    shape: np.ndarray
    aspect: np.ndarray
    angle: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.depth.shape[0], self.depth.shape[1]


@dataclass(frozen=True)
class _Grains:
    grain: np.ndarray
    region: np.ndarray
    habit: np.ndarray  # direction of the carbides in each grain
    richness: np.ndarray


def draw_scene(rng: np.random.Generator, steel: RandomSteel, size: tuple[int, int]) -> Scene:
    """A scene of ``size`` (rows, columns): grains, carbides that lie apart, ghosts and pores.

    Carbides are a Poisson number of mean density x area; those that find no room are left out.
    """
    grains = _grow(rng, steel, size)
    area_um2 = size[0] * size[1] * steel.pixel_size_um**2
    ecd = sizes(rng, steel, int(rng.poisson(steel.density_per_um2 * area_um2)))
    bodies = _choose(rng, steel, grains, ecd)
    canvas = Canvas(size, int(HALVES[-1]))
    large = film(rng, steel, grains.grain, canvas) + crowd(rng, steel, canvas)
    laid = _lay(rng, steel, bodies, canvas, first=len(large))
    columns = [np.array(values) for values in zip(*large, *laid, strict=True)] or [np.empty(0)] * 7
    columns[:4] = [values.astype(np.float32) for values in columns[:4]]
    small = _small(rng, steel, canvas)
    return Scene(steel, canvas.depth, canvas.body, grains.grain, grains.region, *small, *columns)


def _grow(rng: np.random.Generator, steel: RandomSteel, size: tuple[int, int]) -> _Grains:
    """Grains, as the nearest of scattered points of a bent plane; some divided into cells or laths."""
    pixel = steel.pixel_size_um
    places = np.array(np.mgrid[: size[0], : size[1]], np.float32)
    for length_um, bend_um in ((0.8, 0.12), (0.08, 0.012)):
        for axis in places:
            axis += np.float32(bend_um / pixel) * smooth_noise(rng, size, length_um / pixel)
    scatter = Scatter(rng, steel.grain_size_um / pixel, size)
    grain = scatter.nearest(places)
    count, cell_px = len(scatter.points), steel.cell_size_um / pixel
    habit = rng.uniform(0, np.pi, count)
    kind = rng.choice(3, count, p=steel.grain_kinds).astype(np.int8)
    part = np.zeros(size, np.int32)
    here = kind[grain]
    if (here == 1).any():
        part = np.where(here == 1, 1 + Scatter(rng, cell_px, size).nearest(places), part)
    if (here == 2).any():
        cos, sin = np.cos(habit).astype(np.float32), np.sin(habit).astype(np.float32)
        across = (places[0] * cos[grain] - places[1] * sin[grain]) / np.float32(0.45 * cell_px)
        across += 0.4 * np.sin(2.1 * across + rng.uniform(0, 6))  # of differing width
        part = np.where(here == 2, np.floor(across).astype(np.int32), part)
    # laths have the odd numbers
    region = (((2 * (grain * 617 + part * 31)) % REGIONS) + (here == 2)).astype(np.int16)
    return _Grains(grain, region, habit, rng.beta(0.6, 0.7, count).clip(0.05))


def _choose(rng: np.random.Generator, steel: RandomSteel, grains: _Grains, ecd: np.ndarray) -> Bodies:
    """Shape, outline, direction and candidate places of carbides of the sizes given."""
    names = np.array([shape.name for shape in steel.shapes])
    shares = np.array([shape.share for shape in steel.shapes])
    shape = rng.choice(len(names), len(ecd), p=shares / shares.sum())
    low, high = np.array([(one.aspect_min, one.aspect_max) for one in steel.shapes]).T
    aspect = rng.uniform(low[shape], high[shape])
    # never thinner than 1.6 px: the minor axis is ecd / sqrt(aspect)
    aspect = np.minimum(aspect, np.maximum(1.0, (ecd / 1.6) ** 2))
    radius = outlines(rng, names[shape], aspect, steel.roughness) * (ecd[:, None] / 2).astype(np.float32)
    places, angle = _Places(rng, steel, grains).choose(names[shape], ecd)
    return Bodies(names[shape], ecd, aspect, angle, radius, places)


class _Places:
    """Where carbides of each shape may lie: anywhere (rich grains first), in packets, in chains."""

    def __init__(self, rng: np.random.Generator, steel: RandomSteel, grains: _Grains) -> None:
        self.rng, self.steel, self.grains, self.size = rng, steel, grains, grains.grain.shape
        blocks = grains.grain[::BLOCK, ::BLOCK]
        self.columns, self.grain = blocks.shape[1], blocks.ravel()
        self.rich = np.cumsum(grains.richness[self.grain])
        self.order = np.argsort(self.grain, kind="stable")
        self.count = np.bincount(self.grain, minlength=len(grains.habit))
        self.start = np.cumsum(self.count) - self.count

    def choose(self, names: np.ndarray, ecd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Candidate places (N, CANDIDATES, 2) and directions (N,) of carbides of the shapes named."""
        rng = self.rng
        places, angle = self._anywhere((ecd * self.steel.pixel_size_um > 0.05) | (rng.random(len(ecd)) < 0.6))
        angle += rng.normal(0, 0.5, len(ecd))
        for name, somewhere in (("plate", self._packets), ("chain", self._chains)):
            chosen = np.flatnonzero(names == name)
            if len(chosen):
                near, angles = somewhere(len(chosen))
                inside = ((near >= 0) & (near < self.size)).all(-1, keepdims=True)
                # the last candidates stay anywhere
                inside[:, -CANDIDATES // 3 :] = False
                places[chosen] = np.where(inside, near, places[chosen])
                angle[chosen] = np.where(np.isnan(angles), angle[chosen], angles)
        return places, angle

    def _pixels(self, blocks: np.ndarray) -> np.ndarray:
        """A pixel (..., 2) of each block."""
        corners = np.stack([blocks // self.columns, blocks % self.columns], -1) * BLOCK
        return np.minimum(corners + self.rng.integers(0, BLOCK, corners.shape), np.array(self.size) - 1)

    def _anywhere(self, rich: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rng, count = self.rng, (len(rich), CANDIDATES)
        first = np.searchsorted(self.rich, rng.random(len(rich)) * self.rich[-1]).clip(0, len(self.rich) - 1)
        first = np.where(rich, first, rng.integers(len(self.rich), size=len(rich)))
        grain = self.grain[first]
        # first in the grain whose habit it has, then elsewhere
        inside = (rng.random(count) * self.count[grain][:, None]).astype(int) + self.start[grain][:, None]
        blocks = self.order[inside]
        blocks[:, 0] = first
        last = blocks[:, -CANDIDATES // 3 :]
        last[:] = rng.integers(len(self.rich), size=last.shape)
        return self._pixels(blocks), self.grains.habit[grain].copy()

    def _packets(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        rng = self.rng
        packets = 1 + count // 9
        centres, habit = self._anywhere(np.ones(packets, bool))
        mine = rng.integers(packets, size=count)
        habit = habit[mine]
        spread = np.array([0.25, 0.45]) / self.steel.pixel_size_um
        along, across = np.moveaxis(rng.normal(0, spread, (count, CANDIDATES, 2)), -1, 0)
        cos, sin = np.cos(habit)[:, None], np.sin(habit)[:, None]
        moved = np.stack([along * sin + across * cos, along * cos - across * sin], -1)
        return (centres[mine, :1] + moved).astype(int), habit + rng.normal(0, 0.06, count)

    def _chains(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        rng = self.rng
        points = boundary_points(self.grains.region[::2, ::2]) * (2, 2, 1)
        if not len(points):
            return np.full((count, CANDIDATES, 2), -1), np.full(count, np.nan)
        chains = 1 + count // 10
        mine = rng.integers(chains, size=count)
        near = np.empty((count, CANDIDATES, 3))
        for chain in np.unique(mine):
            seed = points[rng.integers(len(points)), :2]
            reach = rng.uniform(0.4, 1.4) / self.steel.pixel_size_um
            stretch = points[np.hypot(*(points[:, :2] - seed).T) < reach]
            members = mine == chain
            near[members] = stretch[rng.integers(len(stretch), size=(members.sum(), CANDIDATES))]
        near[..., :2] += rng.normal(0, 0.7, near[..., :2].shape)
        return near[..., :2].round().astype(int), near[:, 0, 2] + rng.normal(0, 0.15, count)


def _lay(
    rng: np.random.Generator, steel: RandomSteel, bodies: Bodies, canvas: Canvas, first: int
) -> list[Body]:
    laid: list[Body] = []
    for index, window in enumerate(windows(rng, bodies)):
        number = canvas.lay(window, bodies.places[index], steel.gap_px, first + len(laid))
        if number >= 0:
            row, column = map(float, bodies.places[index, number])
            drawn = bodies.shape[index], bodies.aspect[index], bodies.angle[index]
            laid.append(Body(row, column, bodies.ecd[index], float(window.max()), *drawn))
    return laid


def _small(rng: np.random.Generator, steel: RandomSteel, canvas: Canvas) -> tuple[np.ndarray, np.ndarray]:
    """Maps of ghosts and of pores: soft discs, where no carbide's middle is."""
    area_um2 = canvas.frame[0] * canvas.frame[1] * steel.pixel_size_um**2
    most = round(SMALL_PER_MEGAPIXEL * canvas.frame[0] * canvas.frame[1] / 1e6)
    room = canvas.room
    inner = slice(room, room + canvas.frame[0]), slice(room, room + canvas.frame[1])
    maps = []
    for density, median_um, spread, least in (
        (steel.ghosts_per_um2, 0.55 * steel.ecd_median_um, 0.5, 1.5),
        (steel.pores_per_um2, 0.032, 0.35, 1.6),
    ):
        drawn = np.zeros((canvas.frame[0] + 2 * room, canvas.frame[1] + 2 * room), np.float32)
        count = min(int(rng.poisson(density * area_um2)), most)
        ecd = (rng.lognormal(np.log(median_um), spread, count) / steel.pixel_size_um).clip(least, 80)
        names, aspect = np.full(count, "ellipse"), rng.uniform(1, 1.6, count)
        radius = outlines(rng, names, aspect, 0.05) * (ecd[:, None] / 2).astype(np.float32)
        places = rng.integers(0, canvas.frame, (count, 2))
        discs = Bodies(names, ecd, aspect, rng.uniform(0, np.pi, count), radius, places[:, None])
        paint = _paint_ghost if not maps else _paint_pore
        for window, (row, column) in zip(windows(rng, discs), places.tolist(), strict=True):
            if canvas.depth[row, column] < 0:
                half = window.shape[0] // 2
                around = slice(row + room - half, row + room + half + 1)
                paint(rng, drawn[around, column + room - half : column + room + half + 1], window)
        maps.append(drawn[inner])
    return maps[0], maps[1]


def _soft(depth: np.ndarray, softness: float) -> np.ndarray:
    return special.expit(2 / np.float32(softness) * depth)


def _paint_ghost(rng: np.random.Generator, there: np.ndarray, depth: np.ndarray) -> None:
    buried = rng.uniform(0, 1)  # deeper: fainter and softer
    there += (0.45 - 0.3 * buried) * rng.uniform(0.4, 1.1) * _soft(depth, 1.0 + 3 * buried)


def _paint_pore(rng: np.random.Generator, there: np.ndarray, depth: np.ndarray) -> None:
    hole = rng.uniform(0.4, 1.5) * _soft(depth, 0.8)
    there -= hole
    if rng.random() < 0.4:  # a bright lip beside the hole
        there += 0.7 * np.roll(hole, rng.choice([-1, 1]) * min(4, 2 + round(float(depth.max()))), axis=1)
