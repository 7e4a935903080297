"""A sample as figures draw it: its columns, its look, its name in a legend."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from carde_monai.lognormal import LogNormal
from carde_monai.pictures import BLACK, BLUE, GREEN, PURPLE, SKY_BLUE, VERMILLION
from carde_monai.summary import Sample

Floats = npt.NDArray[np.float64]

LEGEND_LINE = 3.6 / 25.4  # inches
# Colour, line and marker of six samples; of more in one figure nobody can tell them apart.
STYLES: tuple[tuple[tuple[int, int, int], Any, str], ...] = (
    (BLUE, "-", "o"),
    (VERMILLION, (0, (5, 1.5)), "s"),
    (GREEN, (0, (1, 1)), "^"),
    (PURPLE, (0, (5, 1.5, 1, 1.5)), "D"),
    (SKY_BLUE, (0, (8, 1.5)), "v"),
    (BLACK, (0, (3, 1, 1, 1, 1, 1)), "x"),
)


@dataclass(frozen=True)
class Series:
    """One sample as it is drawn: its tables, its summary and its look."""

    sample: Sample
    summary: dict[str, Any]
    name: str
    colour: tuple[float, ...]
    line: Any
    marker: str

    def column(self, name: str) -> Floats:
        """A column of the carbides in the sample's unit; empty where there is none."""
        table = self.sample.particles
        name = f"{name}_{self.sample.unit}" if f"{name}_{self.sample.unit}" in table else name
        return table[name].to_numpy(float) if name in table else np.zeros(len(table))

    def sizes(self) -> tuple[Floats, Floats]:
        """Diameters of the uncut carbides, ascending, and their shares by the Miles-Lantuéjoul weight."""
        size, weight = self.column("equivalent_circle_diameter"), self.column("border_weight")
        used = np.isfinite(size) & (size > 0) & (weight > 0)
        order = np.argsort(size[used], kind="stable")
        weight = weight[used][order]
        return size[used][order], weight / weight.sum() if weight.size else weight

    def fit(self) -> LogNormal | None:
        """The fitted distribution of the carbides large enough to be counted; None where it has no width."""
        fit = self.summary.get("lognormal") or {}
        mu, sigma = fit.get("mu"), fit.get("sigma")
        return LogNormal(mu, sigma, self.sample.pooled.limit) if mu is not None and sigma else None


@lru_cache(maxsize=1)
def _letters() -> frozenset[int]:
    """Code points that the font in matplotlib's wheel has."""
    path = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    return frozenset(font_manager.get_font(str(path)).get_charmap())


def printable(name: str, most: int = 28) -> str:
    """A sample's name as a label: one line, short, no mathematics, ``?`` for letters of no font."""
    name = " ".join(name.split())
    known = (c if ord(c) in _letters() and unicodedata.category(c)[0] != "C" else "?" for c in name)
    text = "".join(known)
    if len(text) > most:  # names of one series differ at the end
        text = f"{text[: most - 11]}…{text[-10:]}"
    # matplotlib reads $...$ as mathematics and leaves names with a leading _ out of the legend
    return (" " if text.startswith("_") else "") + text.replace("$", r"\$")


def label(each: Series, number: int) -> str:
    """The legend's text of a sample of which ``number`` are drawn."""
    return f"{each.name} (n = {number:,})"


def count(series: Sequence[Series], numbers: Sequence[int], what: str) -> str:
    """``n = 1,204 carbides`` of one sample, or of each of several."""
    if len(series) == 1:
        return f"n = {numbers[0]:,} {what.removesuffix('s') if numbers[0] == 1 else what}"
    return "n = " + " / ".join(f"{number:,}" for number in numbers) + f" {what} (in the legend's order)"


def legend(figure: Figure, axes: Axes) -> None:
    """A legend above the axes, where it hides nothing; the figure grows with it."""
    handles, labels = axes.get_legend_handles_labels()
    columns = 2 if max(map(len, labels)) <= 24 else 1
    rows = math.ceil(len(labels) / columns)
    figure.set_figheight(figure.get_figheight() + max(rows - 1, 0) * LEGEND_LINE)
    figure.legend(handles, labels, loc="outside upper left", ncols=columns)


def steps(axes: Axes, values: Floats, share: Floats, end: float, *, label: str, **look: Any) -> None:
    """A cumulative curve from 0; of many carbides only as many steps as the eye can tell."""
    if values.size > 2000:
        chosen = np.unique(np.linspace(0, values.size - 1, 1000).round().astype(int))
        values, share = values[chosen], share[chosen]
    if values.size:
        values = np.concatenate([values[:1], values, [max(end, values[-1])]])
        share = np.concatenate([[0.0], share, share[-1:]])
    axes.plot(values, share, drawstyle="steps-post", label=label, **look)
