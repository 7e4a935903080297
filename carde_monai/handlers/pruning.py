"""Tells an Optuna trial how its training goes, epoch by epoch, and ends one that Optuna prunes.

Optuna's integrations know Lightning, Keras and ignite, but none with MONAI's trainer and its validator; and
they raise ``TrialPruned``, which MONAI wraps into the error of a config. So a pruned training ends early
and says so in its `Progress`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass

from ignite.engine import Engine, Events
from optuna import Trial


@dataclass
class Progress:
    """How far a trial has come: its lowest value, the epoch of that, its last epoch, whether it is pruned."""

    trial: Trial
    best: float = math.inf
    best_epoch: int = 0
    epochs: int = 0
    pruned: bool = False


_PROGRESS: ContextVar[Progress | None] = ContextVar("trial", default=None)


@contextlib.contextmanager
def reporting_to(trial: Trial) -> Iterator[Progress]:
    """Within this context every `TrialReporter` that is attached reports to ``trial``."""
    progress = Progress(trial)
    token = _PROGRESS.set(progress)
    try:
        yield progress
    finally:
        _PROGRESS.reset(token)


class TrialReporter:
    """Reports a metric of every validation to the running Optuna trial; ends the training if it is pruned.

    Attach it to the trainer, behind the handler that validates. Outside of `reporting_to` it does nothing, so
    that the same configs run by themselves.

    Args:
        evaluator: the one that validates.
        metric: name of its metric, which is to be as low as possible.

    Raises:
        KeyError: there is no such metric.
    """

    def __init__(self, evaluator: Engine, metric: str = "val_loss") -> None:
        self.evaluator, self.metric = evaluator, metric
        self.progress: Progress | None = None

    def attach(self, engine: Engine) -> None:
        self.progress = _PROGRESS.get()
        if self.progress is not None:
            engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        progress, epoch = self.progress, engine.state.epoch
        if progress is None or self.evaluator.state.epoch != epoch:  # no validation in this epoch
            return
        value = float(self.evaluator.state.metrics[self.metric])
        progress.epochs = epoch
        if value < progress.best:
            progress.best, progress.best_epoch = value, epoch
        progress.trial.report(value, epoch)
        if progress.trial.should_prune():
            progress.pruned = True
            engine.terminate()
