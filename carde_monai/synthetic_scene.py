"""Geometry of a synthetic micrograph: grains, and where the carbides lie.

Nothing here knows greys; :mod:`carde_monai.synthetic` paints. Lengths are pixels unless a name says ``um``.
Angles are radians from the column axis towards the row axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from carde_monai.synthetic_outlines import outline, signed_depth

if TYPE_CHECKING:
    from carde_monai.synthetic import Shape, Steel

COARSE = 4  # grains are looked up on every fourth pixel, then exactly wherever the answer may change
GAP_PX = 3.0  # free matrix between two carbides
CHAIN_GAP_PX = 1.5  # the same in a chain on a grain boundary, where label noise may join neighbours
PATCH_MARGIN_PX = 4  # painted surroundings of an outline
TRIES = 60


@dataclass(frozen=True)
class Grains:
    """Regions of one crystal orientation: the map (H, W) and one entry a region in the other arrays."""

    region: np.ndarray
    parent: np.ndarray  # the big grain each region belongs to
    angle: np.ndarray  # habit direction of the carbides inside
    richness: np.ndarray  # relative number density of carbides, 0..1
    boundary: np.ndarray  # (N, 3): row, column, tangent angle of boundary pixels


@dataclass(frozen=True)
class Carbide:
    """One outline: ``depth`` is the signed distance (inside positive) on the window ``rows, columns``."""

    shape: str
    ecd_um: float
    row: float
    column: float
    angle: float
    aspect: float
    rows: slice
    columns: slice
    depth: np.ndarray


class _Warp:
    """A smooth random bend of the plane, so that boundaries are curved and slightly ragged."""

    bends_um = ((0.8, 0.12), (0.08, 0.012))  # correlation length, amplitude

    def __init__(self, rng: np.random.Generator, steel: Steel, frame: tuple[int, int]) -> None:
        self.bends = []
        for scale_um, amplitude_um in self.bends_um:
            scale = scale_um / steel.pixel_size_um
            nodes = rng.standard_normal((2, int(frame[0] / scale) + 5, int(frame[1] / scale) + 5))
            # a cubic B-spline through white nodes has variance (151/315)^2
            self.bends.append((scale, nodes * amplitude_um / steel.pixel_size_um * 315 / 151))

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Bent copy (N, 2) of points (2, N)."""
        bent = np.array(points, dtype=float)
        for scale, nodes in self.bends:
            for axis in range(2):
                bent[axis] += ndimage.map_coordinates(
                    nodes[axis], points / scale + 1, order=3, mode="nearest", prefilter=False
                )
        return bent.T


class _Division:
    """Region of a point: its big grain, and within that the cell, or the lath, or nothing smaller.

    Big grains are a Voronoi map. So are cells, of the plane turned and stretched for each grain: squeezed
    along the habit they come out as laths; shrunk to nothing, the grain is whole.
    """

    def __init__(self, rng: np.random.Generator, steel: Steel, frame: tuple[int, int]) -> None:
        grain, cell = steel.grain_size_um / steel.pixel_size_um, steel.cell_size_um / steel.pixel_size_um
        self.warp = _Warp(rng, steel, frame)
        low, high = np.array([-grain, -grain]), np.array(frame) + grain
        seeds = rng.uniform(low, high, (max(2, round(np.prod(high - low) / grain**2)), 2))
        self.grains = cKDTree(seeds)
        kind = rng.choice(3, len(seeds), p=steel.grain_kinds)
        stretch = np.stack([np.choose(kind, [0, 1, 0.3]), np.choose(kind, [0, 1, 1.5])], axis=1)
        self.habit = rng.uniform(0, np.pi, len(seeds))
        cos, sin = np.cos(self.habit), np.sin(self.habit)
        # rows of the matrix: along and across the habit, of a point given as (row, column)
        self.turn = stretch[:, :, None] * np.stack(
            [np.stack([sin, cos], 1), np.stack([cos, -sin], 1)], axis=1
        )
        reach = 1.6 * float(np.hypot(*high))
        count = round((2 * reach) ** 2 / cell**2)
        self.cells = cKDTree(rng.uniform(-reach, reach, (count, 2)))

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Key (N,) of the region of each point (2, N): grain x number of cells + cell."""
        bent = self.warp(points)
        grain = self.grains.query(bent)[1]
        turned = np.einsum("nij,nj->ni", self.turn[grain], bent)
        return grain * self.cells.n + self.cells.query(turned)[1]


def _region_map(division: _Division, frame: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Region map (H, W), exact near boundaries and looked up coarsely elsewhere, and each region's grain."""
    grid = np.mgrid[0 : frame[0] + COARSE : COARSE, 0 : frame[1] + COARSE : COARSE] + (COARSE - 1) / 2
    coarse = division(grid.reshape(2, -1)).reshape(grid.shape[1:])
    mixed = ndimage.maximum_filter(coarse, 3) != ndimage.minimum_filter(coarse, 3)
    where = np.nonzero(_repeat(mixed)[: frame[0], : frame[1]])
    exact = division(np.array(where))
    keys, index = np.unique(np.concatenate([coarse.ravel(), exact]), return_inverse=True)
    region = _repeat(index[: coarse.size].reshape(coarse.shape))[: frame[0], : frame[1]]
    region[where] = index[coarse.size :]
    return region, keys // division.cells.n


