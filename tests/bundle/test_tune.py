"""The hyperparameter search with real, tiny trainings through the bundle's configs."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import optuna
import pandas as pd
import pytest
import torch
from conftest import REPOSITORY, SMALL
from mlflow import MlflowClient
from monai.bundle import ConfigParser

from carde_monai import bundles
from carde_monai.tuning import tune

BUNDLE = REPOSITORY / "bundle"
TINY = {**SMALL, "max_epochs": 1, "epoch_length": 1, "batch_size": 2, "crops_per_micrograph": 2}
SPACE = {
    "learning_rate": {"low": 1e-3, "high": 1e-2, "log": True},
    "early_stop_patience": {"low": 2, "high": 4},
    "features": {"choices": [4, 6]},
    "depth": {"low": 1, "high": 2},
}


@pytest.fixture(scope="module")
def found(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a search of three trials over the paper's four parameters."""
    out = tmp_path_factory.mktemp("search")
    tune(dataset, 3, out, BUNDLE, overrides={**TINY, "search_space": SPACE})
    return out


def test_every_trial_trains_with_its_values(found) -> None:
    table = pd.read_csv(found / "trials.csv")
    assert list(table["state"]) == ["complete"] * 3
    for row in table.itertuples():
        history = pd.read_csv(found / "trials" / f"{row.trial:04d}" / "eval" / "training.csv")
        assert row.val_loss == pytest.approx(history["val_loss"].min(), abs=1e-6)
        assert history["learning_rate"][0] == pytest.approx(row.learning_rate)
    best = table.loc[table["val_loss"].idxmin()]
    (weights,) = found.rglob("trials/**/*.pt")
    assert weights == found / "trials" / f"{best.trial:04d}" / "models" / "model.pt"
    state = torch.load(weights, weights_only=True)
    assert state["conv_0.conv_0.conv.weight"].shape[0] == best.features
    assert (f"down_{best.depth}.convs.conv_0.conv.weight" in state) and (
        f"down_{best.depth + 1}" not in state
    )


def test_the_runs_of_the_trials_are_nested_in_one(found) -> None:
    told = json.loads((found / "mlflow_run.json").read_text())
    client = MlflowClient(told["tracking_uri"])
    parent = client.get_run(told["run_id"])
    assert parent.info.status == "FINISHED"
    table = pd.read_csv(found / "trials.csv")
    assert parent.data.metrics["search/val_loss"] == pytest.approx(table["val_loss"].min())
    best = table.loc[table["val_loss"].idxmin(), "trial"]
    assert parent.data.tags["best"].startswith(f"trial {best}: learning_rate=")
    assert "`learning_rate` 0.001 to 0.01" in parent.data.tags["mlflow.note.content"]
    names = {artifact.path for artifact in client.list_artifacts(told["run_id"])}
    assert {"best.json", "trials.csv", "history.png"} <= names
    children = client.search_runs(
        [parent.info.experiment_id], f"tags.mlflow.parentRunId = '{told['run_id']}'"
    )
    assert {run.info.run_id for run in children} == set(table["mlflow_run"])
    assert all("learning_rate=" in run.info.run_name for run in children)
    assert {run.data.tags["optuna.state"] for run in children} == {"complete"}
    losses = sorted(run.data.metrics["search/val_loss"] for run in children)
    assert losses == pytest.approx(sorted(table["val_loss"]))
    assert not list((found / "mlartifacts").rglob("model.pt")), "one is enough, in the folder of the best"


def test_the_best_configuration_is_an_overlay_that_trains(found, dataset, tmp_path) -> None:
    files = [*bundles.config_files(BUNDLE, ["train", "unet"]), str(found / "best.json")]
    parser = ConfigParser()
    parser.read_config(files)
    best = json.loads((found / "best.json").read_text())
    for key, value in best.items():
        assert parser[key] == value
    overrides = {"bundle_root": str(tmp_path), "dataset_dir": str(dataset), "tracking_uri": None}
    workflow = bundles.ConfigWorkflow(files, workflow_type="train", logging_file=False, **overrides)
    workflow.initialize()
    workflow.run()
    table = pd.read_csv(found / "trials.csv")
    history = pd.read_csv(tmp_path / "eval" / "training.csv")
    assert history["val_loss"].min() == pytest.approx(table["val_loss"].min(), abs=1e-4)
    parser = workflow.parser
    assert parser.get_parsed_content("lr_patience") == best["early_stop_patience"] // 2


@pytest.mark.slow
def test_two_processes_share_a_study_and_one_of_them_is_killed(dataset, tmp_path) -> None:
    """The first trial is killed with its process, and done again by another one."""
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    killed: list[int] = []

    def kill() -> None:
        while not (tmp_path / "trials").is_dir():
            time.sleep(0.05)
        study = optuna.load_study(study_name="carde", storage=storage)
        while not killed:
            time.sleep(0.05)
            trials = study.trials
            if trials and "worker" in trials[0].user_attrs and len(trials[0].params) == len(SPACE):
                os.kill(int(trials[0].user_attrs["worker"].split("-")[-2]), signal.SIGKILL)
                killed.append(0)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    overrides = {**TINY, "epoch_length": 8, "tracking_uri": None, "search_space": SPACE}
    study = tune(dataset, 3, tmp_path, BUNDLE, workers=2, overrides=overrides)
    thread.join(60)
    states = [trial.state.name for trial in study.trials]
    assert states.count("COMPLETE") == 3
    assert killed and states[0] == "FAIL" and len(states) == 4
    (again,) = [one for one in study.trials[1:] if one.params == study.trials[0].params]
    assert again.user_attrs["worker"] != study.trials[0].user_attrs["worker"]
