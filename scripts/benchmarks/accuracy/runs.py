"""Train, evaluate, and keep the scores of one training."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import pandas as pd

from benchmarks.accuracy.tasks import Task, outline_dice
from carde_monai import bundles, warm_start
from carde_monai.errors import InputError
from carde_monai.locking import claimed
from carde_monai.replacing import replace_text
from carde_monai.result_files import read_table
from carde_monai.size_test import LEVEL, size_test
from carde_monai.summary import Sample, samples

SCRATCH, SHIPPED = "scratch", "shipped"
STARTS = (SCRATCH, SHIPPED)
POOLED = "_pooled"  # ends the name of a section whose pixels are pooled
RESULT = "result.json"  # of a run, there as soon as it is done
# settings that the evaluation must share with the training
SHARED = ("amp", "device", "network_def", "window_size")
Scores = dict[str, dict[str, float]]  # by section, then by column of the results


@dataclass(frozen=True)
class Run:
    """A training: ``start`` is one of `STARTS`, ``given`` are the user's settings, which come first."""

    task: Task
    start: str
    seed: int
    given: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of the run's folder."""
        return f"{self.task.label}_{self.start}_seed{self.seed}"

    def made_from(self) -> dict[str, Any]:
        """What the scores depend on: a run that differs here is another one."""
        task = self.task
        sections = {name: list(names) for name, names in task.sections.items()}
        shipped = self.start == SHIPPED
        digest = warm_start.shipped_digest(warm_start.shipped_weights()) if shipped else None
        return {**sections, "settings": task.settings | self.given, "weights": digest}


def is_done(run: Run, out: Path) -> bool:
    """Whether the scores of a run are there.

    Raises:
        InputError: they are there, but of other settings, micrographs or shipped weights.
    """
    path = out / run.name / RESULT
    if not path.is_file():
        return False
    before, now = json.loads(path.read_text(encoding="utf-8"))["made_from"], run.made_from()
    if different := [key for key in now if before.get(key) != now[key]]:
        remedy = "name another --out, or remove that folder"
        raise InputError(path.parent, f"was made with other {' and '.join(different)}", remedy)
    return True


def perform(run: Run, dataset: Path, out: Path) -> None:
    """Train and evaluate in the run's folder below ``out``; the scores are written last.

    Raises:
        InputError: settings do not fit, the training diverges or does not start from the shipped weights,
            a micrograph fails, or another benchmark is at this run.
    """
    folder, made_from = out / run.name, run.made_from()
    with claimed(folder):
        shutil.rmtree(folder / "bundle", ignore_errors=True)  # of a benchmark that was stopped
        bundle = bundles.working_bundle(folder / "bundle")
        begun = time.monotonic()
        _train(run, dataset, bundle)
        minutes = (time.monotonic() - begun) / 60
        facts = {"task": run.task.name, "fold": run.task.fold, "start": run.start, "seed": run.seed}
        facts |= {"images": len(run.task.training), "minutes": round(minutes, 2)}
        scores = _evaluate(run, dataset, bundle)
        told = facts | {"made_from": made_from, "sections": scores}
        replace_text(folder / RESULT, json.dumps(told, indent=2) + "\n")


def _common(run: Run, dataset: Path) -> dict[str, Any]:
    return {
        "dataset_dir": str(dataset),
        "classes": run.task.classes,
        "tracking_uri": None,
        "quiet": True,
        "seed": run.seed,
    }


def _train(run: Run, dataset: Path, bundle: Path) -> None:
    configs = ["train", "few", *(["classes"] if run.task.classes > 1 else [])]
    # nothing is chosen by what is watched, so that looking once is enough
    settings = {"val_interval": "@max_epochs", **run.task.settings, **run.given}
    settings |= {**_common(run, dataset), "from_scratch": run.start == SCRATCH}
    flow = bundles.run(bundle, configs, settings, training=True)
    if not flow.parser.get_parsed_content("start_from_shipped"):
        remedy = "leave out --start shipped, or the --set that changes the network"
        raise InputError(run.name, "could not start from the shipped weights", remedy)


def _evaluate(run: Run, dataset: Path, bundle: Path) -> Scores:
    several = run.task.classes > 1
    configs = ["train", *(["classes"] if several else []), "tta", "evaluate"]
    configs += ["evaluate_classes"] if several else []
    settings: dict[str, Any] = {key: one for key, one in run.given.items() if key.split("#")[0] in SHARED}
    sections = [section for section, names in run.task.scored.items() if names]
    settings |= {**_common(run, dataset), "sections": sections}
    try:
        bundles.run(bundle, configs, settings, training=True)
    except SystemExit as error:  # a figure over fewer micrographs would be another figure
        raise InputError(run.name, "some micrographs failed", "see failures.csv in its folder") from error
    if several:
        return class_scores(bundle / "eval")
    scores = carbide_scores(bundle / "eval")
    for section in sections:
        scores[section]["outline_dice"] = mean(outline_dice(name) for name in run.task.scored[section])
    return scores


def class_scores(folder: Path) -> Scores:
    """IoU of an evaluation of several classes, of each section.

    A section's own scores are means over its micrographs, as the Ni superalloys were published; in
    ``<section>`` followed by `POOLED` all its pixels count as one micrograph, so that a class which a
    micrograph lacks weighs no more than the few pixels wrongly taken for it.
    """
    told = json.loads((folder / "classes.json").read_text(encoding="utf-8"))
    scores: Scores = {}
    for section, parts in told.items():
        means = {key: one["mean"] for key, one in parts["micrographs"].items()}
        for name, values in ((section, means), (section + POOLED, parts["pooled"])):
            scores[name] = {"n": parts["n"], **{key: one for key, one in values.items() if "iou" in key}}
    return scores


def carbide_scores(folder: Path) -> Scores:
    """Dice, object F1 and agreement of sizes of an evaluation of carbides, by section over its micrographs.

    ``ks_accepted`` is the share of micrographs in which the two-sample Kolmogorov-Smirnov test (carbides
    taken as independent, those cut by the border left out) finds no difference at p = 0.05 between the
    diameters found and those of the annotation.
    """
    table = pd.read_csv(folder / "metrics.csv", dtype={"name": str})
    found, truth = (_by_micrograph(folder / kind) for kind in ("network", "annotation"))
    scores = {}
    for section, rows in table.groupby("section", sort=False):
        accepted = [_accepted(truth[name], found[name]) for name in rows["name"]]
        scores[str(section)] = {
            "n": len(rows),
            "dice": float(rows["network_dice"].mean()),
            "dice_median": float(rows["network_dice"].median()),
            "baseline_dice": float(rows["baseline_dice"].mean()),
            "baseline_dice_median": float(rows["baseline_dice"].median()),
            "object_f1": float(rows["network_object_f1"].mean()),
            "ks_accepted": sum(accepted) / len(accepted),
        }
    return scores


def _by_micrograph(folder: Path) -> Mapping[str, Sample]:
    fields, particles = (read_table(folder / f"{name}.csv") for name in ("micrographs", "particles"))
    parts = (table.assign(sample=table["micrograph"]) for table in (fields, particles))
    return {sample.name: sample for sample in samples(*parts)}


def _accepted(truth: Sample, found: Sample) -> bool:
    p = size_test(truth, found, paired=False)["p_independent"]
    return p is not None and p > LEVEL
