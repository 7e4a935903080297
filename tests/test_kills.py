"""Runs that are killed at random moments, and the same command again: the results are those of one run.

Kills of a training are in test_resume.
"""

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
from collections.abc import Callable, Iterable
from functools import partial
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SMALL
from test_resume import in_a_process

from carde_monai import __main__, bundles
from carde_monai.handlers.temperature import total_temperature
from carde_monai.prepare import prepare

Action = Callable[[Path], None]  # what is done in the folder of a run
CHANGING = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d|carde-monai .*?(?=[\"<])|-dirty")  # date, command, edits


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """Processes that need not import torch and MONAI anew."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["carde_monai.bundles", "carde_monai.handlers", "carde_monai.prepare"])
    return context


def prepare_there(raw: Path, folder: Path) -> None:
    prepare(raw, folder / "data", split="3,1,1")


def segment_there(source: Path, bundle: Path, folder: Path) -> None:
    sys.argv = ["carde-monai", "segment", str(source), str(folder / "out"), "--bundle", str(bundle)]
    sys.argv += ["--window_size", "128,128"]
    __main__.main()


def calibrate_there(dataset: Path, folder: Path) -> None:
    settings = {"dataset_dir": str(dataset), **SMALL, "tracking_uri": None, "quiet": True}
    bundles.run(folder / "bundle", ["train", "calibrate"], settings, training=True)


def ended(processes: ForkServerContext, action: Action, folder: Path, moment: float | None) -> bool:
    """Start an action, and kill it after so many seconds unless it has ended."""
    log = folder / "log"
    process = processes.Process(target=in_a_process, args=(action, str(log), folder))
    process.start()
    process.join(moment)
    if process.exitcode is not None:
        assert process.exitcode == 0, log.read_text()[-2000:]
        return True
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    return False


def killed(processes: ForkServerContext, action: Action, folder: Path, moments: Iterable[float]) -> int:
    """Start an action again and again until it ends, but kill it at these moments; returns the kills."""
    kills, moments = 0, iter(moments)
    while not ended(processes, action, folder, next(moments, None)):
        kills += 1
    return kills


def content(folder: Path) -> dict[str, bytes]:
    """All files below a folder, hidden ones, too, without dates and commands."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "log")
    return {str(path.relative_to(folder)): CHANGING.sub(b"", path.read_bytes()) for path in files}


def compare(found: dict[str, bytes], expected: dict[str, bytes]) -> None:
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []


def started(folder: Path, trained: Path) -> Path:
    """The folder of a run; with a bundle to calibrate."""
    folder.mkdir()
    ignored = shutil.ignore_patterns("eval", "last.pt", "mlflow*")
    shutil.copytree(trained, folder / "bundle", ignore=ignored)
    return folder


VERBS = ("prepare", "segment", "segment a data set")


@pytest.fixture(scope="module")
def actions(raw: Path, dataset: Path, trained: Path) -> dict[str, Action]:
    return {
        "prepare": partial(prepare_there, raw),
        "segment": partial(segment_there, raw, trained),
        "segment a data set": partial(segment_there, dataset, trained),
        "calibrate": partial(calibrate_there, dataset),
    }


@pytest.fixture(scope="module")
def wholes(
    processes, actions, trained, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], dict[str, bytes]]:
    """The results of runs that nobody disturbed, made when they are asked for."""
    done: dict[str, dict[str, bytes]] = {}

    def whole(verb: str) -> dict[str, bytes]:
        if verb not in done:
            folder = started(tmp_path_factory.mktemp("whole") / "run", trained)
            assert killed(processes, actions[verb], folder, ()) == 0
            done[verb] = content(folder)
        return done[verb]

    return whole


@pytest.mark.parametrize("verb", VERBS[:2])
def test_killed_at_random_moments(verb, processes, actions, wholes, trained, tmp_path) -> None:
    rng = random.Random(verb)
    folder = started(tmp_path / "run", trained)
    last = 1.0 if verb == "prepare" else 3.0
    kills = killed(processes, actions[verb], folder, [rng.uniform(0.2, last) for _ in range(2)])
    assert kills
    compare(content(folder), wholes(verb))


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_killed_at_many_random_moments(verb, processes, actions, wholes, trained, tmp_path) -> None:
    rng, kills = random.Random(verb), 0
    for attempt in range(100):
        folder = started(tmp_path / str(attempt), trained)
        last = 1.5 if verb == "prepare" else 5.0
        kills += killed(processes, actions[verb], folder, [rng.uniform(0.1, last) for _ in range(4)])
        compare(content(folder), wholes(verb))
        if kills >= 20:
            break
    assert kills >= 20


class Killed(BaseException):
    """Ends a run as SIGKILL does, as far as files are concerned."""


def folded(bundle: Path, whole: dict[str, bytes]) -> str:
    """Which of the two files of a calibration are those of the whole one."""
    names = ("calibration.json", "model.pt")
    same = [
        (bundle / "models" / name).read_bytes() == whole[f"bundle/models/{name}"]
        for name in names
        if (bundle / "models" / name).exists()
    ]
    return {(): "none", (False,): "none", (True, False): "record", (True, True): "both"}[tuple(same)]


@pytest.mark.parametrize("kill_at", ["calibration.json", "model.pt"])
def test_a_kill_between_weights_and_record_folds_nothing_twice(
    kill_at, actions, wholes, trained, tmp_path, monkeypatch
) -> None:
    whole, folder = wholes("calibrate"), started(tmp_path / "run", trained)
    replace = os.replace

    def die(source: Any, target: Any) -> None:
        if Path(target).name == kill_at:
            raise Killed
        replace(source, target)

    with monkeypatch.context() as patch, contextlib.suppress(Killed):
        patch.setattr(os, "replace", die)
        actions["calibrate"](folder)
    bundle = folder / "bundle"
    assert folded(bundle, whole) == ("none" if kill_at == "calibration.json" else "record")
    assert total_temperature(bundle / "models" / "model.pt") == 1
    actions["calibrate"](folder)
    assert folded(bundle, whole) == "both"


@pytest.mark.slow
def test_calibrations_killed_at_many_random_moments(processes, actions, wholes, trained, tmp_path) -> None:
    rng, kills, whole = random.Random(0), 0, wholes("calibrate")
    record = json.loads(whole["bundle/models/calibration.json"])
    for attempt in range(100):
        folder = started(tmp_path / str(attempt), trained)
        bundle = folder / "bundle"
        while folded(bundle, whole) != "both":  # after that it is a calibration of its own
            kills += not ended(processes, actions["calibrate"], folder, rng.uniform(0.1, 4))
        state = torch.load(bundle / "models" / "model.pt", weights_only=True)
        assert all(bool(torch.isfinite(one).all()) for one in state.values())
        assert total_temperature(bundle / "models" / "model.pt") == record["total_temperature"]
        if kills >= 12:
            break
    assert kills >= 12
