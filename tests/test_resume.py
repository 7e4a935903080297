"""Trainings that are stopped, killed, or spoilt, and go on: the end is that of the training left alone."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import nibabel as nib
import pandas as pd
import pytest
import torch
from ignite.engine import Engine, Events
from mlflow import MlflowClient

from carde_monai import __main__, bundles
from carde_monai.errors import INTERRUPTED, user_mistake

TINY = {"roi_size": [32, 32], "window_size": [96, 96], "batch_size": 4, "crops_per_micrograph": 2}
TINY |= {"epoch_length": 3, "max_epochs": 5, "learning_rate": 0.003, "lr_patience": 0, "seed": 7}
TINY |= {"network_def#features": [4, 4, 4, 4, 4, 4], "tracking_uri": None, "quiet": True}


class Act:
    """Does ``act`` in the middle of the iteration ``when``, in all trainings that are compared."""

    when = 0
    act: Callable[[Any], object]

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        if engine.state.iteration == Act.when:
            Act.act(engine)


def press_ctrl_c(engine: Engine) -> None:
    os.kill(os.getpid(), signal.SIGINT)


def spoil(engine: Any) -> None:
    """As a step does that was too large."""
    torch.nn.init.constant_(engine.network.get_submodule("final_conv").bias, float("nan"))


@pytest.fixture(scope="module")
def overlay(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("overlay") / "act.json"
    file.write_text(json.dumps({"+train#handlers": [{"_target_": "test_resume.Act"}]}))
    return str(file)


@pytest.fixture
def train(dataset: Path, overlay: str, tmp_path: Path) -> Callable[..., Path]:
    """Trains a bundle of the test's own with overrides; does ``act`` (Ctrl-C) in iteration ``stop``."""

    def run(name: str = "bundle", stop: int = 0, act: Any = press_ctrl_c, **overrides: Any) -> Path:
        bundle = bundles.working_bundle(tmp_path / name)
        Act.when, Act.act = stop, act
        settings = {"dataset_dir": str(dataset), **TINY, **overrides}
        bundles.run(bundle, ["train", overlay], settings, training=True)
        return bundle

    return run


