"""Charts of a training and an evaluation, and the files of one segmented micrograph."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from carde_monai.error_picture import error_picture
from carde_monai.errors import InputError
from carde_monai.pictures import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    SKY_BLUE,
    VERMILLION,
    Array,
    Colour,
    confidence_picture,
    overlay_picture,
    rgb,
    save_png,
)
from carde_monai.replacing import all_or_none, replace_file
from carde_monai.tiff import write_tiff

__all__ = [
    "box_plot",
    "check_numbers",
    "error_picture",
    "reliability_diagram",
    "training_curve",
    "write_segmentation",
]

Points = Sequence[Mapping[str, Any]]


def write_segmentation(
    name: str,
    image: Array,
    probability: Array,
    dest: Path,
    pixel_size_um: float | None = None,
    maps: Mapping[str, Array] | None = None,
) -> list[Path]:
    """Write mask, probability, confidence map and overlay of a micrograph into ``dest``; return the paths.

    ``image`` is (2, H, W) raw greys, ``probability`` (H, W); ``maps`` are further (H, W) results, which
    become ``<name>_<key>.tif``. Nothing is put in place before all are written. Probability and maps are
    float32 ImageJ TIFFs with the pixel size in microns. Raises InputError for a name that is no file name,
    sizes that differ and probabilities that are no numbers; OSError where the disk refuses.
    """
    if not name or Path(name).name != name:
        raise InputError(name or "micrograph without a name", "cannot name a file", "rename the micrograph")
    probability = np.asarray(probability, dtype=np.float32)
    if image.shape[1:] != probability.shape:
        raise InputError(name, f"image {image.shape[1:]} and probability {probability.shape} differ in size")
    check_numbers(name, probability)
    dest = Path(dest)
    mask = probability > 0.5
    with all_or_none(dest) as folder:
        files = [
            Path(folder, f"{name}_{kind}")
            for kind in ("mask.png", "probability.tif", "confidence.png", "overlay.png")
        ]
        further = {
            Path(folder, f"{name}_{key}.tif"): np.asarray(one, np.float32)
            for key, one in (maps or {}).items()
        }
        files += further
        mask_file, probability_file, confidence_file, overlay_file = files[:4]
        with ThreadPoolExecutor(2) as pool:  # compression releases the GIL; two cores halve the time
            tasks = [
                pool.submit(write_tiff, probability, probability_file, pixel_size_um, (0, 1)),
                pool.submit(overlay_picture, image, mask, overlay_file, pixel_size_um),
                pool.submit(confidence_picture, probability, confidence_file, pixel_size_um),
                pool.submit(save_png, Image.fromarray(mask.view(np.uint8) * np.uint8(255)), mask_file),
                *(
                    pool.submit(write_tiff, one, file, pixel_size_um, (0, float(one.max()) or 1.0))
                    for file, one in further.items()
                ),
            ]
        for task in tasks:
            task.result()
    return [dest / file.name for file in files]


def check_numbers(name: str, probability: Array) -> None:
    """Raise InputError if there is a pixel in which the probability of a micrograph is no number."""
    if not np.isfinite((probability.min(), probability.max())).all():  # without a copy: NaN is both
        raise InputError(name, "the network's output is not a number", "check the checkpoint and the image")


def reliability_diagram(
    before: Points,
    after: Points | None,
    path: Path,
    *,
    title: str | None = None,
    beside: Mapping[str, Points] | None = None,
) -> None:
    """Draw observed carbide share against predicted probability, before and after calibration, and counts.

    ``beside`` are further curves by name, such as mean variance, three at most. Points are mappings with
    ``predicted``, ``observed`` (0..1) and ``count`` (pixels); those of no pixels are left out.
    """
    figure = Figure(figsize=(6.4, 8), layout="constrained")
    curve, counts = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    curve.plot((0, 1), (0, 1), color="0.4", linestyle="--", linewidth=1, label="perfectly calibrated")
    series = [("before calibration", before, VERMILLION, "o")]
    if after is not None:
        series.append(("after calibration", after, BLUE, "s"))
    styles = ((GREEN, "^"), (PURPLE, "v"), (ORANGE, "D"))
    for (name, points), style in zip((beside or {}).items(), styles, strict=False):
        series.append((name, points, *style))
    for name, points, colour, marker in series:
        filled = sorted((p for p in points if p["count"]), key=lambda p: float(p["predicted"]))
        predicted = [p["predicted"] for p in filled]
        label = f"{name}: ECE {expected_calibration_error(filled):.4f}"
        style: dict[str, Any] = {"color": rgb(colour), "marker": marker, "markersize": 4, "linewidth": 1.5}
        curve.plot(predicted, [p["observed"] for p in filled], label=label, **style)
        counts.plot(predicted, [p["count"] for p in filled], **style)
    total = sum(p["count"] for p in before)
    curve.set(ylabel="observed share of carbide pixels", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    curve.legend(loc="upper left")
    counts.set(xlabel="predicted probability of carbide", ylabel="pixels per bin", yscale="log")
    _finish(figure, (curve, counts), path, f"{title or 'Reliability'} (n = {total:,} pixels)")


def expected_calibration_error(points: Points) -> float:
    """Mean of |observed - predicted| over the points, weighted with their counts (Naeini et al. 2015)."""
    filled = [point for point in points if point["count"]]
    total = sum(point["count"] for point in filled)
    error = sum(point["count"] * abs(point["observed"] - point["predicted"]) for point in filled)
    return error / total if total else math.nan


def box_plot(
    groups: Mapping[str, Sequence[float]], path: Path, ylabel: str = "Dice", title: str | None = None
) -> None:
    """Draw a box and the single values of each group; n and the median stand below it.

    Groups whose names share the first word (``network test``, ``network hold-out``) share a colour. Values
    that are not finite are left out, of n too.
    """
    if not groups:
        raise ValueError("a box plot needs at least one group")
    figure = Figure(figsize=(max(5.0, 1.4 * len(groups) + 1), 5), layout="constrained")
    axes = figure.subplots()
    kinds = list(dict.fromkeys(name.partition(" ")[0] for name in groups))
    palette = [rgb(colour) for colour in (BLUE, ORANGE, GREEN, PURPLE, SKY_BLUE, VERMILLION)]
    random = np.random.default_rng(0)  # the same picture each time
    ticks = []
    for place, (name, group) in enumerate(groups.items()):
        values = np.asarray(list(group), float)
        values = values[np.isfinite(values)]
        if values.size:
            colour = palette[kinds.index(name.partition(" ")[0]) % len(palette)]
            _draw_box(axes, place + random.uniform(-0.2, 0.2, values.size), values, colour)
        median = f"{np.median(values):.3f}" if values.size else "none"
        lines = textwrap.wrap(name, 16, break_on_hyphens=False)
        ticks.append("\n".join([*lines, f"n = {values.size:,}", f"median {median}"]))
    axes.set_xticks(range(len(ticks)), ticks)
    axes.set(ylabel=ylabel, xlim=(-0.6, len(ticks) - 0.4))
    axes.set_xlabel("line: median, box: quartiles, whiskers: 1.5 IQR", color="0.4", fontsize=9)
    _finish(figure, (axes,), path, title)


def _draw_box(axes: Axes, places: Array, values: Array, colour: tuple[float, ...]) -> None:
    """A box at the whole number nearest to the jittered ``places``, and a point for each of the values."""
    line: dict[str, Any] = {"color": colour, "linewidth": 1.5}
    axes.boxplot(
        values,
        positions=[round(float(places[0]))],
        widths=0.55,
        showfliers=False,  # all values are drawn below
        patch_artist=True,
        manage_ticks=False,
        boxprops={"facecolor": (*colour, 0.15), "edgecolor": colour, "linewidth": 1.5},
        whiskerprops=line,
        capprops=line,
        medianprops={"color": "black", "linewidth": 2, "zorder": 4},
    )
    # few points lie over the line of the median, many under it
    size, alpha, layer = (6, 0.3, 3) if values.size > 100 else (22, 0.8, 5)
    axes.scatter(places, values, s=size, color=[colour], alpha=alpha, linewidths=0, zorder=layer)


def training_curve(csv_path: Path, png_path: Path) -> None:
    """Draw loss, Dice and learning rate of a ``training.csv`` and mark the best epoch.

    Columns: epoch, loss, learning_rate, val_loss, val_mean_dice; an absent one leaves no curve. Raises
    InputError for a file that is missing, empty or has no column ``epoch``.
    """
    table = _read_training(Path(csv_path))
    figure = Figure(figsize=(7.2, 8), layout="constrained")
    panels = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 2))
    loss, score, rate = panels
    dices = [name for name in table if name.startswith("val_") and "dice" in name and "loss" not in name]
    _draw_column(loss, table, "loss", ORANGE, "training")
    _draw_column(loss, table, "val_loss", BLUE, "validation")
    for name, colour in zip(dices, (BLUE, GREEN, PURPLE), strict=False):
        label = name.removeprefix("val_").replace("_", " ").replace("dice", "Dice")
        _draw_column(score, table, name, colour, f"validation, {label}")
    _draw_column(rate, table, "learning_rate", VERMILLION, "")
    loss.set_ylabel("loss")
    score.set_ylabel("Dice")
    rate.set(xlabel="epoch", ylabel="learning rate")
    if "learning_rate" in table and (table["learning_rate"] > 0).any():
        rate.set_yscale("log")
    best = _best_epoch(table, dices[0] if dices else None)
    for axes in panels:
        if best is not None:
            axes.axvline(best[0], color="0.4", linestyle=":", label=f"best epoch {best[0]:g}: {best[1]}")
        if axes is not rate and axes.get_legend_handles_labels()[0]:
            axes.legend()
    rate.xaxis.get_major_locator().set_params(integer=True)
    _finish(figure, panels, Path(png_path), f"Training, n = {len(table)} epochs")


def _read_training(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(path)
    except FileNotFoundError:
        raise InputError(path, "there is no such file", "train first") from None
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError):
        table = pd.DataFrame()
    if "epoch" not in table or table.empty:
        raise InputError(path, "has no rows with a column 'epoch'", "give the training.csv of a training")
    return table.apply(pd.to_numeric, errors="coerce")


def _draw_column(axes: Axes, table: pd.DataFrame, column: str, colour: Colour, label: str) -> None:
    if column not in table:
        return
    filled = table[["epoch", column]].dropna()  # validation need not run every epoch
    if len(filled):
        marker = "." if len(filled) < 60 else None
        axes.plot(filled["epoch"], filled[column], color=rgb(colour), marker=marker, label=label or None)


def _best_epoch(table: pd.DataFrame, dice: str | None) -> tuple[float, str] | None:
    """The epoch of the highest validation Dice (else the lowest validation loss) and its figure as text."""
    for column, sign, name in ((dice, 1, "Dice"), ("val_loss", -1, "validation loss")):
        if column in table and table[column].notna().any():
            row = table.loc[(sign * table[column]).idxmax()]
            return float(row["epoch"]), f"{name} {row[column]:.4f}"
    return None


def _finish(figure: Figure, panels: Sequence[Axes], path: Path, title: str | None) -> None:
    for axes in panels:
        axes.grid(color="0.9")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    if title:
        figure.suptitle(title)
    replace_file(path, lambda part: figure.savefig(part, dpi=150))
