"""Writing to MLflow in the background, so that a silent server neither stops nor delays a training."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from mlflow.exceptions import MlflowException

logger = logging.getLogger("carde_monai")

PATIENCE = 10.0  # seconds that a silent server may cost a training, all in all
PAUSES = 1.0, 30.0  # seconds after the first failure of a job, and at most, until it is tried again


class Job(NamedTuple):
    do: Callable[[], None]
    seconds: float  # that it may take longer than others
    essential: bool  # the later ones make no sense without it


class Outbox:
    """Does jobs one after the other in a thread, and keeps them while the receiver is silent.

    A job that fails is tried again, ever more rarely, until `close`; one that the receiver refuses is
    dropped. The first failure is a warning. `close` waits for the rest, at most ``patience`` seconds
    without progress; ``otherwise`` says in the warning what becomes of it then.
    """

    def __init__(
        self, receiver: str, patience: float | None = None, otherwise: str = "going on without it"
    ) -> None:
        self.receiver, self.patience = receiver, PATIENCE if patience is None else patience
        self.otherwise = otherwise
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._warned = self._dead = False
        self._done = 0
        self._seconds, self._since = 0.0, float("inf")  # of the job at work
        self._thread = threading.Thread(target=self._work, name=receiver, daemon=True)
        self._thread.start()

    def put(self, do: Callable[[], None], seconds: float = 0.0, essential: bool = False) -> None:
        """Append a job; it is allowed ``seconds`` more than ``patience``. Never waits."""
        if time.monotonic() - self._since > self.patience + self._seconds:
            self._warn("no answer")
        self._jobs.put(Job(do, seconds, essential))

    def close(self) -> bool:
        """Wait for the jobs. True if all are done or refused; else the rest is dropped."""
        self._jobs.put(None)
        self._closing.set()
        done = -1
        while self._thread.is_alive() and done != self._done:
            done = self._done
            self._thread.join(self.patience + self._seconds)
        if self._thread.is_alive():
            self._dead = True
            self._warn("no answer")
        return not self._dead

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._seconds, self._since = job.seconds, time.monotonic()
            self._try(job)
            self._since = float("inf")
            self._done += 1

    def _try(self, job: Job) -> None:
        pause, longest = PAUSES
        chances = 2  # when no time is left for pauses
        while not self._dead:
            last = self._closing.is_set()
            try:
                with patient_mlflow(self.patience * 0.8 + job.seconds):
                    job.do()
                return
            except Exception as error:  # whatever a store or a network raises: it must not reach the training
                self._warn(brief(error))
                if refused(error):
                    self._dead |= job.essential
                    return
                chances -= last
                self._dead |= chances == 0
            self._closing.wait(pause)
            pause = min(2 * pause, longest)

    def _warn(self, reason: str) -> None:
        level = logging.DEBUG if self._warned else logging.WARNING
        self._warned = True
        logger.log(level, "%s: %s; %s", self.receiver, reason, self.otherwise)


def brief(error: BaseException) -> str:
    """What is at the bottom of an error, in one line: MLflow tells its whole way there."""
    while (
        cause := error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    ) is not None:
        error = cause
    return " ".join((str(error) or type(error).__name__).split())[:300]


def http_status(error: Exception) -> int:
    """Of the answer that MLflow, or requests for an artifact, has made an error of; 500 if there was none."""
    if isinstance(error, MlflowException):
        return error.get_http_status_code()
    return int(getattr(getattr(error, "response", None), "status_code", 500))


def refused(error: Exception) -> bool:
    """True if the server did answer, and would say the same again: 4xx but time-out and too many requests."""
    status = http_status(error)
    return 400 <= status < 500 and status not in (408, 429)


@contextlib.contextmanager
def patient_mlflow(seconds: float) -> Iterator[None]:
    """Limit MLflow's HTTP requests to so many seconds, without repetitions, and silence its own log.

    MLflow reads the limits from the environment only; what the user has set there stays as it is. It logs
    a locked database with its traceback, and raises it, too.
    """
    limits = {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(max(1, round(seconds))),
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    }
    limits = {name: value for name, value in limits.items() if name not in os.environ}
    chatter = [logging.getLogger(name) for name in ("mlflow.store.db.utils", "alembic")]
    levels = [log.level for log in chatter]
    os.environ.update(limits)
    for log in chatter:
        log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for name in limits:
            os.environ.pop(name, None)
        for log, level in zip(chatter, levels, strict=True):
            log.setLevel(level)