def _repeat(array: np.ndarray) -> np.ndarray:
    return np.repeat(np.repeat(array, COARSE, 0), COARSE, 1)


def boundary_points(region: np.ndarray) -> np.ndarray:
    """Boundary pixels of a region map as rows of (row, column, tangent angle)."""
    edge = np.zeros(region.shape, bool)
    edge[1:] |= region[1:] != region[:-1]
    edge[:, 1:] |= region[:, 1:] != region[:, :-1]
    rows, columns = np.nonzero(edge)
    keep = slice(None, None, 7)
    rows, columns = rows[keep], columns[keep]
    if len(rows) < 3:
        return np.empty((0, 3))
    # tangent: principal axis of the boundary pixels nearby
    tree = cKDTree(np.stack([rows, columns], 1))
    near = tree.query(np.stack([rows, columns], 1), k=min(9, len(rows)))[1]
    dy, dx = (
        rows[near] - rows[near].mean(1, keepdims=True),
        columns[near] - columns[near].mean(1, keepdims=True),
    )
    tangent = 0.5 * np.arctan2(2 * (dy * dx).sum(1), (dx**2 - dy**2).sum(1))
    return np.stack([rows, columns, tangent], axis=1)


def grow_grains(rng: np.random.Generator, steel: Steel, frame: tuple[int, int]) -> Grains:
    """Divide a frame (H, W) into big grains, some of them into cells or laths."""
    division = _Division(rng, steel, frame)
    region, parent = _region_map(division, frame)
    richness = rng.beta(0.6, 0.7, division.grains.n).clip(0.05)
    angle = division.habit[parent] + rng.normal(0, 0.1, len(parent))
    return Grains(region, parent, angle, richness[parent], boundary_points(region))


