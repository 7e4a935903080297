"""Greys of a part of a random scene, and its label.

The greys are those of :mod:`carde_monai.synthetic_view`, from tables with an entry a grain and a body
instead of body by body. :mod:`carde_monai.synthetic_scan` then makes an image of them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import ndimage

from carde_monai.synthetic_bodies import MARGIN_PX
from carde_monai.synthetic_fields import correlated, enlarge, smooth_noise
from carde_monai.synthetic_maps import REGIONS, Scene
from carde_monai.synthetic_random import Look, RandomSteel
from carde_monai.synthetic_view import SE2

AGREEMENT = 0.8  # the detectors mostly agree on which grain is bright
RELIEF = (0.12, 0.03)  # of bodies lit from one side, of the contrast


def cut(rng: np.random.Generator, scene: Scene, size: tuple[int, int]) -> Scene:
    """A part of ``size`` of a scene, anywhere in it, turned by right angles and mirrored at random."""
    turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))
    sides = size if turns % 2 == 0 else size[::-1]
    top, left = (int(rng.integers(0, have - want + 1)) for have, want in zip(scene.size, sides, strict=True))
    window = slice(top, top + sides[0]), slice(left, left + sides[1])

    def part(array: np.ndarray) -> np.ndarray:
        turned = np.rot90(array[window], turns)
        return np.ascontiguousarray(turned[:, ::-1] if mirrored else turned)

    row, column = scene.row - top, scene.column - left
    width = sides[1]
    for turn in range(turns):
        row, column = width - 1 - column, row
        width = sides[turn % 2]
    if mirrored:
        column = width - 1 - column
    names = ("depth", "body", "grain", "region", "ghost", "pore")
    return replace(scene, **{name: part(getattr(scene, name)) for name in names}, row=row, column=column)


def paint(rng: np.random.Generator, scene: Scene, steel: RandomSteel, look: Look) -> np.ndarray:
    """Greys (2, H, W) above those of the mean matrix, float32, sharp, without noise; SE2 first."""
    return _Painting(rng, scene, steel, look).frames


class _Painting:
    """The frames, painted layer by layer; a flat view of them for what is painted on some pixels only."""

    def __init__(self, rng: np.random.Generator, scene: Scene, steel: RandomSteel, look: Look) -> None:
        self.rng, self.scene, self.steel, self.look = rng, scene, steel, look
        self.contrast = np.float32(steel.carbide_grey[SE2])
        self.light = -np.pi / 2 + rng.normal(0, 1.0)  # SE2: its detector is at the top of most frames
        self.mottle = self._mottle()
        self.frames = self._matrix() + self.mottle
        self.flat = self.frames.reshape(2, -1)
        self._boundary_lines()
        ground = self.frames.copy()
        below = np.float32(0.35 * sum(steel.carbide_grey)) + 0.15 * self.contrast
        self.frames += np.array([self.contrast, below])[:, None, None] * scene.ghost
        self.frames += self.contrast * scene.pore
        if len(scene.row):
            self._halo()
            self._shadow(self._carbides(ground))

    def _mottle(self) -> np.ndarray:
        look, size = self.look, self.scene.size
        mottle = np.float32(self.steel.mottle_grey) * smooth_noise(self.rng, size, 6)
        if look.texture:
            mottle += np.float32(look.texture) * self.contrast * smooth_noise(self.rng, size, look.texture_px)
        return mottle

    def _matrix(self) -> np.ndarray:
        """Grey of the grains; some regions as bright as a carbide."""
        rng, scene, steel = self.rng, self.scene, self.steel
        between = correlated(rng, int(scene.grain.max()) + 1, AGREEMENT, np.float32)
        between *= np.float32(steel.grain_grey)[:, None]
        within = correlated(rng, REGIONS, AGREEMENT, np.float32) * np.float32(steel.cell_grey)[:, None]
        frames = np.stack([one.take(scene.grain) for one in between])
        frames += np.stack([one.take(scene.region) for one in within])
        bright = rng.random(REGIONS) < steel.bright_grains
        bright[1::2] = False  # bright laths would be plates that nobody labelled
        grey = np.float32(steel.carbide_grey)[:, None] * rng.uniform(0.4, 1.0, REGIONS).astype(np.float32)
        here = bright[scene.region]
        if here.any():
            frames[:, here] = grey[:, scene.region[here]]
        return frames

    def _boundary_lines(self) -> None:
        if not self.look.boundary_grey:
            return
        region = self.scene.region
        edge = np.zeros(region.shape, bool)
        edge[1:] |= region[1:] != region[:-1]
        edge[:, 1:] |= region[:, 1:] != region[:, :-1]
        strength = (smooth_noise(self.rng, region.shape, 60) - 0.3).clip(0, 1.2) * edge
        self.frames += np.float32([[[0.5]], [[1.0]]]) * np.float32(self.look.boundary_grey) * strength

    def _halo(self) -> None:
        """A ring of other grey around each body: what is etched, or seen through its flank."""
        if not any(self.look.halo):
            return
        depth = self.scene.depth.ravel()
        near = np.flatnonzero((depth < 0.5) & (depth > 1 - MARGIN_PX))
        ring = np.exp(-((depth[near] / np.float32(self.look.halo_px)) ** 2))
        for frame, share in zip(self.flat, self.look.halo, strict=True):
            frame[near] += np.float32(share) * self.contrast * ring

    def _carbides(self, ground: np.ndarray) -> np.ndarray:
        """Paint the bodies; returns how much of each pixel (H, W) they cover."""
        scene, steel = self.scene, self.steel
        inside = np.flatnonzero(scene.depth > -0.5)
        depth, body = scene.depth.ravel()[inside], scene.body.ravel()[inside]
        opaque = (depth + 0.5).clip(0, 1)
        dy = inside // scene.size[1] - scene.row[body]
        dx = inside % scene.size[1] - scene.column[body]
        towards = np.float32([np.cos(self.light), np.sin(self.light)])
        lit = ((dx * towards[0] + dy * towards[1]) / (scene.ecd / 2 + 1)[body]).clip(-1.5, 1.5)
        edge = np.exp(-((depth.clip(0) * np.float32(steel.pixel_size_um / steel.rim_width_um)) ** 2))
        # rims are brighter on one side, another one for each body
        angle = self.rng.uniform(0, 2 * np.pi, len(scene.row)).astype(np.float32)
        side = (dx * np.cos(angle)[body] + dy * np.sin(angle)[body]) / np.sqrt(dx**2 + dy**2 + 1)
        edge *= 1 + np.float32(0.35) * side
        interiors, rims, boost = self._greys(ground)
        lit *= boost[body]
        for frame, interior, rim, relief in zip(self.flat, interiors, rims, RELIEF, strict=True):
            grey = interior[body] + rim[body] * edge + np.float32(relief) * self.contrast * lit
            grey += self.mottle.ravel()[inside]
            frame[inside] += opaque * (grey - frame[inside])
        cover = np.zeros(scene.size, np.float32)
        cover.ravel()[inside] = opaque
        return cover

    def _greys(self, ground: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Grey of interiors and, further, of rims (2, N), boost (N,); the grain around a body counts."""
        rng, scene, steel = self.rng, self.scene, self.steel
        count = len(scene.row)
        spread = rng.normal(1, self.look.body_spread, (2, count)).clip(0.4, 1.6)
        boost = 1 + steel.small_boost * np.exp(-scene.ecd * steel.pixel_size_um / 0.04)
        row = scene.row.astype(int).clip(0, scene.size[0] - 1)
        column = scene.column.astype(int).clip(0, scene.size[1] - 1)
        interior = steel.grey_follows_matrix * ground[:, row, column]
        interior = interior + np.array(steel.carbide_grey)[:, None] * spread * boost
        rim = np.array(steel.rim_grey)[:, None] * rng.normal(1, 0.15, (2, count)) * boost
        return interior.astype(np.float32), rim.astype(np.float32), boost.astype(np.float32)

    def _shadow(self, cover: np.ndarray) -> None:
        """The soft light and shadow that the SE2 detector sees beside bodies."""
        total = np.zeros(cover.shape, np.float32)
        for step, scale_px, weight in ((2, 2.0, 1.0), (4, 6.0, 1.5)):
            soft = ndimage.gaussian_filter(cover[::step, ::step], scale_px * 2 / step)
            slope = np.sin(self.light) * np.gradient(soft, axis=0)
            slope += np.cos(self.light) * np.gradient(soft, axis=1)
            total += enlarge((-slope * scale_px * weight * 2 / step).astype(np.float32), cover.shape)
        total *= 1 - 0.5 * cover
        self.frames += np.float32(self.steel.shadow_grey)[:, None, None] * total


def label_of(rng: np.random.Generator, scene: Scene, steel: RandomSteel, look: Look) -> np.ndarray:
    """Label (H, W) of zeros and ones, by the convention of ``look``, its edges noisy as ``steel`` says.

    Thin bodies are moved and roughened less, so that none falls apart, and none vanishes.
    """
    label = np.zeros(scene.size, np.float32)
    near = np.flatnonzero((scene.depth > -2.5) & (scene.body >= 0))
    if not len(near):
        return label
    depth, body = scene.depth.ravel()[near], scene.body.ravel()[near]
    bias = look.label_bias_px + rng.normal(0, steel.label_bias_px, len(scene.row))
    wander = steel.label_noise_px * smooth_noise(rng, scene.size, look.label_wander_px).ravel()[near]
    thin = (scene.thickest / 3).clip(0, 1)
    inside = depth + thin[body] * (bias[body] + wander) > 0
    inside |= depth > np.minimum(1.5, 0.6 * scene.thickest[body])
    label.ravel()[near] = inside & (depth > -2.0)
    return label
