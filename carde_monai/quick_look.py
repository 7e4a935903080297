"""The picture by which one sees that a micrograph and its label were read aright."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from carde_monai.pictures import VERMILLION, WHITE, Key, draw_scale_bar, outline, percent, save_png, to_grey8

QUICKLOOK_WIDTH, GAP = 2000, 6  # pixels


def quick_look(
    channels: npt.NDArray[Any], mask: npt.NDArray[Any] | None, path: Path, pixel_size_um: float | None
) -> None:
    """Write (C, H, W) channels side by side as PNG, then the first with the outline of the (H, W) mask."""
    height, width = channels.shape[1:]
    panels = [Image.fromarray(to_grey8(channel)).convert("RGB") for channel in channels]
    zoom = min(1.0, QUICKLOOK_WIDTH / (len(panels) + (mask is not None)) / width)
    size = (max(1, round(width * zoom)), max(1, round(height * zoom)))
    panels = [panel.resize(size, Image.Resampling.BOX) for panel in panels]
    names = ["SE2", "InLens"] if len(channels) > 1 else ["micrograph"]
    legend = []
    if mask is not None:
        # Lines thinner than a pixel of the picture would fade, so their weight is doubled.
        line = Image.fromarray(outline(mask).astype(np.uint8) * 255).resize(size, Image.Resampling.BOX)
        drawn = panels[0].copy()
        drawn.paste(VERMILLION, (0, 0), line.point(lambda weight: min(255, 2 * weight)))
        panels.append(drawn)
        names.append(f"{names[0]} with label")
        legend.append(Key(f"outline of the label ({percent(float(mask.mean()))} of area)", VERMILLION))
    step = size[0] + GAP
    picture = Image.new("RGB", (step * len(panels) - GAP, size[1]), WHITE)
    for index, panel in enumerate(panels):
        picture.paste(panel, (index * step, 0))
    legend.insert(0, Key(f"from left: {', '.join(names)}" if len(names) > 1 else names[0]))
    save_png(draw_scale_bar(picture, pixel_size_um, legend, zoom=zoom, bar_width=size[0]), path)
