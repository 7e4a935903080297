"""Scores of a mask against its label, by micrograph and by tile, and their summary."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.metrics import compute_confusion_matrix_metric, get_confusion_matrix
from monai.metrics.calibration import CalibrationErrorMetric
from monai.utils import convert_to_tensor
from scipy.stats import wilcoxon
from torch import Tensor

PIXELS = ("dice", "iou", "precision", "recall", "ece", "nll")
# of `compare.agreement`: how well what is measured on the mask agrees with what is measured on the label
MEASURED = (
    "number_density_error",
    "area_fraction_error",
    "mean_ecd_error",
    "object_precision",
    "object_recall",
    "object_f1",
    "pq",
)
METRICS = (*PIXELS, *MEASURED)
MONAI_NAMES = {"dice": "f1 score", "iou": "threat score", "precision": "precision", "recall": "recall"}
TILE = 128
BINS = 20  # equal bins of the expected calibration error, MONAI's default
CLIP = 1e-7  # next to 1, float32 probabilities are no finer than this
MIN_PAIRS = 6  # with fewer, even a unanimous signed-rank test stays above p = 0.05

Row = Mapping[str, Any]


def scores(mask: Any, label: Any, probability: Any = None) -> dict[str, float]:
    """Dice, IoU, precision, recall, ECE and NLL (nats a pixel) of one mask; arrays or tensors of one shape.

    Mask and label both empty: the four overlaps are 1. Only one of them empty: Dice and IoU are 0, and what
    divides by zero (precision of an empty mask, recall of an empty label) is NaN. Without ``probability`` (a
    method that only decides) the mask stands for it: ECE then is the share of wrong pixels, and NLL,
    infinite, is NaN. Probabilities are clipped to [1e-7, 1 - 1e-7] for the NLL. Raises ValueError for shapes
    that differ.
    """
    found, truth = _binary(mask, label)
    result = {name: float(value) for name, value in _overlaps(found[None], truth[None]).items()}
    p = found if probability is None else convert_to_tensor(probability, track_meta=False).detach().float()
    if p.shape != truth.shape:
        raise ValueError(f"probability {tuple(p.shape)} and label {tuple(truth.shape)} differ in shape")
    error = CalibrationErrorMetric(num_bins=BINS)
    error(p.reshape(1, 1, -1), truth.reshape(1, 1, -1))
    result["ece"] = float(error.aggregate())  # type: ignore[arg-type]
    nll = F.binary_cross_entropy(p.double().clamp(CLIP, 1 - CLIP), truth.double())
    result["nll"] = math.nan if probability is None else float(nll)
    return result


def tile_dice(mask: Any, label: Any, tile: int = TILE) -> np.ndarray:
    """Dice of each full, non-overlapping tile of ``tile`` x ``tile`` px, as (rows, columns).

    ``mask`` and ``label`` are (H, W) or (1, H, W); what is left over at the right and lower edge is not
    counted. Where mask and label are both empty, Dice is 1. Raises ValueError for shapes that differ.
    """
    found, truth = _binary(mask, label)
    rows, columns = (side // tile for side in found.shape[-2:])
    if rows * columns == 0:
        return np.empty((rows, columns))
    tiles = [
        x.reshape(x.shape[-2:])[: rows * tile, : columns * tile]
        .reshape(rows, tile, columns, tile)
        .transpose(1, 2)
        .reshape(rows * columns, 1, -1)
        for x in (found, truth)
    ]
    dice = _overlaps(*tiles)["dice"]
    return dice.reshape(rows, columns).cpu().numpy().astype(float)


def _binary(mask: Any, label: Any) -> tuple[Tensor, Tensor]:
    found, truth = (convert_to_tensor(x, track_meta=False).detach() for x in (mask, label))
    if found.shape != truth.shape:
        raise ValueError(f"mask {tuple(found.shape)} and label {tuple(truth.shape)} differ in shape")
    return (found > 0.5).float(), (truth > 0.5).float()


def _overlaps(found: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """Dice, IoU, precision and recall of each of B masks, tensors (B, ...)."""
    count = len(found)
    confusion = get_confusion_matrix(found.reshape(count, 1, -1), truth.reshape(count, 1, -1))[:, 0]
    both_empty = confusion[:, [0, 1, 3]].sum(dim=1) == 0
    values = {k: compute_confusion_matrix_metric(v, confusion) for k, v in MONAI_NAMES.items()}
    return {k: torch.where(both_empty, 1.0, v) for k, v in values.items()}


def summarise(micrographs: Sequence[Row], tiles: Sequence[Row], methods: Sequence[str]) -> dict[str, Any]:
    """Median, quartiles, interquartile range and n of each section, method and metric, and Wilcoxon's p.

    Rows hold ``section`` and columns ``<method>_<metric>`` (``network_dice``). The first two methods are
    compared by Dice. NaN counts as absent; a figure without values is None, as JSON has no NaN.
    """
    sections = dict.fromkeys(row["section"] for row in micrographs)
    return {
        section: {
            "micrographs": _summary([r for r in micrographs if r["section"] == section], methods, METRICS),
            "tiles": _summary([r for r in tiles if r["section"] == section], methods, ("dice",))
            | {"note": "tiles of one micrograph are not independent: their p overstates the evidence"},
        }
        for section in sections
    }


def _summary(rows: Sequence[Row], methods: Sequence[str], metrics: Sequence[str]) -> dict[str, Any]:
    def column(method: str, metric: str) -> np.ndarray:
        return np.asarray([row.get(f"{method}_{metric}", math.nan) for row in rows], dtype=float)

    summary: dict[str, Any] = {"n": len(rows)}
    for method in methods:
        summary[method] = {metric: quartiles(column(method, metric)) for metric in metrics}
    if len(methods) > 1:
        summary["wilcoxon_dice"] = signed_rank(column(methods[0], "dice"), column(methods[1], "dice"))
    return summary


def quartiles(values: np.ndarray) -> dict[str, float | int | None]:
    """Median, quartiles, interquartile range and n of the finite values; None where there are none."""
    values = values[np.isfinite(values)]
    if not values.size:
        return {"n": 0, "median": None, "q1": None, "q3": None, "iqr": None}
    q1, median, q3 = (float(q) for q in np.percentile(values, (25, 50, 75)))
    return {"n": int(values.size), "median": median, "q1": q1, "q3": q3, "iqr": q3 - q1}


def signed_rank(first: np.ndarray, second: np.ndarray) -> dict[str, Any]:
    """Two-sided Wilcoxon signed-rank test of paired values: p, n and, where p is None, the reason."""
    finite = np.isfinite(first) & np.isfinite(second)
    differences = first[finite] - second[finite]
    result: dict[str, Any] = {"p": None, "n": int(differences.size), "reason": None}
    if differences.size < MIN_PAIRS:
        result["reason"] = f"fewer than {MIN_PAIRS} pairs"
    elif not differences.any():
        result["reason"] = "all differences are zero"
    else:
        result["p"] = float(wilcoxon(differences).pvalue)
    return result
