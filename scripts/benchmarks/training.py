"""Training: images a second over an epoch, and the time to a given Dice on the validation micrographs."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from ignite.engine import Events

from benchmarks import product, reference
from benchmarks.job import CARDE, DEFAULT, LARGE, LARGE_FEATURES, Job, plain_network
from benchmarks.table import Row
from benchmarks.timing import Seconds, progress, seconds

BOUNDS = {DEFAULT: 3.0, LARGE: 2.5}
NEVER = 10**6
LEARNING_RATE = 0.003
WANTED_DICE, MOST_EPOCHS, SEEDS = 0.7, 16, 3


def rows(job: Job) -> Iterator[Row]:
    """Two networks over an epoch; the default one to a Dice."""
    for name in BOUNDS:
        yield epochs(job, name)
    yield _to_dice(job)


@functools.cache
def _data(job_folder: Path, size: tuple[int, int]) -> Path:
    """A prepared data set, 4 micrographs to train and 1 to validate, and the reference's tiles."""
    from carde_monai.prepare import prepare
    from carde_monai.synthetic import synthesize

    progress(f"making the data set: 5 frames of {size[1]} x {size[0]} px")
    raw, data = job_folder / "training_raw", job_folder / "training_data"
    synthesize(raw, 5, size, seed=9)
    if failures := prepare(raw, data, split="4,1,0"):
        raise RuntimeError(failures[0].reason)
    for image, truth in _section(data, "training"):
        reference.write_tiles(_image(image), _label(truth), job_folder / "tiles", image.name.split(".")[0])
    return data


def _section(data: Path, section: str) -> list[tuple[Path, Path]]:
    from carde_monai import datalist

    return [(Path(one["image"]), Path(one["label"])) for one in datalist.load(str(data), section)]


def _image(path: Path) -> np.ndarray:
    return np.moveaxis(np.squeeze(np.asarray(nib.load(path).dataobj)), -1, 0)


def _label(path: Path) -> np.ndarray:
    return np.squeeze(np.asarray(nib.load(path).dataobj))


def _size(job: Job) -> tuple[int, int]:
    return (192, 256) if job.quick else (704, 1024)


def _workflow(job: Job, data: Path, name: str, **settings: Any) -> Any:
    """The training that ``carde-monai train`` runs, without MLflow."""
    from carde_monai.bundles import working_bundle

    root = working_bundle(job.scratch("training") / "bundle")
    configs = ["train", *(["carde_unet"] if name == CARDE else [])]
    if name == LARGE:
        settings["network_def#features"] = list(LARGE_FEATURES)
    # both from random weights, as a race to a Dice asks
    fixed = {"dataset_dir": str(data), "weights": None, "from_scratch": True, "tracking_uri": None}
    fixed["quiet"] = True
    return product.workflow(configs, training=True, root=root, **fixed, **settings)


def epochs(job: Job, name: str, section: str = "training") -> Row:
    """Loading, augmentation and training of some batches; validation and checkpoints are left out."""
    data = _data(job.folder, _size(job))
    batch, length = (4, 2) if job.quick else (32, 1 if name != DEFAULT else 8)
    if reference.DEVICE.type == "cuda":
        length = 20
    plain = plain_network(name)
    train = reference.trainer(plain, job.folder / "tiles", batch, LEARNING_RATE)
    train(1)
    settings = {"batch_size": batch, "epoch_length": length, "max_epochs": job.repeats + 1}
    settings |= {"val_interval": NEVER, "crops_per_micrograph": min(8, batch)}
    flow = _workflow(job, data, name, **settings)
    flow.initialize()
    theirs, ours = _in_turn(flow, lambda: seconds(lambda: train(length)))
    what = f"{name}, images over an epoch of {length} batches of {batch}"
    target = job.ratio_target(BOUNDS[name]) if name in BOUNDS else None
    return Row(section, what, ours, theirs, items=batch * length, target=target)


