"""Writing what a `Journal` holds into an MLflow run, so that what is sent twice is recorded once."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import secrets
import shutil
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run
from mlflow.exceptions import MlflowException
from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH, MAX_PARAMS_TAGS_PER_BATCH
from PIL import Image

from carde_monai.errors import InputError
from carde_monai.outbox import brief, http_status, refused
from carde_monai.provenance import without_password
from carde_monai.replacing import replace_text
from carde_monai.tracking_database import create_database
from carde_monai.tracking_journal import Journal
from carde_monai.tracking_models import register
from carde_monai.tracking_view import experiment_tags

logger = logging.getLogger("carde_monai")

STORES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https", "databricks")
KEY = "carde_monai.run"  # tag of a run: found by it when the answer to its creation was lost
BUSY = 5.0  # seconds that SQLite waits while another process writes
DIED = "its process ended without a word: killed, or the machine went down"


def store_address(tracking_uri: str) -> str:
    """The address for MLflow, that of an SQLite file made absolute; InputError if it keeps no runs there."""
    if re.split("[:+]", tracking_uri, maxsplit=1)[0] not in STORES:
        remedy = "give sqlite:///<folder>/mlflow.db, or the http:// address of a server, as tracking_uri"
        raise InputError(tracking_uri, "MLflow cannot keep runs there", remedy)
    file = sqlite_file(tracking_uri)
    return f"sqlite:///{file}" if file else tracking_uri


def sqlite_file(tracking_uri: str) -> Path | None:
    """Absolute path of the database, if it is an SQLite file."""
    start = "sqlite:///"
    return Path(tracking_uri[len(start) :]).absolute() if tracking_uri.startswith(start) else None


def check_database(tracking_uri: str) -> None:
    """Make the SQLite file; raise soon if it cannot be opened, where MLflow would try for over a minute."""
    file = sqlite_file(tracking_uri)
    if file is not None:
        create_database(file)
        with contextlib.closing(sqlite3.connect(file, BUSY)) as database:
            database.execute("BEGIN IMMEDIATE")


def read_run_file(run_file: Path) -> dict[str, Any]:
    """What a run file tells; {} if there is none that can be read."""
    try:
        told = json.loads(run_file.read_text(encoding="utf-8"))
        return told if isinstance(told, dict) else {}
    except (OSError, ValueError):
        return {}


def may_pass(error: Exception) -> bool:
    """True of a refusal that other credentials would change: 401 and 403."""
    return http_status(error) in (401, 403)


class Delivery:
    """Writes the entries of a journal to a server, one at a time, and notes their receipt in the journal."""

    def __init__(self, tracking_uri: str, journal: Journal) -> None:
        self.tracking_uri, self.journal = tracking_uri, journal
        self._connection: MlflowClient | None = None
        self._actions = {
            "open": self._open,
            "params": self._params,
            "metrics": self._metrics,
            "dataset": self._dataset,
            "json": lambda entry, doubtful: self.client.log_dict(self.id, entry["content"], entry["name"]),
            "file": self._file,
            "picture": self._picture,
            "model": self._model,
            "tag": lambda entry, doubtful: self.client.set_tag(self.id, entry["key"], entry["value"]),
            "end": self._end,
            "died": self._died,
        }

    @property
    def client(self) -> MlflowClient:
        if self._connection is None:
            check_database(self.tracking_uri)
            self._connection = MlflowClient(tracking_uri=self.tracking_uri)
        return self._connection

    @property
    def id(self) -> str:
        return str(self.journal.run["run_id"])

    def deliver(self, number: int, doubtful: bool) -> None:
        """Write an entry; ``doubtful``: the server may have it already.

        Raises:
            MlflowException, OSError and others: it was refused (`outbox.refused`), or the server is silent.
        """
        entry = self.journal.entries[number]
        action = self._actions.get(entry["do"])
        if action is not None:  # a later version's entry is none of ours
            action(entry, doubtful)
        self.journal.mark(number)

    def find(self, by_key: bool = False) -> Run | None:
        """The journal's run, by the id that the server gave, or by the tag; None if it is gone or deleted."""
        header = self.journal.header
        run_id = self.journal.run.get("run_id") or header.get("run_id")
        try:
            run = self.client.get_run(str(run_id)) if run_id else None
        except MlflowException as error:
            if not refused(error):
                raise
            run = None
        if run is not None and run.info.lifecycle_stage == "active":
            return run
        experiment = self.client.get_experiment_by_name(header["experiment_name"]) if by_key else None
        if experiment is None:
            return None
        wanted = f"tags.`{KEY}` = '{re.sub('[^0-9a-zA-Z-]', '', str(header['key']))}'"
        return next(iter(self.client.search_runs([experiment.experiment_id], wanted, max_results=1)), None)

    def has_run(self) -> bool:
        """Whether the server still has the run that it, or another one, has made for this journal."""
        run = self.find()
        return run is not None and run.info.run_id == self.id

    def _open(self, entry: dict[str, Any], doubtful: bool) -> None:
        """Create the run or resume it. One that is resumed keeps its tags and parameters."""
        header = self.journal.header
        run = self.find(by_key=doubtful or header["key"] != header["token"])
        new = run is None or run.data.tags.get(KEY) == header["token"]
        if run is None:
            run = self._create(entry)
        elif entry["resume"]:
            self.client.update_run(run.info.run_id, status="RUNNING")
        self.journal.opened(run_id=run.info.run_id, run_name=run.info.run_name, new=new)
        self._tell(run)

    def _create(self, entry: dict[str, Any]) -> Run:
        experiment, name = self._experiment(), str(entry["name"])
        quote = '"' if "'" in name else "'"
        taken = f"attributes.run_name = {quote}{name}{quote}"
        if {"'", '"'} <= set(name) or self.client.search_runs([experiment], taken, max_results=1):
            name = f"{name}_{secrets.token_hex(2)}"
        tags = {**entry["tags"], KEY: self.journal.header["key"]}
        return self.client.create_run(experiment, self.journal.header["start"], tags, name)

    def _experiment(self) -> str:
        """Id of the experiment; a new one of an SQLite file has its artifacts beside that."""
        name, file = self.journal.header["experiment_name"], sqlite_file(self.tracking_uri)
        found = self.client.get_experiment_by_name(name)
        if found is None:
            location = (file.parent / "mlartifacts").as_uri() if file else None
            try:
                return self.client.create_experiment(
                    name, location, experiment_tags(self.journal.header["start"])
                )
            except MlflowException:
                found = self.client.get_experiment_by_name(name)
                if found is None:
                    raise
        return found.experiment_id  # perhaps created by another process just now

    def _tell(self, run: Run) -> None:
        """Write the run into the run file, unless that is a later training's by now."""
        told = read_run_file(self.journal.run_file)
        if told.get("key", told.get("run_id")) != self.journal.header["key"]:
            return
        new = told | {"run_id": run.info.run_id, "run_name": run.info.run_name}
        new["tracking_uri"] = without_password(self.tracking_uri)
        if new != told:
            with contextlib.suppress(OSError):  # must not look like a failure of MLflow
                replace_text(self.journal.run_file, json.dumps(new, indent=2))

    def _params(self, entry: dict[str, Any], doubtful: bool) -> None:
        if not self.journal.run["new"]:
            return
        params = [Param(key, value[:MAX_PARAM_VAL_LENGTH]) for key, value in entry["params"].items()]
        for start in range(0, len(params), MAX_PARAMS_TAGS_PER_BATCH):
            self.client.log_batch(self.id, params=params[start : start + MAX_PARAMS_TAGS_PER_BATCH])

    def _metrics(self, entry: dict[str, Any], doubtful: bool) -> None:
        points = [Metric(key, float(value), entry["time"], entry["step"]) for key, value in entry["values"]]
        once = bool(entry.get("once"))
        if once or doubtful:  # MLflow's databases drop the very same point, other stores double it
            points = [one for one in points if not self._has(one, once)]
        if points:
            self.client.log_batch(self.id, metrics=points)

    def _has(self, point: Metric, any_time: bool) -> bool:
        found = self.client.get_metric_history(self.id, point.key)
        return any(one.step == point.step and (any_time or one.timestamp == point.timestamp) for one in found)

    def _dataset(self, entry: dict[str, Any], doubtful: bool) -> None:
        """Name the data set as an input of the run."""
        facts, where = entry["facts"], json.dumps({"uri": entry["uri"]})
        named = Dataset(entry["name"], facts["data/digest"], "local", where, profile=json.dumps(facts))
        inputs = [DatasetInput(named, [InputTag("mlflow.data.context", entry["context"])])]
        self.client.log_inputs(self.id, datasets=inputs)

    def _file(self, entry: dict[str, Any], doubtful: bool) -> None:
        if not Path(entry["path"]).is_file():
            logger.warning("MLflow: the artifact %s is gone", entry["path"])
            return
        path, into = Path(entry["path"]), _safe(entry["into"])
        if path.name == _safe(path.name):
            self.client.log_artifact(self.id, str(path), into)
            return
        with tempfile.TemporaryDirectory() as folder:  # MLflow uploads a file under its own name only
            renamed = Path(folder, _safe(path.name))
            shutil.copyfile(path, renamed)
            self.client.log_artifact(self.id, str(renamed), into)

    def _picture(self, entry: dict[str, Any], doubtful: bool) -> None:
        """Show a picture among the run's charts."""
        path, time = Path(entry["path"]), entry["time"]
        key = re.sub(r"[^\w./ -]", "_", entry["key"], flags=re.ASCII)
        if not path.is_file():
            return  # it is an artifact, too, and missed there
        there = [one.path for one in self.client.list_artifacts(self.id, "images")] if doubtful else []
        name = key.replace("/", "~")  # as MLflow calls the file
        if any(name in one and str(time) in one and one.endswith(".webp") for one in there):
            return
        with Image.open(path) as picture:
            self.client.log_image(self.id, picture, key=key, step=0, timestamp=time, synchronous=True)

    def _model(self, entry: dict[str, Any], doubtful: bool) -> None:
        """Register a model, with the figures that this session has recorded before it."""
        name, number = entry["name"], entry["n"]
        if not Path(entry["path"]).is_dir():
            logger.warning("MLflow: the model %s is gone", entry["path"])
            return
        points = [
            Metric(key, float(value), one["time"], one["step"])
            for one in self.journal.entries.values()
            if one["do"] == "metrics" and one["n"] < number
            for key, value in one["values"]
        ]
        key = f"{self.journal.header['token']}.{number}"
        version = register(self.client, self.id, Path(entry["path"]), name, key, points)
        logger.info("MLflow: %s version %s is registered", name, version)

    def _end(self, entry: dict[str, Any], doubtful: bool) -> None:
        self.client.set_terminated(self.id, entry["status"], entry["time"])

    def _died(self, entry: dict[str, Any], doubtful: bool) -> None:
        """End the run of a process that could not; a later session may have ended it already."""
        if self.client.get_run(self.id).info.status == "RUNNING":
            self.client.set_tag(self.id, "error", DIED)
            self.client.set_terminated(self.id, "FAILED", entry["time"])


