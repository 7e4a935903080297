"""Hyperparameter search with Optuna over any ids of the bundle's configs: ``carde-monai tune``.

Every trial is a training by the bundle's own configs with other values. What is searched stands in
``configs/tune.json``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from monai.bundle import ConfigParser
from optuna.trial import TrialState

from carde_monai import bundles, datalist, tuning_report, tuning_runs
from carde_monai.bundle_checks import check_overrides
from carde_monai.errors import Failure, InputError
from carde_monai.replacing import replace_text
from carde_monai.search_space import check_space
from carde_monai.tuning_study import Search, finished, open_study, settle, taken
from carde_monai.tuning_workers import keep_best_weights, work, work_together

logger = logging.getLogger("carde_monai")

# ids of tune.json that describe the search, not a training
ABOUT_SEARCH = {"base", "search_space", "fixed", "sampler", "pruner", "retries"}
# settings that do not change what a training learns: no part of the result
PLACES = {"dataset_dir", "output_dir", "ckpt_dir", "run_file", "tracking_uri", "experiment_name", "run_name"}
PLACES |= {"quiet", "num_workers", "device", "run_tags", "run_artifacts"}


def tune(
    data: str | Path,
    trials: int,
    output_dir: str | Path,
    bundle: str | Path,
    storage: str | None = None,
    study: str = "carde",
    workers: int = 1,
    overrides: Mapping[str, Any] | None = None,
) -> optuna.Study:
    """Search until ``trials`` trials of the study have finished in all, and write what was found.

    Writes ``best.json`` (an overlay for a training), ``trials.csv``, ``history.png``, ``slice.png``,
    ``importance.png`` and ``summary.json``; the files of single trials, and the weights of the best, below
    ``trials``. A study that exists is continued. Ctrl-C writes what there is; the same call goes on later.

    Args:
        data: prepared data set.
        trials: number of finished trials, those pruned and failed included.
        output_dir: folder to write to; made if missing.
        bundle: root folder of the bundle, which is only read.
        storage: address of the Optuna storage; default ``study.db`` (SQLite) in ``output_dir``.
        study: its name.
        workers: number of processes; 1 is this one.
        overrides: settings of ``tune.json`` and of the configs that it names. One that is in the search space
            is no longer searched.

    Raises:
        InputError: the data set, the storage or an override cannot be used, or no trial succeeded.
        KeyboardInterrupt: after everything is written.
    """
    for name, number in (("trials", trials), ("workers", workers)):
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise InputError(f"--{name} {number}", "is no number of them", "give a whole number from 1")
    where = Path(output_dir).absolute()
    storage = storage or f"sqlite:///{where / 'study.db'}"
    search = plan(
        Path(data), where, Path(bundle), overrides or {}, name=study, storage=storage, trials=trials
    )
    if where.exists() and not where.is_dir():
        raise InputError(where, "is a file", "name a folder with --output_dir")
    where.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # every trial gets a line of ours
    with search.turn():  # two that begin at once would both take the folder and create the tables
        _claim_folder(search)
        found = open_study(search)
        settle(search, found)
    _run(search, found, workers)
    if not found.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        told = failures(found)
        reason = f"; the first that failed: {told[0].reason}" if told else ""
        raise InputError(f"study {study}", f"no trial was successful{reason}", "trials.csv lists them all")
    return found


def failures(study: optuna.Study) -> list[Failure]:
    """The trials that failed of themselves, or whose process died once too often, with the reasons."""
    retries = study.user_attrs["retries"]
    failed = study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
    final = [one for one in failed if finished(one, retries)]
    return [Failure(f"trial {one.number}", tuning_report.reason(one, retries)) for one in final]


def plan(data: Path, output_dir: Path, bundle: Path, overrides: Mapping[str, Any], **study: Any) -> Search:
    """The search that ``tune.json`` and the overrides describe, checked against configs and data set.

    ``study`` is its name, storage and number of trials.

    Raises:
        InputError: an id or a range is wrong, or the data set cannot be trained on.
    """
    overrides = {key.replace("::", "#"): _plain(value) for key, value in overrides.items()}
    overlay = json.loads(Path(bundles.config_files(bundle, ["tune"])[0]).read_text(encoding="utf-8"))
    base = overrides.get("base", overlay["base"])
    base = base.split(",") if isinstance(base, str) else base
    files = bundles.config_files(bundle, [*base, "tune"])
    check_overrides(files, overrides)
    parser = ConfigParser()
    parser.read_config(files)
    parser.update(overrides)
    own = {key: one for key, one in overrides.items() if key.partition("#")[0] not in ABOUT_SEARCH}
    space = {key: one for key, one in parser["search_space"].items() if key.replace("::", "#") not in own}
    fixed = {key: one for key, one in parser["fixed"].items() if key not in own and key not in space}
    places = {"dataset_dir": str(data), "tracking_uri": f"sqlite:///{output_dir}/mlflow.db"}
    search = Search(
        bundle=bundle,
        output_dir=output_dir,
        base=base,
        space=space,
        settings=fixed | {key: one for key, one in own.items() if key not in PLACES},
        places=places | {key: one for key, one in own.items() if key in PLACES},
        experiment=parser["experiment_name"],
        sampler=parser["sampler"],
        pruner=parser["pruner"],
        retries=parser["retries"],
        seed=parser["seed"],
        data=datalist.digest(data),
        **study,
    )
    check_space(search.parameters(), files)
    for section in ("training", "validation"):
        datalist.load(data, section, own.get("fold"))
    return search


def _run(search: Search, study: optuna.Study, workers: int) -> None:
    """Do what is left to do, and write what was found, however it ends."""
    parent, status = tuning_runs.begin(search), "FAILED"
    try:
        if workers == 1:
            work(search, parent)
        else:
            work_together(search, study, workers, parent)
        if (done := taken(study, search.retries)) < search.trials:
            wrong = f"the processes ended after {done} of {search.trials} trials"
            raise InputError(search.output_dir, wrong, "see the messages above; the same command goes on")
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        logger.warning("stopped; the same command goes on")
        raise
    finally:
        with search.turn():
            settle(search, study)
            keep_best_weights(search, study)
        files = tuning_report.write(search, study)
        tuning_runs.finish(search, study, parent, files, status)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value  # a,b is a tuple on the command line


def _claim_folder(search: Search) -> None:
    """Make the folder the study's; another study's trials must not be mixed into it."""
    mark = search.output_dir / "study.json"
    mine = {"study": search.name, "storage": search.address}
    try:
        told = json.loads(mark.read_text(encoding="utf-8")) if mark.is_file() else mine
    except ValueError:
        remedy = "remove it if all trials here are of this study, or choose another --output_dir"
        raise InputError(mark, "is damaged", remedy) from None
    if told != mine:
        raise InputError(mark, "is of another study or storage", "choose another --output_dir")
    replace_text(mark, json.dumps(mine, indent=2))
