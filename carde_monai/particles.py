"""Measure carbides: from a mask to numbered particles, and from those to a table with a row for each.

scikit-image's ``regionprops`` measures the same, but runs Python code for each particle and property: many
seconds for a frame of thousands of carbides. Here sums run over all carbides at once, and over runs of pixels
(:mod:`carde_monai.runs`), so that a stitched image needs little more memory than its labels.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

from carde_monai.particle_shapes import Particles, ellipses, hulls, perimeters
from carde_monai.runs import Runs, strips
from carde_monai.tiff import write_tiff

Array = NDArray[Any]

MIN_AREA = 5  # pixels: what is smaller has neither size nor shape, and is as often noise as carbide
# How deep a neck between touching carbides is at least, see `_pieces`. Chosen on synthetic steel, where 1 px
# cuts plates whose outline is noisy by half a pixel.
NECK_PX = 1.5
NECK_SHARE = 0.25
BAND = 1 << 23  # pixels that are split at once


def label_particles(mask: Array, *, split_touching: bool = False, min_area: int = 1) -> NDArray[np.int32]:
    """Number the carbides of a mask: connected components with 8-neighbourhood.

    Args:
        mask: (H, W); everything that is not 0 is carbide.
        split_touching: also split touching carbides by a watershed of the distance to the outline, where the
            neck between two bodies is narrower than about 3/4 of the narrower body, and by at least 3 px.
            Rods, plates and other convex carbides stay whole; so do touching ones less than about 8 px wide.
        min_area: drop components, and after splitting pieces, of fewer pixels.

    Returns:
        (H, W) int32; 0 is the matrix, 1..N are the carbides in the order of their first pixel, row by row.

    Raises:
        ValueError: if ``mask`` has not two axes or ``min_area`` is below 1.
    """
    mask = np.asarray(mask)
    if mask.ndim != 2:
        raise ValueError(f"a mask has the shape (H, W), not {mask.shape}")
    if min_area < 1:
        raise ValueError(f"the smallest area is at least 1 px, not {min_area}")
    runs, numbers = components(mask, min_area)
    if split_touching:
        runs, numbers = _numbered(Runs.of(_split(runs.painted(mask.shape, numbers))), min_area)
    return runs.painted(mask.shape, numbers)


def components(
    mask: Array, min_area: int = 1, rule: Callable[[Array], Array] | None = None
) -> tuple[Runs, NDArray[np.int32]]:
    """The runs of a mask, and on each its carbide's number as in `label_particles`, 0 if that is too small.

    The mask is (H, W), not 0 on carbides, or what ``rule`` makes such of strips of ``mask``.
    """
    runs = Runs.of(mask, rule or (lambda strip: strip != 0))
    return _numbered(runs._replace(values=runs.components()), min_area)


def _numbered(runs: Runs, min_area: int) -> tuple[Runs, NDArray[np.int32]]:
    """The runs, and 1..N for their values in the order of first pixels; 0 for those of too few pixels."""
    _, first, which = np.unique(runs.values, return_index=True, return_inverse=True)
    kept = np.flatnonzero(np.bincount(which, runs.lengths, minlength=len(first)) >= min_area)
    new = np.zeros(len(first), np.int32)
    new[kept[np.argsort(first[kept])]] = np.arange(1, len(kept) + 1)
    return runs, new[which]


def _split(labels: NDArray[np.int32]) -> Array:
    """Cut each label 1..N where it has a neck, in place; the pieces get negative numbers.

    In bands of rows, each label whole in the band where it begins: the matrix keeps labels apart, so that
    neither distances nor basins of one depend on another's.
    """
    if labels.all():  # no outline
        return labels
    runs = Runs.of(labels)
    _, first = np.unique(runs.values, return_index=True)
    top, bottom = np.full(len(first) + 1, -1), np.zeros(len(first) + 1, int)
    top[1:] = runs.rows[first]
    np.maximum.at(bottom, runs.values, runs.rows)
    last = 0
    for band in strips(labels.shape, BAND):
        ends = bottom[(top >= band.start) & (top < band.stop)]
        if not len(ends):
            continue
        frame = labels[max(band.start - 1, 0) : ends.max() + 2]
        begins = top[np.maximum(frame, 0)]  # an earlier band's pieces are negative
        inside = np.where((begins >= band.start) & (begins < band.stop), frame, 0)
        pieces = _pieces(inside)
        cut = inside > 0
        _, pieces = np.unique(pieces[cut], return_inverse=True)
        frame[cut] = last - 1 - pieces
        last -= int(pieces.max()) + 1
    return labels


def _pieces(labels: NDArray[np.int32]) -> Array:
    """The pieces of a frame's labels.

    Watershed of the distance to the outline (Beucher and Lantuejoul 1979) from its h-maxima (Soille,
    Morphological Image Analysis, 2003, 6.3 and 9.2), so that the steps of a rasterised or noisy outline make
    no pieces: a body of inscribed radius R px separates where the way out passes a neck of half-width r with
    R - r > NECK_PX. Large bodies have larger dents: above R = NECK_PX / NECK_SHARE, where the distance is
    taken to its logarithm, the neck has r / R < exp(-NECK_SHARE) = 0.78. No Gaussian smoothing is needed
    besides; it would fill narrow necks first.
    """
    import SimpleITK as sitk  # takes a while to load, and few runs split

    depth = ndimage.distance_transform_edt(labels).astype(np.float32)
    knee = NECK_PX / NECK_SHARE
    depth = np.where(depth > knee, knee * (1 + np.log(np.maximum(depth, knee) / knee)), depth)
    basins = sitk.MorphologicalWatershed(
        sitk.GetImageFromArray(-depth), level=NECK_PX, markWatershedLine=False, fullyConnected=True
    )
    pieces = sitk.GetArrayFromImage(basins).astype(np.int64)
    # the thinnest have no maximum of their own; the matrix's or a neighbour's basins would run through them
    deepest = np.zeros(labels.max() + 1, np.float32)
    np.maximum.at(deepest, labels, depth)
    pieces[deepest[labels] <= NECK_PX] = 0
    return np.where(labels, labels * (pieces.max() + 1) + pieces, 0)


def measure_particles(
    labels: Array,
    pixel_size_um: float | None = None,
    *,
    image: Array | None = None,
    probability: Array | None = None,
) -> pd.DataFrame:
    """Measure each particle of a label image.

    Args:
        labels: (H, W) integers, 0 is the matrix. The numbers need not be consecutive; the pixels of one
            number are one particle, connected or not.
        pixel_size_um: edge of a pixel in micrometres; None if unknown.
        image: (C, H, W) greys, channel 0 = SE2, 1 = InLens; one channel stands for both.
        probability: (H, W) calibrated probability of carbide.

    Returns:
        A row a particle, by ascending number; none for an empty frame. ``u`` is ``um``, or ``px`` without a
        pixel size. All float64, but ``label`` int64, ``touches_border`` and ``counted`` bool.

        - ``label``: the number in ``labels``.
        - ``area_u2``: number of pixels times the area of one.
        - ``equivalent_circle_diameter_u``: sqrt(4 area / pi).
        - ``major_axis_u``, ``minor_axis_u``, ``aspect_ratio`` (major / minor): of the ellipse of the same
          second moments, a pixel being a square (as in MATLAB; scikit-image takes it for a point).
        - ``orientation_deg``: of the major axis, 0 <= angle < 180, counter-clockwise from the image's x axis
          as seen on the screen; NaN if the axes are equal.
        - ``perimeter_u``: Crofton's formula in four directions (Lehmann and Legland, Insight Journal 2012, in
          SimpleITK): right on average over angles, but a straight side comes out 5 % short (along rows,
          columns, diagonals) to 3 % long. Where the frame cuts a particle, the cut counts.
        - ``circularity``: 4 pi area / perimeter^2, clipped to 1 as in ImageJ (the perimeter of few pixels is
          rough, and too short).
        - ``solidity``: area / area of the convex hull of the pixels' corners: 1 for a single pixel.
        - ``feret_max_u``: largest distance of two of those corners: sqrt(2) px for a single pixel.
        - ``centroid_x_u``, ``centroid_y_u``, and the same in ``px`` (once if u is px): mean of the pixels'
          centres; (0, 0) is the centre of the top left pixel, y points down.
        - ``nearest_neighbour_u``: from the centroid to the nearest other one; NaN for a single particle.
        - ``touches_border``: has a pixel in an outermost row or column of the frame, so that it may be cut.
        - ``counted``: has none in the bottom row and the right column. Their number over the frame's area is
          an unbiased number density (two of four sides forbid: Gundersen, J. Microsc. 111 (1977) 219), but
          for the width of those sides: strictly, the area is (W - 1)(H - 1) pixels.
        - ``border_weight``: W H / ((W - Fx)(H - Fy)) for a W x H frame and a Fx x Fy bounding box; 0 if it
          touches the border. Large particles are cut more often: means over the uncut ones need this weight
          (Miles, in: Stochastic Geometry, 1974; Lantuejoul, thesis, Ecole des Mines de Paris, 1978).
        - ``mean_probability``, ``mean_grey_se2``, ``mean_grey_inlens``: NaN where not given.

    Raises:
        ValueError: for a wrong shape, labels that are no integers from 0, or a pixel size not above 0.
    """
    labels = np.asarray(labels)
    check_labels(labels)
    _check_pixel_size(pixel_size_um)
    scale, unit = (1.0, "px") if pixel_size_um is None else (float(pixel_size_um), "um")
    particles = Particles.of(labels)
    runs, lengths = particles.runs, particles.runs.lengths
    area = particles.sums(lengths)
    x = particles.sums(lengths * (runs.starts + runs.stops - 1)) / 2 / area
    y = particles.sums(lengths * runs.rows) / area
    hull_area, feret = hulls(particles)
    perimeter = perimeters(particles, area)
    near = _nearest_neighbours(x, y)
    table: dict[str, Array] = {"label": particles.ids.astype(np.int64)}
    table[f"area_{unit}2"] = area * scale**2
    table[f"equivalent_circle_diameter_{unit}"] = np.sqrt(4 * area / np.pi) * scale
    table |= ellipses(particles, x, y, area, scale, unit)
    table[f"perimeter_{unit}"] = perimeter * scale
    table["circularity"] = np.minimum(4 * np.pi * area / perimeter**2, 1)
    table["solidity"] = np.minimum(area / hull_area, 1)  # Qhull rounds
    table[f"feret_max_{unit}"] = feret * scale
    table |= {f"centroid_x_{unit}": x * scale, f"centroid_y_{unit}": y * scale}
    table |= {"centroid_x_px": x, "centroid_y_px": y}  # the same keys once more if the unit is px
    table[f"nearest_neighbour_{unit}"] = near * scale
    table |= _border(particles, labels.shape)
    table |= _means(particles, labels.shape, area, image, probability)
    return pd.DataFrame(table)


def check_labels(labels: Array) -> None:
    """Raise ValueError unless ``labels`` is a label image: (H, W) integers from 0."""
    if labels.ndim != 2:
        raise ValueError(f"labels have the shape (H, W), not {labels.shape}")
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels are integers, not {labels.dtype}; number a mask with label_particles")
    if labels.min(initial=0) < 0:
        raise ValueError(f"labels start at 0, the matrix, but the smallest is {labels.min()}")


def _check_pixel_size(pixel_size_um: float | None) -> None:
    if pixel_size_um is not None and not (np.isfinite(pixel_size_um) and pixel_size_um > 0):
        raise ValueError(f"a pixel size is a length above 0 in micrometres, not {pixel_size_um}")


def _nearest_neighbours(x: Array, y: Array) -> Array:
    """(N,) distances to the nearest other point."""
    points = np.stack((x, y), 1)
    distance = KDTree(points).query(points, k=2)[0][:, 1]  # the nearest is the point itself
    return np.where(np.isfinite(distance), distance, np.nan)  # SciPy: infinitely far if there is no other


def _border(particles: Particles, shape: tuple[int, int]) -> dict[str, Array]:
    """Whether a particle may be cut, whether it is counted, and its weight, by its bounding box."""
    height, width = shape
    runs, starts = particles.runs, particles.starts
    top, bottom = runs.rows[starts], np.maximum.reduceat(runs.rows, starts)
    left, right = np.minimum.reduceat(runs.starts, starts), np.maximum.reduceat(runs.stops, starts) - 1
    counted = (bottom < height - 1) & (right < width - 1)
    uncut = counted & (top > 0) & (left > 0)
    weight = np.zeros(len(top))
    room = (width - (right - left + 1)) * (height - (bottom - top + 1))  # above 0 for the uncut
    weight[uncut] = width * height / room[uncut]
    return {"touches_border": ~uncut, "counted": counted, "border_weight": weight}


def _means(
    particles: Particles, shape: tuple[int, int], area: Array, image: Array | None, probability: Array | None
) -> dict[str, Array]:
    """Means of the calibrated probability and of each detector's grey."""
    channels: list[Array | None] = [None, None]
    if image is not None:
        image = np.asarray(image)
        if image.ndim != 3 or image.shape[0] not in (1, 2) or image.shape[1:] != shape:
            raise ValueError(f"the image of labels {shape} has the shape (1 or 2, H, W), not {image.shape}")
        channels = [image[0], image[-1]]
    if probability is not None and np.shape(probability) != shape:
        raise ValueError(f"the probability of labels {shape} has their shape, not {np.shape(probability)}")
    planes = {"mean_probability": probability, "mean_grey_se2": channels[0], "mean_grey_inlens": channels[1]}
    return {
        name: np.full(len(area), np.nan) if plane is None else particles.pixel_sums(np.asarray(plane)) / area
        for name, plane in planes.items()
    }


def save_labels(labels: Array, path: str | Path, pixel_size_um: float | None = None) -> None:
    """Write a label image as TIFF: uint16 in ImageJ's dialect, or uint32 where a number is above 65535.

    ImageJ's dialect lacks uint32. The pixel size is inside, as ImageJ's unit or as pixels per centimetre.

    Args:
        labels: (H, W) integers, 0 is the matrix.
        path: of the file.
        pixel_size_um: edge of a pixel in micrometres; None if unknown.

    Raises:
        ValueError: if those are anything else.
    """
    labels = np.asarray(labels)
    check_labels(labels)
    _check_pixel_size(pixel_size_um)
    largest = int(labels.max(initial=0))
    kind = np.uint16 if largest <= np.iinfo(np.uint16).max else np.uint32
    saved = labels.view(kind) if labels.dtype == np.int32 and kind == np.uint32 else labels.astype(kind)
    write_tiff(saved, path, pixel_size_um, (0, max(largest, 1)), numbers=True)
