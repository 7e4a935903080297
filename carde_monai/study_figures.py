"""The figures of a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from PIL import Image

from carde_monai.error_picture import error_picture
from carde_monai.pictures import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    SKY_BLUE,
    VERMILLION,
    YELLOW,
    Array,
    rgb,
    to_grey8,
)
from carde_monai.replacing import replace_file
from carde_monai.report import box_plot, reliability_diagram
from carde_monai.study_baseline import cut, read_frame
from carde_monai.study_lists import annotated, tile_name
from carde_monai.study_results import (
    BASELINE,
    HOLDOUT_FRAMES,
    HOLDOUT_TILES,
    NETWORK,
    SCALED,
    TEST_TILES,
    VARIANCE,
    Findings,
)

PALETTE = (BLUE, ORANGE, GREEN, PURPLE, VERMILLION, SKY_BLUE)
QUANTILES = {"worst": 0.0, "lower quartile": 0.25, "median": 0.5, "upper quartile": 0.75, "best": 1.0}


def draw(
    found: Findings, data: Path, folder: Path, tile: int, pixel_size: Mapping[str, float | None]
) -> list[Path]:
    """Draw all figures of a protocol into ``folder`` as ``<protocol>_<what>.png``; returns their paths.

    ``pixel_size`` (micrometres) is by name of the micrograph.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = found.protocol

    def path(what: str) -> Path:
        return folder / f"{name}_{what}.png"

    paths = [path("training"), path("tiles"), path("box_plot")]
    training_curves(found.histories, paths[0], f"{name} protocol: trainings")
    tile_picture(found, data, paths[1], tile)
    tiles = (TEST_TILES, HOLDOUT_TILES)  # micrographs are too few for boxes; they stand in the table
    groups = {key: values for key, values in found.boxes.items() if values and key.endswith(tiles)}
    box_plot(groups, paths[2], "Dice", f"{name} protocol, tiles of {tile} px")
    curves = found.curves
    if NETWORK in curves:
        paths.append(path("reliability"))
        others = {VARIANCE: curves[VARIANCE]} if VARIANCE in curves else None
        title = f"{name} protocol: reliability of the test pixels"
        reliability_diagram(curves[NETWORK], curves[SCALED], paths[-1], title=title, beside=others)
    if len(found.holdout):
        paths.append(path("holdout"))
        holdout_picture(found, data, paths[-1], pixel_size)
    if len(found.learning):
        paths.append(path("learning_curve"))
        learning_curve(found.learning, paths[-1])
    return paths


def training_curves(histories: Mapping[str, Path], path: Path, title: str) -> None:
    """Draw loss and validation Dice of several ``training.csv`` by epoch; the best epoch is marked."""
    figure = Figure(figsize=(9, 7.5), layout="constrained")
    loss, score = figure.subplots(2, 1, sharex=True)
    many = len(histories) > len(PALETTE)
    rainbow = colormaps["turbo"](np.linspace(0.02, 0.98, len(histories)))
    for number, (name, file) in enumerate(histories.items()):
        colour = rainbow[number] if many else rgb(PALETTE[number])
        table = pd.read_csv(file)
        marker = "." if len(table) < 20 else None
        loss.plot(table["epoch"], table["loss"], color=colour, linestyle=":", linewidth=1.3, marker=marker)
        told = table.dropna(subset=["val_loss", "val_mean_dice"])
        loss.plot(told["epoch"], told["val_loss"], color=colour, linewidth=1.5, marker=marker)
        score.plot(told["epoch"], told["val_mean_dice"], color=colour, linewidth=1.5)
        best = told.loc[told["val_mean_dice"].idxmax()]
        label = f"{name}: {best['val_mean_dice']:.3f} (epoch {best['epoch']:.0f})"
        score.plot(best["epoch"], best["val_mean_dice"], "o", color=colour, label=label)
    loss.plot([], [], color="0.3", linestyle=":", label="training")
    loss.plot([], [], color="0.3", label="validation")
    loss.set(ylabel="Dice loss")
    score.set(xlabel="epoch", ylabel="validation Dice")
    score.xaxis.set_major_locator(MaxNLocator(integer=True))
    loss.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    score.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, title="best epoch")
    _finish(figure, (loss, score), title)
    replace_file(path, lambda part: figure.savefig(part, dpi=150))


