"""One MLflow run that outlives its server, written down before it is sent.

MONAI's ``MLFlowHandler`` is not built upon: it contacts the server in its constructor and raises when that
fails, blocks the training as long as MLflow retries (minutes a call), lets the environment variable
``MLFLOW_TRACKING_URI`` override its argument, and joins any unfinished run of the experiment.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import logging
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow.utils.mlflow_tags import MLFLOW_SOURCE_NAME, MLFLOW_SOURCE_TYPE, MLFLOW_USER
from mlflow.utils.time import get_current_time_millis

from carde_monai.errors import InputError
from carde_monai.outbox import Outbox, brief, refused
from carde_monai.provenance import without_password
from carde_monai.replacing import replace_text
from carde_monai.tracking_database import SECONDS, create_database
from carde_monai.tracking_delivery import (
    Delivery,
    hand_over,
    may_pass,
    read_run_file,
    sqlite_file,
    store_address,
)
from carde_monai.tracking_facts import (
    changed,
    compared,
    dataset_facts,
    description,
    flatten_config,
    mlflow_key,
    network_facts,
    running_config,
    running_parser,
    short_name,
)
from carde_monai.tracking_journal import SUFFIX, Journal, journals, put_away

__all__ = [
    "MLflowRun",
    "changed",
    "compared",
    "dataset_facts",
    "description",
    "flatten_config",
    "network_facts",
    "running_config",
    "running_parser",
    "short_name",
    "store_address",
]

logger = logging.getLogger("carde_monai")

UPLOAD_SPEED = 1e6  # bytes a second; a server that takes a file more slowly counts as silent

_still_running: dict[Path, Journal] = {}  # by run file: runs that this process has left open for later


class MLflowRun:
    """One MLflow run, written through a `Journal` and an `Outbox`: no method waits for the server but
    ``close``, for a while, and what the server does not get by then stays in the journal.

    ``carde-monai sync-tracking`` hands that over, and so does the next run with the same run file. No global
    state of MLflow is touched, so that several runs of a process do not meet.
    """

    def __init__(self, tracking_uri: str, experiment_name: str, run_file: Path) -> None:
        self.tracking_uri, self.experiment_name, self.run_file = tracking_uri, experiment_name, run_file
        self.address = without_password(tracking_uri)
        self.start = get_current_time_millis()
        self.journal: Journal | None = None
        self._tried: set[int] = set()

    @property
    def id(self) -> str:
        """The run's id on the server; "" as long as it has none."""
        return str(self.journal.run.get("run_id", "")) if self.journal else ""

    def open(self, name: str, tags: dict[str, str], params: dict[str, str], resume: bool = False) -> None:
        """Begin a run and tell it in ``run_file``, or resume the run that ``run_file`` tells.

        A name that is taken gets a suffix. A run at another address, or deleted, is not resumed but replaced.
        A run that is resumed keeps its tags and parameters. What earlier processes have left unsent goes
        first, and the run of one that was killed is marked FAILED.
        """
        told = read_run_file(self.run_file) if resume else {}
        told = told if told.get("tracking_uri") == self.address and told.get("run_id") is not None else {}
        journal = self._begin(told)
        warned = f"going on; what it does not get is kept in {journal.path}"
        if journal.trouble:
            logger.warning("MLflow: %s; what the server does not get will be lost", journal.trouble)
            warned = "going on without it"
        if not told:
            self._tell(name, journal)
        self._delivery = Delivery(self.tracking_uri, journal)
        self._outbox = Outbox(f"MLflow at {self.address}", otherwise=warned)
        self.journal = journal
        if (file := sqlite_file(self.tracking_uri)) is not None:
            self._outbox.put(lambda: create_database(file), SECONDS)
        self._send_what_earlier_ones_left(journal)
        self._put("open", 0.0, True, name=name, tags=_origin() | tags, resume=resume)
        self._put("params", params={mlflow_key(key): value for key, value in params.items()})

    def metrics(
        self, values: Mapping[str, float], step: int = 0, once: bool = False, time: int | None = None
    ) -> None:
        """Record metrics, of now or of ``time``; ``once``: not those that the run has at this step."""
        entries = [(mlflow_key(name), float(value)) for name, value in values.items()]
        self._put("metrics", values=entries, time=time or get_current_time_millis(), step=step, once=once)

    def tag(self, key: str, value: str) -> None:
        self._put("tag", key=key, value=value)

    def dataset(self, facts: dict[str, str], source: Path, context: str) -> None:
        """Name the data set (`dataset_facts`) as an input of the run."""
        source = source.absolute()
        self._put("dataset", facts=facts, uri=str(source), name=source.parent.name, context=context)

    def json(self, content: dict[str, Any], name: str) -> None:
        self._put("json", content=content, name=name)

    def file(self, path: Path, folder: str = "") -> None:
        """Upload a file, or a directory under its own name, into a folder of the run's artifacts."""
        files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
        for file in files:
            into = "/".join(filter(None, [folder, *file.parent.relative_to(path.parent).parts]))
            size = file.stat().st_size
            self._put("file", size / UPLOAD_SPEED, path=str(file.absolute()), into=into)

    def picture(self, path: Path, key: str) -> None:
        """Show a picture among the run's charts; pictures of the same key stand side by side in the UI."""
        seconds = path.stat().st_size / UPLOAD_SPEED
        self._put("picture", seconds, path=str(path.absolute()), key=key, time=get_current_time_millis())

    def model(self, folder: Path, name: str) -> None:
        """Register the MLflow model in a folder as a new version of ``name``, with the metrics so far."""
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        self._put("model", size / UPLOAD_SPEED, path=str(folder.absolute()), name=name)

    def close(self, status: str, error: str = "") -> None:
        """End the run as FINISHED, FAILED or KILLED, and wait a while until everything is written.

        RUNNING leaves it to a later one with the same run file; if this process dies, it counts as FAILED.
        """
        if self.journal is None:
            return
        if error:
            self.tag("error", error)
        if status != "RUNNING":
            self._put("end", status=status, time=get_current_time_millis())
        self._outbox.close()
        if status == "RUNNING":
            _still_running[self.run_file.absolute()] = self.journal
            return
        before = _still_running.pop(self.run_file.absolute(), None)
        if before is not None:
            before.mark(before.add("end", status=status, time=self.start))  # this one's end is its end
            put_away(before)
        if put_away(self.journal):
            logger.info("MLflow run %s at %s: %s", self.journal.run.get("run_name"), self.address, status)
        elif self.journal.trouble:
            logger.warning("MLflow: %s; what the server did not get is lost", self.journal.trouble)
        else:
            logger.info(
                "MLflow: %d entries of the run are kept; carde-monai sync-tracking %s hands them over",
                *(len(self.journal.pending()), self.run_file.parent),
            )

    def _begin(self, told: dict[str, Any]) -> Journal:
        return Journal.create(
            self.run_file,
            told.get("key") or told.get("run_id"),
            tracking_uri=self.address,
            experiment_name=self.experiment_name,
            start=self.start,
            run_id=told.get("run_id", ""),
            host=socket.gethostname(),
            pid=os.getpid(),
        )

    def _tell(self, name: str, journal: Journal) -> None:
        """Whatever becomes of this run, that of an earlier training must not be taken for it."""
        told = {"tracking_uri": self.address, "experiment_name": self.experiment_name}
        told |= {"run_id": "", "run_name": name, "key": journal.header["key"]}
        try:
            replace_text(self.run_file, json.dumps(told, indent=2))
        except OSError as error:
            with contextlib.suppress(OSError):
                self.run_file.unlink(missing_ok=True)
            wrong = "%s; calibration and evaluation will have MLflow runs of their own"
            logger.log(logging.DEBUG if journal.trouble else logging.WARNING, wrong, error)

    def _send_what_earlier_ones_left(self, mine: Journal) -> None:
        """Hand over the journals of dead processes beside this one; only a silent server stops this, once."""
        others = [one for one in _beside(self.run_file) if one.path != mine.path]
        others = [one for one in others if one.header["tracking_uri"] == self.address]
        tried: set[Path] = set()

        def send(journal: Journal) -> None:
            if not journal.take():
                return
            try:
                hand_over(journal, Delivery(self.tracking_uri, journal))
            except Exception as error:
                again = journal.path in tried
                tried.add(journal.path)
                journal.release()
                if not (again or refused(error) or isinstance(error, InputError)):
                    raise
                logger.debug("%s: %s", journal.path, error)
            else:
                put_away(journal)

        for journal in others:
            self._outbox.put(lambda one=journal: send(one), _seconds(journal))  # type: ignore[misc]

    def _put(self, do: str, seconds: float = 0.0, essential: bool = False, **what: Any) -> None:
        journal = self.journal
        assert journal is not None, "open the run first"
        number = journal.add(do, **what)

        def job() -> None:
            doubtful = number in self._tried
            self._tried.add(number)
            try:
                self._delivery.deliver(number, doubtful)
            except Exception as error:
                if refused(error) and not may_pass(error) and not essential:
                    journal.mark(number, refused=brief(error))
                raise

        self._outbox.put(job, seconds, essential)


def _origin() -> dict[str, str]:
    """Tags that tell whose run it is, in the words of MLflow's own."""
    tags = {MLFLOW_SOURCE_NAME: "carde_monai", MLFLOW_SOURCE_TYPE: "LOCAL"}
    with contextlib.suppress(OSError, KeyError, ImportError):  # a user whom the system has no name for
        tags[MLFLOW_USER] = getpass.getuser()
    return tags


def _beside(run_file: Path) -> list[Journal]:
    """Journals of earlier processes with this run file, the oldest first."""
    if not run_file.parent.is_dir():
        return []
    names = (path for path in run_file.parent.iterdir() if path.name.startswith(f"{run_file.stem}."))
    return list(journals(path for path in names if path.name.endswith(SUFFIX)))


def _seconds(journal: Journal) -> float:
    """How long handing it over may take."""
    files = [journal.entries[n].get("path") for n in journal.pending()]
    sizes = [Path(one).stat().st_size for one in files if one and Path(one).is_file()]
    return 0.1 * len(journal.entries) + sum(sizes) / UPLOAD_SPEED
