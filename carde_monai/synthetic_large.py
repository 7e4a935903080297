"""Carbides that are not laid one by one: films on grain boundaries, and crowds of large bodies.

Both are level sets of smooth maps, which a `Canvas` takes before the other carbides. Lengths are pixels
unless a name says ``um``.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage, special

from carde_monai.synthetic_bodies import FAR, MARGIN_PX, Body, Canvas
from carde_monai.synthetic_fields import Scatter, enlarge, smooth_noise
from carde_monai.synthetic_random import RandomSteel

CROWD_STEP = 3  # large bodies are smooth: every third pixel tells


def film(rng: np.random.Generator, steel: RandomSteel, grain: np.ndarray, canvas: Canvas) -> list[Body]:
    """A film of carbide along the boundaries of grains, thick and thin, broken in places: one body."""
    if steel.film_um <= 0:
        return []
    coarse = grain[::2, ::2]
    inner = np.ones(coarse.shape, bool)
    inner[1:] &= coarse[1:] == coarse[:-1]
    inner[:, 1:] &= coarse[:, 1:] == coarse[:, :-1]
    if inner.all():
        return []
    thick = steel.film_um / steel.pixel_size_um
    away = ndimage.gaussian_filter(2 * ndimage.distance_transform_edt(inner).astype(np.float32), 0.8)
    # positive over the share of the length that has a film
    present = smooth_noise(rng, coarse.shape, 8 * thick) + special.ndtri(min(steel.film_share, 0.999))
    edge = smooth_noise(rng, coarse.shape, 1.5 * thick)
    half = thick / 2 * ((2 * present).clip(-1, 1) + 0.2 * edge)
    depth = enlarge(half - away, (2 * coarse.shape[0], 2 * coarse.shape[1]))
    depth = depth[: canvas.frame[0], : canvas.frame[1]].clip(FAR)
    if depth.max() < 1:
        return []
    np.copyto(canvas.depth, depth)
    canvas.body[depth > -MARGIN_PX] = 0
    middle = canvas.frame[0] / 2, canvas.frame[1] / 2
    ecd = float(np.sqrt(4 / np.pi * (depth > 0).sum()))
    return [Body(*middle, ecd, float(depth.max()), "film", np.nan, np.nan)]


def crowd(rng: np.random.Generator, steel: RandomSteel, canvas: Canvas) -> list[Body]:
    """Large lobed bodies side by side, narrow channels of matrix between them: cells of scattered points."""
    if steel.crowd_share <= 0:
        return []
    size_px = steel.crowd_size_um / steel.pixel_size_um
    channel = steel.crowd_channel_um / steel.pixel_size_um
    rows, columns = (-(-side // CROWD_STEP) for side in canvas.frame)
    places = np.array(np.mgrid[:rows, :columns], np.float32) * CROWD_STEP + (CROWD_STEP - 1) / 2
    for length, bend in ((0.7, rng.uniform(0.03, 0.16)), (0.3, rng.uniform(0.0, 0.09))):
        for axis in places:
            axis += bend * size_px * smooth_noise(rng, (rows, columns), length * size_px / CROWD_STEP)
    scatter = Scatter(rng, size_px, canvas.frame)
    distance, near = scatter.tree.query(np.moveaxis(places, 0, -1), k=2)
    filled = rng.random(len(scatter.points)) < steel.crowd_share
    level = (distance[..., 1] - distance[..., 0]).astype(np.float32) / 2
    level = np.where(filled[near[..., 0]], level, -level) - channel / 2
    level = ndimage.gaussian_filter(level, rng.uniform(0.04, 0.11) * size_px / CROWD_STEP)  # round corners
    # first-order distance: the level over the length of its gradient
    steep = np.hypot(*np.gradient(level, CROWD_STEP)).clip(0.3, None)
    depth = enlarge((level / steep).astype(np.float32), (rows * CROWD_STEP, columns * CROWD_STEP))
    depth = depth[: canvas.frame[0], : canvas.frame[1]].clip(FAR)
    cell = np.repeat(np.repeat(near[..., 0], CROWD_STEP, 0), CROWD_STEP, 1)
    return _take_cells(canvas, depth, cell[: canvas.frame[0], : canvas.frame[1]])


def _take_cells(canvas: Canvas, depth: np.ndarray, cell: np.ndarray) -> list[Body]:
    """Add the cells to the canvas where they are nearer than what lies there; one body each."""
    area = np.bincount(cell[depth > 0], minlength=cell.max() + 1)
    members = np.flatnonzero(area > 8)
    number = np.full(len(area), -1, np.int32)
    first = int(canvas.body.max()) + 1
    number[members] = np.arange(first, first + len(members))
    nearer = (depth > canvas.depth) & (number[cell] >= 0) & (depth > -MARGIN_PX)
    np.copyto(canvas.depth, depth, where=nearer)
    np.copyto(canvas.body, number[cell], where=nearer)
    thickest = ndimage.maximum(depth, cell, members)
    centres = ndimage.center_of_mass(depth > 0, cell, members)
    ecd = np.sqrt(4 / np.pi * area[members])
    return [
        Body(row, column, one, thick, "cell", np.nan, np.nan)
        for (row, column), one, thick in zip(centres, ecd.tolist(), thickest, strict=True)
    ]
