"""MLflow's SQLite file is whole or not there, whoever is killed or begins at the same time."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow import MlflowClient

from carde_monai.locking import claimed
from carde_monai.tracking import MLflowRun
from carde_monai.tracking_database import create_database

# MLflow's own use of SQLAlchemy, when the database is opened
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

KILLED = """
import os, pathlib, signal, sys, time
from sqlalchemy import event
from sqlalchemy.engine import Engine
from carde_monai.tracking import MLflowRun

@event.listens_for(Engine, "after_cursor_execute")
def die(connection, cursor, statement, *rest):
    if "ALTER TABLE" in statement:  # a step of a migration that was not noted yet, and cannot be done twice
        os.kill(os.getpid(), signal.SIGKILL)

run = MLflowRun(sys.argv[1], "steel", pathlib.Path(sys.argv[2]))
run.open("first", {}, {})
time.sleep(60)
"""


def test_a_run_that_is_killed_while_mlflow_makes_its_tables_leaves_none(tmp_path: Path) -> None:
    file, run_file = tmp_path / "eval" / "mlflow.db", tmp_path / "models" / "mlflow_run.json"
    address = f"sqlite:///{file}"
    done = subprocess.run([sys.executable, "-c", KILLED, address, str(run_file)], timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL and not file.exists()
    assert list(file.parent.glob(".part_*/mlflow.db"))
    with claimed(file.parent):  # as a training does
        run = MLflowRun(address, "steel", run_file)
        run.open("second", {}, {"a": "1"})
        run.close("FINISHED")
    client = MlflowClient(address)
    experiment = client.get_experiment_by_name("steel")
    assert experiment is not None
    found = {run.info.run_name: run.info.status for run in client.search_runs([experiment.experiment_id])}
    assert found == {"first": "FAILED", "second": "FINISHED"}
    assert [path.name for path in file.parent.iterdir()] == ["mlflow.db"]


def test_of_those_that_begin_at_once_one_makes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def store(address: str, _artifacts: str) -> Any:
        made.append(address)
        time.sleep(0.2)
        Path(address.removeprefix("sqlite:///")).write_text(f"of {len(made)}")
        return SimpleNamespace(engine=SimpleNamespace(dispose=lambda: None))

    monkeypatch.setattr("mlflow.store.tracking.sqlalchemy_store.SqlAlchemyStore", store)
    file = tmp_path / "new" / "mlflow.db"
    threads = [threading.Thread(target=create_database, args=(file, 30.0)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1 and file.read_text() == "of 1"
    assert [path.name for path in file.parent.iterdir()] == ["mlflow.db"]


def test_what_is_there_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    file.write_text("somebody's")
    create_database(file, 0.0)
    assert file.read_text() == "somebody's"
