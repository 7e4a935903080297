"""From folders of microscope files and labels to a prepared data set: NIfTI, quick looks and a datalist."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from carde_monai import datalist
from carde_monai.draft import Draft
from carde_monai.errors import Failure, InputError, write_failures
from carde_monai.labels import LabelRule, read_label
from carde_monai.locking import claimed
from carde_monai.nifti import write_nifti
from carde_monai.pixel_sizes import PixelSizes
from carde_monai.provenance import program
from carde_monai.quick_look import quick_look
from carde_monai.sem import check_contrast, read_micrograph
from carde_monai.sources import Found, find_all
from carde_monai.stamps import digests

logger = logging.getLogger(__name__)

FACTS = ("pixel_size_um", "info_bar_rows", "coverage")  # of a micrograph, in the order of `Prepared`


@dataclass(frozen=True)
class Prepared:
    """A micrograph as written: its item for the data list and the facts that the item does not hold."""

    item: dict[str, Any]
    holdout: bool
    pixel_size_um: float | None
    info_bar_rows: int
    coverage: float | None


def prepare(
    source: str | Path,
    dest: str | Path,
    labels: str | Path | None = None,
    pixel_size: float | str | Path | None = None,
    folds: int | str | Path | None = None,
    split: str | Sequence[float] = "10,1,1",
    seed: int = 0,
    detectors: int = 2,
    label_value: int | str | Sequence[int] | None = None,
    label_color: str | Sequence[int] | None = None,
    classes: int = 1,
    overwrite: bool = False,
) -> list[Failure]:
    """Write the micrographs and labels of a folder as a MONAI data set and return those that failed.

    ``source`` is a folder of images, or holds ``images/``, ``labels/`` and ``hold-out/``, or raw folders with
    ``Original SEM Images/``. ``pixel_size`` is in micrometres, or a table (`PixelSizes`), and wins over the
    files' own. ``folds`` is a number of folds or a CSV file (columns name, fold) and replaces ``split``, the
    weights of training, validation and test. Labels are two-valued, classes (``label_value``), drawn in a
    colour (``label_color``: R,G,B) or, with several ``classes``, their numbers. A data set that ``dest``
    already holds is replaced as a whole, or left alone on an error. What it has of micrographs, labels and
    settings that are still the same stays, and a run that was killed is continued, unless ``overwrite``.
    Raises InputError when nothing can be prepared or an option does not fit; a fault of one micrograph does
    not stop the others.
    """
    source, dest = Path(source).absolute(), Path(dest).absolute()
    labels = Path(labels).absolute() if labels else None
    sizes = PixelSizes(pixel_size)
    _check_places(source, dest, labels)
    found, failures = find_all(source, detectors, labels, LabelRule.parse(label_value, label_color, classes))
    table = _fold_table(found, failures, folds)
    if found:  # an option that does not fit is better said now than after the work
        _share([one.name for one in found if one.label and not one.holdout], table, split, seed)
    try:
        with claimed(dest), _draft(dest, overwrite) as draft:
            done = _prepare_all(found, failures, draft, sizes)
            write_failures(failures, dest / "failures.csv")
            _check_result(source, done, failures)
            names = [one.item["name"] for one in done if one.coverage is not None and not one.holdout]
            sections = _sections(done, _share(names, table, split, seed))
            draft.publish(_describe(source.name, detectors, classes, done, sections) | sections)
    except OSError as error:
        raise InputError(dest, f"cannot be written ({error})", "choose another folder") from error
    for line in sizes.complaints():
        logger.warning("%s", line)
    if unknown := sum(one.pixel_size_um is None for one in done):
        remedy = "give --pixel_size in micrometres, or results will be in pixels"
        logger.warning(
            "%s: pixel size unknown for %d of %d micrographs; %s", dest, unknown, len(done), remedy
        )
    return failures


@contextlib.contextmanager
def _draft(dest: Path, overwrite: bool) -> Iterator[Draft]:
    draft = Draft(dest, overwrite)
    try:
        yield draft
    except Exception:  # a run that was stopped from outside can go on
        draft.discard()
        raise


def _check_places(source: Path, dest: Path, labels: Path | None) -> None:
    if not source.is_dir():
        wrong = "is no folder" if source.exists() else "no such folder"
        raise InputError(source, wrong, "give the folder that holds the micrographs")
    if (source / datalist.FILE).exists():
        raise InputError(
            source, "is a prepared data set already", "give the folder of the microscope's files"
        )
    if labels is not None and not labels.is_dir():
        raise InputError(labels, "no such folder", "give --labels the folder that holds the labels")
    if dest.exists() and not dest.is_dir():
        raise InputError(dest, "is a file", "choose another folder for the data set")
    if dest.resolve() == source.resolve():
        raise InputError(dest, "is the source itself", "choose another folder for the data set")


def _fold_table(found: list[Found], failures: list[Failure], folds: object) -> int | dict[str, int] | None:
    """Number of folds, or the fold of each labelled micrograph by a file; those it omits have failed."""
    if folds is None or (isinstance(folds, int) and not isinstance(folds, bool)):
        return folds
    if isinstance(folds, str) and folds.isdigit():
        return int(folds)
    if not isinstance(folds, str | Path):
        raise InputError(
            "--folds", f"'{folds}' is no number and no file", "write --folds 6 or --folds FILE.csv"
        )
    labelled = [one for one in found if one.label and not one.holdout]
    table = datalist.read_folds(Path(folds), [one.name for one in labelled])
    for one in labelled:
        if one.name not in table:
            found.remove(one)
            failures.append(
                Failure(one.name, str(InputError(folds, f"does not name {one.name}", "add its fold")))
            )
    return table


def _share(
    names: list[str], table: int | dict[str, int] | None, split: str | Sequence[float], seed: int
) -> dict[str, tuple[str, int | None]]:
    """Section and fold of each labelled micrograph that is not held out."""
    if type(seed) is not int:
        raise InputError(f"--seed {seed}", "not a whole number", "give for example 0")
    if table is None:
        parts = datalist.split(names, split, seed)
        return {name: (section, None) for section, members in parts.items() for name in members}
    folds = datalist.assign_folds(names, table, seed) if isinstance(table, int) else table
    if len({folds[name] for name in names}) < 3:
        raise InputError("--folds", "fewer than three hold a micrograph", "name more micrographs or folds")
    return {name: ("training", folds[name]) for name in names}


def _prepare_all(
    found: list[Found], failures: list[Failure], draft: Draft, sizes: PixelSizes
) -> list[Prepared]:
    draft.open()
    done: list[Prepared] = []
    seen: dict[str, str] = {}
    for one in tqdm(found, desc="prepare", unit="micrograph", disable=None):
        try:
            size = sizes.of(one.name, *(path.name for path in one.micrograph.paths))
            done.append(_prepare_one(one, draft, size, seen))
        except InputError as error:
            failures.append(Failure(one.name, str(error)))
    if draft.kept:
        told = "%s: %d of %d micrographs are prepared already; --overwrite prepares them again"
        logger.info(told, draft.dest, draft.kept, len(found))
    return done


def _prepare_one(one: Found, draft: Draft, pixel_size: float | None, seen: dict[str, str]) -> Prepared:
    """Convert a micrograph unless it is finished; ``seen`` are the labelled ones by their pixels."""
    made_from = {
        "program": program(),
        "sources": digests(map(Path, one.micrograph.paths)),
        "label": one.label and digests([one.label]),
        "rule": repr(one.rule),
        "pixel_size": pixel_size,
    }
    facts = draft.find(one.name, made_from)
    if facts is None:
        facts, files = _convert(one, draft.folder, pixel_size)
        draft.stamp(one.name, made_from, files, facts)
    else:
        _tell(facts["warnings"])
    if one.label is not None:
        _check_copy(one, facts["pixels"], seen)
    return Prepared(facts["item"], one.holdout, *(facts[key] for key in FACTS))


def _convert(one: Found, staging: Path, pixel_size: float | None) -> tuple[dict[str, Any], list[str]]:
    """Write image, label and quick look of a micrograph; returns what is known of it, and the files."""
    image = read_micrograph(one.micrograph.paths, pixel_size)
    check_contrast(image, one.micrograph.paths)
    _tell(image.warnings)
    size, shape = image.pixel_size_um, (image.pixels.shape[1], image.pixels.shape[2])
    item = {"image": f"images/{one.name}.nii.gz", "name": one.name}
    mask = None
    if one.label is not None:
        mask = read_label(one.label, shape, image.info_bar_rows, one.rule, Path(one.micrograph.paths[0]))
        item["label"] = f"labels/{one.name}.nii.gz"
        write_nifti(mask[..., None], staging / item["label"], size)
    write_nifti(image.pixels.transpose(1, 2, 0)[:, :, None, None, :], staging / item["image"], size)
    channels = image.pixels if len(one.micrograph.paths) > 1 else image.pixels[:1]
    quick = f"quicklook/{one.name}.png"
    quick_look(channels, mask, staging / quick, size)
    facts = {
        "item": item,
        "pixel_size_um": size,
        "info_bar_rows": image.info_bar_rows,
        "coverage": None if mask is None else round(float((mask > 0).mean()), 6),
        "pixels": hashlib.sha256(np.ascontiguousarray(image.pixels)).hexdigest(),
        "warnings": image.warnings,
    }
    return facts, [quick, *(path for key, path in item.items() if key != "name")]


def _tell(warnings: Sequence[str]) -> None:
    for warning in warnings:
        logger.warning("%s", warning)


def _check_copy(one: Found, pixels: str, seen: dict[str, str]) -> None:
    """Raise InputError for a labelled micrograph that is there already: a split could part the two."""
    path = one.micrograph.paths[0]
    other = seen.setdefault(pixels, str(path))
    if other != str(path):
        raise InputError(path, f"is a copy of {other}", "remove one of them")


def _check_result(source: Path, done: list[Prepared], failures: list[Failure]) -> None:
    if not done:
        first = f" ({failures[0].name}: {failures[0].reason})" if failures else ""
        raise InputError(source, f"no micrograph could be prepared{first}", "failures.csv lists all")
    covered = [one.coverage for one in done if one.coverage is not None]
    if covered and not any(covered):
        raise InputError(source, "no label marks any particle", "check --label_value or --label_color")


def _sections(
    done: list[Prepared], shared: dict[str, tuple[str, int | None]]
) -> dict[str, list[dict[str, Any]]]:
    sections: dict[str, list[dict[str, Any]]] = {name: [] for name in datalist.SECTIONS}
    for one in sorted(done, key=lambda one: one.item["name"]):
        section, fold = shared.get(one.item["name"], ("holdout" if one.holdout else "unlabelled", None))
        if one.coverage is None:
            section = "unlabelled"  # a hold-out micrograph without label cannot be scored
        sections[section].append(one.item if fold is None else {**one.item, "fold": fold})
    return sections


def _describe(
    name: str,
    detectors: int,
    classes: int,
    done: list[Prepared],
    sections: dict[str, list[dict[str, Any]]],
) -> dict[str, Any]:
    """What stands in a Decathlon data list beside the sections, and the facts of each micrograph."""
    facts = {
        one.item["name"]: {
            "pixel_size_um": one.pixel_size_um,
            "info_bar_rows": one.info_bar_rows,
            "label_coverage": one.coverage,
        }
        for one in done
    }
    return {
        "name": name,
        "description": "Scanning electron micrographs prepared by carde-monai; lengths in micrometres",
        "tensorImageSize": "2D",
        "modality": {"0": "SE2", "1": "InLens"}
        if detectors == 2
        else {"0": "SEM", "1": "SEM, the same again"},
        "labels": {"0": "matrix", **_names(classes)},
        **{f"num{section.capitalize()}": len(items) for section, items in sections.items()},
        "micrographs": facts,
    }


def _names(classes: int) -> dict[str, str]:
    if classes == 1:
        return {"1": "carbide"}
    return {str(number): f"class {number}" for number in range(1, classes + 1)}
