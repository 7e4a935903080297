"""Compare two measured folders: differences with intervals, size distributions, matched objects.

A is the reference (an annotation, an earlier state), B is judged: differences are B - A.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy.typing as npt
import pandas as pd

from carde_monai.compare_report import table, write
from carde_monai.errors import Failure, InputError
from carde_monai.locking import claimed
from carde_monai.matching import Match, match_objects
from carde_monai.particles import label_particles, measure_particles
from carde_monai.result_files import measured_large, read_labels, read_sample, split_source
from carde_monai.stereology import measure_field
from carde_monai.summary import check_large
from carde_monai.two_samples import Pair, common_micrographs, difference, pair_difference, pair_up

__all__ = ["agreement", "compare", "difference", "match_micrographs", "read_sample", "table"]

Array = npt.NDArray[Any]

IOU = 0.5
SCORES = ("precision", "recall", "f1", "sq", "pq")


def compare(
    a: str | Path,
    b: str | Path,
    dest: str | Path | None = None,
    *,
    match: bool | None = None,
    paired: bool | None = None,
    large_um: float | None = None,
    seed: int = 0,
) -> tuple[dict[str, Any], list[Failure]]:
    """Compare two folders (or ``FOLDER::SAMPLE``) that ``measure`` or ``segment`` wrote.

    ``large_um`` is that of A unless given. Returns the result, ready for JSON, and the micrographs that
    failed. The result is that of `difference` and ``objects``, that of `match_micrographs`: objects are
    matched where both folders hold ``<micrograph>_labels.tif`` of one name, unless ``match`` is False; with
    True there must be some. A micrograph whose labels are missing on one side, damaged or of differing
    shapes is a failure, and the others are done. With ``dest``, comparison.json, comparison.csv,
    objects.csv and comparison.png and .svg are written there.

    Raises:
        InputError: ``large_um`` is no size, a folder or table is missing or damaged, the units differ,
            there is nothing to pair or to match that was asked for, or another run writes to ``dest``.
    """
    if large_um is not None:
        check_large(large_um)
    with claimed(Path(dest)) if dest is not None else contextlib.nullcontext():
        result, failures, pair = _compared(a, b, match, paired, large_um, seed)
        if dest is not None:
            write(result, pair.a.pooled, pair.b.pooled, Path(dest))
    return result, failures


def _compared(
    a: str | Path, b: str | Path, match: bool | None, paired: bool | None, large_um: float | None, seed: int
) -> tuple[dict[str, Any], list[Failure], Pair]:
    first, second = read_sample(a), read_sample(b)
    if first.unit != second.unit:
        unknown, known = (a, b) if first.unit == "px" else (b, a)
        wrong = f"is measured in px, as its pixel size is unknown, but {known} in µm"
        raise InputError(unknown, wrong, "measure it again with --pixel_size")
    names = common_micrographs(first, second)
    if paired and not names:
        raise InputError(b, f"no micrograph has the name of one in {a}", "compare without --paired")
    pair = pair_up(first, second, paired)
    sizes = [measured_large(split_source(source)[0]) for source in (a, b)]
    result = pair_difference(pair, large_um=sizes[0] if large_um is None else large_um, seed=seed)
    if large_um is None and sizes[0] != sizes[1]:
        told = f"large carbides are those above {sizes[0]:g} µm; B was measured with {sizes[1]:g} µm"
        result["warnings"].append(told)
    result["objects"] = None
    failures: list[Failure] = []
    if match is not False:
        result["objects"], failures = match_micrographs(split_source(a)[0], split_source(b)[0], names)
        if match and result["objects"] is None:
            reason = f" ({failures[0].reason})" if failures else ""
            wrong = f"holds no <micrograph>_labels.tif that {a} holds, too{reason}"
            raise InputError(b, wrong, "compare without --match")
    result["failures"] = [asdict(failure) for failure in failures]
    return result, failures, pair


def match_micrographs(
    a: Path, b: Path, names: Sequence[str], iou: float = IOU
) -> tuple[dict[str, Any] | None, list[Failure]]:
    """Match the objects in ``<name>_labels.tif`` of folder ``b`` with those of folder ``a``, the reference.

    Returns a dict ready for JSON and the micrographs that failed. The dict: ``iou``; ``micrographs``, a row
    each of micrograph, true_positive, false_positive, false_negative, precision, recall, f1, sq and pq (see
    `match_objects`); and for each of the last five a dict of its median, q1, q3, mean and n over the
    micrographs where it exists. None instead of the dict if nothing was matched. Names of which neither
    folder holds labels are passed over.
    """
    rows: list[dict[str, Any]] = []
    failures = []
    for name in names:
        truth, found = (folder / f"{name}_labels.tif" for folder in (a, b))
        if not (truth.exists() or found.exists()):
            continue
        try:
            rows.append({"micrograph": name, **_match_files(truth, found, iou)._asdict()})
        except InputError as error:
            failures.append(Failure(name, str(error)))
    if not rows:
        return None, failures
    scores = pd.DataFrame(rows)[list(SCORES)]
    spread = scores.describe().rename(index={"25%": "q1", "50%": "median", "75%": "q3", "count": "n"})
    spread = spread.loc[["median", "q1", "q3", "mean", "n"]]
    summary = {score: _plain(spread[score].to_dict()) for score in SCORES}
    for score in SCORES:
        summary[score]["n"] = int(scores[score].notna().sum())
    return {"iou": iou, "micrographs": [_plain(row) for row in rows], **summary}, failures


def _match_files(truth_file: Path, found_file: Path, iou: float) -> Match:
    truth, found = read_labels(truth_file), read_labels(found_file)
    if truth.shape != found.shape:
        size, other = (f"{labels.shape[1]} x {labels.shape[0]} px" for labels in (found, truth))
        wrong = f"{size}, but {truth_file} has {other}"
        raise InputError(found_file, wrong, "compare masks of the same micrograph")
    return match_objects(found, truth, iou)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: None stands for it."""
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in values.items()}


