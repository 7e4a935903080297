"""The whole product once, on synthetic steel: what ``carde-monai demo`` does."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from carde_monai import bundles, warm_start
from carde_monai.errors import InputError
from carde_monai.locking import LOCK, claimed
from carde_monai.prepare import prepare
from carde_monai.synthetic import synthesize

SIZE = (704, 1024)  # a quarter of a microscope's frame, so that everything fits into six minutes on two cores
SPLIT = "10,1,1"
# A short training: few, small batches and a higher learning rate than the default, which is meant for hours.
TRAINING: dict[str, Any] = {
    "max_epochs": 12,
    "epoch_length": 32,
    "roi_size": [96, 96],
    "batch_size": 16,
    "crops_per_micrograph": 4,
    "learning_rate": 0.003,
    "lr_patience": 0,
}


def demo(dest: Path) -> None:
    """Segment with the shipped weights, then prepare, train on top, evaluate, measure: all below ``dest``.

    Raises:
        InputError: ``dest`` is a file, or a folder with something else in it, or another run writes there.
    """
    mark = dest / ".carde-monai-demo"  # only what a demo has made is ever deleted
    others = dest.is_dir() and any(path.name != LOCK for path in dest.iterdir())
    if dest.is_file() or (others and not mark.is_file()):
        raise InputError(dest, "is not a folder of an earlier demo", "name a new folder")
    with claimed(dest):  # the steps claim their own folders, all below it
        mark.touch()
        for stale in ("raw", "first", "data", "bundle", "segmented"):
            shutil.rmtree(dest / stale, ignore_errors=True)
        _do_all(dest)


def _do_all(dest: Path) -> None:
    raw, data, bundle, results, segmented = (
        dest / name for name in ("raw", "data", "bundle", "results", "segmented")
    )
    start = time.monotonic()
    common = {"dataset_dir": str(data), "output_dir": str(results), "experiment_name": "demo"}

    _say("1/7 synthesize", "12 micrographs of one steel, 2 of another (hold-out)")
    synthesize(raw, sum(map(int, SPLIT.split(","))), SIZE, "jfl", seed=1)
    synthesize(raw / "hold-out", 2, SIZE, "anp", seed=2)
    _say("2/7 segment", "the hold-out steel's files with the shipped weights: nothing is annotated yet")
    begun = time.monotonic()
    packaged = bundles.packaged_bundle()
    _segment(raw / "hold-out", dest / "first", packaged, bundles.PACKAGED_OVERLAYS)
    print(f"That took {time.monotonic() - begun:.0f} seconds. Look at {dest / 'first'}/*_overlay.png")
    _say("3/7 prepare", "read the microscope's files, cut the info bar, split by micrograph")
    prepare(raw, data, split=SPLIT)
    bundle = bundles.working_bundle(bundle)
    _say("4/7 train", "from the shipped weights, on 10 annotated micrographs")
    bundles.run(bundle, ["train"], common | TRAINING, training=True)
    _say("5/7 calibrate", "temperature scaling on the validation micrograph")
    bundles.run(bundle, ["train", "calibrate"], common, training=True)
    _say("6/7 evaluate", "shipped weights, then trained ones and classical SimpleITK pipeline")
    before = {"weights": str(warm_start.shipped_weights()), "output_dir": str(results / "shipped")}
    bundles.run(bundle, ["train", "evaluate"], common | before | {"tracking_uri": None}, training=True)
    bundles.run(bundle, ["train", "evaluate"], common, training=True)
    _say("7/7 segment", "and measure the hold-out steel, from the microscope's files")
    _segment(raw / "hold-out", segmented, bundle)
    print(_table(results, bundle))
    print(_next_commands(dest, results, segmented, bundle))
    print(f"Done in {(time.monotonic() - start) / 60:.1f} minutes.")


def _segment(source: Path, dest: Path, bundle: Path, overlays: Sequence[str] = ()) -> None:
    settings = {"dataset_dir": str(source), "output_dir": str(dest)}
    bundles.run(bundle, ["inference", "sem", "segment", *overlays], settings, training=False)


def _say(step: str, what: str) -> None:
    print(f"\n== {step}: {what}", flush=True)


def _table(results: Path, bundle: Path) -> str:
    """The figures of the evaluations and the calibration, aligned."""
    trained, shipped = (
        json.loads((folder / "summary.json").read_text())["sections"]
        for folder in (results, results / "shipped")
    )
    calibration = json.loads((bundle / "models" / "calibration.json").read_text())
    lines = ["", f"{'median Dice':<28}{'shipped':>10}{'trained':>10}{'baseline':>10}{'n':>6}"]
    for section, units in trained.items():
        for unit in ("micrographs", "tiles"):
            rows = (shipped[section][unit]["network"], units[unit]["network"], units[unit]["baseline"])
            figures = "".join(f"{row['dice']['median']:>10.3f}" for row in rows)
            lines.append(f"{section + ', ' + unit:<28}{figures}{units[unit]['n']:>6}")
    before, after = calibration["before"], calibration["after"]
    lines += [
        "",
        f"{'calibration':<28}{'before':>10}{'after':>10}   (temperature {calibration['temperature']:.2f})",
        *(f"{name.upper():<28}{before[name]:>10.4f}{after[name]:>10.4f}" for name in ("ece", "nll", "brier")),
    ]
    return "\n".join(lines)


def _next_commands(dest: Path, results: Path, segmented: Path, bundle: Path) -> str:
    """What to look at and what to type next, ready to copy."""
    programs = Path(sys.executable).parent
    database = f"sqlite:///{(results / 'mlflow.db').resolve()}"
    mlflow = shlex.join([str(programs / "mlflow"), "ui", "--backend-store-uri", database])
    segment = shlex.join([str(programs / "carde-monai"), "segment", "FOLDER", "OUT", "--bundle", str(bundle)])
    return f"""
Look at the report of the hold-out steel's carbides, in any browser
  {(segmented / "report.html").resolve().as_uri()}
  and at what the annotation says of them: {results / "comparison" / "holdout" / "comparison.png"}
Look at the pictures
  {segmented}: *_overlay.png and *_confidence.png, the hold-out steel
  {results}: overlay_worst.png and box_plot.png, network and baseline against the truth
  {results}: reliability.png and training_curve.png, calibration and training
  {dest / "data" / "quicklook"}: what the network was trained on
Browse the experiment
  {mlflow}
  then open http://127.0.0.1:5000/#/experiments/1/runs?workflowType=machine_learning
Segment your own micrographs (--detectors 1 for single images)
  {segment}
"""
