"""Two-detector SEM micrographs of carbides in steel, with known truth.

MONAI's synthetic images are discs and spheres; tests, demo and pretraining need what the microscope shows:
grains of differing grey, ghosts, pores, noise, and carbides that look different to the two detectors.
Geometry is in :mod:`carde_monai.synthetic_scene`, greys are in :mod:`carde_monai.synthetic_view`, the
microscope's file format is in :mod:`carde_monai.synthetic_tiff`. Steels of which nothing is known, and crops
of them without end, are in :mod:`carde_monai.synthetic_random` and :mod:`carde_monai.synthetic_dataset`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import ndimage
from tqdm import tqdm

from carde_monai.errors import InputError
from carde_monai.locking import claimed
from carde_monai.synthetic_scene import Carbide, grow_grains, place_carbides
from carde_monai.synthetic_tiff import write_raw
from carde_monai.synthetic_view import View

MIN_SIZE = 64
RANDOM = "random"  # a steel of its own for each micrograph
# ecd_um is the diameter drawn; label_area_px is what the noisy label shows of it
TRUTH_COLUMNS = (
    "carbide",
    "shape",
    "row_px",
    "column_px",
    "row_um",
    "column_um",
    "ecd_um",
    "label_area_px",
    "aspect_ratio",
    "angle_deg",
    "touches_border",
)


class Shape(NamedTuple):
    """A kind of carbide: its share of their number and its range of aspect ratios."""

    name: str
    share: float
    aspect_min: float
    aspect_max: float


@dataclass(frozen=True)
class Steel:
    """What a steel and its microscope look like. Greys are 8-bit greys; pairs are (SE2, InLens) or ranges."""

    pixel_size_um: float = 0.00698
    # carbides
    density_per_um2: float = 5.0
    ecd_median_um: float = 0.075
    ecd_sigma: float = 0.65  # of ln ECD
    ecd_min_um: float = 0.010
    ecd_max_um: float = 2.0
    shapes: tuple[Shape, ...] = (
        Shape("ellipse", 0.36, 1.0, 1.8),
        Shape("rod", 0.20, 1.6, 3.2),
        Shape("peanut", 0.08, 1.7, 2.6),
        Shape("plate", 0.16, 3.5, 9.0),  # in parallel packets
        Shape("chain", 0.20, 1.2, 3.0),  # on grain boundaries
    )
    roughness: float = 0.10
    label_noise_px: float = 0.5  # standard deviation along an outline
    label_bias_px: float = 0.25  # of a whole outline
    # greys of the carbides above the matrix
    carbide_grey: tuple[float, float] = (55.0, 16.0)  # InLens: the interior of a large carbide
    rim_grey: tuple[float, float] = (6.0, 52.0)  # further, at the rim
    rim_width_um: float = 0.014
    grey_follows_matrix: float = 0.45  # 0: one grey in every grain; 1: one contrast in every grain
    small_boost: float = 0.6  # small carbides are brighter, by so much at most
    shadow_grey: tuple[float, float] = (19.0, 4.0)
    # matrix
    matrix_grey: tuple[float, float] = (118.0, 160.0)  # range of the mean, micrograph to micrograph
    grain_size_um: float = 3.2
    cell_size_um: float = 0.75
    grain_kinds: tuple[float, float, float] = (0.35, 0.35, 0.3)  # plain, cells, laths
    grain_grey: tuple[float, float] = (12.0, 4.5)  # standard deviation between big grains
    cell_grey: tuple[float, float] = (9.0, 3.0)  # further, between cells or laths
    bright_grains: float = 0.08  # share of regions as bright as a large carbide
    mottle_grey: float = 1.6
    ghosts_per_um2: float = 2.2
    pores_per_um2: float = 0.35
    # microscope
    noise_grey: tuple[float, float] = (3.4, 2.7)  # at the matrix grey
    noise_px: tuple[float, float] = (0.5, 0.8)  # range of the correlation length
    line_noise_grey: float = 0.9
    blur_px: tuple[float, float] = (0.85, 1.3)  # range
    shading: float = 0.03  # of the grey, centre to border
    glow_grey: float = 8.0  # InLens: mean brightness of the strip at the top of the frame
    gain: tuple[float, float] = (0.8, 1.3)  # range of the contrast, micrograph to micrograph

    def frame_width_um(self, columns: int = 2048) -> float:
        """Width of a frame of so many columns in micrometres."""
        return columns * self.pixel_size_um


_JFL = Steel()
STEELS: Mapping[str, Steel] = MappingProxyType(
    {
        "jfl": _JFL,
        "anp": replace(
            _JFL,
            pixel_size_um=0.0056,
            density_per_um2=8.5,
            ecd_median_um=0.058,
            ecd_sigma=0.6,
            carbide_grey=(44.0, 20.0),
            rim_grey=(10.0, 34.0),
            matrix_grey=(100.0, 135.0),
            grain_size_um=2.2,
            cell_size_um=0.5,
            grain_kinds=(0.15, 0.35, 0.5),
            grain_grey=(15.0, 7.0),
            cell_grey=(11.0, 5.0),
            bright_grains=0.08,
            noise_grey=(5.2, 4.2),
            line_noise_grey=1.4,
        ),
    }
)


@dataclass(frozen=True)
class Synthetic:
    """A micrograph with its truth: (H, W) uint8 se2, inlens, label (0/1); instances has a row a carbide."""

    se2: np.ndarray
    inlens: np.ndarray
    label: np.ndarray
    instances: pd.DataFrame
    pixel_size_um: float


def synthesize_micrograph(
    steel: Steel, size: tuple[int, int], seed: int | np.random.SeedSequence
) -> Synthetic:
    """Draw one micrograph of ``size`` (rows, columns) pixels; the same for the same arguments.

    The number of carbides is Poisson with mean density x area, their equivalent circle diameters are the
    log-normal of ``steel`` inside its limits. Carbides do not overlap: 3 px of matrix (1.5 px in chains)
    lie between two outlines, before the label's edge noise. Carbides cut by the border stay cut.

    Raises InputError if a side of ``size`` is below 64.
    """
    size = _checked_size(size)
    # seeds drawn, not spawned: spawning would count up in a SeedSequence that the caller may use again
    seeds = np.random.default_rng(seed).integers(2**63, size=(2, 4))
    scene_rng, view_rng = (np.random.default_rng(words) for words in seeds)
    grains = grow_grains(scene_rng, steel, size)
    carbides = place_carbides(scene_rng, steel, grains)
    label, instances = _truth(scene_rng, steel, size, carbides)
    view = View(view_rng, steel, size)
    frames = view.matrix(grains)
    view.ghosts_and_pores(frames, carbides)
    view.carbides(frames, carbides)
    se2, inlens = view.expose(frames)
    return Synthetic(se2, inlens, label, instances, steel.pixel_size_um)


def _truth(
    rng: np.random.Generator, steel: Steel, size: tuple[int, int], carbides: list[Carbide]
) -> tuple[np.ndarray, pd.DataFrame]:
    """Label with edges noisy by about a pixel, and the table of what was drawn."""
    label = np.zeros(size, np.uint8)
    # edges wander along an outline: white noise smoothed over 2 px, back to unit variance
    wander = ndimage.gaussian_filter(rng.standard_normal(size, np.float32), 2) * (2 * np.sqrt(np.pi) * 2)
    wander *= steel.label_noise_px
    rows = []
    for number, carbide in enumerate(carbides, 1):
        window = carbide.rows, carbide.columns
        # less on thin carbides, whose label would fall apart
        thin = min(1.0, carbide.depth.max() / 3)
        inside = carbide.depth + thin * (wander[window] + rng.normal(0, steel.label_bias_px)) > 0
        # the hand that corrected the label saw one body: no crumbs beyond the outline, never nothing
        inside = inside & (carbide.depth > -1.5) | (carbide.depth == carbide.depth.max())
        label[window] |= inside.astype(np.uint8)
        rows.append(_truth_row(number, carbide, inside, steel.pixel_size_um, size))
    return label, pd.DataFrame(rows, columns=TRUTH_COLUMNS)


def _truth_row(
    number: int, carbide: Carbide, inside: np.ndarray, pixel_size_um: float, size: tuple[int, int]
) -> tuple[float | str | bool, ...]:
    """Values of ``TRUTH_COLUMNS``; ``inside`` is the label on the carbide's window."""
    touches_border = (
        (carbide.rows.start == 0 and inside[0].any())
        or (carbide.columns.start == 0 and inside[:, 0].any())
        or (carbide.rows.stop == size[0] and inside[-1].any())
        or (carbide.columns.stop == size[1] and inside[:, -1].any())
    )
    return (
        number,
        carbide.shape,
        carbide.row,
        carbide.column,
        carbide.row * pixel_size_um,
        carbide.column * pixel_size_um,
        carbide.ecd_um,
        int(inside.sum()),
        carbide.aspect,
        float(np.degrees(carbide.angle) % 180),
        bool(touches_border),
    )


