"""The processes of a hyperparameter search; they know of each other through the study's storage only."""

from __future__ import annotations

import _thread
import contextlib
import logging
import math
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

import optuna
import torch
from optuna.trial import TrialState

from carde_monai import bundles, tuning_runs
from carde_monai.errors import user_mistake
from carde_monai.handlers.pruning import Progress, reporting_to
from carde_monai.replacing import replace_text
from carde_monai.tracking_facts import short_name
from carde_monai.tuning_study import Search, finished, on_duty, open_study, repeat, settle, taken

logger = logging.getLogger("carde_monai")

PATIENCE = 30.0  # seconds that workers have to end by themselves after Ctrl-C


def work(search: Search, parent: str = "", worker: int = 0, device: str | None = None) -> None:
    """Run trials in this process until as many as wanted have finished or are at work anywhere.

    Args:
        search: what is searched.
        parent: MLflow run under which the trials' runs are nested.
        worker: number of this process among its like; they draw different values.
        device: an expression of the configs such as ``$torch.device('cuda:1')``; default: the configs' own.

    Raises:
        KeyboardInterrupt: the trial at work is recorded as failed then, and enqueued again.
    """
    study, turn = open_study(search), search.turn()
    current: list[int] = []

    def objective(trial: optuna.Trial) -> float:
        current[:] = [trial.number]
        trial.set_user_attr("worker", name)
        turn.release()
        return run_trial(search, trial, parent, device)

    with on_duty(search) as name:
        while True:
            turn.acquire()
            try:
                if taken(study, search.retries) >= search.trials:
                    return
                study.sampler = search.make_sampler(worker, len(study.get_trials(deepcopy=False)))
                current.clear()
                with _trouble(search, study, current):
                    study.optimize(objective, 1, catch=(Exception,), gc_after_trial=True)
            finally:
                turn.release(force=True)
            with turn:
                keep_best_weights(search, study)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


@contextlib.contextmanager
def _trouble(search: Search, study: optuna.Study, current: list[int]) -> Iterator[None]:
    """What to do about that which is not the failure of a trial."""
    try:
        yield
    except KeyboardInterrupt:
        with _undisturbed():
            _stop(study, search, current)
        raise
    except Exception:
        if not current or study.trials[current[0]].state == TrialState.RUNNING:
            raise
        # this process was suspended for minutes, and another one has begun the trial again
        logger.warning("trial %d was taken for dead; it is done again", current[0])


def run_trial(search: Search, trial: optuna.Trial, parent: str = "", device: str | None = None) -> float:
    """Train with the values of a trial; return its lowest validation loss.

    Raises:
        TrialPruned: Optuna has ended it.
        Exception: whatever went wrong, after it was noted in the trial (``error``) and in ``error.txt``.
    """
    folder, start = search.folder(trial.number), time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)  # of a study that was deleted
    overrides = {
        **search.places,
        "ckpt_dir": str(folder / "models"),
        "output_dir": str(folder / "eval"),
        "run_file": str(folder / "models" / tuning_runs.RUN_FILE),
        "run_tags": tuning_runs.tags(parent, trial),
        **search.settings,
        **({"device": device} if device else {}),
    }
    try:
        values = {one.id: one.suggest(trial) for one in search.parameters()}
        told = short_name({id: _brief(one) for id, one in values.items()}, "")
        overrides |= values | {"run_name": f"{search.name} trial {trial.number} {told}"}
        with reporting_to(trial) as progress:
            bundles.run(search.bundle, [*search.base, "tune"], overrides, training=True)
        if not math.isfinite(progress.best):
            raise ValueError(f"the validation loss of {progress.epochs} epochs is no number")
    except KeyboardInterrupt:
        trial.set_user_attr("stopped", True)
        raise
    except Exception as error:
        reason = str(user_mistake(error) or f"{type(error).__name__}: {error}").partition("\n")[0][:500]
        trial.set_user_attr("error", reason)
        folder.mkdir(parents=True, exist_ok=True)
        replace_text(folder / "error.txt", traceback.format_exc())
        logger.warning("trial %d failed: %s", trial.number, reason)
        raise
    _note(trial, progress, tuning_runs.run_id(search, trial), time.monotonic() - start)
    if progress.pruned:
        raise optuna.TrialPruned
    return progress.best