def _in_turn(flow: Any, theirs: Seconds) -> tuple[list[float], list[float]]:
    """Seconds of the reference between the epochs, and of these but for the first, which warms up.

    What comes after the last batch (the checkpoint) is not counted: epochs here are shorter than real ones.
    """
    trainer = flow.parser.get_parsed_content("train#trainer")
    reference_seconds: list[float] = []
    ours: list[float] = []
    start = 0.0

    def begin() -> None:
        nonlocal start
        start = time.perf_counter()

    def end() -> None:
        state = trainer.state
        if state.iteration % state.epoch_length:
            return
        if reference.DEVICE.type == "cuda":
            torch.cuda.synchronize()
        ours.append(time.perf_counter() - start)
        if state.epoch < state.max_epochs:
            reference_seconds.append(theirs())

    trainer.add_event_handler(Events.EPOCH_STARTED, begin)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, end)
    flow.run()
    return reference_seconds, ours[1:]


def _to_dice(job: Job) -> Row:
    """From the files to a Dice on the validation micrograph, with initial weights of some seeds."""
    data = _data(job.folder, _size(job))
    wanted = 0.1 if job.quick else WANTED_DICE
    batch, length = (4, 4) if job.quick else (16, 16)
    theirs, ours = [], []
    missed = {"reference": 0, "ours": 0}
    for seed in range(min(job.repeats, SEEDS)):
        for name, run, all_seconds in (
            ("reference", _reference_to_dice, theirs),
            ("ours", _ours_to_dice, ours),
        ):
            spent, best = run(job, data, wanted, batch, length, seed)
            all_seconds.append(spent)
            missed[name] += best < wanted
            progress(f"seed {seed}: {name} {spent:.0f} s, Dice {best:.3f}")
    what = f"default network, time to a validation Dice of {wanted:g}"
    note = f"{len(ours)} seeds; epochs of {length} batches of {batch}, learning rate {LEARNING_RATE:g}"
    for name, count in missed.items():
        if count:
            note += f"; {name} had not reached it in {MOST_EPOCHS} epochs with {count} of the seeds"
    return Row("training", what, ours, theirs, note=note)


def _reference_to_dice(
    job: Job, data: Path, wanted: float, batch: int, length: int, seed: int
) -> tuple[float, float]:
    """Seconds until the Dice was reached or all epochs were over, and the best Dice."""
    torch.manual_seed(seed)
    best, start = 0.0, time.perf_counter()
    plain = plain_network(DEFAULT)
    train = reference.trainer(plain, job.folder / "tiles", batch, LEARNING_RATE)
    frames = [(_image(image), _label(truth)) for image, truth in _section(data, "validation")]
    for _ in range(MOST_EPOCHS):
        train(length)
        plain.eval()
        scores = [
            reference.dice(reference.predict(plain, reference.normalise(image)) > 0.5, truth)
            for image, truth in frames
        ]
        best = max(best, float(np.mean(scores)))
        if best >= wanted:
            break
    return time.perf_counter() - start, best


def _ours_to_dice(
    job: Job, data: Path, wanted: float, batch: int, length: int, seed: int
) -> tuple[float, float]:
    """Seconds until the Dice was reached or all epochs were over, and the best Dice."""
    settings = {"batch_size": batch, "epoch_length": length, "max_epochs": MOST_EPOCHS, "seed": seed}
    settings |= {"learning_rate": LEARNING_RATE, "early_stop_patience": NEVER, "lr_patience": NEVER}
    settings |= {"crops_per_micrograph": 4}
    best, spent = 0.0, 0.0
    flow = _workflow(job, data, DEFAULT, **settings)
    start = time.perf_counter()
    flow.initialize()
    trainer, validator = (
        flow.parser.get_parsed_content(name) for name in ("train#trainer", "validate#evaluator")
    )

    def look() -> None:
        nonlocal best, spent
        best = max(best, float(validator.state.metrics["val_mean_dice"]))
        spent = time.perf_counter() - start
        if best >= wanted:
            trainer.terminate()

    validator.add_event_handler(Events.COMPLETED, look)
    flow.run()
    return spent, best
