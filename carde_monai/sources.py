"""What a source folder holds: micrographs in any of the known layouts, each with its label."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from carde_monai.errors import Failure, InputError
from carde_monai.labels import RAW_COLOUR, RAW_FOLDER, LabelRule, Pictures, find_label, find_raw_label
from carde_monai.sem import Micrograph, find_micrographs
from carde_monai.sem_files import check_name

logger = logging.getLogger("carde_monai")

PREPROCESSED = "preprocessed"
HOLDOUT = ("hold-out", "holdout", "hold_out")


@dataclass(frozen=True)
class Found:
    """A micrograph under a name that no other has, with its label file and what to read in that."""

    name: str
    micrograph: Micrograph
    holdout: bool
    label: Path | None
    rule: LabelRule


def find_all(
    source: Path, detectors: int, labels: Path | None, rule: LabelRule
) -> tuple[list[Found], list[Failure]]:
    """Find the micrographs below a source folder, each with its label if it has one.

    If there are raw folders, only they are searched; what else lies beside them are steps of work on them.
    But a folder ``preprocessed`` is the outcome of that work: beside it, raw folders are passed over.
    Raises InputError if there is no image, or no label in the folder ``labels``.
    """
    pairs, failures = _micrographs(source, detectors, labels)
    names = Counter(one.name for one, _ in pairs)
    stems = Counter(one.paths[0].stem for one, _ in pairs)
    found = []
    listed: dict[Path, Pictures] = {}
    for one, alone in pairs:
        folder = one.paths[0].parent
        parts = [part for part in folder.relative_to(source).parts if part.lower() != RAW_FOLDER]
        name = one.name if names[one.name] == 1 else "_".join([*parts, one.name])
        holdout = any(part.lower() in HOLDOUT for part in parts)
        folders = _label_folders(folder, holdout, labels, stems[one.paths[0].stem] == 1)
        try:
            check_name(name, one.paths[0])
            used, label = rule, find_label(one.name, one.paths, folders, listed)
            if label is None and (label := find_raw_label(one.paths[0], alone)) and rule.colour is None:
                used = LabelRule(colour=RAW_COLOUR)
            found.append(Found(name, one, holdout, label, used))
        except InputError as error:
            failures.append(Failure(name, str(error)))
    if labels and found and not any(one.label and one.label.parent == labels for one in found):
        wrong = f"holds no label of any of {len(found)} micrographs"
        raise InputError(labels, wrong, "name the files NAME_label.png")
    return found, failures


def _micrographs(
    source: Path, detectors: int, labels: Path | None
) -> tuple[list[tuple[Micrograph, bool]], list[Failure]]:
    """The micrographs below a source folder, each with whether it is the only one of its raw folder."""
    folders = [source, *(path for path in source.rglob("*") if path.is_dir())]
    raw = sorted(path for path in folders if path.name.lower() == RAW_FOLDER)
    done = [path for path in folders if path.name.lower() == PREPROCESSED]
    if raw and done:
        logger.info("%s is taken; the raw folders beside it are passed over", done[0])
    pairs, failures = [], []
    for folder in done[:1] if raw and done else raw or [source]:
        micrographs, failed = find_micrographs(folder, detectors, folder not in raw, labels)
        failures += failed
        pairs += [(one, len(micrographs) + len(failed) == 1) for one in micrographs]
    within = [pair for pair in pairs if labels in pair[0].paths[0].parents]
    outside = [pair for pair in pairs if pair not in within]
    stems = {path.stem for one, _ in outside for path in one.paths}
    # Pictures named like micrographs elsewhere, in the folder of labels: labels, not more micrographs.
    if any(one.paths[0].stem in stems for one, _ in within):
        return outside, failures
    return pairs, failures


def _label_folders(folder: Path, holdout: bool, labels: Path | None, unique: bool) -> list[Path]:
    """Where the labels of the images in ``folder`` may lie, the likeliest place first."""
    own = [folder, folder / "labels"]
    if folder.name.lower() not in HOLDOUT:  # beside a hold-out folder are the labels of the others
        own.append(folder.parent / "labels")
    if labels is None or (holdout and not unique):
        return own
    return [*own, labels] if holdout else [labels, folder]
