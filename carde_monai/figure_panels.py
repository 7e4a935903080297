"""What each figure shows: a function draws on an empty figure and returns its caption."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from carde_monai.figure_series import Floats, Series, count, label, legend, steps

LEAST_ELONGATION = 1.5  # the direction of a carbide rounder than this means nothing
FIT_LINE = (0, (4, 1.5))


# Sizes


def histogram(figure: Figure, series: Sequence[Series], unit: str) -> str:
    """Share of the carbides in classes of equal ratio, and the fitted log-normal distribution."""
    axes = figure.subplots()
    sizes = [each.sizes() for each in series]
    edges = _classes([size for size, _ in sizes])
    middles, step = np.sqrt(edges[1:] * edges[:-1]), math.log(edges[1] / edges[0])
    for each, (size, weight) in zip(series, sizes, strict=True):
        share = 100 * np.histogram(size, edges, weights=weight)[0]
        name = label(each, size.size)
        if len(series) == 1:
            axes.stairs(share, edges, fill=True, color=(*each.colour, 0.25))
            axes.stairs(share, edges, color=each.colour, linewidth=0.8, label=name)
        else:
            style: dict[str, Any] = {"color": each.colour, "marker": each.marker, "linestyle": "none"}
            axes.plot(middles, np.where(share > 0, share, np.nan), **style, markersize=2.8, label=name)
        _fit_curve(axes, each, edges, 100 * step, alone=len(series) == 1)
    axes.set(ylabel="share of carbides per class (%)", ylim=(0, None))
    _size_axis(axes, edges, unit)
    legend(figure, axes)
    fit = "line: log-normal fit" if len(series) == 1 else "points: classes, lines: log-normal fits"
    return (
        f"Equivalent circle diameters of uncut carbides, weighted against the border's bias "
        f"(Miles–Lantuéjoul), in classes of equal ratio ({fit}). "
        f"{count(series, [size.size for size, _ in sizes], 'carbides')}."
    )


def _fit_curve(axes: Axes, each: Series, edges: Floats, scale: float, *, alone: bool) -> None:
    model = each.fit()
    if model is None:
        return
    grid = np.geomspace(edges[0], edges[-1], 300)
    look: dict[str, Any] = {"color": "black", "linestyle": FIT_LINE} if alone else {}
    look = look or {"color": each.colour, "linestyle": each.line}
    share = scale * grid * model.pdf(grid)  # x pdf(x) is the density of ln x
    share[grid < model.limit] = np.nan
    axes.plot(grid, share, linewidth=1.0, **look, label="log-normal fit" if alone else None)


def cumulative(figure: Figure, series: Sequence[Series], unit: str) -> str:
    """Cumulative share of the carbides up to a diameter, and the fit."""
    axes = figure.subplots()
    sizes = [each.sizes() for each in series]
    edges = _classes([size for size, _ in sizes])
    for each, (size, weight) in zip(series, sizes, strict=True):
        look: dict[str, Any] = {"color": each.colour, "linestyle": each.line, "linewidth": 1.1}
        steps(axes, size, 100 * np.cumsum(weight), edges[-1], label=label(each, size.size), **look)
        model = each.fit()
        if len(series) == 1 and model is not None:
            grid = np.geomspace(edges[0], edges[-1], 300)
            fit: dict[str, Any] = {"color": "black", "linewidth": 0.9, "linestyle": FIT_LINE}
            axes.plot(grid, 100 * model.cdf(grid), **fit, label="log-normal fit")
    axes.axhline(50, color="0.8", linewidth=0.6, zorder=0)
    axes.set(ylabel="carbides up to this size (%)", ylim=(0, 100))
    _size_axis(axes, edges, unit)
    legend(figure, axes)
    return (
        "Share of the same carbides up to a diameter; the grey line marks the median. "
        f"{count(series, [size.size for size, _ in sizes], 'carbides')}."
    )


def _classes(sizes: Sequence[Floats]) -> Floats:
    """Edges in geometric progression that hold all sizes: 10 to 30 classes, more for more carbides."""
    filled = [size for size in sizes if size.size]
    if not filled:
        return np.geomspace(0.01, 1, 11)
    low, high = min(size[0] for size in filled), max(size[-1] for size in filled)
    number = int(np.clip(2 * max(size.size for size in filled) ** (1 / 3), 10, 30))  # Rice's rule
    margin = max((high / low) ** (0.5 / number), 1.05)
    return np.geomspace(low / margin, high * margin, number + 1)


def _size_axis(axes: Axes, edges: Floats, unit: str) -> None:
    axes.set_xscale("log")
    axes.set(xlabel=f"equivalent circle diameter ({unit})", xlim=(edges[0], edges[-1]))
    _log_ticks(axes, edges[-1] / edges[0])


def _log_ticks(axes: Axes, span: float) -> None:
    """Labels at 1, 2 and 5 of each decade, as plain numbers; only at decades on a long axis."""
    labelled = (1, 2, 5) if span < 300 else (1,)
    axes.xaxis.set_major_locator(LogLocator(10, subs=labelled))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(LogLocator(10, subs=range(1, 10)))
    axes.xaxis.set_minor_formatter(NullFormatter())


# Spacing


def spacing(figure: Figure, series: Sequence[Series], unit: str) -> str:
    """Cumulative nearest-neighbour distances against those of a random pattern of the same density."""
    axes = figure.subplots()
    numbers, farthest = [], 0.0
    for each in series:
        distance = each.column("nearest_neighbour")
        distance = np.sort(distance[np.isfinite(distance) & (distance > 0)])
        numbers.append(distance.size)
        if distance.size:
            farthest = max(farthest, float(np.percentile(distance, 99.5)) * 1.1)
    for each, number in zip(series, numbers, strict=True):
        distance = each.column("nearest_neighbour")
        distance = np.sort(distance[np.isfinite(distance) & (distance > 0)])
        share = 100 * np.arange(1, number + 1) / max(number, 1)
        look: dict[str, Any] = {"color": each.colour, "linestyle": each.line, "linewidth": 1.1}
        steps(axes, distance, share, farthest, label=label(each, number), **look)
        density = (each.summary["quantities"].get("number_density") or {}).get("value")
        if density and farthest:
            grid = np.linspace(0, farthest, 200)
            random = 100 * -np.expm1(-math.pi * density * grid**2)
            axes.plot(
                grid, random, color=each.colour if len(series) > 1 else "0.35", linewidth=0.8, linestyle=":"
            )
    axes.plot([], [], color="0.35", linewidth=0.8, linestyle=":", label="random, same density")
    axes.set(xlabel=f"distance to the nearest carbide ({unit})", ylabel="carbides (%)", ylim=(0, 100))
    axes.set_xlim(0, farthest or 1)
    legend(figure, axes)
    return (
        "Share of carbides with a neighbour within a distance, centre to centre. Dotted: a random pattern of "
        "the same number density, 1 − exp(−π N r²); left of it carbides are clustered, right of it ordered. "
        f"{count(series, numbers, 'carbides')}."
    )


# Orientation


def rose(figure: Figure, series: Sequence[Series], unit: str) -> str:
    """Directions of elongated carbides, counted both ways."""
    figure.set_figheight(72 / 25.4)
    axes: Any = figure.add_subplot(projection="polar")
    edges = np.radians(np.arange(0, 181, 10))
    numbers, top = [], 0.0
    for each in series:
        angle, weight = each.column("orientation_deg"), each.column("border_weight")
        used = (each.column("aspect_ratio") >= LEAST_ELONGATION) & np.isfinite(angle) & (weight > 0)
        numbers.append(int(used.sum()))
        if not used.any():
            continue
        share = np.histogram(np.radians(angle[used] % 180), edges, weights=weight[used])[0]
        share = 100 * share / share.sum()
        top = max(top, float(share.max()))
        both = np.concatenate([share, share])
        around = np.concatenate([edges, edges[1:] + math.pi])
        look: dict[str, Any] = {"color": each.colour, "linestyle": each.line, "linewidth": 1.0}
        # an arc over each class: stairs would be drawn as chords
        theta = np.linspace(around[:-1], around[1:], 6, axis=1).ravel()
        radius = np.repeat(both, 6)
        axes.plot(
            np.append(theta, theta[0]), np.append(radius, radius[0]), **look, label=label(each, numbers[-1])
        )
        if len(series) == 1:
            axes.fill(theta, radius, color=(*each.colour, 0.25), linewidth=0)
    circle = np.linspace(0, 2 * math.pi, 181)
    axes.plot(
        circle, np.full(181, 100 / 18), color="0.35", linewidth=0.8, linestyle=":", label="no preference"
    )
    axes.set_ylim(0, 1.08 * max(top, 100 / 18))
    axes.yaxis.set_major_locator(MaxNLocator(3, prune="lower"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
    axes.set_rlabel_position(90)
    axes.tick_params(axis="y", labelsize=6.5)
    for text in axes.get_yticklabels():
        text.set_bbox({"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 0.5})
    axes.set_thetagrids(range(0, 360, 30), [f"{angle % 180}°" for angle in range(0, 360, 30)])
    axes.tick_params(pad=0)
    axes.grid(color="0.88", linewidth=0.5)
    axes.spines["polar"].set_color("0.7")
    legend(figure, axes)
    return (
        f"Directions of the major axis of carbides with an aspect ratio of at least {LEAST_ELONGATION:g}, "
        "counter-clockwise from the image's horizontal, in classes of 10°; each counts in both directions. "
        f"Dotted: no preferred direction. {count(series, numbers, 'carbides')}."
    )


# Scatter between micrographs


def fields(figure: Figure, series: Sequence[Series], unit: str) -> str:
    """A dot a micrograph of number density and area fraction, and the sample's value with its interval."""
    suffix = "um" if unit == "µm" else "px"
    left, right = figure.subplots(1, 2)
    _dots(left, series, f"number_density_per_{suffix}2", "number_density", 1)
    _dots(right, series, "area_fraction", "area_fraction", 100)
    left.set_ylabel(f"carbides per {unit}²")
    right.set_ylabel("area fraction (%)")
    numbers = [len(each.sample.fields) for each in series]
    if len(series) > 1:
        for each, number in zip(series, numbers, strict=True):
            look: dict[str, Any] = {"color": each.colour, "marker": each.marker, "markersize": 3}
            left.plot([], [], linestyle="none", label=label(each, number), **look)
        legend(figure, left)
    interval = (
        "line: mean over all; bar: its 95 % interval" if max(numbers) > 1 else "line: the sample's value"
    )
    return f"A dot is one micrograph ({interval}). {count(series, numbers, 'micrographs')}."