def _safe(name: str) -> str:
    """A path of artifacts that every MLflow server takes: for %, #, quotes and the like ``_``."""
    return re.sub(r"[^\w./ ()+,=@:-]", "_", name)


def hand_over(journal: Journal, delivery: Delivery, moved: bool = False) -> list[str]:
    """Write what the server does not have, and what became of the process; return what was refused.

    The caller has taken the journal, and removes it if nothing is pending. ``moved``: a server that does not
    have the run gets all that the journal holds.

    Raises:
        InputError: the run has been deleted from the server.
        Exception: the server is silent or wants credentials; what is left stays in the journal.
    """
    if not journal.ended():
        journal.add("died", time=int(journal.path.stat().st_mtime * 1000))
    elsewhere = bool(journal.run) and not delivery.has_run()
    if elsewhere and not moved:
        wrong = f"its run {journal.run.get('run_name')} is not at {journal.header['tracking_uri']} any more"
        raise InputError(journal.path, wrong, "restore it there, name another --tracking_uri, or remove this")
    if elsewhere:
        journal.begin_anew(without_password(delivery.tracking_uri))
    said = []
    doubtful = True  # the process may have died between the sending and the receipt
    for number in journal.pending():
        try:
            delivery.deliver(number, doubtful)
        except Exception as error:
            if not refused(error) or may_pass(error) or journal.entries[number]["do"] == "open":
                raise
            said.append(brief(error))
            journal.mark(number, refused=said[-1])
        doubtful = moved
    return said