def tile_picture(found: Findings, data: Path, path: Path, tile: int) -> None:
    """Draw test tiles from worst to best by the network's Dice: both detectors, label, baseline, network.

    The rows are quantiles of all test tiles with carbides, so that nobody has chosen them.
    """
    items = {item["name"]: item for item in annotated(data)[0]}
    rows = []
    for remark, place in _typical(found.tiles):
        frame = read_frame(data, items[place.name])
        image, label = (cut(one, place.row, place.column, tile) for one in frame)
        masks = [_mask(found.masks[place.name], place, tile, kind) for kind in (BASELINE, NETWORK)]
        rows.append((remark, place, image, label, masks))
    figure = Figure(figsize=(11, 2.35 * len(rows) + 0.9), layout="constrained")
    panels = np.atleast_2d(figure.subplots(len(rows), 5, squeeze=False))
    for axes, (remark, place, image, label, (baseline, network)) in zip(panels, rows, strict=True):
        for one, channel in zip(axes[:2], (image[0], image[-1]), strict=True):
            one.imshow(to_grey8(channel), cmap="gray", interpolation="nearest")
        axes[2].imshow(label, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axes[3].imshow(_errors(baseline, label), interpolation="nearest")
        axes[4].imshow(_errors(network, label), interpolation="nearest")
        axes[0].set_ylabel(f"{remark}\n{place.name}\nrow {place.row}, column {place.column}", fontsize=8)
        axes[3].set_xlabel(f"Dice {place.baseline:.3f}", fontsize=9)
        axes[4].set_xlabel(f"Dice {place.network:.3f}", fontsize=9)
    for axes, title in zip(panels[0], ("SE2", "InLens", "label", "baseline", "network"), strict=True):
        axes.set_title(title)
    for axes in panels.ravel():
        axes.set(xticks=[], yticks=[])
    colours = {"true positive": SKY_BLUE, "false positive": VERMILLION, "false negative": YELLOW}
    keys = [Patch(facecolor=rgb(colour), edgecolor="black", label=name) for name, colour in colours.items()]
    figure.legend(handles=keys, loc="outside lower right", ncols=3, frameon=False)
    figure.suptitle(f"{found.protocol} protocol: test tiles of {tile} px, quantiles of the network's Dice")
    replace_file(path, lambda part: figure.savefig(part, dpi=130))


def _typical(tiles: pd.DataFrame) -> list[tuple[str, Any]]:
    """(remark, row of the table) of the tiles at `QUANTILES` among those that have carbides."""
    table = tiles[tiles["filled"]] if tiles["filled"].any() else tiles
    order = list(table.sort_values(NETWORK, kind="stable").itertuples(index=False))
    places = {round(share * (len(order) - 1)): remark for remark, share in QUANTILES.items()}
    return [(remark, order[place]) for place, remark in sorted(places.items())]


def _mask(folders: Sequence[Path], place: Any, tile: int, kind: str) -> Array:
    """A tile's mask from its own file, or cut from that of its frame."""
    for folder in folders:
        own = folder / f"{tile_name(place.name, place.row, place.column)}_{kind}.png"
        if own.is_file():
            return np.asarray(Image.open(own)) > 0
        if (whole := folder / f"{place.name}_{kind}.png").is_file():
            return cut(np.asarray(Image.open(whole)) > 0, place.row, place.column, tile)
    raise FileNotFoundError(f"no mask of {place.name} by the {kind} in {', '.join(map(str, folders))}")


def _errors(mask: Array, label: Array) -> Array:
    label = label > 0
    picture = np.zeros((*mask.shape, 3), np.uint8)
    for where, colour in ((mask & label, SKY_BLUE), (mask & ~label, VERMILLION), (label & ~mask, YELLOW)):
        picture[where] = colour
    return picture


def holdout_picture(found: Findings, data: Path, path: Path, pixel_size: Mapping[str, float | None]) -> None:
    """The hold-out micrograph of median network Dice (the lower of two): errors of network and baseline."""
    order = found.holdout.sort_values(NETWORK)["name"].tolist()
    name = order[(len(order) - 1) // 2]
    item = next(one for one in annotated(data)[1] if one["name"] == name)
    image, label = read_frame(data, item)
    (folder,) = found.masks[name]
    masks = {kind: np.asarray(Image.open(folder / f"{name}_{kind}.png")) > 0 for kind in (NETWORK, BASELINE)}
    which = ", network of the first fold" if found.protocol == "honest" else ""
    title = f"{found.protocol} protocol, hold-out: {name}{which}"
    error_picture(image, label, masks, path, pixel_size.get(name), title)


def learning_curve(table: pd.DataFrame, path: Path) -> None:
    """Draw Dice against the number of annotated micrographs: a point a training, a line the medians."""
    figure = Figure(figsize=(7.6, 5), layout="constrained")
    axes = figure.subplots()
    for data, colour in ((TEST_TILES, BLUE), (HOLDOUT_FRAMES, ORANGE)):
        column = f"{data}, {NETWORK}"
        if not table[column].notna().any():
            continue
        axes.scatter(table["micrographs"], table[column], color=rgb(colour), s=22, alpha=0.7, linewidths=0)
        middle = table.groupby("micrographs")[column].median()
        axes.plot(middle.index, middle, color=rgb(colour), linewidth=1.5, label=f"network, {data}")
        base = table[f"{data}, {BASELINE}"].median()
        label = f"baseline, {data}: {base:.3f}"
        axes.axhline(base, color=rgb(colour), linestyle="--", linewidth=1, label=label)
    sizes = sorted(set(table["micrographs"]))
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set(xlabel="annotated micrographs for training", ylabel="median Dice")
    axes.legend(loc="best")
    seeds = table["seed"].nunique()
    _finish(figure, (axes,), f"Learning curve, {seeds} seed{'s' if seeds > 1 else ''}")
    replace_file(path, lambda part: figure.savefig(part, dpi=150))


def _finish(figure: Figure, panels: Sequence[Axes], title: str) -> None:
    for axes in panels:
        axes.grid(color="0.9")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
