"""Prepared data sets as MONAI (Decathlon) datalists; splits and folds go by micrograph, never by tile."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import random
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from monai.data import load_decathlon_datalist
from monai.data.decathlon_datalist import check_missing_files

from carde_monai.datalist_checks import check_copies, check_inside, check_shapes
from carde_monai.errors import InputError

SECTIONS = ("training", "validation", "test", "holdout", "unlabelled")
SPLIT = SECTIONS[:3]
FILE = "datalist.json"

_REMEDIES = {
    "training": "prepare again with more labelled micrographs or another --split",
    "validation": "prepare again with --split 10,1,1",
    "test": "prepare again with --split 10,1,1",
    "holdout": "put micrographs with labels into a sub-folder 'hold-out' of the source and prepare again",
    "unlabelled": "prepare a folder that holds micrographs without labels",
}


def load(
    dataset_dir: str | Path, section: str | Sequence[str], fold: int | None = None
) -> list[dict[str, str]]:
    """Read one section (or several, of which some may be empty) of a prepared data set as MONAI data items.

    Each item has absolute paths "image" and "label" (none in "unlabelled"), the micrograph's "name" and its
    "section". In a data set prepared with folds, ``fold`` is the test fold; the fold before it (cyclic, among
    the folds present) is for validation and the rest for training. Raises InputError if the data set or its
    files are missing, the section is empty, ``fold`` does not fit, or a micrograph stands in two places.
    """
    root = Path(dataset_dir).absolute()
    wanted = [section] if isinstance(section, str) else list(section)
    if unknown := [name for name in wanted if name not in SECTIONS]:
        raise InputError(
            root / FILE, f"no section named '{unknown[0]}'", f"choose from {', '.join(SECTIONS)}"
        )
    parts = _by_fold(root, _load_all(root), fold, wanted)
    items = [_item(root, item, name) for name in wanted for item in parts[name]]
    if not items:
        raise InputError(root / FILE, f"no {' or '.join(wanted)} micrographs", _REMEDIES[wanted[0]])
    if missing := check_missing_files(items, ("image", "label"), allow_missing_keys=True):
        raise InputError(missing[0], "listed in the data set but missing", f"prepare {root} again")
    for item in items:
        check_shapes(item)
    return items


def counts(dataset_dir: str | Path, fold: int | None = None) -> dict[str, int]:
    """Number of micrographs in each section; with folds and ``fold=None`` all of them count as training."""
    root = Path(dataset_dir).absolute()
    parts = read(root)
    if fold is not None:
        parts = _by_fold(root, parts, fold, SPLIT)
    return {name: len(parts[name]) for name in SECTIONS}


def digest(dataset_dir: str | Path) -> str:
    """Fingerprint of a prepared data set: 16 hexadecimal digits of the SHA-256 of its sections and files.

    The same micrographs, labels and split give the same digest in any folder. Raises InputError when a file
    is missing or unreadable.
    """
    root = Path(dataset_dir).absolute()
    parts = read(root)
    total = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    files = [
        item[key] for part in parts.values() for item in part for key in ("image", "label") if key in item
    ]
    for file in files:
        try:
            with (root / file).open("rb") as stream:
                total.update(hashlib.file_digest(stream, "sha256").digest())
        except OSError as error:
            raise InputError(root / file, f"unreadable ({error.strerror})", "prepare again") from error
    return total.hexdigest()[:16]


def split(names: Iterable[str], weights: str | Sequence[float], seed: int = 0) -> dict[str, list[str]]:
    """Share micrographs out to training, validation and test in proportion to ``weights``, at random.

    Largest remainder method, so weights that add up to the number of micrographs are exact counts. A section
    of positive weight gets at least one micrograph; when there are too few, training comes first, then
    validation. The result depends on ``seed`` and the set of names, not on their order. ``weights`` may also
    be text ("10,1,1"). Raises InputError unless they are three numbers, none negative, one positive.
    """
    pool = sorted(set(names))
    numbers = _share(len(pool), _weights(weights))
    random.Random(seed).shuffle(pool)
    places = iter(pool)
    return {name: sorted(islice(places, number)) for name, number in zip(SPLIT, numbers, strict=True)}


def assign_folds(names: Iterable[str], k: int, seed: int = 0) -> dict[str, int]:
    """Assign each micrograph to one of ``k`` folds at random; fold sizes differ by one at most.

    Raises InputError if ``k`` is below 3 (test, validation and training need one each) or above the number of
    micrographs.
    """
    pool = sorted(set(names))
    if k < 3:
        raise InputError("--folds", f"{k} is too few", "training, validation and test need a fold each")
    if k > len(pool):
        raise InputError("--folds", f"{k} folds for {len(pool)} labelled micrographs", "ask for fewer folds")
    random.Random(seed).shuffle(pool)
    return {name: index % k for index, name in enumerate(pool)}


def read_folds(path: Path, names: Sequence[str]) -> dict[str, int]:
    """Read a CSV file with the columns name and fold; returns the fold of each of ``names`` that it lists.

    A name in the file is a micrograph's whole name or its end ("0007" is "uhcs0007", but "7" is not). Names
    of other micrographs are passed over. Raises InputError when the file is malformed or a name is ambiguous.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        delimiter = ";" if lines and ";" in lines[0] else ","
        rows = [(row["name"].strip(), int(row["fold"])) for row in csv.DictReader(lines, delimiter=delimiter)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        wrong = f"no table of folds ({type(error).__name__}: {error})"
        raise InputError(path, wrong, "write a CSV file with the columns name,fold") from error
    result: dict[str, int] = {}
    for row, fold in rows:
        fits = [row] if row in names else [name for name in names if _ends_with(name, row)]
        if len(fits) > 1 or any(result.get(name, fold) != fold for name in fits):
            remedy = "write each micrograph's whole name, once"
            raise InputError(path, f"'{row}' is ambiguous ({', '.join(fits[:3])})", remedy)
        result.update((name, fold) for name in fits)
    return result


def read(root: Path) -> dict[str, list[dict[str, Any]]]:
    """Read the sections of ``root/datalist.json`` as they stand there; one that is not there is empty.

    Raises InputError if it is missing or not what `prepare` writes.
    """
    path = root / FILE
    if not path.is_file():
        wrong = f"holds no {FILE}" if root.is_dir() else "no such folder"
        raise InputError(root, wrong, "make a data set with: carde-monai prepare SOURCE DEST")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        parts = {name: list(content.get(name, [])) for name in SECTIONS}
        for item in (item for part in parts.values() for item in part):
            if not isinstance(item["image"], str) or not isinstance(item["name"], str):
                raise TypeError("image and name must be text")
            if item["name"] in ("", ".", "..") or set(item["name"]) & set("/\\\0"):
                raise ValueError(f"{item['name']!r} cannot name files")
            if not isinstance(item.get("fold", 0), int):
                raise TypeError("fold must be a whole number")
    except (ValueError, AttributeError, TypeError, KeyError, OSError) as error:
        wrong = f"not a data list of carde-monai ({type(error).__name__}: {error})"
        raise InputError(path, wrong, "prepare the data set again") from error
    for item in (item for part in parts.values() for item in part):
        for key in ("image", "label"):
            check_inside(path, str(item.get(key, "")))
    return parts


def _load_all(root: Path) -> dict[str, list[dict[str, Any]]]:
    """All sections with absolute paths, after a check that no micrograph stands in two places."""
    parts = read(root)
    # A micrograph on both sides of a split would flatter the network; twice on one side, it counts double.
    for key in ("name", "image"):
        values = [os.path.normpath(item[key]) for part in parts.values() for item in part]
        if len(values) > len(set(values)):
            twice = next(value for value in values if values.count(value) > 1)
            raise InputError(root / FILE, f"micrograph {twice} stands in two places", "prepare again")
    check_copies(root / FILE, {section: parts[section] for section in (*SPLIT, "holdout")})
    for section, part in parts.items():
        if part:
            loaded = load_decathlon_datalist(root / FILE, True, section)
            # MONAI takes any value that happens to be a file's name for a path; a name stays a name.
            parts[section] = [{**new, "name": old["name"]} for new, old in zip(loaded, part, strict=True)]
    return parts


def _by_fold(
    root: Path, parts: dict[str, list[dict[str, Any]]], fold: int | None, wanted: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    """Replace the folds of "training" by training, validation and test; without folds change nothing."""
    pool = parts["training"]
    folds = sorted({item["fold"] for item in pool if "fold" in item})
    present = f"folds {', '.join(map(str, folds))}"
    if not folds:
        if fold is not None:
            raise InputError(root / FILE, "has no folds", "leave out --fold, or prepare with --folds 6")
        return parts
    if fold is None:
        if not set(wanted) & set(SPLIT):
            return parts  # hold-out and unlabelled micrographs belong to no fold
        raise InputError(root / FILE, f"has {present}", f"choose the test fold, e.g. --fold {folds[0]}")
    if fold not in folds:
        raise InputError(root / FILE, f"no fold {fold}", f"choose from {present}")
    if len(folds) < 3 or any("fold" not in item for item in pool) or parts["validation"] or parts["test"]:
        raise InputError(
            root / FILE, f"its {present} do not cross-validate", "prepare with --folds 3 or more"
        )
    before = folds[folds.index(fold) - 1]
    return parts | {
        "training": [item for item in pool if item["fold"] not in (fold, before)],
        "validation": [item for item in pool if item["fold"] == before],
        "test": [item for item in pool if item["fold"] == fold],
    }


def _item(root: Path, item: dict[str, Any], section: str) -> dict[str, str]:
    """Keep the keys that every item of a section has, so that a batch of them can be collated."""
    result = {"image": item["image"], "name": item["name"], "section": section}
    if section != "unlabelled":
        if not isinstance(item.get("label"), str):
            raise InputError(
                root / FILE, f"{section} micrograph {item['name']} has no label", "prepare again"
            )
        result["label"] = item["label"]
    return result


def _weights(weights: str | Sequence[float]) -> list[float]:
    parts = weights.split(",") if isinstance(weights, str) else weights
    try:
        numbers = [float(part) for part in parts]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != 3 or min(numbers) < 0 or not 0 < sum(numbers) < math.inf:
        wrong = f"'{weights}' is not three numbers, for training, validation and test"
        raise InputError("--split", wrong, "write --split 10,1,1")
    return numbers


def _share(total: int, weights: list[float]) -> list[int]:
    """Largest remainder; a section of positive weight that got none then takes one, training first."""
    quotas = [total * weight / sum(weights) for weight in weights]
    # Rounding keeps float noise (2.9999999996) from costing a section its exact count.
    numbers = [math.floor(round(quota, 9)) for quota in quotas]
    by_remainder = sorted(range(3), key=lambda index: round(numbers[index] - quotas[index], 9))
    for index in by_remainder[: total - sum(numbers)]:
        numbers[index] += 1
    for index in range(3):
        if weights[index] > 0 and numbers[index] == 0:
            donors = [other for other in range(3) if numbers[other] > (1 if other < index else 0)]
            # A less important section may give its only micrograph, a more important one may not.
            if donors:
                donor = max(donors, key=lambda other: (numbers[other], other))
                numbers[donor] -= 1
                numbers[index] += 1
    return numbers


def _ends_with(name: str, end: str) -> bool:
    rest = name.removesuffix(end)
    return rest != name and not (end[:1].isdigit() and rest[-1:].isdigit())
