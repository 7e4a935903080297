"""One hyperparameter search: its settings, its Optuna study, and which of its trials count."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from filelock import FileLock, Timeout
from monai.bundle import ConfigParser
from optuna.samplers import BaseSampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from carde_monai.errors import InputError
from carde_monai.provenance import without_password
from carde_monai.search_space import Parameter, read_space

HEARTBEAT, SILENCE = 60, 180  # seconds between a trial's signs of life, and until one without them is dead
WORKERS = ".workers"  # folder of the signs of life of the processes that write to the same folder
BUSY = 60  # seconds that SQLite waits while another process writes


@dataclass(frozen=True)
class Search:
    """All that a worker process needs to know; plain data, so that it travels.

    Args:
        bundle: root folder of the bundle; only read.
        output_dir: folder of the search; a trial's own is ``trials/<number>`` in it.
        storage: address of the Optuna storage.
        name: of the study.
        trials: how many are to finish in all.
        base: names of the configs that are searched; ``tune.json`` is laid over them.
        space: the search space, see `search_space.read_space`.
        settings: overrides of every trial that are part of the result.
        places: overrides of every trial that are not: folders, addresses, devices.
        experiment: MLflow experiment.
        sampler, pruner: components as MONAI's configs have them.
        retries: how often a trial is tried again whose process died.
        seed: of the sampler.
        data: digest of the data set.
    """

    bundle: Path
    output_dir: Path
    storage: str
    name: str
    trials: int
    base: Sequence[str]
    space: Mapping[str, Any]
    settings: Mapping[str, Any]
    places: Mapping[str, Any]
    experiment: str
    sampler: Mapping[str, Any]
    pruner: Mapping[str, Any]
    retries: int
    seed: int
    data: str

    @property
    def address(self) -> str:
        """Of the storage, without a password."""
        return without_password(self.storage)

    def parameters(self) -> list[Parameter]:
        return read_space(self.space)

    def folder(self, number: int) -> Path:
        """Of a trial, on this machine."""
        return self.output_dir / "trials" / f"{number:04d}"

    def turn(self) -> FileLock:
        """Held by the one process that begins or clears away a trial; the system frees that of a dead one."""
        return FileLock(self.output_dir / ".turn")

    def make_sampler(self, worker: int, begun: int) -> BaseSampler:
        """The sampler for the next trial. Its seed depends on how many have begun: a search that goes on
        must not draw again what it has drawn before."""
        seed = int(np.random.SeedSequence([self.seed, worker, begun]).generate_state(1)[0])
        return _component("sampler", {**self.sampler, "seed": seed})


def open_study(search: Search) -> optuna.Study:
    """The study, new or as it was left.

    Raises:
        InputError: the storage cannot be used, or holds a study of this name about something else.
    """
    pruner = _component("pruner", search.pruner)
    try:
        study = optuna.create_study(
            storage=_storage(search), study_name=search.name, pruner=pruner, load_if_exists=True
        )
    except (ImportError, SQLAlchemyError, optuna.exceptions.OptunaError, ValueError, RuntimeError) as error:
        reason = without_password(str(getattr(error, "orig", None) or error)).partition("\n")[0][:200]
        remedy = "give sqlite:///<folder>/study.db, or the address of a database whose driver is installed"
        raise InputError(search.address, f"Optuna cannot keep trials there ({reason})", remedy) from None
    study.set_user_attr("retries", search.retries)
    facts = {key: json.dumps(value, sort_keys=True) for key, value in _comparable(search).items()}
    begun = study.user_attrs.get("search")
    if begun is None and study.get_trials(deepcopy=False):
        raise InputError(f"study {search.name}", "is none of carde-monai", "choose another --study")
    if begun is None:
        study.set_user_attr("search", facts)
    elif differing := [key for key in facts if facts[key] != begun.get(key)]:
        was, now = (_short(one.get(differing[0])) for one in (begun, facts))
        remedy = "give the same again, or choose another --study and --output_dir"
        raise InputError(f"study {search.name}", f"was begun with {differing[0]} {was}, not {now}", remedy)
    return study


def finished(trial: FrozenTrial, retries: int) -> bool:
    """Whether the trial counts: complete, pruned, failed of itself, or its process died once too often."""
    if trial.state == TrialState.FAIL:
        return "error" in trial.user_attrs or ("stopped" not in trial.user_attrs and attempt(trial) > retries)
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED)


def taken(study: optuna.Study, retries: int) -> int:
    """How many trials have finished or are at work."""
    trials = study.get_trials(deepcopy=False)
    return sum(finished(one, retries) or _at_work(one) for one in trials)


def attempt(trial: FrozenTrial) -> int:
    """1 for a trial that is no repetition."""
    return int(trial.user_attrs.get("attempt", 1))


@contextlib.contextmanager
def on_duty(search: Search) -> Iterator[str]:
    """Name of this worker, which `settle` takes for alive within this context.

    The sign of life is a locked file, for the system frees that of a process however it dies. A number of a
    process tells less: another may have it, and one that nobody has waited for keeps it after its death.
    """
    name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
    file = search.output_dir / WORKERS / name
    file.parent.mkdir(exist_ok=True)
    with FileLock(file):
        yield name
    file.unlink(missing_ok=True)  # not after an exception, which may have left a trial at work


def settle(search: Search, study: optuna.Study) -> int:
    """Fail the trials whose processes here are dead, and enqueue them again; return their number.

    Those of processes that write to another folder, perhaps of another machine, are found by their missing
    heartbeat, minutes later.
    """
    dead = [one for one in study.get_trials(deepcopy=False) if _at_work(one) and _is_dead(search, one)]
    for trial in dead:
        study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
        repeat(study, trial, search.retries)
        (search.output_dir / WORKERS / trial.user_attrs["worker"]).unlink(missing_ok=True)
    return len(dead)


def repeat(study: optuna.Study, trial: FrozenTrial, retries: int, stopped: bool = False) -> None:
    """Enqueue a trial again whose process died or which, and that is no attempt, was stopped by the user."""
    attempts = attempt(trial) + (not stopped)
    if trial.params and attempts <= retries + 1:
        study.enqueue_trial(trial.params, user_attrs={"attempt": attempts})


def _storage(search: Search) -> RDBStorage:
    sqlite = search.storage.startswith("sqlite")
    with warnings.catch_warnings():
        # Optuna calls the heartbeat experimental since 2.9: nothing that a user could act upon
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return RDBStorage(
            search.storage,
            engine_kwargs={"connect_args": {"timeout": BUSY}} if sqlite else {"pool_pre_ping": True},
            heartbeat_interval=HEARTBEAT,
            grace_period=SILENCE,
            heartbeat_stale_trial_callback=lambda study, trial: repeat(study, trial, search.retries),
        )


def _comparable(search: Search) -> dict[str, Any]:
    """Trials that differ in any of this cannot be compared."""
    return {
        "search_space": search.space,
        "base": list(search.base),
        "settings": search.settings,
        "data set": search.data,
    }


def _short(text: str | None) -> str:
    text = str(text)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _component(name: str, described: Mapping[str, Any]) -> Any:
    try:
        return ConfigParser({name: dict(described)}).get_parsed_content(name)
    except Exception as error:
        while error.__cause__ is not None:
            error = error.__cause__  # type: ignore[assignment]
        remedy = "see configs/tune.json and Optuna's documentation"
        raise InputError(name, f"cannot be made ({type(error).__name__}: {error})", remedy) from None


def _at_work(trial: FrozenTrial) -> bool:
    # one without a worker was begun by a process that died in that moment, and has no heartbeat either
    return trial.state == TrialState.RUNNING and "worker" in trial.user_attrs


def _is_dead(search: Search, trial: FrozenTrial) -> bool:
    file = search.output_dir / WORKERS / trial.user_attrs["worker"]
    if not file.exists():
        return False
    try:
        with FileLock(file, timeout=0):
            return True
    except Timeout:
        return False