def _brief(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def keep_best_weights(search: Search, study: optuna.Study) -> None:
    """Delete the checkpoints of all trials that have ended but the best one's ``model.pt``."""
    ended = [one for one in study.get_trials(deepcopy=False) if one.state.is_finished()]
    complete = [one for one in ended if one.state == TrialState.COMPLETE]
    best = min(complete, key=lambda one: one.values[0]).number if complete else None
    for trial in ended:
        for file in (search.folder(trial.number) / "models").glob("*.pt"):
            if trial.number != best or file.name != "model.pt":
                file.unlink(missing_ok=True)


def work_together(search: Search, study: optuna.Study, workers: int, parent: str = "") -> None:
    """Run trials in so many processes. One whose trial was killed with it is replaced.

    Raises:
        KeyboardInterrupt: after all of them have ended.
    """
    running = [_start(search, parent, number, workers) for number in range(workers)]
    try:
        while running:
            wait([process.sentinel for process in running])
            for process in [one for one in running if not one.is_alive()]:
                process.join()
                running.remove(process)
                if process.exitcode == 0:
                    continue
                with search.turn():
                    dead = settle(search, study)
                logger.warning("%s died (status %s)", process.name, process.exitcode)
                if dead:  # else it would die again before its first trial
                    running.append(_start(search, parent, int(process.name.split()[1]), workers))
    except KeyboardInterrupt:
        with _undisturbed():
            _end(running)
        raise


def _start(search: Search, parent: str, number: int, workers: int) -> BaseProcess:
    # not forked: CUDA, threads and SQLAlchemy's connections do not survive that
    context = multiprocessing.get_context("spawn")
    process = context.Process(
        target=_enter, args=(search, parent, number, workers), name=f"worker {number}", daemon=False
    )
    process.start()
    return process


def _enter(search: Search, parent: str, number: int, workers: int) -> None:
    """What a worker process does from its beginning to its end."""
    logging.basicConfig(
        level=logging.WARNING, format=f"worker {number}: %(message)s", stream=sys.stderr, force=True
    )
    logger.setLevel(logging.INFO)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # SIGINT may be ignored: nohup, a script's &
    threading.Thread(target=_end_with_parent, daemon=True).start()
    device = None
    if torch.cuda.device_count() > 1 and "device" not in search.places:
        device = f"$torch.device('cuda:{number % torch.cuda.device_count()}')"
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // workers))
    with contextlib.suppress(KeyboardInterrupt):
        work(search, parent, number, device)


def _end_with_parent() -> None:
    """A worker whose parent was killed would go on unseen for days."""
    parent: Any = multiprocessing.parent_process()
    parent.join()
    _thread.interrupt_main(signal.SIGTERM)


def _end(running: list[BaseProcess]) -> None:
    """Wait for workers after Ctrl-C, which a terminal sends to them as well."""
    deadline = time.monotonic() + PATIENCE
    for process in running:
        process.join(PATIENCE / 10)
        if process.is_alive():  # only this process was told
            process.terminate()
    for process in running:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Do what follows to its end, whoever presses Ctrl-C again."""
    if threading.current_thread() is not threading.main_thread():  # signals are not for others
        yield
        return
    before = {one: signal.signal(one, signal.SIG_IGN) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _stop(study: optuna.Study, search: Search, current: list[int]) -> None:
    """Let the trial at work count as not begun, and be done first when the search goes on."""
    for number in current:
        trial = study.trials[number]
        if trial.state == TrialState.RUNNING:  # Optuna itself was interrupted
            study.tell(number, state=TrialState.FAIL)
        if trial.state in (TrialState.RUNNING, TrialState.FAIL) and not finished(trial, search.retries):
            repeat(study, trial, search.retries, stopped=True)


def _note(trial: optuna.Trial, progress: Progress, run: str, seconds: float) -> None:
    """Keep in the trial what the tables tell, and say it in one line."""
    facts = {"val_loss": progress.best, "best_epoch": progress.best_epoch, "epochs": progress.epochs}
    trial.set_user_attr("result", {**facts, "seconds": round(seconds, 1), "mlflow_run": run})
    said = "pruned" if progress.pruned else "complete"
    logger.info(
        "trial %d %s: validation loss %.4f in epoch %d of %d",
        *(trial.number, said, progress.best, progress.best_epoch, progress.epochs),
    )