class _Anchors:
    """Where carbides of each shape may lie: anywhere (rich grains first), in packets, in chains."""

    def __init__(self, rng: np.random.Generator, steel: Steel, grains: Grains, shapes: list[str]) -> None:
        self.rng, self.steel, self.grains = rng, steel, grains
        self.frame = grains.region.shape
        self.packets = [self.anywhere(True) for _ in range(1 + shapes.count("plate") // 9)]
        chains = 1 + shapes.count("chain") // 10
        boundary = grains.boundary
        self.chains = [
            self._stretch(boundary[rng.integers(len(boundary))])
            for _ in range(chains if len(boundary) else 0)
        ]

    def _stretch(self, seed: np.ndarray) -> np.ndarray:
        reach = self.rng.uniform(0.4, 1.4) / self.steel.pixel_size_um
        boundary = self.grains.boundary
        return boundary[np.hypot(*(boundary[:, :2] - seed[:2]).T) < reach]

    def anywhere(self, rich: bool) -> tuple[float, float, float]:
        while True:
            row, column = self.rng.uniform(0, self.frame[0]), self.rng.uniform(0, self.frame[1])
            region = self.grains.region[int(row), int(column)]
            if not rich or self.rng.random() < self.grains.richness[region]:
                return row, column, float(self.grains.angle[region])

    def draw(self, shape: str, large: bool) -> tuple[float, float, float]:
        """Row, column, angle of a candidate place."""
        rng = self.rng
        if shape == "chain" and self.chains:
            stretch = self.chains[rng.integers(len(self.chains))]
            row, column, angle = stretch[rng.integers(len(stretch))] + rng.normal(0, [0.7, 0.7, 0.15])
        elif shape == "plate":
            row, column, angle = self.packets[rng.integers(len(self.packets))]
            along, across = rng.normal(0, np.array([0.25, 0.45]) / self.steel.pixel_size_um)
            row += along * np.sin(angle) + across * np.cos(angle)
            column += along * np.cos(angle) - across * np.sin(angle)
            angle += rng.normal(0, 0.06)
        else:
            row, column, angle = self.anywhere(large or rng.random() < 0.6)
            angle += rng.normal(0, 0.5)
        return row, column, angle


def _sizes_um(rng: np.random.Generator, steel: Steel, count: int) -> np.ndarray:
    """Equivalent circle diameters: log-normal, redrawn until inside the limits; largest first."""
    sizes = np.empty(0)
    while len(sizes) < count:
        drawn = rng.lognormal(np.log(steel.ecd_median_um), steel.ecd_sigma, count)
        sizes = np.append(sizes, drawn[(drawn >= steel.ecd_min_um) & (drawn <= steel.ecd_max_um)])
    return np.sort(sizes[:count])[::-1]


def place_carbides(rng: np.random.Generator, steel: Steel, grains: Grains) -> list[Carbide]:
    """Draw a Poisson number of carbides and lay them without overlap, centres inside the frame.

    Largest first; a carbide that finds no room in its packet or chain goes anywhere, as its size was drawn.
    """
    frame = grains.region.shape
    area_um2 = frame[0] * frame[1] * steel.pixel_size_um**2
    sizes = _sizes_um(rng, steel, int(rng.poisson(steel.density_per_um2 * area_um2)))
    kinds = rng.choice(len(steel.shapes), len(sizes), p=[shape.share for shape in steel.shapes])
    shapes = [steel.shapes[kind] for kind in kinds]
    anchors = _Anchors(rng, steel, grains, [shape.name for shape in shapes])
    occupied = np.zeros(frame, bool)
    placed = []
    for ecd_um, shape in zip(sizes, shapes, strict=True):
        carbide = _place(rng, steel, anchors, occupied, shape, float(ecd_um))
        if carbide is not None:
            placed.append(carbide)
    return placed


def _place(
    rng: np.random.Generator,
    steel: Steel,
    anchors: _Anchors,
    occupied: np.ndarray,
    shape: Shape,
    ecd_um: float,
) -> Carbide | None:
    # a plate of a few pixels is a dot: small carbides are round
    aspect = 1 + (rng.uniform(shape.aspect_min, shape.aspect_max) - 1) * min(1.0, ecd_um / 0.06)
    radius = outline(rng, shape.name, aspect, steel.roughness) * ecd_um / 2 / steel.pixel_size_um
    gap = CHAIN_GAP_PX if shape.name == "chain" else GAP_PX
    for attempt in range(TRIES):
        row, column, angle = anchors.draw(shape.name if attempt < TRIES // 3 else "ellipse", ecd_um > 0.05)
        if not (0 <= row < occupied.shape[0] and 0 <= column < occupied.shape[1]):
            continue
        if occupied[int(row), int(column)]:
            continue
        rows, columns, depth = signed_depth(radius, (row, column), angle, occupied.shape, PATCH_MARGIN_PX)
        if occupied[rows, columns][depth > -gap].any():
            continue
        occupied[rows, columns] |= depth > 0
        return Carbide(shape.name, ecd_um, row, column, angle, aspect, rows, columns, depth)
    return None
