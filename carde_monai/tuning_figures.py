"""Charts of a hyperparameter search. Optuna's own are experimental, and draw on pyplot's global state."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from optuna.distributions import CategoricalDistribution

from carde_monai.pictures import BLUE, ORANGE, VERMILLION, rgb
from carde_monai.search_space import Parameter

LOSS = "validation Dice loss"
RATIO = 4.0  # of the largest to the smallest loss: from here on a logarithmic axis


def history(table: pd.DataFrame, published: float) -> Figure:
    """Loss of each trial in the order of their beginning, and the best so far."""
    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    axes = figure.subplots()
    told = table[np.isfinite(table["val_loss"])]
    complete = told[told["state"] == "complete"]
    axes.axhline(published, color="0.4", linestyle="--", linewidth=1, label=f"published: {published:g}")
    if len(complete):
        best = complete["val_loss"].cummin()
        axes.step(complete["trial"], best, where="post", color=rgb(ORANGE), linewidth=1.5)
        label = f"best so far: {best.iloc[-1]:.4f}"
        axes.plot([], [], color=rgb(ORANGE), linewidth=1.5, label=label)
    styles: dict[str, dict[str, Any]] = {
        "complete": {"marker": "o", "color": rgb(BLUE)},
        "pruned": {"marker": "v", "color": rgb(VERMILLION), "facecolors": "none"},
    }
    for state, style in styles.items():
        mine = told[told["state"] == state]
        axes.scatter(mine["trial"], mine["val_loss"], s=30, zorder=3, label=f"{state}: {len(mine)}", **style)
    failed = table[table["state"] == "failed"]
    if len(failed):  # they have no loss: at the upper edge
        place: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "clip_on": False}
        axes.scatter(
            failed["trial"],
            np.ones(len(failed)),
            marker="x",
            color="black",
            label=f"failed: {len(failed)}",
            **place,
        )
    axes.set(xlabel="trial", ylabel=f"lowest {LOSS}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _loss_axis(axes, [*told["val_loss"], published])
    _finish(figure, [axes], f"Search history, n = {len(told) + len(failed)} trials")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    return figure


def slices(table: pd.DataFrame, parameters: Sequence[Parameter], published: Mapping[str, Any]) -> Figure:
    """Loss against each of the parameters; the colour tells when a trial was begun."""
    columns = min(4, len(parameters))
    rows = math.ceil(len(parameters) / columns)
    size = (max(3.4 * columns, 4.2) + 0.8, 3.6 * rows + 0.7)
    figure = Figure(figsize=size, layout="constrained")
    panels = np.atleast_1d(figure.subplots(rows, columns, sharey=True)).ravel()
    told = table[np.isfinite(table["val_loss"])]
    norm = Normalize(0, max(1, int(table["trial"].max()) if len(table) else 1))
    points = None
    for axes, parameter in zip(panels, parameters, strict=False):
        places = _places(axes, parameter, told[parameter.id])
        for state, marker in (("pruned", "v"), ("complete", "o")):
            mine = (told["state"] == state).to_numpy()
            points = axes.scatter(
                places[mine],
                told["val_loss"][mine],
                c=told["trial"][mine],
                marker=marker,
                norm=norm,
                cmap="viridis_r",
                edgecolors="0.3",
                linewidths=0.5,
                s=36 if state == "complete" else 22,
            )
        _mark_published(axes, parameter, published.get(parameter.id))
        axes.set_xlabel(parameter.id)
    for axes in panels[len(parameters) :]:
        axes.set_visible(False)
    _loss_axis(panels[0], told["val_loss"])
    for row in range(rows):
        panels[row * columns].set_ylabel(f"lowest {LOSS}")
    if points is not None:
        figure.colorbar(points, ax=list(panels), label="trial", ticks=MaxNLocator(integer=True))
    note = "circles: complete, triangles: pruned, dashed: published optimum"
    _finish(figure, list(panels), f"Each parameter, n = {len(told)} trials ({note})")
    return figure


def importance(shares: Mapping[str, float], trials: int) -> Figure:
    """Share of each parameter, a bar each; a remark if there is none."""
    figure = Figure(figsize=(6.4, 1.6 + 0.5 * max(1, len(shares))), layout="constrained")
    axes = figure.subplots()
    names = list(shares)[::-1]
    bars = axes.barh(names, [shares[name] for name in names], color=rgb(BLUE), height=0.6)
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.set(xlabel="importance (PED-ANOVA), sum 1", xlim=(0, 1.1 * max(shares.values(), default=1)))
    if not shares:
        axes.text(0.5, 0.5, "too few complete trials that differ", ha="center", transform=axes.transAxes)
        axes.set_yticks([])
    _finish(figure, [axes], f"Importance of the parameters, n = {trials} complete trials")
    axes.grid(visible=False, axis="y")
    return figure


def _places(axes: Axes, parameter: Parameter, values: pd.Series) -> np.ndarray[Any, Any]:
    """Where the values stand on the axis, which is prepared: choices in their order, numbers by size."""
    kind = parameter.distribution
    if isinstance(kind, CategoricalDistribution):
        names = [str(choice) for choice in kind.choices]
        short = [name if len(name) <= 12 else f"{name[:11]}…" for name in names]
        long = max(map(len, short)) * len(short) > 24
        axes.set_xticks(
            range(len(names)), short, rotation=45 if long else 0, ha="right" if long else "center"
        )
        axes.set_xlim(-0.5, len(names) - 0.5)
        return np.array([names.index(str(value)) for value in values], float)
    low, high = parameter.extremes()
    if parameter.log:
        axes.set_xscale("log")
        margin = (high / low) ** 0.05 if high > low else 1.5
        axes.set_xlim(low / margin, high * margin)
    else:
        margin = 0.05 * (high - low) or 0.5
        axes.set_xlim(low - margin, high + margin)
        if isinstance(low, int) and isinstance(high, int):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return values.to_numpy(float)


def _mark_published(axes: Axes, parameter: Parameter, value: Any) -> None:
    if value is None:
        return
    kind = parameter.distribution
    if isinstance(kind, CategoricalDistribution):
        if value not in kind.choices:
            return
        value = kind.choices.index(value)
    low, high = axes.get_xlim()
    if low <= value <= high:
        axes.axvline(value, color="0.4", linestyle="--", linewidth=1, zorder=0)


def _loss_axis(axes: Axes, values: Sequence[float] | pd.Series) -> None:
    """Logarithmic if the losses are orders apart, with plain numbers at the ticks."""
    values = np.asarray([value for value in values if value > 0], float)
    if values.size and values.max() / values.min() > RATIO:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())


def _finish(figure: Figure, panels: Sequence[Axes], title: str) -> None:
    for axes in panels:
        axes.grid(color="0.9")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=11)