def synthesize(
    dest: str | Path,
    micrographs: int = 12,
    size: tuple[int, int] = (1404, 2048),
    steel: str = "jfl",
    seed: int = 0,
    stem: str | None = None,
) -> list[Path]:
    """Write a folder of synthetic micrographs as a microscope would; returns the path of each SE2 file.

    A micrograph is ``<stem>_<odd>.tif`` (SE2), the next even number (InLens), ``<stem>_<odd>_label.png``
    (0/255) and ``<stem>_<odd>_carbides.csv``; ``stem`` is the name of the steel unless given.
    The micrographs of one call differ in seed and in the microscope's settings (gain, noise, blur); those of
    the steel "random" in everything, see `carde_monai.synthetic_random`.
    Raises InputError on an unknown steel, numbers that make no micrograph, a file in the place of DEST, or
    while another run writes there.
    """
    if steel not in (*STEELS, RANDOM):
        raise InputError(f"--steel {steel}", "unknown steel", f"choose one of {', '.join(STEELS)}, {RANDOM}")
    if type(micrographs) is not int or micrographs < 1:
        raise InputError(f"--micrographs {micrographs}", "not a positive whole number", "give 1 or more")
    if type(seed) is not int or seed < 0:
        raise InputError(f"--seed {seed}", "not a whole number from 0", "give for example 0")
    stem = steel if stem is None else str(stem)
    if not stem or Path(stem).name != stem:
        raise InputError(f"--stem {stem}", "not the beginning of a file name", "leave out folders")
    size = _checked_size(size)
    folder = Path(dest)
    if folder.exists() and not folder.is_dir():
        raise InputError(folder, "is a file", "name a folder to write to")
    paths = []
    children = np.random.SeedSequence(seed).spawn(micrographs)
    with claimed(folder):
        for index, child in enumerate(tqdm(children, desc=f"synthesize {steel}", unit="micrograph")):
            micrograph = _drawn(steel, size, child)
            paths.append(write_raw(folder, stem, 2 * index + 1, micrograph))
    return paths


def _drawn(steel: str, size: tuple[int, int], seed: np.random.SeedSequence) -> Synthetic:
    if steel == RANDOM:
        from carde_monai.synthetic_look import random_micrograph  # it builds on this module

        return random_micrograph(size, seed)
    return synthesize_micrograph(STEELS[steel], size, seed)


def _checked_size(size: object) -> tuple[int, int]:
    if not isinstance(size, (tuple, list)) or len(size) != 2 or any(type(side) is not int for side in size):
        raise InputError(f"--size {size}", "not two whole numbers", "give rows,columns such as 1404,2048")
    if min(size) < MIN_SIZE:
        raise InputError(
            f"--size {size[0]},{size[1]}", "too small", f"give rows,columns of at least {MIN_SIZE}"
        )
    return size[0], size[1]
