"""The trainings of the benchmark and the data sets that they need."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from carde_monai.errors import InputError
from carde_monai.evaluation import scores
from carde_monai.prepare import prepare
from carde_monai.replacing import replace_text
from carde_monai.synthetic import STEELS, synthesize, synthesize_micrograph

NI, UHCS, RPV = "ni-superalloy", "uhcs", "rpv"
ONE = "spot7_180d_3"  # the published one-shot image, which every larger set contains
NI_IMAGES = {"ni1": 1, "ni2": 2, "ni4": 4, "ni10": 10}
UHCS_FOLDS = {
    0: ("1176", "1219", "0357", "0333"),
    1: ("0235", "0360", "1528", "0579"),
    2: ("0220", "0495", "1061", "0075"),
    4: ("1579", "0596", "0312", "1150"),
    5: ("0007", "0477", "0124", "0599"),
}
# steel, micrographs and seed; train_shipped_weights must have seen none of them: its seeds are others
RPV_SIZE = (704, 1024)
RPV_TRAINING, RPV_TEST, RPV_HOLDOUT = 10, 4, 4
RPV_SEEDS = {"jfl": 801, "anp": 802}
NAMES = (*NI_IMAGES, "uhcs", "rpv10")


@dataclass(frozen=True)
class Task:
    """One training: its data set's source, the sections as names of micrographs, classes and settings.

    ``validation`` chooses nothing within a training: settings are compared on it, not on ``test``.
    """

    name: str
    source: str
    training: tuple[str, ...]
    test: tuple[str, ...]
    holdout: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    classes: int = 1
    fold: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Name and fold."""
        return self.name if self.fold is None else f"{self.name}{self.fold}"

    @property
    def sections(self) -> dict[str, tuple[str, ...]]:
        """All micrographs, by section."""
        return {"training": self.training, **self.scored}

    @property
    def scored(self) -> dict[str, tuple[str, ...]]:
        """Micrographs that do not train, by section."""
        return {"validation": self.validation, "test": self.test, "holdout": self.holdout}


def tasks(data: Path, only: Sequence[str]) -> Iterator[Task]:
    """The trainings of the benchmarks named in ``only``; a line on stderr for those whose data is absent."""
    for name in only:
        if name == "rpv10":
            yield _rpv()
        elif not (folder := data / (UHCS if name == "uhcs" else NI)).is_dir():
            _skip(name, f"there is no {folder}")
        elif name == "uhcs":
            yield from _uhcs(folder)
        else:
            yield from _ni(name, folder)


def _skip(name: str, reason: str) -> None:
    print(f"{name}: skipped, {reason}", file=sys.stderr, flush=True)


def _rpv() -> Task:
    # names as `synthesize` gives them
    jfl = [f"jfl_{2 * number + 1:03d}" for number in range(RPV_TRAINING + RPV_TEST)]
    anp = [f"anp_{2 * number + 1:03d}" for number in range(RPV_HOLDOUT)]
    return Task("rpv10", RPV, tuple(jfl[:RPV_TRAINING]), tuple(jfl[RPV_TRAINING:]), tuple(anp))


def outline_dice(name: str) -> float:
    """Dice between the label of a micrograph of rpv10 and the outlines that it was drawn from.

    The label's edges wander in a way that the image does not show: more than this is not to be expected.
    """
    steel, number = name.split("_")
    seed = np.random.SeedSequence(RPV_SEEDS[steel], spawn_key=(int(number) // 2,))  # as `synthesize` spawns
    sharp = replace(STEELS[steel], label_noise_px=0.0, label_bias_px=0.0)
    label, outlines = (synthesize_micrograph(one, RPV_SIZE, seed).label for one in (STEELS[steel], sharp))
    return scores(outlines, label)["dice"]


def _uhcs(folder: Path) -> Iterator[Task]:
    here = _stems(folder / "images")
    folds = {number: [f"uhcs{one}" for one in members] for number, members in UHCS_FOLDS.items()}
    for number, members in list(folds.items()):
        if absent := sorted(set(members) - set(here)):
            _skip(f"uhcs{number}", f"{folder} does not hold {', '.join(absent)}")
            del folds[number]
    for number, members in folds.items():
        others = [one for other, each in folds.items() if other != number for one in each]
        yield Task(
            "uhcs",
            UHCS,
            tuple(others),
            tuple(members),
            classes=3,
            fold=number,
            settings={"roi_size": [256, 256], "max_epochs": 10},
        )


def _ni(name: str, folder: Path) -> Iterator[Task]:
    parts = {part: _stems(folder / part / "images") for part in ("train", "val", "other")}
    number = NI_IMAGES[name]
    if ONE not in parts["train"] or len(parts["train"]) < number or not parts["val"]:
        _skip(name, f"{folder} does not hold {number} training images with {ONE}, and some for val")
        return
    ordered = (ONE, *(one for one in parts["train"] if one != ONE))
    yield Task(name, NI, ordered[:number], parts["val"], parts["other"], ordered[number:], classes=2)


def _stems(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in folder.glob("*.png")))


def prepared(task: Task, data: Path, out: Path) -> Path:
    """The data set of a task below ``out``; all tasks of a source share the images, which are made once.

    Raises:
        InputError: an image cannot be prepared, or one is missing in what was prepared from other data.
    """
    whole, dest = out / "data" / task.source, out / "data" / task.label
    dest.mkdir(parents=True, exist_ok=True)
    with FileLock(out / "data" / ".lock"):  # several benchmarks may share OUT
        if not (whole / "datalist.json").is_file():
            _prepare(task, data, out / "raw" / task.source, whole)
        listed = json.loads((whole / "datalist.json").read_text(encoding="utf-8"))
        keys = ("training", "validation", "test", "holdout")
        every = {one["name"]: one for key in keys for one in listed[key]}
        if missing := {name for names in task.sections.values() for name in names} - set(every):
            raise InputError(
                whole, f"does not hold {min(missing)}", "it is of other data: name another --out"
            )
        for kind in ("images", "labels"):
            if not (dest / kind).exists():
                (dest / kind).symlink_to((whole / kind).resolve(), target_is_directory=True)
        listed |= {key: [every[name] for name in names] for key, names in task.sections.items()}
        replace_text(dest / "datalist.json", json.dumps(listed))
    return dest


def _prepare(task: Task, data: Path, raw: Path, whole: Path) -> None:
    shutil.rmtree(raw, ignore_errors=True)
    if task.source == RPV:
        synthesize(raw, RPV_TRAINING + RPV_TEST, RPV_SIZE, "jfl", RPV_SEEDS["jfl"])
        synthesize(raw / "hold-out", RPV_HOLDOUT, RPV_SIZE, "anp", RPV_SEEDS["anp"])
    else:
        for kind in ("images", "labels"):
            (raw / kind).mkdir(parents=True)
            for path in (data / task.source).rglob(f"{kind}/*.png"):
                shutil.copyfile(path, raw / kind / path.name)
    failures = prepare(raw, whole, detectors=2 if task.source == RPV else 1, classes=task.classes)
    if failures:
        raise InputError(failures[0].name, failures[0].reason)
