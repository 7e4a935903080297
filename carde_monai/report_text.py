"""What the report says in words and numbers: sentences, rows, as many digits as an interval justifies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from carde_monai.summary import QUANTITIES

PERCENT = {"area_fraction", "large_fraction"}  # shares that people read in per cent
KEY_QUANTITIES = ("number_density", "area_fraction", "ecd_median", "mean_free_path")
GROUPS = {
    "Number and area": ("number_density", "area_fraction"),
    "Size": ("ecd_", "lognormal", "large"),
    "Spacing": ("mean_free_path", "nearest"),
}
NO_INTERVAL = "one micrograph: no interval"
NOTHING = "–"
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
COLUMN_WORDS = {"ecd": "ECD", "se2": "SE2", "inlens": "InLens"}


def number(value: float | None, low: float | None = None, high: float | None = None) -> tuple[str, str]:
    """A value and its interval as text: two significant digits of the interval's half decide.

    Without an interval three significant digits. Very small and very large ones get a power of ten.
    """
    if value is None or not math.isfinite(value):
        return NOTHING, ""
    known = low is not None and high is not None
    largest = max(abs(part) for part in (value, low or 0.0, high or 0.0))
    power = math.floor(math.log10(largest)) if largest else 0
    power = power if power < -3 or power > 5 else 0
    factor = 10.0**-power
    half = (high - low) / 2 * factor if low is not None and high is not None else 0.0
    decimals = _decimals(half, 2) if half > 0 else _decimals(abs(value) * factor, 3)
    tail = f" × 10{str(power).translate(SUPERSCRIPTS)}" if power else ""
    text = _fixed(value * factor, decimals) + tail
    if not known or low is None or high is None:
        return text, ""
    join = "–" if low >= 0 else " to "
    return text, _fixed(low * factor, decimals) + join + _fixed(high * factor, decimals) + tail


def _decimals(size: float, digits: int) -> int:
    return min(6, max(0, digits - 1 - math.floor(math.log10(size)))) if size > 0 else 0


def _fixed(value: float, decimals: int) -> str:
    text = f"{value:,.{decimals}f}"
    return text.replace("-", "−") if float(text.replace(",", "")) else text.replace("-", "")


def quantity(key: str, entry: Mapping[str, Any]) -> dict[str, str]:
    """One quantity of a summary as text: ``value``, ``interval`` (may be empty) and ``unit``."""
    percent = 100 if key in PERCENT else 1
    scaled = [None if entry[part] is None else percent * entry[part] for part in ("value", "low", "high")]
    value, interval = number(*scaled)
    unit = "%" if key in PERCENT else entry["unit"].replace("1/", "per ")
    return {"value": value, "interval": interval, "unit": "" if value == NOTHING else unit}


def sentence(summary: Mapping[str, Any]) -> str:
    """A sample in one sentence."""
    unit = "µm" if summary["unit"] == "um" else "px"
    fields = plural(summary["micrographs"], "micrograph")
    several = summary["micrographs"] > 1
    start = f"{fields} of {number(summary['area'])[0]} {unit}²{' in all' if several else ''}"
    if not summary["carbides"]:
        return f"{start}: no carbides were found."
    texts = {key: quantity(key, entry) for key, entry in summary["quantities"].items()}

    def told(key: str) -> str:
        text = texts[key]
        value = f"{text['value']} {text['unit']}".strip()
        return f"{value} ({text['interval']})" if text["interval"] else value

    interval = " (95 % intervals in parentheses)" if several else ""
    verb, carbides = "show" if several else "shows", plural(summary["carbides"], "carbide")
    return (
        f"{start} {verb} {carbides}: {told('number_density')}, covering {told('area_fraction')} of the area, "
        f"with a median equivalent circle diameter of {told('ecd_median')}{interval}."
    )


def plural(count: int, noun: str) -> str:
    """``1 carbide``, ``2,048 carbides``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def summary_rows(summaries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The summary table: groups of rows (name, explanation) with a cell for each sample."""
    groups = [{"name": "What was counted", "rows": _counts(summaries)}]
    for title, starts in GROUPS.items():
        keys = [key for key in QUANTITIES if key.startswith(starts)]
        rows = [_quantity_row(key, summaries) for key in keys]
        if title == "Number and area":
            rows += _area_rows(summaries)
        groups.append({"name": title, "rows": rows})
    return groups


def _row(name: str, explanation: str, cells: Sequence[dict[str, str]]) -> dict[str, Any]:
    return {"name": name, "explanation": explanation, "cells": list(cells)}


def _cell(value: str, unit: str = "", *, interval: str = "", detail: str = "") -> dict[str, str]:
    return {"value": value, "unit": unit, "interval": interval, "detail": detail}


def _quantity_row(key: str, summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    cells = [_cell(**quantity(key, summary["quantities"][key])) for summary in summaries]
    explanation = QUANTITIES[key].explanation
    if known := [one for one in summaries if one["unit"] == "um"]:
        explanation = explanation.replace("--large", f"{known[0]['large_um']:g} µm")
    return _row(QUANTITIES[key].name, explanation, cells)


def _counts(summaries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    def whole(key: str) -> list[dict[str, str]]:
        return [_cell(f"{summary[key]:,}") for summary in summaries]

    units = ["µm²" if summary["unit"] == "um" else "px²" for summary in summaries]
    area = [_cell(number(one["area"])[0], unit) for one, unit in zip(summaries, units, strict=True)]
    return [
        _row("micrographs", "fields of view; the intervals tell how they differ", whole("micrographs")),
        _row("area", "of all micrographs together", area),
        _row("carbides", "all that were measured", whole("carbides")),
        _row(
            "counted for the density",
            "without those that touch the bottom row or the right column: an unbiased count",
            whole("carbides_counted"),
        ),
        _row("measured for the sizes", "not cut by the border, weighted by size", whole("carbides_uncut")),
        _row("smallest counted", "area and its circle's diameter", [_smallest(one) for one in summaries]),
    ]


def _smallest(summary: Mapping[str, Any]) -> dict[str, str]:
    smallest = summary["smallest_counted"]
    diameter = f"diameter {smallest['diameter_px']:.2g} px"
    if smallest.get("diameter_nm") is not None:
        diameter += f" = {number(smallest['diameter_nm'])[0]} nm"
    return _cell(f"{smallest['area_px']:,}", "px²", detail=diameter)


def _area_rows(summaries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    if any(one["micrographs"] > 1 for one in summaries):
        explanation = "mean over micrographs ± half width of its 95 % interval (Student's t)"
        rows.append(_row("area fraction after ASTM E562", explanation, [_astm(one) for one in summaries]))
    if any(one["thresholds"] for one in summaries):
        for key, name in (("area_fraction", "area fraction"), ("number_density", "number density")):
            explanation = "between 97.5 % and 2.5 % confidence of the segmentation"
            rows.append(_row(f"{name}, by threshold", explanation, [_range(one, key) for one in summaries]))
    return rows


def _astm(summary: Mapping[str, Any]) -> dict[str, str]:
    astm = summary["area_fraction_astm"]
    if not astm or astm.get("half_width") is None or astm.get("mean") is None:
        return _cell(NOTHING)
    mean, half = 100 * astm["mean"], 100 * astm["half_width"]
    decimals = _decimals(half, 2)
    details = [f"n = {astm['n']:,}"]
    if astm.get("standard_deviation") is not None:
        details.append(f"s = {number(100 * astm['standard_deviation'])[0]} %")
    if astm.get("relative_accuracy_percent") is not None:
        details.append(f"relative accuracy {number(astm['relative_accuracy_percent'])[0]} %")
    return _cell(f"{_fixed(mean, decimals)} ± {_fixed(half, decimals)}", "%", detail=", ".join(details))


def _range(summary: Mapping[str, Any], key: str) -> dict[str, str]:
    values = [one[key] for one in summary["thresholds"] if one.get(key) is not None]
    if not values:
        return _cell(NOTHING)
    text = quantity(key, {**summary["quantities"][key], "low": min(values), "high": max(values)})
    return _cell(text["interval"] or text["value"], text["unit"])


def volume_table(summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """The Saltykov estimate of a sample as text; None where none was asked for."""
    volume = summary.get("saltykov")
    if not volume:
        return None
    unit = "µm" if summary["unit"] == "um" else "px"
    rows = []
    for one in volume["classes"]:
        value, interval = number(one["number_per_volume"], one["low"], one["high"])
        low, high = (f"{one[f'diameter_{end}']:#.3g}".rstrip(".") for end in ("low", "high"))
        rows.append((f"{low}–{high}", value, interval))
    total = number(volume["number_per_volume"], volume["low"], volume["high"])
    return {
        "sample": summary["sample"],
        "unit": unit,
        "rows": rows,
        "total": total,
        "assumption": volume["assumption"],
    }


def column_text(name: str) -> tuple[str, str]:
    """A column of the tables for reading: ``area_um2`` is (``area``, ``µm²``)."""
    words, unit = name, ""
    for ending, text in (
        ("_per_um2", "1/µm²"),
        ("_per_px2", "1/px²"),
        ("_um2", "µm²"),
        ("_px2", "px²"),
        ("_um", "µm"),
        ("_px", "px"),
        ("_deg", "°"),
    ):
        if name.endswith(ending):
            words, unit = name.removesuffix(ending), text
            break
    parts = words.replace("equivalent_circle_diameter", "ecd").split("_")
    return " ".join(COLUMN_WORDS.get(part, part) for part in parts), unit
