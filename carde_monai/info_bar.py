"""The microscope's text strip at the bottom of a frame: where it begins, or that there is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

SMALLEST, LARGEST = 0.02, 0.22  # share of the frame's height
TONE = 0.02  # of the grey range: one level, after JPEG or resampling
PLAIN = 0.95  # share of a row of one level that makes it plain; frames of tables cross some columns
PAPER = 0.3  # share of the rows of text that is background; downsampled frames have little
INK = 0.15  # of the grey range: contrast of text
LEAST_INK = 0.01  # share of the strip
# Variance over mean of the ink a row: 1 for noise, tens for text, which stands in lines.
CLUMPED = 5.0
WEAK_PAPER = 0.3  # background of a strip that the metadata or the other detector point at
SAME_ROWS = 2  # detectors' bars may begin this many rows apart


@dataclass(frozen=True)
class _Rows:
    """Rows from the bottom part of a frame: their level, which are plain, the grey range of the frame.

    The greys stay whole numbers: a mosaic as floats would take several times its memory.
    """

    values: Array
    level: Array
    plain: npt.NDArray[np.bool_]
    scale: float

    def share(self, level: float, tone: float = TONE) -> Array:
        """Share of each row that has this level."""
        return _near(self.values, level, tone * self.scale).mean(axis=1)


def find_info_bar(image: Array) -> int:
    """Height of the info bar at the bottom of an (H, W) image in rows; 0 where there is none.

    A bar spans the whole width, begins at a sharp step between two rows, reaches the lower edge, and has a
    plain background, light or dark, with lines of text on it. All of that is asked for, so that neither a
    saturated grain at the edge nor black padding nor a bright last scan is taken for one.
    """
    height = image.shape[0]
    if height < 8 or image.shape[1] < 8:
        return 0
    rows = _bottom(image, int(np.ceil(LARGEST * height)) + _margin(height))
    if not rows.plain.any():
        return 0
    few = max(3, int(SMALLEST * height))  # higher up, plain rows may be image: black, or saturated
    paper = float(np.median(rows.level[np.flatnonzero(rows.plain)[-few:]]))
    top = _top(rows, paper, height)
    bar = len(rows.level) - top
    if top < 1 or not SMALLEST * height <= bar <= LARGEST * height:
        return 0
    return bar if _is_step(rows, top, paper) and _has_text(rows, top, paper) else 0


def common_info_bar(images: Sequence[Array], stated: Sequence[int | None] = ()) -> tuple[int, list[str]]:
    """Rows to cut from the bottom of every detector's (H, W) image, and warnings.

    ``stated`` are heights by the files' metadata; one counts where the strip below looks like a bar in every
    image. Else the bar is what is found in both; where they differ, the lower one, as black image above a
    black bar looks like more of it. One found in only one image counts where the strip in the other at least
    looks like a bar. Otherwise nothing is cut.
    """
    for rows in sorted({rows for rows in stated if rows}, reverse=True):
        share = rows / images[0].shape[0]
        if SMALLEST <= share <= LARGEST and all(_may_be_bar(image, rows) for image in images):
            return rows, []
    heights = [find_info_bar(image) for image in images]
    rows = max(heights)
    if rows - min(heights) <= SAME_ROWS:
        return rows, []
    rows = min(height for height in heights if height)
    if all(found or _may_be_bar(image, rows) for found, image in zip(heights, images, strict=True)):
        return rows, [f"the detectors' info bars differ ({_listed(heights)} rows); {rows} rows are cut"]
    return 0, [f"only one detector seems to have an info bar ({_listed(heights)} rows); nothing is cut"]


def _listed(heights: Sequence[int]) -> str:
    return " and ".join(str(height) for height in heights)


def _margin(height: int) -> int:
    """Rows that are looked at above the highest bar; a border line may take half as many."""
    return max(4, height // 64)


def _bottom(image: Array, count: int) -> _Rows:
    values = image[-count:]
    scale = 255.0 if image.dtype == np.uint8 else max(float(image.max()), 1.0)
    level = np.median(values, axis=1)
    plain = _near(values, level[:, None], TONE * scale).mean(axis=1) >= PLAIN
    return _Rows(values, level, plain, scale)


def _near(values: Array, level: Any, distance: float) -> npt.NDArray[np.bool_]:
    """Whether each grey, a whole number, is at most ``distance`` from the level (a number, or one a row)."""
    kind = values.dtype.type
    least = np.clip(np.ceil(level - np.float32(distance)), 0, np.iinfo(kind).max).astype(kind)
    most = np.floor(level + np.float32(distance)).clip(0, np.iinfo(kind).max).astype(kind)
    return values - least <= most - least  # unsigned: what is below the least becomes large


def _top(rows: _Rows, paper: float, height: int) -> int:
    """First row of the strip of this background: up from the lower edge over paper and lines of text."""
    share, wide = rows.share(paper), rows.share(paper, 2 * TONE)
    blank = np.flatnonzero(rows.plain & (share >= PLAIN))
    if not len(blank):
        return 0
    top = len(share)
    for row in blank[::-1]:
        between = slice(row + 1, top)  # text, or a border line
        if row + 1 < top and not rows.plain[between].all() and wide[between].mean() < PAPER:
            break
        top = int(row)
    line = rows.plain[:top] & (np.abs(rows.level[:top] - rows.level[max(top - 1, 0)]) <= TONE * rows.scale)
    others = np.flatnonzero(~line)
    border = top - 1 - int(others[-1]) if len(others) else top
    return top - border if border <= _margin(height) // 2 else top  # more is image: black, or saturated


def _is_step(rows: _Rows, top: int, paper: float) -> bool:
    """Whether the last row of the image is not of the strip's background, nor all of its border's level.

    A border may be as dark as the image above it; its own edge to the background is the step then.
    """
    first = float(rows.level[top])
    has_border = abs(first - paper) > TONE * rows.scale
    return any(rows.share(level)[top - 1] < 0.5 for level in ([first, paper] if has_border else [first]))


def _has_text(rows: _Rows, top: int, paper: float) -> bool:
    ink = ~_near(rows.values[top:], paper, INK * rows.scale)[
        ~(rows.plain[top:] & (rows.share(paper)[top:] < PLAIN))
    ]
    counts = ink.sum(axis=1)
    return bool(len(counts) > 2 and ink.mean() >= LEAST_INK and counts.var() > CLUMPED * counts.mean())


def _may_be_bar(image: Array, count: int) -> bool:
    """Whether the last ``count`` rows have a background: one level is frequent in them, rare above."""
    if not 0 < count < image.shape[0]:
        return False
    scale = 255.0 if image.dtype == np.uint8 else max(float(image.max()), 1.0)
    steps = np.round(np.arange(np.iinfo(image.dtype).max + 1, dtype=np.float32) / (2 * TONE * scale)).astype(
        int
    )
    below, above = (_shares(part, steps) for part in (image[-count:], image[-2 * count : -count]))
    paper = int(below.argmax())
    return bool(below[paper] >= WEAK_PAPER and above[paper] < 0.5 * below[paper])


def _shares(image: Array, steps: Array) -> Array:
    """Share of the pixels in each step, given the step of each grey; row by row, to spare memory."""
    counts = sum(np.bincount(row, minlength=len(steps)) for row in image)
    return np.bincount(steps, weights=counts) / max(image.size, 1)
