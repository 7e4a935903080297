"""Servers that stop, hang, fail or lose answers, and processes that die: nothing lost, nothing double."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from engines import trainer
from ignite.engine import Engine, Events
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow_server import MLflowServer, small_disk

from carde_monai import outbox, tracking, tracking_delivery
from carde_monai.errors import InputError
from carde_monai.handlers.tracking import MLflowEvaluation, MLflowTraining, sigterm_raises
from carde_monai.tracking_journal import SUFFIX, Journal
from carde_monai.tracking_sync import sync_tracking

# MLflow's own use of SQLAlchemy, when the database is opened
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MLflowServer]:
    before = dict(os.environ)
    with small_disk(tmp_path_factory.mktemp("server")) as folder:
        server = MLflowServer(folder)
        yield server
        server.stop()
    for name in set(os.environ) - set(before):
        del os.environ[name]


@pytest.fixture
def server(real: MLflowServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[MLflowServer]:
    monkeypatch.setattr(outbox, "PAUSES", (0.02, 0.1))
    real.be("")
    yield real
    real.make_room()
    real.be("")


def train(
    address: str,
    run_file: Path,
    experiment: str,
    at: Callable[[int], None] = lambda epoch: None,
    **options: Any,
) -> None:
    """Three epochs with an artifact; ``at`` is called with the number of each."""
    artifact = run_file.parent / "model.pt"
    artifact.parent.mkdir(exist_ok=True)
    artifact.write_text("weights")
    handler = MLflowTraining(
        address, run_file, artifacts=[artifact], experiment_name=experiment, run_name="one", **options
    )
    handler.config = {"max_epochs": 3}
    engine = trainer([handler], epochs=3)

    @engine.on(Events.EPOCH_COMPLETED)
    def next_epoch(engine: Engine) -> None:
        journal = handler.run and handler.run.journal
        for _ in range(50):  # the server gets what is behind us
            if not (journal and journal.pending()):
                break
            time.sleep(0.02)
        at(engine.state.epoch)

    engine.run()


def evaluate(address: str, run_file: Path, experiment: str) -> None:
    engine = Engine(lambda engine, batch: None)
    handler = MLflowEvaluation(address, run_file, "evaluation", experiment_name=experiment)
    handler.config = {"max_epochs": 7}
    handler.attach(engine)
    engine.add_event_handler(Events.COMPLETED, lambda engine: engine.state.metrics.update(dice=0.5))
    engine.run([0])


def runs(server: MLflowServer, experiment: str) -> list[Run]:
    client = MlflowClient(server.store)
    known = client.get_experiment_by_name(experiment)
    found = client.search_runs([known.experiment_id]) if known else []
    return sorted(found, key=lambda run: run.info.start_time)


def losses(server: MLflowServer, run: Run) -> list[tuple[int, float]]:
    return [
        (m.step, m.value)
        for m in MlflowClient(server.store).get_metric_history(run.info.run_id, "by_epoch/loss")
    ]


def kept(run_file: Path) -> list[str]:
    """Names of what lies beside the run file, but for that and the model."""
    return sorted({path.name for path in run_file.parent.iterdir()} - {run_file.name, "model.pt"})


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """All but the server's own."""
    told = [record for record in caplog.records if not record.name.startswith("mlflow.server")]
    return [record.message for record in told if record.levelno >= logging.WARNING]


def is_whole(server: MLflowServer, experiment: str, run_file: Path) -> Run:
    """The experiment's one run has everything of `train`, once, and nothing is kept any more."""
    (run,) = runs(server, experiment)
    assert run.info.status == "FINISHED" and run.info.run_name == "one"
    assert losses(server, run) == [(1, 2.5), (2, 2.5), (3, 2.5)]
    assert run.data.params["max_epochs"] == "3" and run.data.params["run/device"] == "cpu"
    assert run.data.tags["mlflow.source.name"] == "carde_monai"
    files = {file.path for file in MlflowClient(server.address).list_artifacts(run.info.run_id)}
    assert files - {"evaluation"} == {"config.json", "model.pt"}
    assert json.loads(run_file.read_text())["run_id"] == run.info.run_id
    assert kept(run_file) == []
    return run


