"""One picture a micrograph that shows where methods and label disagree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from scipy import ndimage

from carde_monai.pictures import (
    BLACK,
    SKY_BLUE,
    VERMILLION,
    WHITE,
    YELLOW,
    Array,
    Key,
    draw_scale_bar,
    font_of,
    grey_to_rgb,
    save_png,
    to_grey8,
)
from carde_monai.replacing import replace_file

PANEL = 512  # pixels: the longer side of a reduced frame, and the side of the detail
GAP = 8


def error_picture(
    image: Array,
    label: Array,
    masks: Mapping[str, Array],
    path: Path,
    pixel_size_um: float | None = None,
    title: str | None = None,
) -> None:
    """Write one PNG that compares masks with the label: SE2, InLens, then a panel for each method.

    ``image`` is (2, H, W) raw greys, ``label`` and each of ``masks`` (name -> mask) are (H, W); two equal
    channels (one detector) are shown once. A large frame stands reduced in the first row; below it, pixel by
    pixel, the window with most disagreement.
    """
    label = np.asarray(label) > 0
    found = {name: np.asarray(mask) > 0 for name, mask in masks.items()}
    names, channels = ["SE2", "InLens"], list(image[:2])
    if np.array_equal(image[0], image[1]):
        names, channels = ["micrograph"], channels[:1]
    greys = [grey_to_rgb(to_grey8(channel)) for channel in channels]
    panels = [*greys, *(_paint_errors(greys[0], mask, label) for mask in found.values())]
    scores = [f"{name}: Dice {dice(mask, label):.3f}" for name, mask in found.items()]
    legend = [
        Key("true positive", SKY_BLUE),
        Key("false positive", VERMILLION),
        Key("false negative", YELLOW),
    ]
    window = informative_window(label, list(found.values()))
    if window is None:
        zoom = float(max(1, PANEL // max(label.shape)))  # whole pixels, magnified if few
        rows = [_panel_row(panels, [*names, *scores], pixel_size_um, zoom, legend)]
    else:
        zoom = PANEL / max(label.shape)
        framed = [_frame_window(panel, window, round(2 / zoom)) for panel in panels]
        remark = [Key("white frame: the detail below, where methods and label disagree most")]
        details = [panel[window] for panel in panels]
        scores_there = [
            f"{name}: Dice {dice(mask[window], label[window]):.3f}" for name, mask in found.items()
        ]
        headings = [f"detail, {heading}" for heading in (*names, *scores_there)]
        rows = [
            _panel_row(framed, [*names, *scores], pixel_size_um, zoom, remark),
            _panel_row(details, headings, pixel_size_um, 1.0, legend),
        ]
    if title:
        rows.insert(0, _heading(title, rows[0].width, 24))
    replace_file(path, lambda part: save_png(_stack(rows), part))


def informative_window(label: Array, masks: Sequence[Array], size: int = PANEL) -> tuple[slice, slice] | None:
    """Find the ``size`` x ``size`` window where masks (H, W) and label disagree most; None for small frames.

    Carbide area counts a tenth, so that of windows without errors the one with most carbides is shown.
    """
    height, width = label.shape
    if max(height, width) <= 1.5 * size:
        return None
    size = min(size, height, width)
    score = 0.1 * label.astype(np.float64)
    for mask in masks:
        score += mask != label
    density = ndimage.uniform_filter(score, size, mode="constant")
    half = size // 2
    inside = density[half : height - size + half + 1, half : width - size + half + 1]
    top, left = (int(index) for index in np.unravel_index(int(inside.argmax()), inside.shape))
    return slice(top, top + size), slice(left, left + size)


def dice(mask: Array, label: Array) -> float:
    """Dice-Sørensen coefficient 2TP/(2TP+FP+FN) of two boolean arrays; 1 when both are empty."""
    total = int(mask.sum()) + int(label.sum())
    return 2 * int((mask & label).sum()) / total if total else 1.0


def _paint_errors(grey: Array, mask: Array, label: Array) -> npt.NDArray[np.uint8]:
    """Darken the (H, W, 3) image and paint true positives, false positives and false negatives over it."""
    picture = grey // 2
    for where, colour in ((mask & label, SKY_BLUE), (mask & ~label, VERMILLION), (label & ~mask, YELLOW)):
        picture[where] = colour
    return picture


def _frame_window(panel: Array, window: tuple[slice, slice], thickness: int) -> Array:
    """A copy of the (H, W, 3) panel with a white frame just inside the window."""
    framed = panel.copy()
    inner = tuple(slice(side.start + thickness, side.stop - thickness) for side in window)
    framed[window] = WHITE
    framed[inner] = panel[inner]
    return framed


def _panel_row(
    panels: Sequence[Array],
    headings: Sequence[str],
    pixel_size_um: float | None,
    zoom: float,
    legend: Sequence[Key],
) -> Image.Image:
    """Set (H, W, 3) panels side by side, magnified by ``zoom``: headings above, scale bar, legend below."""
    height, width = (max(1, round(zoom * side)) for side in panels[0].shape[:2])
    smooth = Image.Resampling.NEAREST if zoom > 1 else Image.Resampling.BOX
    cell = max(width, 300)  # narrower, and the headings would be cut
    heads = [_heading(text, cell, 20) for text in headings]
    row = Image.new("RGB", (len(panels) * (cell + GAP) - GAP, heads[0].height + height), WHITE)
    for number, (panel, head) in enumerate(zip(panels, heads, strict=True)):
        left = number * (cell + GAP)
        row.paste(head, (left, 0))
        row.paste(Image.fromarray(panel).resize((width, height), smooth), (left, head.height))
    return draw_scale_bar(row, pixel_size_um, legend, zoom=zoom, bar_width=width, text_size=20)


def _heading(text: str, width: int, size: int) -> Image.Image:
    """One line of text on white, cut with an ellipsis where it is longer than ``width``."""
    font = font_of(size)
    if font.getlength(text) > width:
        while text and font.getlength(text + "…") > width:
            text = text[:-1]
        text += "…"
    strip = Image.new("RGB", (width, round(size * 1.7)), WHITE)
    ImageDraw.Draw(strip).text((0, strip.height // 2), text, BLACK, font, anchor="lm")
    return strip


def _stack(rows: Sequence[Image.Image]) -> Image.Image:
    width, height = max(row.width for row in rows), sum(row.height for row in rows)
    sheet = Image.new("RGB", (width + 2 * GAP, height + 2 * GAP), WHITE)
    top = GAP
    for row in rows:
        sheet.paste(row, (GAP, top))
        top += row.height
    return sheet
