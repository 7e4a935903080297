"""What is worth recording about a run, and one MLflow run that outlives its server.

MONAI's ``MLFlowHandler`` is not built upon: it contacts the server in its constructor and raises when that
fails, blocks the training as long as MLflow retries (minutes a call), lets the environment variable
``MLFLOW_TRACKING_URI`` override its argument, and joins any unfinished run of the experiment.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import logging
import os
import re
import secrets
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run
from mlflow.exceptions import MlflowException
from mlflow.utils.time import get_current_time_millis
from mlflow.utils.validation import (
    MAX_ENTITY_KEY_LENGTH,
    MAX_PARAM_VAL_LENGTH,
    MAX_PARAMS_TAGS_PER_BATCH,
)
from monai.bundle import ConfigParser

from carde_monai.errors import InputError
from carde_monai.outbox import Outbox, refused
from carde_monai.provenance import without_password

logger = logging.getLogger("carde_monai")

STORES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https", "databricks")
NEW_DATABASE = 60.0  # seconds: MLflow creates some fifty tables, which takes one on an idle machine
UPLOAD_SPEED = 1e6  # bytes a second; a server that takes a file more slowly counts as silent


def running_config() -> dict[str, Any]:
    """The config of the bundle that is being built, merged and with overrides; {} outside of a bundle.

    MONAI gives the objects of a config no way to their parser, so it is looked for on the call stack: call
    this in a constructor. References (``@id``) stay as written; passwords in addresses are removed.
    """
    frame = inspect.currentframe()
    while frame is not None:
        parser = frame.f_locals.get("self")
        if isinstance(parser, ConfigParser):
            config = {id: value for id, value in parser.get().items() if id != ConfigParser.meta_key}
            return json.loads(without_password(json.dumps(config, default=str)))
        frame = frame.f_back
    return {}


def flatten_config(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """``{"train::trainer::max_epochs": "100", ...}``, ids as on the command line, within MLflow's limits.

    A list without mappings in it stays one value; characters that MLflow refuses in a key become ``_``.
    """
    flat: dict[str, str] = {}
    for name, value in config.items():
        if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            value = {str(i): item for i, item in enumerate(value)}
        if isinstance(value, Mapping) and value:
            flat |= flatten_config(value, f"{prefix}{name}::")
        else:
            key = re.sub(r"[^\w./: -]", "_", f"{prefix}{name}")[:MAX_ENTITY_KEY_LENGTH]
            flat[key] = str(value)[:MAX_PARAM_VAL_LENGTH]
    return flat


def network_facts(network: torch.nn.Module | None, device: torch.device | None) -> dict[str, str]:
    """Class and number of parameters of the network; the device with its name."""
    facts = {}
    if network is not None:
        facts["network/class"] = type(network).__name__
        facts["network/parameters"] = str(sum(p.numel() for p in network.parameters()))
    if device is not None:
        name = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
        facts["run/device"] = f"{device}{name}"
    return facts


def dataset_facts(datalist: Path) -> dict[str, str]:
    """Sizes of the splits and a digest (16 hexadecimal digits) of a prepared data set; {} if unreadable.

    The digest covers the lists and the content of all files named in them, wherever the set lies.
    """
    digest = hashlib.sha256()
    try:
        lists = {
            k: v for k, v in json.loads(datalist.read_text(encoding="utf-8")).items() if isinstance(v, list)
        }
        digest.update(json.dumps(lists, sort_keys=True).encode())
        items = [item for listed in lists.values() for item in listed]
        for name in sorted({item[key] for item in items for key in ("image", "label") if key in item}):
            digest.update(content_mark(datalist.parent / name))
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
    return {f"data/{k}": str(len(v)) for k, v in lists.items()} | {"data/digest": digest.hexdigest()[:16]}


def content_mark(path: Path) -> bytes:
    """Tells the content of a file: the end of a gzip file (CRC-32 and length, RFC 1952), else its SHA-256."""
    with path.open("rb") as file:
        if path.suffix != ".gz":
            return hashlib.file_digest(file, "sha256").digest()
        file.seek(-8, os.SEEK_END)
        return file.read()


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
    """Raise soon if an SQLite file cannot be opened: MLflow would try for more than a minute."""
    file = sqlite_file(tracking_uri)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(file)) as database:
            database.execute("BEGIN IMMEDIATE")


class MLflowRun:
    """One MLflow run, written through an `Outbox`: no method waits for the server but ``close``, for a while.

    No global state of MLflow is touched, so that several runs of a process do not meet.
    """

    def __init__(self, tracking_uri: str, experiment_name: str, run_file: Path) -> None:
        self.tracking_uri, self.experiment_name, self.run_file = tracking_uri, experiment_name, run_file
        self.address = without_password(tracking_uri)
        self.id = self.name = ""
        self.start = get_current_time_millis()
        self._outbox = Outbox(f"MLflow at {self.address}")
        self._connection: MlflowClient | None = None

    def open(self, name: str, tags: dict[str, str], params: dict[str, str], resume: bool = False) -> None:
        """Create a run and ``run_file``, or resume the run that ``run_file`` tells.

        A name that is taken gets a suffix. A run at another address, or deleted, is not resumed but replaced.
        A run that is resumed keeps its tags and parameters.
        """
        params = dict(params)
        if not resume:  # whatever becomes of this run, that of an earlier training must not be taken for it
            self.run_file.unlink(missing_ok=True)

        def create_or_resume(client: MlflowClient) -> None:
            run = self._find(client) if resume else None
            if run is not None:
                client.update_run(run.info.run_id, status="RUNNING")
                params.clear()
            run = run or self._create(client, name, tags)
            self.id, self.name = run.info.run_id, run.info.run_name

        def log_params(client: MlflowClient) -> None:
            entries = [Param(key, value[:MAX_PARAM_VAL_LENGTH]) for key, value in params.items()]
            for start in range(0, len(entries), MAX_PARAMS_TAGS_PER_BATCH):
                client.log_batch(self.id, params=entries[start : start + MAX_PARAMS_TAGS_PER_BATCH])

        self._put(create_or_resume, NEW_DATABASE if sqlite_file(self.tracking_uri) else 0.0, essential=True)
        self._put(log_params)

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        now = get_current_time_millis()
        entries = [Metric(name, value, now, step) for name, value in values.items()]
        self._put(lambda client: client.log_batch(self.id, metrics=entries))

    def dataset(self, facts: dict[str, str], source: Path, context: str) -> None:
        """Name the data set (`dataset_facts`) as an input of the run."""
        where, sizes = json.dumps({"uri": str(source.absolute())}), json.dumps(facts)
        entry = Dataset(source.absolute().parent.name, facts["data/digest"], "local", where, profile=sizes)
        inputs = [DatasetInput(entry, [InputTag("mlflow.data.context", context)])]
        self._put(lambda client: client.log_inputs(self.id, datasets=inputs))

    def json(self, content: dict[str, Any], name: str) -> None:
        self._put(lambda client: client.log_dict(self.id, content, name))

    def file(self, path: Path, folder: str = "") -> None:
        """Upload a file, or a directory under its own name, into a folder of the run's artifacts."""
        files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
        for file in files:
            into = "/".join(filter(None, [folder, *file.parent.relative_to(path.parent).parts]))
            self._upload(file, into)

    def _upload(self, file: Path, into: str) -> None:
        size = file.stat().st_size
        self._put(lambda client: client.log_artifact(self.id, str(file), into), size / UPLOAD_SPEED)

    def close(self, status: str, error: str = "") -> None:
        """End the run as FINISHED, FAILED or KILLED, and wait a while until everything is written."""
        if error:
            self._put(lambda client: client.set_tag(self.id, "error", error))
        self._put(lambda client: client.set_terminated(self.id, status))
        if self._outbox.close():
            logger.info("MLflow run %s at %s: %s", self.name, self.address, status)

    def _put(
        self, write: Callable[[MlflowClient], Any], seconds: float = 0.0, essential: bool = False
    ) -> None:
        def job() -> None:
            if self._connection is None:
                check_database(self.tracking_uri)
                self._connection = MlflowClient(tracking_uri=self.tracking_uri)
            write(self._connection)

        self._outbox.put(job, seconds, essential)

    def _find(self, client: MlflowClient) -> Run | None:
        try:
            told = json.loads(self.run_file.read_text())
            run_id = str(told["run_id"]) if told["tracking_uri"] == self.address else ""
        except (OSError, ValueError, KeyError, TypeError):
            run_id = ""
        try:
            run = client.get_run(run_id) if run_id else None
        except MlflowException as error:
            if not refused(error):
                raise
            run = None
        return run if run and run.info.lifecycle_stage == "active" else None

    def _create(self, client: MlflowClient, name: str, tags: dict[str, str]) -> Run:
        experiment = self._experiment(client)
        quote = '"' if "'" in name else "'"
        if client.search_runs([experiment], f"attributes.run_name = {quote}{name}{quote}", max_results=1):
            name = f"{name}_{secrets.token_hex(2)}"
        run = client.create_run(experiment, self.start, tags, name)
        told = {"tracking_uri": self.address, "experiment_name": self.experiment_name}
        told |= {"run_id": run.info.run_id, "run_name": name}
        try:
            self.run_file.parent.mkdir(parents=True, exist_ok=True)
            self.run_file.write_text(json.dumps(told, indent=2))
        except OSError as error:  # must not look like a failure of MLflow, or the run would be created again
            logger.warning("%s; calibration and evaluation will have MLflow runs of their own", error)
        return run

    def _experiment(self, client: MlflowClient) -> str:
        """Id of the experiment; a new one of an SQLite file has its artifacts beside that."""
        file = sqlite_file(self.tracking_uri)
        found = client.get_experiment_by_name(self.experiment_name)
        if found is None:
            location = (file.parent / "mlartifacts").as_uri() if file else None
            try:
                return client.create_experiment(self.experiment_name, location)
            except MlflowException:
                found = client.get_experiment_by_name(self.experiment_name)
                if found is None:
                    raise
        return found.experiment_id  # perhaps created by another process just now