def agreement(
    found_mask: Array, label: Array, pixel_size_um: float | None = None, *, min_area: int = 1
) -> dict[str, float]:
    """How well what is measured on a mask agrees with what is measured on the annotation.

    Args:
        found_mask: (H, W); everything that is not 0 is carbide.
        label: (H, W) annotation, the reference.
        pixel_size_um: edge of a pixel in micrometres; the result does not depend on it.
        min_area: smallest carbide counted on both sides, in pixels.

    Returns:
        ``number_density_error``, ``area_fraction_error`` and ``mean_ecd_error``: (found - truth) / truth, NaN
        where the truth is 0 or one of them does not exist (the mean size of no uncut carbide);
        ``object_precision``, ``object_recall`` and ``object_f1`` at an IoU above 0.5, and ``pq``, the
        panoptic quality (see `match_objects`).

    Raises:
        ValueError: the shapes differ or are not (H, W).
    """
    found, truth = (label_particles(mask, min_area=min_area) for mask in (found_mask, label))
    match = match_objects(found, truth, IOU)
    errors = {}
    measured, true = (
        measure_field(labels, measure_particles(labels, pixel_size_um), pixel_size_um, min_area=min_area)
        for labels in (found, truth)
    )
    u = "px" if pixel_size_um is None else "um"
    for name, column in (
        ("number_density", f"number_density_per_{u}2"),
        ("area_fraction", "area_fraction"),
        ("mean_ecd", f"ecd_mean_{u}"),
    ):
        errors[f"{name}_error"] = _relative_error(measured[column], true[column])
    return errors | {
        "object_precision": match.precision,
        "object_recall": match.recall,
        "object_f1": match.f1,
        "pq": match.pq,
    }


def _relative_error(found: float, truth: float) -> float:
    return float((found - truth) / truth) if truth else math.nan
