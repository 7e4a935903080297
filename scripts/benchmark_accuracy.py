"""Trainings on few annotated real micrographs, scored on micrographs that took no part in them.

    ni10   Ni superalloy, ten training images; tested on `val` and on `other` (other alloys, etching, voltage)
    ni1    the same with one training image
    uhcs   ultrahigh-carbon steel, four classes, the published folds that are here, each tested once

Every training is one of `carde-monai train --overlay few` with several classes, of a fixed length: nothing of
the test chooses weights, settings or length. Each is evaluated with `--overlay tta`. What OUT holds already
is not trained again. Data: Stuckner et al. 2022 (npj Comput. Mater. 8, 200), DeCost et al. 2019.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from carde_monai import bundles
from carde_monai.errors import InputError, user_mistake
from carde_monai.prepare import prepare

ONE = "spot7_180d_3"
UHCS_FOLDS = {
    0: ("1176", "1219", "0357", "0333"),
    1: ("0235", "0360", "1528", "0579"),
    2: ("0220", "0495", "1061", "0075"),
    4: ("1579", "0596", "0312", "1150"),
    5: ("0007", "0477", "0124", "0599"),
}
COLUMNS = ("iou", "mean_iou", "iou_0", "iou_1", "iou_2", "iou_3")


@dataclass(frozen=True)
class Task:
    """One training: its data set's folder, the sections as names of micrographs, classes and settings."""

    name: str
    source: str
    training: tuple[str, ...]
    test: tuple[str, ...]
    holdout: tuple[str, ...] = ()
    classes: int = 2
    settings: dict[str, Any] = field(default_factory=dict)


def tasks(data: Path, only: Sequence[str]) -> Iterator[Task]:
    """The trainings of the benchmarks named in ``only``, of the data that is here."""
    for name in only:
        folder = data / ("uhcs" if name == "uhcs" else "ni-superalloy")
        if not folder.is_dir():
            print(f"{name}: skipped, there is no {folder}", file=sys.stderr)
        elif name == "uhcs":
            every = {one: fold for fold, members in UHCS_FOLDS.items() for one in members}
            for fold, members in UHCS_FOLDS.items():
                others = tuple(f"uhcs{one}" for one in every if one not in members)
                tested = tuple(f"uhcs{one}" for one in members)
                yield Task(
                    f"uhcs{fold}", "uhcs", others, tested, classes=3, settings={"roi_size": [256, 256]}
                )
        else:
            parts = {part: _stems(folder / part / "images") for part in ("train", "val", "other")}
            chosen = parts["train"] if name == "ni10" else (ONE,)
            yield Task(name, "ni-superalloy", chosen, parts["val"], parts["other"])


def _stems(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in folder.glob("*.png")))


def prepared(task: Task, data: Path, out: Path) -> Path:
    """The data set of a task, made once; its data list has the task's sections."""
    whole = out / "data" / task.source
    if not (whole / "datalist.json").is_file():
        raw = out / "raw" / task.source
        shutil.rmtree(raw, ignore_errors=True)
        for kind in ("images", "labels"):
            (raw / kind).mkdir(parents=True)
            for path in (data / task.source).rglob(f"{kind}/*.png"):
                shutil.copyfile(path, raw / kind / path.name)
        failures = prepare(raw, whole, detectors=1, classes=task.classes, split="8,1,1")
        if failures:
            raise InputError(failures[0].name, failures[0].reason)
    listed = json.loads((whole / "datalist.json").read_text(encoding="utf-8"))
    every = {one["name"]: one for key in ("training", "validation", "test") for one in listed[key]}
    sections = {"training": task.training, "validation": (), "test": task.test}
    sections["holdout"] = task.holdout
    dest = out / "data" / task.name
    dest.mkdir(parents=True, exist_ok=True)
    for kind in ("images", "labels"):
        if not (dest / kind).exists():
            (dest / kind).symlink_to((whole / kind).resolve(), target_is_directory=True)
    listed |= {section: [every[name] for name in names] for section, names in sections.items()}
    (dest / "datalist.json").write_text(json.dumps(listed | {"unlabelled": []}), encoding="utf-8")
    return dest


def run(task: Task, dataset: Path, bundle: Path, seed: int, given: dict[str, Any]) -> dict[str, Any]:
    """Train and evaluate; the classes.json of the evaluation."""
    common = {"dataset_dir": str(dataset), "classes": task.classes, "tracking_uri": None, "quiet": True}
    if not (bundle / "eval" / "classes.json").is_file():
        shutil.rmtree(bundle, ignore_errors=True)
        root = bundles.working_bundle(bundle)
        start = time.monotonic()
        settings = {"seed": seed, "val_interval": "@max_epochs", **task.settings, **given}
        bundles.run(root, ["train", "few", "classes"], {**common, **settings}, training=True)
        print(f"{task.name}, seed {seed}: {(time.monotonic() - start) / 60:.1f} minutes", flush=True)
        sections = ["test", "holdout"] if task.holdout else ["test"]
        stages = ["train", "classes", "tta", "evaluate", "evaluate_classes"]
        bundles.run(root, stages, {**common, "sections": sections}, training=True)
    return json.loads((bundle / "eval" / "classes.json").read_text(encoding="utf-8"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for and print a table of every training."""
    parser = argparse.ArgumentParser(prog="scripts/benchmark_accuracy", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--only", default="ni10,ni1,uhcs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("accuracy"))
    parser.add_argument("--set", action="append", default=[], metavar="ID=VALUE", help="a setting of train")
    options = parser.parse_args(arguments)
    given = {key: json.loads(value) for key, _, value in (one.partition("=") for one in options.set)}
    rows = []
    for task in tasks(options.data, options.only.split(",")):
        for seed in range(options.seeds):
            try:
                dataset = prepared(task, options.data, options.out)
                found = run(task, dataset, options.out / f"{task.name}_seed{seed}", seed, given)
            except Exception as error:
                if (mistake := user_mistake(error)) is None:
                    raise
                print(f"{task.name}, seed {seed}: {mistake}", file=sys.stderr)
                return 2
            for section, parts in found.items():
                means = {key: one["mean"] for key, one in parts["micrographs"].items()}
                row = {"task": task.name, "seed": seed, "section": section, "n": parts["n"]}
                rows.append(row | {key: means.get(key) for key in COLUMNS})
                figures = ", ".join(
                    f"{key} {means[key]:.4f}" for key in COLUMNS if means.get(key) is not None
                )
                print(f"{task.name}, seed {seed}, {section} ({parts['n']}): {figures}", flush=True)
            with (options.out / "results.csv").open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, ["task", "seed", "section", "n", *COLUMNS])
                writer.writeheader()
                writer.writerows(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
