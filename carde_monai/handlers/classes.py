"""Scores a network of several classes, one sigmoid channel each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ignite.engine import Engine, Events
from monai.utils import convert_to_numpy
from numpy.typing import NDArray

from carde_monai.errors import InputError
from carde_monai.evaluation import quartiles
from carde_monai.handlers.baseline import decollated
from carde_monai.handlers.segmentation import micrograph_name
from carde_monai.replacing import all_or_none

Array = NDArray[Any]


class ClassReport:
    """Score the classes of every micrograph of an evaluator: ``classes.csv`` and ``classes.json``.

    Needs decollated items with ``name`` and ``section`` in the batch and, in the output, ``probability`` and
    ``label`` (K, H, W). A pixel belongs to the likeliest class, or to the matrix, class 0, where no
    probability is above 0.5. Columns: ``iou_<k>`` and ``dice_<k>`` of each class k; ``iou``, intersections
    over unions summed over all classes and the matrix, as Stuckner et al. 2022 (npj Comput. Mater. 8, 200)
    score an image; ``mean_iou``, the mean of the ``iou_<k>``. A class that is neither in label nor
    prediction scores NaN and is left out of means. ``classes.json`` holds for each section the mean,
    standard deviation, median and quartiles over its micrographs, and ``pooled``: the same figures of all
    its pixels. Means go into ``engine.state.metrics`` as ``<section>_<column>``.
    """

    def __init__(self, output_dir: str | Path) -> None:
        self.output_dir = Path(output_dir)
        self._rows: list[dict[str, Any]] = []
        self._counts: dict[str, Array] = {}

    def attach(self, engine: Engine) -> None:
        """Subscribe to the start, every iteration and the end of a run."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self._complete)

    def _start(self) -> None:
        self._rows, self._counts = [], {}

    def __call__(self, engine: Engine) -> None:
        for item, output in decollated(engine):
            section = str(item.get("section", "test"))
            probability, label = output["probability"], output["label"]
            if probability.shape != label.shape:
                shapes = f"probability {tuple(probability.shape)} and label {tuple(label.shape)}"
                raise ValueError(f"{shapes} differ: a channel a class is needed")
            found = counts(class_map(probability), class_map(label), len(label))
            self._rows.append({"name": micrograph_name(item), "section": section, **overlaps(found)})
            self._counts[section] = self._counts.get(section, 0) + found

    def _complete(self, engine: Engine) -> None:
        if not self._rows:
            raise InputError(self.output_dir, "no micrograph was evaluated", "name a section that has some")
        table = pd.DataFrame(self._rows)
        told = {
            section: {
                "n": len(rows),
                "micrographs": _summary(rows),
                "pooled": overlaps(self._counts[section]),
            }
            for section, rows in table.groupby("section", sort=False)
        }
        with all_or_none(self.output_dir) as folder:
            table.to_csv(folder / "classes.csv", index=False, float_format="%.6g")
            text = json.dumps(_without_nan(told), indent=2, allow_nan=False) + "\n"
            (folder / "classes.json").write_text(text, encoding="utf-8")
        engine.state.metrics.update(
            {
                f"{section}_{column}": one["mean"]
                for section, parts in told.items()
                for column, one in parts["micrographs"].items()
                if one["mean"] is not None
            }
        )


def class_map(probability: Any) -> Array:
    """Number of each pixel's class (H, W) from (K, H, W): 1 + the likeliest above 0.5, else 0."""
    values = convert_to_numpy(probability)
    return np.where(values.max(0) > 0.5, values.argmax(0) + 1, 0)


def counts(found: Array, truth: Array, classes: int) -> NDArray[np.int64]:
    """Pixels (K + 1, 3) of each class, the matrix first: in both maps, in the first, in the second."""
    both = np.bincount(found[found == truth], minlength=classes + 1)
    each = [np.bincount(one.ravel(), minlength=classes + 1) for one in (found, truth)]
    return np.stack([both, *each], axis=1)


def overlaps(found: Array) -> dict[str, float]:
    """IoU and Dice of `counts`: ``iou``, ``mean_iou``, and ``iou_<k>`` and ``dice_<k>`` of each class."""
    both, first, second = found.T.astype(float)
    union = first + second - both
    with np.errstate(invalid="ignore"):  # 0 / 0 of a class that is nowhere
        iou, dice = both / union, 2 * both / (first + second)
    named = {f"iou_{k}": float(value) for k, value in enumerate(iou)}
    named |= {f"dice_{k}": float(value) for k, value in enumerate(dice)}
    return {"iou": float(both.sum() / union.sum()), "mean_iou": float(np.nanmean(iou)), **named}


def _summary(rows: pd.DataFrame) -> dict[str, dict[str, Any]]:
    columns = rows.drop(columns=["name", "section"])
    return {
        str(column): {
            "mean": float(values.mean()),
            "sd": float(values.std()),
            **quartiles(values.to_numpy(float)),
        }
        for column, values in columns.items()
    }


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without_nan(one) for key, one in value.items()}
    return None if isinstance(value, float) and np.isnan(value) else value
