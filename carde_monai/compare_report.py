"""A comparison of two samples as text, as tables and as a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from carde_monai.pictures import BLUE, ORANGE, VERMILLION, rgb
from carde_monai.pooling import Pooled
from carde_monai.replacing import all_or_none
from carde_monai.size_test import cumulative

Result = Mapping[str, Any]

COLUMNS = ("quantity", "name", "unit", "a", "b", "difference", "low", "high", "relative_percent")
FILES = ("comparison.json", "comparison.csv", "objects.csv", "comparison.png", "comparison.svg")
SCORES = ("precision", "recall", "f1", "pq")
WIDTH, HEIGHT = 7.2, 3.6  # inches: two columns of a journal
DOTS_PER_INCH = 300
LOGARITHMIC = 4  # sizes that span a larger factor stand on a logarithmic axis


def table(result: Result) -> str:
    """The comparison as lines of text, its columns aligned, for a terminal or a log."""
    a, b = result["a"], result["b"]
    confidence = f"{100 * result['confidence']:g} %"
    lines = [f"{side}  {_describe(result[side.lower()])}" for side in ("A", "B")]
    lines += [f"{'paired' if result['paired'] else 'independent'}: {result['reason']}", ""]
    head = ("quantity", "unit", "A", "B", "B - A", f"{confidence} interval", "", "relative")
    lines += _aligned([head, *(_row(q) for q in result["quantities"].values())], words=2)
    if a["micrographs"] > 1 and b["micrographs"] > 1:
        count = sum(q["low"] is not None for q in result["quantities"].values())
        chance = f"{count * (1 - result['confidence']):.1g}"
        lines.append(f"* the interval excludes 0; of {count} intervals {chance} do so by chance on average")
    lines += ["", _sizes_line(result["sizes"], result["unit"])]
    if result.get("objects"):
        lines += ["", *_objects_lines(result["objects"])]
    lines += [f"warning: {warning}" for warning in result["warnings"]]
    return "\n".join(lines)


def _describe(side: Result) -> str:
    return (
        f"{side['name']}: {_count(side['micrographs'], 'micrograph')}, {_count(side['carbides'], 'carbide')}"
    )


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def _row(quantity: Result) -> tuple[str, ...]:
    low, high = quantity["low"], quantity["high"]
    interval = "" if low is None else f"{_figure(low, '+')} to {_figure(high, '+')}"
    star = "*" if low is not None and (low > 0 or high < 0) else ""
    values = (_figure(quantity["a"]), _figure(quantity["b"]), _figure(quantity["difference"], "+"))
    relative = quantity["relative_percent"]
    percent = "" if relative is None else f"{relative:+.1f} %"
    return (quantity["name"], quantity["unit"], *values, interval, star, percent)


def _figure(value: float | None, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}.4g}"


def _aligned(rows: Sequence[Sequence[str]], words: int) -> list[str]:
    """The first ``words`` columns to the left, the figures to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [f"{cell:<{width}}" for cell, width in zip(row[:words], widths, strict=False)]
        cells += [f"{cell:>{width}}" for cell, width in zip(row[words:], widths[words:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return lines


def _sizes_line(sizes: Result, unit: str) -> str:
    if sizes["d"] is None:
        return f"Kolmogorov-Smirnov on ECD: {sizes['reason']}"
    line = f"Kolmogorov-Smirnov on ECD: D = {sizes['d']:.3f} at {sizes['diameter']:.3g} {_pretty(unit)}, "
    if sizes["p"] is None:
        line += f"no p: {sizes['reason']}"
    else:
        splits = f"{sizes['permutations']:,}"
        splits = f"all {splits}" if sizes["exact"] else f"{splits} drawn"
        line += f"p = {sizes['p']:.2g} ({splits} splits of whole micrographs)"
    return f"{line}; as if carbides were independent: p = {sizes['p_independent']:.2g}"


def _objects_lines(objects: Result) -> list[str]:
    rows = [("", *("PQ" if score == "pq" else score.capitalize() for score in SCORES))]
    for name, key in (("median", "median"), ("lower quartile", "q1"), ("upper quartile", "q3")):
        rows.append((name, *(_figure3(objects[score][key]) for score in SCORES)))
    rows.append(("mean", *(_figure3(objects[score]["mean"]) for score in SCORES)))
    head = f"objects of B matched with those of A (the reference) above IoU {objects['iou']:g}, "
    return [head + _count(len(objects["micrographs"]), "micrograph"), *_aligned(rows, words=1)]


def _figure3(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _pretty(unit: str) -> str:
    return "µm" if unit == "um" else unit


def write(result: Result, a: Pooled, b: Pooled, dest: Path) -> list[Path]:
    """Write `FILES` into ``dest``, all or none, and return their paths; ``objects.csv`` only with objects.

    ``a`` and ``b`` are what the samples have ``pooled``. An ``objects.csv`` of an earlier run is removed.
    Raises OSError where the disk refuses.
    """
    with all_or_none(dest) as folder:
        text = json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False)
        (folder / "comparison.json").write_text(text + "\n", encoding="utf-8")
        rows = [{"quantity": key} | dict(value) for key, value in result["quantities"].items()]
        pd.DataFrame(rows)[list(COLUMNS)].to_csv(folder / "comparison.csv", index=False, float_format="%.6g")
        if result["objects"]:
            pd.DataFrame(result["objects"]["micrographs"]).to_csv(
                folder / "objects.csv", index=False, float_format="%.6g"
            )
        figure = picture(result, a, b)
        for kind in ("png", "svg"):
            figure.savefig(folder / f"comparison.{kind}", dpi=DOTS_PER_INCH)
        written = [name for name in FILES if (folder / name).exists()]
    if "objects.csv" not in written:
        (dest / "objects.csv").unlink(missing_ok=True)
    return [dest / name for name in written]


def picture(result: Result, a: Pooled, b: Pooled) -> Figure:
    """Cumulative size distributions of both samples, and the relative difference of each quantity."""
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    curves, forest = figure.subplots(1, 2, width_ratios=(1, 1))
    _draw_curves(curves, result, a, b)
    _draw_forest(forest, result)
    for axes in (curves, forest):
        axes.tick_params(labelsize=8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _draw_curves(axes: Axes, result: Result, a: Pooled, b: Pooled) -> None:
    for letter, side, colour in (("A", a, BLUE), ("B", b, ORANGE)):
        if not len(side.ecd):
            continue
        at = np.unique(side.ecd)
        label = f"{letter}: {_shortened(result[letter.lower()]['name'])}, n = {len(side.ecd):,}"
        axes.step(at, cumulative(side, at), where="post", color=rgb(colour), linewidth=1.4, label=label)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), frameon=False, fontsize=8)
    if result["sizes"]["d"] is not None:
        _draw_distance(axes, result["sizes"], a, b)
    sizes = np.concatenate((a.ecd, b.ecd))
    if len(sizes) and sizes.max() > LOGARITHMIC * sizes.min():
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(0, 1)
    axes.set_xlabel(f"equivalent circle diameter ({_pretty(result['unit'])})", fontsize=8)
    axes.set_ylabel("cumulative share of uncut carbides", fontsize=8)
    axes.grid(color="0.92")


def _draw_distance(axes: Axes, sizes: Result, a: Pooled, b: Pooled) -> None:
    """The largest distance of the curves, where it is."""
    at = np.array([sizes["diameter"]])
    ends = (cumulative(a, at)[0], cumulative(b, at)[0])
    axes.plot((at[0], at[0]), ends, color="black", linewidth=1.6, solid_capstyle="butt")
    p = "" if sizes["p"] is None else f", p = {sizes['p']:.2g}"
    text = f"D = {sizes['d']:.3f}{p}"
    axes.text(0.98, 0.03, text, ha="right", transform=axes.transAxes, fontsize=8)


def _draw_forest(axes: Axes, result: Result) -> None:
    rows = [q for q in result["quantities"].values() if q["relative_percent"] is not None][::-1]
    axes.axvline(0, color="0.4", linewidth=0.8)
    for place, quantity in enumerate(rows):
        low, high = quantity["relative_low"], quantity["relative_high"]
        grey = (0.45, 0.45, 0.45)
        if low is None:
            axes.plot(quantity["relative_percent"], place, "o", color=grey, markersize=4, mfc="white")
            continue
        colour = rgb(VERMILLION) if low > 0 or high < 0 else grey
        axes.plot((low, high), (place, place), color=colour, linewidth=1.6, marker="|", markersize=6)
        axes.plot(quantity["relative_percent"], place, "o", color=colour, markersize=3)
    axes.set_yticks(range(len(rows)), [quantity["name"] for quantity in rows])
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.margins(x=0.05)
    axes.grid(axis="x", color="0.92")
    axes.set_xlabel("difference B − A in % of A", fontsize=8)
    remark = f"line: {100 * result['confidence']:g} % interval; red: without 0; open: no interval"
    axes.set_title(remark, fontsize=7, color="0.35", loc="right")


def _shortened(name: str, length: int = 24) -> str:
    name = name if len(name) <= length else name[: length - 1] + "…"
    return name.replace("$", r"\$")  # no formula
