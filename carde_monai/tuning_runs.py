"""The MLflow run of a hyperparameter search, under which the runs of its trials are nested."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import optuna
from mlflow import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NOTE
from optuna.trial import FrozenTrial, TrialState

from carde_monai import provenance, tracking
from carde_monai.outbox import Outbox
from carde_monai.tuning_study import Search

LOSS = "search/val_loss"  # the lowest of a trial, and that of the best trial
RUN_FILE = "mlflow_run.json"  # in the folder of the search, as in the models folder of each trial


def begin(search: Search) -> str:
    """Id of the search's MLflow run, new or resumed; "" where MLflow is switched off or does not answer.

    Raises:
        InputError: MLflow does not know the kind of ``tracking_uri``.
    """
    if not search.places["tracking_uri"]:
        return ""
    facts = provenance.environment() | {"data/digest": search.data}
    varied = {one.id: " to ".join(map(str, one.extremes())) for one in search.parameters()}
    note = tracking.description(facts, "", varied)
    tags = {"stage": "search", MLFLOW_RUN_NOTE: note}
    facts.pop("run/command")
    searched = {"search_space": search.space, "settings": search.settings, "base": list(search.base)}
    run = _run(search)
    run.open(f"{search.name} search", tags, tracking.flatten_config(searched) | facts, resume=True)
    run.close("RUNNING")
    return run.id


def finish(search: Search, study: optuna.Study, parent: str, files: list[Path], status: str) -> None:
    """Nest the trials' runs, end those of dead processes, and record what the search has found."""
    if not search.places["tracking_uri"]:
        return
    if parent:
        _nest(search, study, parent)
    run = _run(search)
    run.open(f"{search.name} search", {}, {}, resume=True)
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if complete:
        run.metrics({LOSS: study.best_value, "search/complete_trials": float(len(complete))})
        run.tag("best", f"trial {study.best_trial.number}: {tracking.short_name(study.best_params, '')}")
    for file in files:
        run.file(file)
        if file.suffix == ".png":
            run.picture(file, f"search/{file.stem}")
    run.close(status)


def tags(parent: str, trial: optuna.Trial) -> dict[str, str]:
    """What marks the run of a trial."""
    told = {"optuna.study": trial.study.study_name, "optuna.trial": str(trial.number)}
    return told | ({MLFLOW_PARENT_RUN_ID: parent} if parent else {})


def run_id(search: Search, trial: FrozenTrial | optuna.Trial) -> str:
    """Of the trial's MLflow run; "" if none is known here."""
    try:
        told = json.loads((search.folder(trial.number) / "models" / RUN_FILE).read_text(encoding="utf-8"))
        return str(told["run_id"])
    except (OSError, ValueError, KeyError):
        return ""


def _run(search: Search) -> tracking.MLflowRun:
    address = tracking.store_address(search.places["tracking_uri"])
    return tracking.MLflowRun(address, search.experiment, search.output_dir / RUN_FILE)


def _nest(search: Search, study: optuna.Study, parent: str) -> None:
    address = tracking.store_address(search.places["tracking_uri"])
    outbox = Outbox(f"MLflow at {provenance.without_password(address)}")

    def nest(trial: FrozenTrial, run: str) -> None:
        client = MlflowClient(tracking_uri=address)
        found = client.get_run(run)
        if MLFLOW_PARENT_RUN_ID not in found.data.tags:  # of a bundle whose train.json has no run_tags
            client.set_tag(run, MLFLOW_PARENT_RUN_ID, parent)
        client.set_tag(run, "optuna.state", trial.state.name.lower())
        if result := trial.user_attrs.get("result"):  # of a pruned one, too
            client.log_metric(run, LOSS, result["val_loss"], found.info.end_time, 0)
        if found.info.status == "RUNNING" and trial.state.is_finished():  # its process died
            client.set_terminated(run, "KILLED")

    for trial in study.get_trials(deepcopy=False):
        if run := run_id(search, trial):
            outbox.put(functools.partial(nest, trial, run))
    outbox.close()