@pytest.fixture(scope="module")
def whole(dataset: Path, overlay: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose training nobody disturbed."""
    bundle = bundles.working_bundle(tmp_path_factory.mktemp("whole") / "bundle")
    Act.when = 0
    bundles.run(bundle, ["train", overlay], {"dataset_dir": str(dataset), **TINY}, training=True)
    return bundle


def leaves(content: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(content, dict | list | tuple):
        items = content.items() if isinstance(content, dict) else enumerate(content)
        for key, value in items:
            yield from leaves(value, f"{name}/{key}")
    else:
        yield name, content


def numbers(file: Path) -> dict[str, Any]:
    """Everything in a checkpoint, tensors as their bytes, but the settings."""
    found = dict(leaves(torch.load(file, weights_only=True)))
    return {
        name: (value.dtype, tuple(value.shape), value.contiguous().numpy().tobytes())
        if isinstance(value, torch.Tensor)
        else value
        for name, value in found.items()
        if not name.startswith("/training/settings")
    }


def table(bundle: Path) -> pd.DataFrame:
    """training.csv as text, without the speed."""
    return pd.read_csv(bundle / "eval" / "training.csv", dtype=str).drop(columns="images_per_second")


def assert_same(bundle: Path, whole: Path) -> None:
    for file in ("model.pt", "last.pt"):
        assert numbers(bundle / "models" / file) == numbers(whole / "models" / file)
    pd.testing.assert_frame_equal(table(bundle), table(whole))
    assert (bundle / "eval" / "training_curve.png").is_file()
    assert not [path for path in bundle.rglob("*.part")]


@contextlib.contextmanager
def refusal(said: str) -> Iterator[None]:
    """Expects an error whose one line for the user has ``said`` in it."""
    with pytest.raises(Exception) as caught:
        yield
    mistake = user_mistake(caught.value)
    assert mistake is not None and re.search(said, str(mistake)), str(mistake or caught.value)


def told(bundle: Path) -> dict[str, Any]:
    return torch.load(bundle / "models" / "last.pt", weights_only=True)["training"]


def test_the_undisturbed_training_uses_all_that_is_resumed(whole: Path) -> None:
    state = torch.load(whole / "models" / "last.pt", weights_only=True)
    assert set(state) == {"network", "optimizer", "lr_scheduler", "early_stop", "best_model", "training"}
    assert state["training"]["epoch"] == 5 and not state["training"]["stopped"]
    figures = table(whole).astype(float)
    assert list(figures["epoch"]) == [1, 2, 3, 4, 5]
    assert state["training"]["best_metric"] == figures["val_mean_dice"].max()
    assert state["early_stop"]["best_score"] == pytest.approx(-figures["val_loss"].min())
    assert figures["val_loss"].nunique() == 5


@pytest.mark.parametrize(("stop", "epoch"), [(1, 0), (8, 2), (15, 4)])
def test_stopped_in_any_epoch_it_goes_on_as_if_nothing_had_been(stop, epoch, train, whole) -> None:
    with pytest.raises(KeyboardInterrupt) as error:
        train(stop=stop)
    said = f"stopped in epoch {epoch + 1}; the same command with --resume goes on after epoch {epoch} "
    assert said in str(error.value)
    bundle = train(resume=True)
    assert_same(bundle, whole)


def test_stopped_again_and_again_it_is_one_run_of_mlflow(train, whole, tmp_path) -> None:
    store = f"sqlite:///{tmp_path}/mlflow.db"
    for count, stop in enumerate((3, 4, 12)):
        with pytest.raises(KeyboardInterrupt):
            train(stop=stop, resume=count > 0, tracking_uri=store)
    assert_same(train(resume=True, tracking_uri=store), whole)
    assert_one_run_with_every_point_once(tmp_path)
    assert len(MlflowClient(store).search_runs(["1"])) == 1


def test_loaders_with_and_without_workers_give_the_same_weights(train, whole) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(stop=7, num_workers=2)  # the workers hear of the signal, too
    assert_same(train(resume=True, num_workers=2), whole)


def test_early_stopping_goes_on_counting_and_stays_stopped(train, caplog) -> None:
    # nothing improves on the first epoch, and the third without improvement is the last
    settings = {"validate#early_stop#score_function": "$lambda engine: 0.0", "early_stop_patience": 3}
    undisturbed = train("undisturbed", **settings)
    assert told(undisturbed)["stopped"] and told(undisturbed)["epoch"] == 4
    with pytest.raises(KeyboardInterrupt):
        train(stop=8, **settings)
    bundle = train(resume=True, **settings)
    assert_same(bundle, undisturbed)
    caplog.set_level("INFO", "carde_monai")
    before = numbers(bundle / "models" / "last.pt")
    train(resume=True, **settings)
    assert "this training has finished after epoch 4 (best " in caplog.text
    assert numbers(bundle / "models" / "last.pt") == before


def test_a_finished_training_does_nothing_but_may_be_prolonged(train, whole, caplog) -> None:
    bundle = train(max_epochs=3)
    times = {path: path.stat().st_mtime_ns for path in bundle.rglob("*") if path.is_file()}
    (bundle / "models" / "calibration.json").write_text("{}")
    caplog.set_level("INFO", "carde_monai")
    train(max_epochs=3, resume=True)
    assert "last.pt: this training has finished after epoch 3 (best 0" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert (bundle / "models" / "calibration.json").exists(), "its model.pt is as calibrated as before"
    assert_same(train(resume=True), whole)


def test_a_training_that_cannot_be_resumed_is_told_in_one_line(train, whole, tmp_path) -> None:
    with refusal(r"last\.pt: there is no training to resume; train without --resume"):
        train("new", resume=True)
    shutil.copytree(whole, tmp_path / "bundle")
    for settings, said in (
        ({"batch_size": 8}, r"began with other settings \(--batch_size 4\); give the options"),
        ({"seed": 8, "network_def#features": [8] * 6}, r"\(--seed 7, --network_def#features \[4, 4, 4"),
    ):
        with refusal(said):
            train(resume=True, **settings)
    state = tmp_path / "bundle" / "models" / "last.pt"
    state.write_bytes(state.read_bytes()[:5000])
    with refusal(r"last\.pt: cannot be read as the state of a training"):
        train(resume=True)


def test_a_training_goes_on_with_its_own_data_only(train, dataset, tmp_path) -> None:
    copy = Path(shutil.copytree(dataset, tmp_path / "copy"))
    train(max_epochs=1)
    listed = json.loads((copy / "datalist.json").read_text())
    listed["unlabelled"], listed["test"] = listed["test"], []  # which no training looks at
    (copy / "datalist.json").write_text(json.dumps(listed))
    moved = {"dataset_dir": str(copy), "resume": True, "max_epochs": 1}
    train(**moved)
    first, second, third = (one["name"] for one in listed["training"])
    (validated,) = (one["name"] for one in listed["validation"])

    def refused(change: Callable[[dict[str, Any]], object], said: str) -> None:
        changed = json.loads(json.dumps(listed))
        change(changed)
        (copy / "datalist.json").write_text(json.dumps(changed))
        with refusal(rf"last\.pt: this training began with other data \({said}\); train anew, without --res"):
            train(**moved)

    def exchange(parts: dict[str, Any]) -> None:
        parts["training"][0], parts["validation"][0] = parts["validation"][0], parts["training"][0]

    refused(lambda parts: parts["training"].pop(), f"{third} was in training")
    refused(exchange, rf"({first} was|{validated} was not) in training")
    refused(lambda parts: parts["training"].reverse(), "the training micrographs were in another order")
    label = copy / listed["training"][1]["label"]
    pixels = nib.load(label)
    nib.save(nib.Nifti1Image(1 - pixels.get_fdata().astype("uint8"), pixels.affine, pixels.header), label)
    refused(lambda parts: None, f"image or label of {second} in training were others")


def test_a_new_training_forgets_the_old_one(train) -> None:
    bundle = train(max_epochs=1)
    (bundle / "models" / "calibration.json").write_text("{}")
    with refusal("prepare"):  # a mistyped folder costs nothing
        train(dataset_dir="nowhere")
    assert told(bundle)["epoch"] == 1 and (bundle / "models" / "calibration.json").exists()
    with pytest.raises(KeyboardInterrupt):
        train(stop=2)
    assert told(bundle)["epoch"] == 0 and not (bundle / "models" / "calibration.json").exists()


def test_a_training_that_diverges_keeps_the_last_good_weights(train, tmp_path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train("good", stop=10)
    store = f"sqlite:///{tmp_path}/mlflow.db"
    # the batch has two micrographs
    file = r"images/jfl_\d+\.nii\.gz"
    with refusal(rf"^epoch 4, iteration 11 \({file}, {file}\): the loss is nan; the last good weights"):
        train("bad", stop=11, act=spoil, tracking_uri=store)
    for file in ("model.pt", "last.pt"):  # what epoch 3 left
        good, bad = (numbers(tmp_path / name / "models" / file) for name in ("good", "bad"))
        assert good == bad
    (run,) = MlflowClient(store).search_runs(["1"])
    assert run.info.status == "FAILED" and "the loss is nan" in run.data.tags["error"]


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """Starts processes that need not import torch and MONAI again."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["carde_monai.bundles", "carde_monai.handlers.resuming"])
    return context


def in_a_process(action: Callable[..., None], log: str, *arguments: Any) -> None:
    """What the processes here do: ``action``, on one thread, with all they say in ``log``."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(output, stream)
    torch.set_num_threads(1)
    action(*arguments)


def train_there(bundle: Path, overlay: str, overrides: dict[str, Any]) -> None:
    bundles.run(bundle, ["train", overlay], overrides, training=True)


def killed_and_resumed(
    processes: ForkServerContext,
    settings: dict[str, Any],
    overlay: str,
    folder: Path,
    moments: Iterable[float],
) -> int:
    """Train in processes that are killed after so many seconds, the last one not; how many were killed."""
    bundle = bundles.working_bundle(folder / "bundle")
    state, log = bundle / "models" / "last.pt", folder / "log"
    kills, moments = 0, iter(moments)
    while True:
        arguments = (train_there, str(log), bundle, overlay, {**settings, "resume": state.exists()})
        process = processes.Process(target=in_a_process, args=arguments)
        process.start()
        process.join(next(moments, None))
        if process.exitcode is not None:
            assert process.exitcode == 0, log.read_text()[-2000:]
            return kills
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        kills += 1


def assert_one_run_with_every_point_once(folder: Path) -> None:
    record = json.loads((folder / "bundle" / "models" / "mlflow_run.json").read_text())
    client = MlflowClient(record["tracking_uri"])
    assert client.get_run(record["run_id"]).info.status == "FINISHED"
    for name in ("by_epoch/loss", "by_epoch/val_loss"):
        steps = [point.step for point in client.get_metric_history(record["run_id"], name)]
        assert steps == [1, 2, 3, 4, 5], name


def test_killed_at_random_moments(processes, dataset, overlay, whole, tmp_path) -> None:
    moments = [random.Random(0).uniform(1, 4) for _ in range(2)]
    settings = {"dataset_dir": str(dataset), **TINY}
    killed_and_resumed(processes, settings, overlay, tmp_path, moments)
    assert_same(tmp_path / "bundle", whole)


@pytest.mark.slow
def test_killed_at_many_random_moments(processes, dataset, overlay, whole, tmp_path) -> None:
    rng, kills = random.Random(1), 0
    for attempt in range(100):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        store = f"sqlite:///{folder}/mlflow.db"
        MlflowClient(store).search_experiments()  # makes the database
        settings = {"dataset_dir": str(dataset), **TINY, "tracking_uri": store}
        moments = [rng.uniform(0.1, 8) for _ in range(6)]
        kills += killed_and_resumed(processes, settings, overlay, folder, moments)
        assert_same(folder / "bundle", whole)
        assert_one_run_with_every_point_once(folder)
        if kills >= 20:
            break
    assert kills >= 20


def call(words: list[str]) -> None:
    sys.argv = ["carde-monai", *words]
    __main__.main()


def test_the_command_line_stops_with_one_line_and_resumes(processes, dataset, tmp_path) -> None:
    bundle, log = bundles.working_bundle(tmp_path / "bundle"), tmp_path / "log"
    words = ["train", str(dataset), "--bundle", str(bundle), "--max_epochs", "2", "--epoch_length", "500"]
    words += ["--roi_size", "32,32", "--batch_size", "2", "--crops_per_micrograph", "2"]
    process = processes.Process(target=in_a_process, args=(call, str(log), words))
    process.start()
    while not (bundle / "models" / "last.pt").exists() and process.exitcode is None:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGTERM)
    process.join()
    assert process.exitcode == INTERRUPTED
    assert "Traceback" not in log.read_text()
    (line,) = [line for line in log.read_text().splitlines() if "--resume goes on" in line]
    assert line.startswith(
        "carde-monai: stopped in epoch 1; the same command with --resume goes on after epoch 0"
    )