def _dots(axes: Axes, series: Sequence[Series], column: str, quantity: str, factor: float) -> None:
    random = np.random.default_rng(0)  # the same places each time
    highest = 0.0
    for place, each in enumerate(series):
        fields: pd.DataFrame = each.sample.fields
        values = factor * fields[column].to_numpy(float) if column in fields else np.zeros(0)
        values = values[np.isfinite(values)]
        x = place + (random.uniform(-0.2, 0.2, values.size) if values.size > 1 else np.zeros(values.size))
        size, alpha = (3, 0.35) if values.size > 100 else (9, 0.75)
        look: dict[str, Any] = {"color": [each.colour], "marker": each.marker, "s": size, "alpha": alpha}
        axes.scatter(x, values, linewidths=0.6 if each.marker == "x" else 0, **look)
        entry = each.summary["quantities"].get(quantity) or {}
        value, low, high = (entry.get(key) for key in ("value", "low", "high"))
        if value is not None:
            axes.hlines(factor * value, place - 0.32, place + 0.32, color="black", linewidth=1.0)
        if low is not None and high is not None:
            axes.vlines(place + 0.38, factor * low, factor * high, color="black", linewidth=1.0)
        highest = max([highest, *values, factor * (high or value or 0)])
    axes.set(xlim=(-0.6, len(series) - 0.4), ylim=(0, 1.08 * highest or 1))
    axes.set_xticks([])
