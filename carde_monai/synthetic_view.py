"""Greys of a synthetic micrograph: what the two detectors make of a scene.

Levels were set against real tiles of reactor-pressure-vessel steel: grey profile across a carbide's edge,
contrast in units of the noise, correlation of the noise between neighbouring pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from carde_monai.synthetic_fields import correlated, enlarge, smooth_noise
from carde_monai.synthetic_outlines import ANGLES, signed_depth
from carde_monai.synthetic_scene import Carbide, Grains

if TYPE_CHECKING:
    from carde_monai.synthetic import Steel

SE2, INLENS = 0, 1


class View:
    """One look through the microscope: draws its own gain, blur, light and noise, then paints greys.

    Frames are (2, H, W) float32, SE2 first.
    """

    def __init__(self, rng: np.random.Generator, steel: Steel, size: tuple[int, int]) -> None:
        self.rng, self.steel, self.size = rng, steel, size
        self.gain = rng.uniform(*steel.gain) * rng.uniform(0.92, 1.08, 2)
        self.base = rng.uniform(*steel.matrix_grey) + rng.normal(0, 5, 2)
        self.noise = np.array(steel.noise_grey) * rng.uniform(0.65, 1.4) * rng.uniform(0.9, 1.1, 2)
        self.blur = rng.uniform(*steel.blur_px)
        self.interior = rng.uniform(0.6, 1.9)  # InLens: large carbides from nearly matrix to clearly grey
        self.light = -np.pi / 2 + rng.normal(0, 0.6)  # SE2: the detector lies towards the top of the frame

    def matrix(self, grains: Grains) -> np.ndarray:
        """Grey of the grains; boundaries soft, some of them bright lines in InLens."""
        steel, rng = self.steel, self.rng
        regions, parents = len(grains.parent), grains.parent.max() + 1
        shared = 0.8  # the detectors mostly agree on which grain is bright
        between = correlated(rng, parents, shared)[:, grains.parent] * np.array(steel.grain_grey)[:, None]
        within = correlated(rng, regions, shared) * np.array(steel.cell_grey)[:, None]
        grey = between + within
        bright = rng.random(regions) < steel.bright_grains
        merged = np.array([steel.carbide_grey[SE2], steel.carbide_grey[INLENS]])
        grey[:, bright] = merged[:, None] * rng.uniform(0.55, 1.0, bright.sum())
        frames = grey.astype(np.float32)[:, grains.region]
        for frame in frames:
            ndimage.gaussian_filter(frame, rng.uniform(1.0, 1.8), output=frame)
            frame += steel.mottle_grey * smooth_noise(self.rng, self.size, 6)
        self._boundary_lines(frames[INLENS], grains)
        return frames * self.gain[:, None, None].astype(np.float32)

    def _boundary_lines(self, frame: np.ndarray, grains: Grains) -> None:
        edge = np.zeros(self.size, np.float32)
        edge[1:] += grains.region[1:] != grains.region[:-1]
        edge[:, 1:] += grains.region[:, 1:] != grains.region[:, :-1]
        edge = ndimage.gaussian_filter(edge, 0.8)
        frame += (
            0.9
            * self.steel.rim_grey[INLENS]
            * edge
            * (smooth_noise(self.rng, self.size, 60) - 0.9).clip(0, 1.2)
        )

    def ghosts_and_pores(self, frames: np.ndarray, carbides: list[Carbide]) -> None:
        """Faint blurred carbides below the surface, and dark pores: in both detectors, in no label."""
        taken = np.zeros(self.size, bool)
        for carbide in carbides:
            taken[carbide.rows, carbide.columns] |= carbide.depth > -3
        area_um2 = self.size[0] * self.size[1] * self.steel.pixel_size_um**2
        for _ in range(self.rng.poisson(self.steel.ghosts_per_um2 * area_um2)):
            self._ghost(frames, taken)
        for _ in range(self.rng.poisson(self.steel.pores_per_um2 * area_um2)):
            self._pore(frames, taken)

    def _blob(
        self, taken: np.ndarray, radius: float, softness: float
    ) -> tuple[slice, slice, np.ndarray] | None:
        """Soft ellipse (0..1) on a free place, or None if the place drawn is taken."""
        rng = self.rng
        centre = rng.uniform(0, self.size[0]), rng.uniform(0, self.size[1])
        radii = radius * (1 + rng.uniform(0, 0.3) * np.cos(2 * ANGLES))
        rows, columns, depth = signed_depth(radii, centre, rng.uniform(0, np.pi), self.size, 3 * softness + 2)
        if taken[rows, columns][depth > -softness].any():
            return None
        return rows, columns, 1 / (1 + np.exp((-2 * depth / softness).clip(-30, 30)))

    def _ghost(self, frames: np.ndarray, taken: np.ndarray) -> None:
        steel, rng = self.steel, self.rng
        radius = rng.lognormal(np.log(steel.ecd_median_um * 0.55), 0.5) / steel.pixel_size_um
        buried = rng.uniform(0, 1)  # deeper: fainter and softer
        blob = self._blob(taken, radius, 1.0 + 5 * buried)
        if blob is None:
            return
        strength = (0.45 - 0.3 * buried) * rng.uniform(0.6, 1.1)
        both = np.array([steel.carbide_grey[SE2], 0.7 * sum(steel.carbide_grey) / 2 + 8]) * self.gain
        frames[:, blob[0], blob[1]] += (strength * both)[:, None, None] * blob[2]

    def _pore(self, frames: np.ndarray, taken: np.ndarray) -> None:
        steel, rng = self.steel, self.rng
        radius = rng.lognormal(np.log(0.016), 0.35) / steel.pixel_size_um
        blob = self._blob(taken, radius, 0.8)
        if blob is None:
            return
        rows, columns, cover = blob
        dark = rng.uniform(0.7, 1.5) * steel.carbide_grey[SE2] * self.gain
        frames[:, rows, columns] -= dark[:, None, None] * cover
        if rng.random() < 0.5:  # a bright lip beside the hole
            shift = min(round(1.6 * radius), 4) * rng.choice([-1, 1])  # stays in the window
            lip = np.roll(cover, shift, axis=1) * (0.5 * steel.carbide_grey[SE2])
            frames[:, rows, columns] += self.gain[:, None, None] * lip

    def carbides(self, frames: np.ndarray, carbides: list[Carbide]) -> None:
        """Paint each carbide in its window; then the soft shadow that the SE2 detector sees beside it."""
        cover = np.zeros(self.size, np.float32)
        ground = frames.copy()
        for carbide in carbides:
            window = (slice(None), carbide.rows, carbide.columns)
            opaque = (carbide.depth + 0.5).clip(0, 1)
            grey = self._carbide_grey(carbide)
            grey += self.steel.grey_follows_matrix * np.median(ground[window], axis=(1, 2))[:, None, None]
            frames[window] += opaque * (grey - frames[window])
            cover[window[1:]] = np.maximum(cover[window[1:]], opaque)
        self._shadow(frames, cover)

    def _carbide_grey(self, carbide: Carbide) -> np.ndarray:
        """Grey (2, h, w) above the mean matrix: SE2 softly lit from one side, InLens with a rim."""
        steel, rng = self.steel, self.rng
        dy = np.arange(carbide.rows.start, carbide.rows.stop)[:, None] - carbide.row
        dx = np.arange(carbide.columns.start, carbide.columns.stop)[None, :] - carbide.column
        reach = carbide.ecd_um / 2 / steel.pixel_size_um + 1
        lit = ((dx * np.cos(self.light) + dy * np.sin(self.light)) / reach).clip(-1.5, 1.5)
        edge = np.exp(-((carbide.depth.clip(0) * steel.pixel_size_um / steel.rim_width_um) ** 2))
        side = np.cos(np.arctan2(dy, dx) - rng.uniform(-np.pi, np.pi))
        body = np.array(steel.carbide_grey) * rng.normal(1, 0.1, 2) * (1, self.interior)
        rim = np.array(steel.rim_grey) * rng.normal(1, 0.15, 2)
        se2 = body[SE2] + rim[SE2] * edge + 5 * lit
        inlens = body[INLENS] + rim[INLENS] * edge * (1 + 0.35 * side)
        boost = 1 + steel.small_boost * np.exp(-carbide.ecd_um / 0.04)
        return np.stack([se2, inlens]) * (boost * self.gain)[:, None, None]

    def _shadow(self, frames: np.ndarray, cover: np.ndarray) -> None:
        coarse = cover[::2, ::2]
        towards = np.cos(self.light), np.sin(self.light)
        for scale_px, weight in ((2.0, 1.0), (6.0, 1.5)):
            soft = ndimage.gaussian_filter(coarse, scale_px)
            slope = towards[1] * np.gradient(soft, axis=0) + towards[0] * np.gradient(soft, axis=1)
            slope = enlarge(-slope * scale_px * weight, self.size) * (1 - 0.5 * cover)
            for detector in (SE2, INLENS):
                frames[detector] += self.steel.shadow_grey[detector] * self.gain[detector] * slope

    def expose(self, frames: np.ndarray) -> np.ndarray:
        """Blur, shading, shot and scan-line noise, 8 bits: (2, H, W) uint8."""
        out = np.empty(frames.shape, np.uint8)
        y, x = (np.linspace(-1, 1, side, dtype=np.float32) for side in self.size)
        y = y[:, None]
        for detector, frame in enumerate(frames):
            terms = self.rng.normal(0, self.steel.shading, 5)
            shading = 1 + terms[0] * x + terms[1] * y + terms[2] * x * y
            shading += terms[3] * (x**2 - 0.5) + terms[4] * (y**2 - 0.5)
            grey = ndimage.gaussian_filter(frame, self.blur) + self.base[detector]
            grey *= shading
            if detector == INLENS:
                top = np.exp(-np.arange(self.size[0], dtype=np.float32) / 30)[:, None]
                grey += self.rng.exponential(self.steel.glow_grey) * top
            out[detector] = (grey + self._noise(grey, detector) + 0.5).clip(0, 255)
        return out

    def _noise(self, grey: np.ndarray, detector: int) -> np.ndarray:
        rng = self.rng
        width = rng.uniform(*self.steel.noise_px)
        noise = ndimage.gaussian_filter(
            rng.standard_normal(self.size, np.float32), (0.96 * width, 1.04 * width)
        )
        noise *= self.noise[detector] / noise.std()
        shot = np.sqrt((grey / self.base[detector]).clip(0.1, 3))
        lines = rng.normal(0, self.steel.line_noise_grey, (self.size[0], 1)).astype(np.float32)
        return noise * shot + lines
