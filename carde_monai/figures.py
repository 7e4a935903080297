"""Figures of one or more samples at the size of a journal's column, as PNG (300 dpi) and SVG with real text.

Everything is drawn from the tables of the carbides and the micrographs. Samples differ in colour (Okabe and
Ito), line style and marker, so that a grey print tells them apart too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from carde_monai.figure_panels import cumulative, fields, histogram, rose, spacing
from carde_monai.figure_series import STYLES, Series, printable
from carde_monai.pictures import rgb
from carde_monai.summary import Sample

COLUMN_WIDTH, HEIGHT = 88 / 25.4, 64 / 25.4  # inches: one column of a journal
STYLE: dict[Any, Any] = {
    "font.family": ["sans-serif", "DejaVu Sans"],  # the second fills in letters that the first lacks
    "font.sans-serif": ["Arial", "Helvetica", "Liberation Sans", "DejaVu Sans"],
    "font.size": 7.5,
    "axes.labelsize": 7.5,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "xtick.direction": "out",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.handlelength": 2.4,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "carde-monai",  # the same ids in each run
    "axes.unicode_minus": True,
}


@dataclass(frozen=True)
class FigureFile:
    """A figure on the disk: what it shows, a caption that says of how many, and its two files."""

    title: str
    caption: str
    png: Path
    svg: Path


Drawing = Callable[[Figure, Sequence[Series], str], str]
FIGURES: dict[str, tuple[str, Drawing]] = {
    "size_distribution": ("Size distribution", histogram),
    "cumulative_size": ("Cumulative size distribution", cumulative),
    "spacing": ("Spacing", spacing),
    "orientation": ("Orientation", rose),
    "micrographs": ("Scatter between micrographs", fields),
}


def write_figures(
    samples: Sequence[Sample], summaries: Sequence[dict[str, Any]], dest: Path
) -> list[FigureFile]:
    """Draw all figures of the samples into the folder ``dest``, which is made; return them in reading order.

    ``summaries`` are those of `summarise`, one a sample. Samples in micrometres and samples in pixels
    share no axis: where there are both, the latter get figures of their own, ``<name>_px``. At most
    six samples are overlaid; the caption says when there are more. The same tables give the same SVG.
    """
    dest = Path(dest)
    dest.mkdir(parents=True, exist_ok=True)
    files = []
    pairs = list(zip(samples, summaries, strict=True))
    units = [unit for unit in ("um", "px") if any(sample.unit == unit for sample, _ in pairs)]
    for unit in units:
        chosen = [pair for pair in pairs if pair[0].unit == unit]
        for name, (title, draw) in FIGURES.items():
            stem = name if unit == units[0] else f"{name}_{unit}"
            path = dest / stem
            extra = " (pixel size unknown)" if unit == "px" and len(units) > 1 else ""
            files.append(_write(path, title + extra, draw, chosen, "µm" if unit == "um" else "px"))
    return files


def _write(
    path: Path, title: str, draw: Drawing, pairs: Sequence[tuple[Sample, dict[str, Any]]], unit: str
) -> FigureFile:
    shown = []
    for (sample, summary), (colour, line, marker) in zip(pairs, STYLES, strict=False):
        shown.append(Series(sample, summary, printable(sample.name), rgb(colour), line, marker))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(COLUMN_WIDTH, HEIGHT), dpi=300, layout="constrained")
        caption = draw(figure, shown, unit)
        figure.get_layout_engine().execute(figure)
        figure.set_layout_engine(None)  # or each savefig lays it out anew, and draws it twice
        png, svg = path.with_suffix(".png"), path.with_suffix(".svg")
        figure.savefig(png, dpi="figure")
        figure.savefig(svg, metadata={"Date": None, "Creator": None})
    if len(pairs) > len(shown):
        caption += f" The first {len(shown)} of {len(pairs)} samples are shown."
    return FigureFile(title, caption, png, svg)