@pytest.mark.parametrize("mood", ["500", "close", "lose", "hang"])
@pytest.mark.parametrize("epoch", [0, 2])
def test_what_a_server_did_not_get_is_handed_over_once(
    mood: str, epoch: int, server: MLflowServer, run_file: Path, experiment: str,
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if mood == "hang":
        monkeypatch.setattr(outbox, "PATIENCE", 1.25)
    caplog.set_level(logging.INFO, "carde_monai")
    if epoch == 0:  # it is not even created
        server.be(mood)
    train(server.address, run_file, experiment, lambda now: server.be(mood) if now == epoch else None)
    (warning,) = warnings(caplog)
    assert "kept in" in warning and "\n" not in warning
    assert "sync-tracking" in caplog.records[-1].message
    first = runs(server, experiment)
    assert len(first) == (1 if epoch else 0)
    (run_file.parent / "model.pt").unlink()  # the next training replaces it
    server.be("")
    assert sync_tracking(run_file.parent) == []
    run = is_whole(server, experiment, run_file)
    assert run.info.end_time - run.info.start_time < 20_000
    text = Path(MlflowClient(server.address).download_artifacts(run.info.run_id, "model.pt")).read_text()
    assert text == "weights"
    assert sync_tracking(run_file.parent) == [] and is_whole(server, experiment, run_file)


@pytest.mark.parametrize("about", ["runs/create", "log-batch", "runs/update", "artifacts", "set-tag"])
def test_an_answer_that_is_lost_doubles_nothing(
    about: str, server: MLflowServer, run_file: Path, experiment: str
) -> None:
    server.be("lose", about, times=1)
    train(server.address, run_file, experiment)
    is_whole(server, experiment, run_file)


def test_a_sync_that_breaks_goes_on(server: MLflowServer, run_file: Path, experiment: str) -> None:
    server.be("500")
    train(server.address, run_file, experiment)
    for about in ("runs/create", "log-batch", "artifacts", "runs/update"):
        server.be("lose", about, times=1)
        (failure,) = sync_tracking(run_file.parent)
        assert server.address in failure.reason and "\n" not in failure.reason
    server.be("")
    assert sync_tracking(run_file.parent) == []
    is_whole(server, experiment, run_file)


def test_the_next_stage_hands_over_what_the_training_left(
    server: MLflowServer, run_file: Path, experiment: str
) -> None:
    server.be("500")
    train(server.address, run_file, experiment)
    server.be("")
    evaluate(server.address, run_file, experiment)
    run = is_whole(server, experiment, run_file)
    assert run.data.metrics["evaluation/dice"] == 0.5


def test_stages_without_a_server_are_one_run_later(
    server: MLflowServer, run_file: Path, experiment: str
) -> None:
    server.be("500")
    train(server.address, run_file, experiment)
    evaluate(server.address, run_file, experiment)
    assert len(kept(run_file)) == 3  # two records, and the model of the first
    server.be("")
    assert sync_tracking(run_file.parent.parent) == []
    (run,) = runs(server, experiment)
    assert run.info.status == "FINISHED" and run.data.params["max_epochs"] == "3"
    assert losses(server, run) == [(1, 2.5), (2, 2.5), (3, 2.5)]
    assert run.data.metrics["evaluation/dice"] == 0.5 and kept(run_file) == []


def test_a_server_that_is_elsewhere_now(server: MLflowServer, run_file: Path, experiment: str) -> None:
    train(NOWHERE, run_file, experiment)
    (failure,) = sync_tracking(run_file.parent)
    assert NOWHERE in failure.reason and "--tracking_uri" in failure.reason
    assert sync_tracking(run_file.parent, server.address) == []
    is_whole(server, experiment, run_file)
    evaluate(server.address, run_file, experiment)  # in the same run
    assert is_whole(server, experiment, run_file).data.metrics["evaluation/dice"] == 0.5


def test_a_run_moves_to_another_server_with_all_it_has(
    server: MLflowServer, run_file: Path, experiment: str, tmp_path: Path
) -> None:
    def die(epoch: int) -> None:
        if epoch == 2:
            server.be("500")

    store = f"sqlite:///{tmp_path}/other.db"  # an MLflow database without this run
    shutil.copyfile(server.store.removeprefix("sqlite:///"), tmp_path / "other.db")
    train(server.address, run_file, experiment, die)
    assert sync_tracking(run_file.parent, store) == [] and kept(run_file) == []
    client = MlflowClient(store)
    known = client.get_experiment_by_name(experiment)
    assert known is not None
    (run,) = client.search_runs([known.experiment_id])
    assert run.info.status == "FINISHED" and run.data.params["max_epochs"] == "3"
    steps = [point.step for point in client.get_metric_history(run.info.run_id, "by_epoch/loss")]
    assert steps == [1, 2, 3]


def test_credentials_that_are_missing(
    server: MLflowServer, run_file: Path, experiment: str, caplog: pytest.LogCaptureFixture
) -> None:
    server.be("401")
    train(server.address, run_file, experiment)
    assert len(warnings(caplog)) == 1
    (failure,) = sync_tracking(run_file.parent)
    assert "401" in failure.reason
    server.be("")
    assert sync_tracking(run_file.parent) == []
    is_whole(server, experiment, run_file)


def test_a_run_that_was_deleted_stays_so(server: MLflowServer, run_file: Path, experiment: str) -> None:
    train(server.address, run_file, experiment, lambda epoch: server.be("500") if epoch == 2 else None)
    server.be("")
    (run,) = runs(server, experiment)
    MlflowClient(server.store).delete_run(run.info.run_id)
    (failure,) = sync_tracking(run_file.parent)
    assert "one is not at" in failure.reason and "restore" in failure.reason
    MlflowClient(server.store).restore_run(run.info.run_id)
    assert sync_tracking(run_file.parent) == []
    is_whole(server, experiment, run_file)


# ---- disks and databases -----------------------------------------------------------------------------


@pytest.mark.parametrize("through", ["address", "store"])
@pytest.mark.parametrize("epoch", [0, 2])
def test_a_server_whose_disk_is_full(
    through: str, epoch: int, server: MLflowServer, run_file: Path, experiment: str,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """The server answers 503 then, and 500 to an artifact; SQLite says it itself."""
    address = {"address": server.address, "store": server.store}[through]
    if epoch == 0:
        server.fill()
    train(address, run_file, experiment, lambda now: server.fill() if now == epoch else None)
    (warning,) = warnings(caplog)
    assert ("503" if through == "address" else "disk is full") in warning and "kept in" in warning
    before = kept(run_file)
    (failure,) = sync_tracking(run_file.parent)
    assert failure.name.startswith(str(run_file.parent)) and "\n" not in failure.reason
    assert kept(run_file) == before and len(before) == 2  # the record, and the model
    assert len(runs(server, experiment)) == (1 if epoch else 0)
    (run_file.parent / "model.pt").unlink()
    server.make_room()
    assert sync_tracking(run_file.parent) == []
    is_whole(server, experiment, run_file)


def test_a_disk_with_room_for_figures_but_not_for_the_model(
    server: MLflowServer, run_file: Path, experiment: str, caplog: pytest.LogCaptureFixture
) -> None:
    def write_weights(epoch: int) -> None:
        if epoch == 3:
            (run_file.parent / "model.pt").write_bytes(bytes(2_000_000))

    server.fill(left=1_000_000)
    train(server.address, run_file, experiment, write_weights)
    assert len(warnings(caplog)) == 1
    (run,) = runs(server, experiment)
    assert losses(server, run) == [(1, 2.5), (2, 2.5), (3, 2.5)] and run.info.status == "RUNNING"
    server.make_room()
    assert sync_tracking(run_file.parent) == []
    run = is_whole(server, experiment, run_file)
    (size,) = {
        file.file_size
        for file in MlflowClient(server.address).list_artifacts(run.info.run_id)
        if file.path == "model.pt"
    }
    assert size == 2_000_000


def test_a_locked_database(
    server: MLflowServer, run_file: Path, experiment: str, tmp_path: Path,
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(tracking_delivery, "BUSY", 0.2)
    lock = sqlite3.connect(server.store.removeprefix("sqlite:///"))
    lock.execute("BEGIN EXCLUSIVE")
    try:
        train(server.store, run_file, experiment)
    finally:
        lock.rollback()
        lock.close()
    (warning,) = warnings(caplog)
    assert "locked" in warning and "Traceback" not in capfd.readouterr().err
    assert sync_tracking(run_file.parent) == []
    is_whole(server, experiment, run_file)


# ---- processes that die ------------------------------------------------------------------------------

CHILD = """
import os, pathlib, signal
from carde_monai.tracking import MLflowRun
run = MLflowRun({address!r}, {experiment!r}, pathlib.Path({run_file!r}))
run.open("one", {{}}, {{"a": "1"}})
run.metrics({{"by_epoch/loss": 2.5}}, step=1)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_run_whose_process_was_killed_is_failed_by_sync_tracking(
    server: MLflowServer, run_file: Path, experiment: str
) -> None:
    told = {"address": server.address, "run_file": str(run_file), "experiment": experiment}
    child = [sys.executable, "-W", "ignore", "-c", CHILD.format(**told)]
    assert subprocess.run(child, timeout=120).returncode == -signal.SIGKILL
    assert sync_tracking(run_file.parent) == []
    (run,) = runs(server, experiment)
    assert run.info.status == "FAILED" and "ended without a word" in run.data.tags["error"]
    assert run.info.end_time >= run.info.start_time
    assert losses(server, run) == [(1, 2.5)] and run.data.params["a"] == "1" and kept(run_file) == []


def test_sigterm_ends_a_run(server: MLflowServer, run_file: Path, experiment: str) -> None:
    def stop(epoch: int) -> None:
        if epoch == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as stopped:
        train(server.address, run_file, experiment, stop)
    assert stopped.value.code == 128 + signal.SIGTERM
    (run,) = runs(server, experiment)
    assert run.info.status == "KILLED" and kept(run_file) == []
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_someone_elses_handler_of_sigterm_stays() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with sigterm_raises():
            os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def begin(address: str, run_file: Path, experiment: str, resume: bool = False) -> tracking.MLflowRun:
    run = tracking.MLflowRun(address, experiment, run_file)
    run.open("one", {}, {"a": "1"}, resume)
    run.metrics({"by_epoch/loss": 2.5}, step=1)
    return run


def kill(run: tracking.MLflowRun) -> None:
    """What the system does when the process dies."""
    run._outbox.close()
    assert run.journal is not None
    run.journal.release()


def test_the_next_training_marks_the_run_of_a_killed_one(
    server: MLflowServer, run_file: Path, experiment: str
) -> None:
    kill(begin(server.address, run_file, experiment))
    assert len(kept(run_file)) == 1
    train(server.address, run_file, experiment)
    first, second = runs(server, experiment)
    assert (first.info.status, second.info.status) == ("FAILED", "FINISHED") and kept(run_file) == []


def test_a_training_that_is_resumed_goes_on_in_its_run(
    server: MLflowServer, run_file: Path, experiment: str
) -> None:
    kill(begin(server.address, run_file, experiment))
    train(server.address, run_file, experiment, resume=True)
    (run,) = runs(server, experiment)
    assert losses(server, run) == [(1, 2.5), (2, 2.5), (3, 2.5)]
    assert run.info.status == "FINISHED" and run.data.params["a"] == "1"


def test_a_run_at_work_is_left_alone(
    server: MLflowServer, run_file: Path, experiment: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "carde_monai")
    run = begin(server.address, run_file, experiment)
    assert sync_tracking(run_file.parent) == [] and len(kept(run_file)) == 2
    assert f"is at work (process {os.getpid()}" in caplog.text
    run.close("FINISHED")
    assert kept(run_file) == []
    (found,) = runs(server, experiment)
    assert found.info.status == "FINISHED" and "error" not in found.data.tags


@pytest.mark.parametrize("silent", [False, True])
def test_a_run_that_is_left_open_for_later(
    silent: bool, server: MLflowServer, run_file: Path, experiment: str
) -> None:
    if silent:
        server.be("500")
    begin(server.address, run_file, experiment).close("RUNNING")
    assert sync_tracking(run_file.parent) == [] and len(kept(run_file)) == 2  # this process lives
    begin(server.address, run_file, experiment, resume=True).close("FINISHED")
    server.be("")
    assert sync_tracking(run_file.parent) == [] and kept(run_file) == []
    (found,) = runs(server, experiment)
    assert found.info.status == "FINISHED" and "error" not in found.data.tags


# ---- the record itself -------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["release", "remove"])
def test_a_record_has_one_holder_even_while_it_is_released(
    end: str, run_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process takes it as soon as it can, and a third one tries after that."""
    journal = Journal.create(run_file, None, tracking_uri=NOWHERE, experiment_name="x", start=1)
    text = journal.path.read_bytes()
    second, third = Journal.read(journal.path), Journal.read(journal.path)
    held = []
    unlock = journal._lock.release

    def released() -> None:
        unlock()
        journal.path.write_bytes(text)  # that of another session, of the same name
        held.append(second.take())

    monkeypatch.setattr(journal._lock, "release", released)
    getattr(journal, end)()
    assert [*held, third.take()] == [True, False]
    second.remove()
    assert kept(run_file) == []


def test_who_does_not_hold_a_record_does_not_unlock_it(run_file: Path) -> None:
    journal = Journal.create(run_file, None, tracking_uri=NOWHERE, experiment_name="x", start=1)
    second = Journal.read(journal.path)
    assert not second.take()
    second.release()
    assert not Journal.read(journal.path).take()
    journal.remove()


def test_a_record_that_was_cut_off_anywhere(server: MLflowServer, run_file: Path, experiment: str) -> None:
    server.be("500")
    train(server.address, run_file, experiment)
    server.be("")
    (record,) = run_file.parent.glob(f"*{SUFFIX}")
    whole = record.read_bytes()
    for size in range(whole.index(b"\n") + 1, len(whole), 37):
        record.write_bytes(whole[:size])
        journal = Journal.read(record)
        assert len(journal.entries) == whole[:size].count(b'{"n"') or size not in ends(whole)
        assert journal.take()
        journal.add("tag", key="k", value="v")
        journal.release()
        assert Journal.read(record).entries[len(journal.entries)]["value"] == "v"
    record.write_bytes(whole[:40])
    (failure,) = sync_tracking(run_file.parent)
    assert "cut off" in failure.reason
    record.write_bytes(whole)
    assert sync_tracking(run_file.parent) == []
    is_whole(server, experiment, run_file)


def ends(text: bytes) -> set[int]:
    return {index + 1 for index, byte in enumerate(text) if byte == 10}


def test_a_record_that_cannot_be_written(
    server: MLflowServer, run_file: Path, experiment: str, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def full(self: Path, *args: Any, **kwargs: Any) -> Any:
        if self.name.endswith(SUFFIX):
            raise OSError(28, "No space left on device", str(self))
        return usual(self, *args, **kwargs)

    usual = Path.open
    monkeypatch.setattr(Path, "open", full)
    train(server.address, run_file, experiment)
    (warning,) = warnings(caplog)
    assert "No space left" in warning
    monkeypatch.undo()
    is_whole(server, experiment, run_file)


def test_a_disk_that_was_full_for_a_while(run_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = Path.open
    facts = {"tracking_uri": NOWHERE, "experiment_name": "x", "start": 1}
    journal = Journal.create(run_file, None, **facts)
    journal.add("tag", key="a", value="1")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda *args, **kwargs: usual(Path("/dev/full"), "wb", buffering=0))
        journal.add("tag", key="b", value="2")
        assert "No space left" in journal.trouble
    journal.add("tag", key="c", value="3")
    assert [one["value"] for one in Journal.read(journal.path).entries.values()] == ["1", "2", "3"]
    journal.remove()
    assert kept(run_file) == []


def test_hostile_names_lose_nothing_else(
    server: MLflowServer, run_file: Path, experiment: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = [
        "<script>alert(1)</script>",
        "a' OR 1=1 --",
        'say "x"',
        "-x",
        "=cmd|' /C calc'!A0",
        "%2e%2e",
        "ö#é;",
    ]
    folder = tmp_path / "artifacts"
    folder.mkdir()
    for name in names:
        (folder / name.replace("/", "_")).write_text(name)
    run = tracking.MLflowRun(server.address, experiment, run_file)
    run.open("'; DROP TABLE runs; -- \"", {"note": names[0]}, {f"data/{name}": name for name in names})
    run.metrics({f"test/../../{name}": 1.0 for name in names} | {"plain": 2.0})
    run.file(folder)
    run.json({"name": names[0]}, "config.json")
    run.close("FINISHED")
    (found,) = runs(server, experiment)
    assert found.data.metrics["plain"] == 2.0 and len(found.data.metrics) == len(names) + 1
    assert set(names) <= set(found.data.params.values()) and found.data.tags["note"] == names[0]
    stored = {f.path for f in MlflowClient(server.address).list_artifacts(found.info.run_id, "artifacts")}
    assert len(stored) == len(names)
    assert all(".." not in path for path in stored)
    assert warnings(caplog) == []


# ---- the verb ----------------------------------------------------------------------------------------


def test_nothing_to_hand_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "carde_monai")
    assert sync_tracking(tmp_path) == [] and "everything" in caplog.text
    with pytest.raises(InputError, match="there is no such folder"):
        sync_tracking(tmp_path / "nowhere")
    with pytest.raises(InputError, match="MLflow cannot keep runs there"):
        sync_tracking(tmp_path, "mlruns")


def test_a_silent_server_is_asked_once(server: MLflowServer, tmp_path: Path, experiment: str) -> None:
    server.be("500")
    for name in "abc":
        run = begin(server.address, tmp_path / name / "mlflow_run.json", experiment)
        run.close("FINISHED")
    server.be("500")
    assert len(sync_tracking(tmp_path)) == 3 and len(server.paths) == 1
    server.be("")
    assert sync_tracking(tmp_path) == [] and len(runs(server, experiment)) == 3


def test_passwords_are_not_written_down(run_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "PATIENCE", 0.5)
    run = begin("http://me:secret@127.0.0.1:9", run_file, "x")
    run.close("FAILED", "no")
    assert all(b"secret" not in path.read_bytes() for path in run_file.parent.iterdir())
