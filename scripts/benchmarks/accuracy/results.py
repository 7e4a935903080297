"""Results of all runs: table, summary over seeds and folds, learning curves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import matplotlib
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from benchmarks.accuracy.runs import POOLED, RESULT, SCRATCH, SHIPPED, STARTS
from benchmarks.accuracy.tasks import NAMES, NI_IMAGES
from carde_monai.errors import InputError
from carde_monai.figure_series import STYLES
from carde_monai.figures import STYLE
from carde_monai.pictures import rgb
from carde_monai.replacing import replace_file, replace_text

TABLE, SUMMARY, CURVES = "results.csv", "results.md", "learning_curves.png"
KEYS = ("task", "fold", "start", "seed", "images", "section")
SECTIONS = tuple(one + of for one in ("validation", "test", "holdout") for of in ("", POOLED))
STARTED = {SCRATCH: "from random weights", SHIPPED: "from the shipped weights"}
CLASSES = {"iou": "IoU", "mean_iou": "mean IoU"}
METRICS = (
    *("iou", "mean_iou", "iou_0", "iou_1", "iou_2", "iou_3"),
    *("dice", "dice_median", "outline_dice", "baseline_dice", "baseline_dice_median"),
    *("object_f1", "ks_accepted"),
)
COLUMNS = (*KEYS, "n", *METRICS, "minutes")


class Family(NamedTuple):
    """Tasks of one data set: what their trainings differ in, what sections and metrics are called."""

    title: str
    over: str
    tasks: tuple[str, ...]
    sections: Mapping[str, str]
    metrics: Mapping[str, str]


FAMILIES = (
    Family(
        "Ni superalloy",
        "seeds",
        tuple(NI_IMAGES),
        {"validation": "train, not trained on", "test": "val", "holdout": "other"},
        {**CLASSES, "iou_0": "matrix", "iou_1": "secondary", "iou_2": "tertiary"},
    ),
    Family(
        "Ultrahigh-carbon steel",
        "folds and seeds",
        ("uhcs",),
        {"test": "fold left out, mean of micrographs", f"test{POOLED}": "fold left out, pixels pooled"},
        {
            **CLASSES,
            **{"iou_0": "ferrite", "iou_1": "cementite network"},
            **{"iou_2": "spheroidite", "iou_3": "Widmanstätten"},
        },
    ),
    Family(
        "Synthetic RPV steel",
        "seeds",
        ("rpv10",),
        {"test": "jfl", "holdout": "anp (hold-out)"},
        {
            **{"dice": "Dice", "dice_median": "median Dice", "outline_dice": "Dice of the true outlines"},
            **{"baseline_dice": "baseline Dice", "baseline_dice_median": "median baseline Dice"},
            **{"object_f1": "object F1", "ks_accepted": "ECD accepted (KS)"},
        },
    ),
)


def collect(out: Path) -> pd.DataFrame:
    """Scores of all finished runs below ``out``, a row a section; writes `TABLE`."""
    rows = []
    for path in sorted(out.glob(f"*/{RESULT}")):
        told = json.loads(path.read_text(encoding="utf-8"))
        for section, scores in told["sections"].items():
            rows.append(told | {"section": section} | scores)
    table = _ordered(pd.DataFrame(rows, columns=list(COLUMNS)))
    out.mkdir(parents=True, exist_ok=True)
    replace_file(out / TABLE, lambda part: table.to_csv(part, index=False, float_format="%.6g"))
    return table


def read(out: Path) -> pd.DataFrame:
    """The `TABLE` in ``out``. Raises InputError if there is none, or it lacks a column."""
    path = out / TABLE
    if not path.is_file():
        raise InputError(path, "there is no such file", "run the benchmark first, or name its --out")
    table = pd.read_csv(path)
    if absent := [column for column in COLUMNS if column not in table]:
        raise InputError(path, f"has no column {absent[0]}", "run the benchmark again")
    return table


def _ordered(table: pd.DataFrame) -> pd.DataFrame:
    """The rows by `KEYS`, tasks and starts in their own order."""
    orders = {"task": NAMES, "start": STARTS, "section": SECTIONS}
    table = table.astype({"fold": "Int64"})
    return table.sort_values(
        ["task", "fold", "start", "seed", "section"],
        key=lambda column: column.map(orders[column.name].index) if column.name in orders else column,
        ignore_index=True,
    )


def report(table: pd.DataFrame, out: Path) -> str:
    """Write `SUMMARY` and, where there are runs for it, `CURVES`; returns the summary."""
    text = summary(table)
    replace_text(out / SUMMARY, text)
    if table["task"].isin(list(NI_IMAGES)).any():
        with matplotlib.rc_context(STYLE):
            figure = learning_curves(table)
            replace_file(out / CURVES, lambda part: figure.savefig(part, dpi=200))
    return text


def summary(table: pd.DataFrame) -> str:
    """Markdown: mean and sample standard deviation of each task, start and section, a table a data set.

    Over the seeds; of uhcs over folds and seeds. Each training counts once; minutes are those of one.
    """
    parts = []
    for family in FAMILIES:
        rows = table[table["task"].isin(family.tasks)]
        if len(rows):
            title = f"{family.title}, mean ± standard deviation over {family.over}:"
            parts.append(f"{title}\n\n{_table(rows, family)}")
    return "\n".join(parts)


def _table(rows: pd.DataFrame, family: Family) -> str:
    shown = {key: name for key, name in family.metrics.items() if rows[key].notna().any()}
    head = [
        "task",
        "images",
        "start",
        "tested on",
        "micrographs",
        *shown.values(),
        "minutes",
        "seeds",
        "trainings",
    ]
    lines = [head, ["---"] * len(head)]
    for task in family.tasks:
        for start in STARTS:
            for section, tested in family.sections.items():
                keys = (rows["task"] == task) & (rows["start"] == start) & (rows["section"] == section)
                if keys.any():
                    cells = _cells(rows[keys], shown)
                    lines.append([task, _range(rows[keys]["images"]), start, tested, *cells])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cells(runs: pd.DataFrame, shown: Mapping[str, str]) -> list[str]:
    seeds = ", ".join(str(seed) for seed in sorted(set(runs["seed"])))
    scores = [_spread(runs[key].dropna()) for key in shown]
    return [_range(runs["n"]), *scores, f"{runs['minutes'].mean():.1f}", seeds, str(len(runs))]


def _range(values: pd.Series) -> str:
    low, high = int(values.min()), int(values.max())
    return str(low) if low == high else f"{low} to {high}"


def _spread(values: pd.Series) -> str:
    if values.empty:
        return ""
    mean = f"{values.mean():.4f}"
    return f"{mean} ± {values.std():.4f}" if len(values) > 1 else mean


def learning_curves(table: pd.DataFrame) -> Figure:
    """IoU of the Ni superalloy over the number of training images: a point a seed, a line the means."""
    family = FAMILIES[0]
    rows = table[table["task"].isin(list(NI_IMAGES))]
    figure = Figure(figsize=(6.9, 3.0), layout="constrained")
    shown = ("test", "holdout")
    panels = figure.subplots(1, len(shown), sharex=True)
    for axes, section in zip(panels, shown, strict=True):
        for start, (colour, line, marker) in zip(STARTS, STYLES, strict=False):
            runs = rows[(rows["section"] == section) & (rows["start"] == start)]
            if runs.empty:
                continue
            mean = runs.groupby("images")["iou"].mean()
            look = {"color": rgb(colour), "linestyle": line, "linewidth": 1.2}
            axes.plot(mean.index, mean, label=f"{STARTED[start]}, mean", **look)
            axes.scatter(
                runs["images"],
                runs["iou"],
                s=14,
                marker=marker,
                alpha=0.6,
                linewidths=0,
                color=rgb(colour),
                label="each seed",
            )
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(sorted(set(rows["images"]))))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.set(
            title=family.sections[section],
            xlabel="annotated images for training",
            ylabel="IoU, mean over micrographs",
        )
        axes.grid(color="0.9", linewidth=0.5)
        axes.set_axisbelow(True)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(STARTS) * 2)
    return figure
