"""MLflow runs read back with MLflow's own client, and servers that die, hang or refuse."""

from __future__ import annotations

import getpass
import gzip
import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from engines import CPU, loader, trainer
from hypothesis import given
from hypothesis import strategies as st
from ignite.engine import Engine, Events
from mlflow import MlflowClient
from mlflow.entities import Run
from monai.bundle import ConfigParser
from monai.engines import SupervisedEvaluator
from monai.handlers import StatsHandler, ValidationHandler, from_engine
from PIL import Image

from carde_monai import outbox, tracking, tracking_system
from carde_monai.errors import InputError
from carde_monai.handlers.tracking import MLflowEvaluation, MLflowTraining, find_files
from carde_monai.outbox import Outbox

# MLflow's own use of SQLAlchemy, when the database is opened
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One database for the module: creating it takes a second."""
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


def make_evaluator(handlers: list[Any] | None = None) -> SupervisedEvaluator:
    """Its metric val_dice is the number of the epoch divided by 10."""
    network = torch.nn.Conv2d(1, 1, 1)
    engine = SupervisedEvaluator(
        device=CPU, val_data_loader=loader([0.0]), network=network, val_handlers=handlers
    )

    @engine.on(Events.EPOCH_COMPLETED)
    def measure() -> None:
        engine.state.metrics = {"val_dice": torch.tensor(engine.state.epoch / 10)}

    return engine


def runs(store: str, experiment: str) -> list[Run]:
    """The runs of an experiment, oldest first."""
    client = MlflowClient(store)
    known = client.get_experiment_by_name(experiment)
    assert known is not None
    found = client.search_runs([known.experiment_id])
    return sorted(found, key=lambda run: run.info.start_time)


def artifacts(store: str, run: Run, folder: str | None = None) -> set[str]:
    return {file.path for file in MlflowClient(store).list_artifacts(run.info.run_id, folder)}


def history(store: str, run: Run, metric: str) -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in MlflowClient(store).get_metric_history(run.info.run_id, metric)]


# ---- what is recorded --------------------------------------------------------------------------------


def test_a_training(store: str, experiment: str, run_file: Path, tmp_path: Path) -> None:
    (tmp_path / "overlays").mkdir()
    for name in ("metadata.json", "overlays/a.png", "overlays/b.png"):
        (tmp_path / name).write_text("{}")
    data = prepared_dataset(tmp_path / "steel")
    validator = make_evaluator()
    handler = MLflowTraining(
        store, run_file, validator, data, [tmp_path / "*.json", tmp_path / "overlays"], experiment, "first"
    )
    trainer([handler, ValidationHandler(1, validator)]).run()
    (run,) = runs(store, experiment)
    assert run.info.status == "FINISHED" and run.info.run_name == "first"
    assert history(store, run, "by_epoch/loss") == [(1, 2.5), (2, 2.5)]
    assert history(store, run, "by_epoch/learning_rate") == [(1, pytest.approx(0.1)), (2, pytest.approx(0.1))]
    assert history(store, run, "by_epoch/val_dice") == [(1, pytest.approx(0.1)), (2, pytest.approx(0.2))]
    assert {step for step, value in history(store, run, "by_epoch/images_per_second") if value > 0} == {1, 2}
    assert run.data.params["network/parameters"] == "2" and run.data.params["run/device"] == "cpu"
    assert run.data.params["data/training"] == "2" and run.data.params["data/validation"] == "1"
    assert run.data.params["version/torch"] == torch.__version__
    assert artifacts(store, run) == {"metadata.json", "overlays"}
    assert artifacts(store, run, "overlays") == {"overlays/a.png", "overlays/b.png"}
    assert run.inputs is not None
    (used,) = run.inputs.dataset_inputs
    assert used.dataset.name == "steel" and used.dataset.digest == run.data.params["data/digest"]
    told = json.loads(run_file.read_text())
    assert told.pop("key") == run.data.tags["carde_monai.run"]
    assert told == {
        "tracking_uri": store, "experiment_name": experiment, "run_id": run.info.run_id, "run_name": "first"
    }  # fmt: skip
    assert [file.name for file in run_file.parent.iterdir()] == [run_file.name]  # nothing is left unsent


def test_artifacts_of_sqlite_lie_beside_it(store: str, experiment: str, run_file: Path) -> None:
    trainer([MLflowTraining(store, run_file, experiment_name=experiment)], epochs=1).run()
    folder = Path(store.removeprefix("sqlite:///")).parent / "mlartifacts"
    assert runs(store, experiment)[0].info.artifact_uri.startswith(folder.as_uri())


def test_the_config_of_the_running_bundle_is_recorded(store: str, experiment: str, run_file: Path) -> None:
    config = {
        "max_epochs": 100,
        "tracking_uri": store,
        "features": [32, 64],
        "workers": "$2 + 3",
        "train": {"handlers": [{"_target_": "StatsHandler", "tag_name": "loss"}]},
        "address": "https://me:secret@somewhere/x",
        "handler": {
            "_target_": "carde_monai.handlers.tracking.MLflowTraining",
            "tracking_uri": "@tracking_uri",
        },
        "used": "@workers",
    }
    parser = ConfigParser(config)
    parser.update(
        {"handler::run_file": str(run_file), "handler::experiment_name": experiment, "max_epochs": 1}
    )
    engine = trainer([parser.get_parsed_content("handler")], epochs=1)
    assert parser.get_parsed_content("used") == 5  # expressions are recorded as they have been evaluated
    engine.run()
    (run,) = runs(store, experiment)
    expected = {
        "max_epochs": "1",
        "features": "[32, 64]",
        "workers": "5",
        "address": "https://somewhere/x",
    }
    assert {key: run.data.params.get(key) for key in expected} == expected
    assert not {"tracking_uri", "train::handlers::0::tag_name", "handler::tracking_uri"} & set(
        run.data.params
    )
    assert "secret" not in str(run.data.params)
    text = Path(MlflowClient(store).download_artifacts(run.info.run_id, "config.json")).read_text()
    assert json.loads(text)["max_epochs"] == 1 and "secret" not in text
    assert json.loads(text)["train"] == config["train"]  # what is no setting is told here
    assert tracking.running_config() == {}


def test_more_parameters_than_mlflow_takes_at_once(store: str, experiment: str, run_file: Path) -> None:
    handler = MLflowTraining(store, run_file, experiment_name=experiment)
    handler.config = {f"id{i}": "x" * 7000 for i in range(250)} | {"ümläut [%]": 1}
    trainer([handler], epochs=1).run()
    (run,) = runs(store, experiment)
    assert len([key for key in run.data.params if key.startswith("id")]) == 250
    assert len(run.data.params["id7"]) == 6000


# ---- one run for a training with its calibration and its evaluation ------------------------------------


def test_calibration_and_evaluation_continue_the_run(
    store: str, experiment: str, run_file: Path, tmp_path: Path
) -> None:
    trainer([MLflowTraining(store, run_file, experiment_name=experiment)]).run()
    table = tmp_path / "metrics.csv"
    table.write_text("name,dice")
    for stage in ("calibration", "evaluation"):
        handler = MLflowEvaluation(store, run_file, stage, artifacts=[table], experiment_name=experiment)
        handler.config = {"max_epochs": 7}  # differs from the training's: may be no parameter of its run
        make_evaluator([handler]).run()
    (run,) = runs(store, experiment)
    assert run.info.status == "FINISHED"
    assert history(store, run, "evaluation/val_dice") == [(0, pytest.approx(0.1))]
    assert history(store, run, "by_epoch/loss") == [(1, 2.5), (2, 2.5)]
    assert artifacts(store, run, "calibration") == {"calibration/metrics.csv", "calibration/config.json"}
    assert "max_epochs" not in run.data.params


@pytest.mark.parametrize(
    "told", ["", "{}", "[]", '{"tracking_uri": "http://other", "run_id": "1"}', "gone", None]
)
def test_an_evaluation_without_its_training_has_its_own_run(
    told: str | None, store: str, experiment: str, run_file: Path
) -> None:
    if told is not None:
        run_file.parent.mkdir()
        gone = json.dumps({"tracking_uri": store, "run_id": "0" * 32})
        run_file.write_text(gone if told == "gone" else told)
    for stage in ("calibration", "evaluation"):  # the second continues the first
        make_evaluator([MLflowEvaluation(store, run_file, stage, experiment_name=experiment)]).run()
    (run,) = runs(store, experiment)
    assert re.fullmatch(r"calibration Conv2d \d{4}-\d{6}", run.info.run_name)
    assert run.info.status == "FINISHED"
    assert {"calibration/val_dice", "evaluation/val_dice"} <= set(run.data.metrics)


def test_trainings_never_share_a_run(store: str, experiment: str, run_file: Path) -> None:
    unfinished = tracking.MLflowRun(store, experiment, run_file)
    unfinished.open("same", {}, {})
    unfinished.metrics({"loss": 0.0})
    assert unfinished._outbox.close()
    for name in ("same", None, None):
        torch.manual_seed(0)
        trainer([MLflowTraining(store, run_file, experiment_name=experiment, run_name=name)], 1).run()
    found = runs(store, experiment)
    assert len({run.info.run_id for run in found}) == len({run.info.run_name for run in found}) == 4
    assert [run.info.status for run in found] == ["RUNNING", "FINISHED", "FINISHED", "FINISHED"]
    assert found[1].info.run_name.startswith("same_")
    assert json.loads(run_file.read_text())["run_id"] == found[-1].info.run_id


# ---- the end of a run ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("error", "status"), [(ValueError("no"), "FAILED"), (KeyboardInterrupt(), "KILLED")])
@pytest.mark.parametrize("stats_first", [True, False])
def test_a_training_that_ends_early_is_closed_and_still_raises(
    error: BaseException, status: str, stats_first: bool, store: str, run_file: Path, experiment: str
) -> None:
    handlers: list[Any] = [MLflowTraining(store, run_file, experiment_name=experiment)]
    if stats_first:  # its handler of EXCEPTION_RAISED raises, so that no later one is called
        logging.getLogger("stats").setLevel(logging.INFO)
        handlers.insert(0, StatsHandler(name="stats", output_transform=from_engine(["loss"], first=True)))
    engine = trainer(handlers)

    @engine.on(Events.ITERATION_COMPLETED(once=3))
    def fail() -> None:
        raise error

    with pytest.raises(type(error)):
        engine.run()
    (run,) = runs(store, experiment)
    assert run.info.status == status and run.info.end_time
    assert run.data.tags["error"].startswith(type(error).__name__)
    assert history(store, run, "by_epoch/loss") == [(1, 2.5)]


def test_missing_artifacts_are_one_warning(
    store: str, experiment: str, run_file: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    names: list[str | Path] = ["", tmp_path / "model.pt", f"{tmp_path}/*.png"]
    trainer([MLflowTraining(store, run_file, artifacts=names, experiment_name=experiment)], 1).run()
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "model.pt" in record.message and "*.png" in record.message


def test_find_files_takes_names_with_brackets_literally(tmp_path: Path) -> None:
    for name in ("a[1].png", "a1.png"):
        (tmp_path / name).touch()
    (tmp_path / "broken").symlink_to("nowhere")
    assert find_files([tmp_path / "a[1].png"]) == ([tmp_path / "a[1].png"], [])
    assert find_files([f"{tmp_path}/*", tmp_path / "a1.png"])[0] == [
        tmp_path / "a1.png",
        tmp_path / "a[1].png",
    ]


def test_only_rank_0_records(
    store: str, experiment: str, run_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ignite.distributed.get_rank", lambda: 1)
    trainer([MLflowTraining(store, run_file, experiment_name=experiment)]).run()
    assert MlflowClient(store).get_experiment_by_name(experiment) is None and not run_file.exists()


@pytest.mark.parametrize("nowhere", [None, ""])
def test_switched_off(nowhere: str | None, run_file: Path) -> None:
    trainer([MLflowTraining(nowhere, run_file)]).run()
    make_evaluator([MLflowEvaluation(nowhere, run_file, "evaluation")]).run()
    assert not run_file.exists()


def test_the_argument_wins_over_the_environment(
    store: str, experiment: str, run_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    trainer([MLflowTraining(store, run_file, experiment_name=experiment)], 1).run()
    assert len(runs(store, experiment)) == 1
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:9"


@pytest.mark.parametrize("address", ["mlruns", "file:///tmp/mlruns", "foo://bar"])
def test_an_address_that_mlflow_does_not_know(address: str, run_file: Path) -> None:
    with pytest.raises(InputError, match=r"sqlite:///<folder>/mlflow\.db"):
        MLflowTraining(address, run_file)


def test_a_relative_database_is_found_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert tracking.store_address("sqlite:///out/mlflow.db") == f"sqlite:///{tmp_path}/out/mlflow.db"
    assert tracking.store_address("sqlite:////out/mlflow.db") == "sqlite:////out/mlflow.db"


# ---- servers that do not answer ------------------------------------------------------------------------


class Server:
    """As much of an MLflow server as a training needs, that can hang, die and refuse."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.hang = threading.Event()
        self.released = threading.Event()
        self.refuse = ""
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if owner.hang.is_set():
                    owner.released.wait(30)
                    return
                route = self.path.split("?")[0].split("/mlflow/")[-1]
                owner.requests.append((route, json.loads(body or "{}") if body[:1] == b"{" else {}))
                refused = bool(owner.refuse) and owner.refuse in route
                answer = (
                    {"error_code": "PERMISSION_DENIED", "message": "no"} if refused else owner.answer(route)
                )
                payload = json.dumps(answer).encode()
                self.send_response(403 if refused else 200)
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            do_GET = do_POST = do_PUT = do_PATCH = do

            def log_message(self, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, route: str) -> dict[str, Any]:
        if route == "experiments/get-by-name":
            return {"experiment": {"experiment_id": "1", "name": "x", "lifecycle_stage": "active"}}
        if route in ("runs/create", "runs/get"):
            info = {"run_id": "a" * 32, "run_name": "r", "experiment_id": "1", "status": "RUNNING"}
            info |= {"lifecycle_stage": "active", "artifact_uri": f"{self.address}/artifacts"}
            return {"run": {"info": info, "data": {}}}
        return {}

    def steps(self) -> list[int]:
        logged = [
            m for route, body in self.requests if route == "runs/log-batch" for m in body.get("metrics", [])
        ]
        return [int(m["step"]) for m in logged if m["key"] == "by_epoch/loss"]

    def stop(self) -> None:
        self.released.set()
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "PATIENCE", 1.25)


def train(
    address: str,
    run_file: Path,
    caplog: pytest.LogCaptureFixture,
    at: Callable[[int], None] = lambda epoch: None,
) -> list[str]:
    """Train three epochs, calling ``at`` with the number of each; all epochs must run. The warnings."""
    epochs = []
    engine = trainer([MLflowTraining(address, run_file, experiment_name="x")], epochs=3)

    @engine.on(Events.EPOCH_COMPLETED)
    def note(engine: Engine) -> None:
        epochs.append(engine.state.epoch)
        at(engine.state.epoch)

    engine.run()
    assert epochs == [1, 2, 3]
    return [record.message for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_server_that_answers(server: Server, run_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert train(server.address, run_file, caplog) == []
    assert server.steps() == [1, 2, 3]
    assert [body["status"] for route, body in server.requests if route == "runs/update"] == ["FINISHED"]


def test_no_server_at_all(impatient: None, run_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    run_file.parent.mkdir()
    run_file.write_text(json.dumps({"tracking_uri": "http://127.0.0.1:9", "run_id": "an earlier training"}))
    (warning,) = train("http://127.0.0.1:9", run_file, caplog)
    assert "127.0.0.1:9" in warning and "\n" not in warning
    told = json.loads(run_file.read_text())  # an evaluation must not continue the earlier training's run
    assert told["run_id"] == "" and told["key"]


def test_a_server_that_hangs_from_the_start(
    impatient: None, server: Server, run_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.hang.set()
    assert len(train(server.address, run_file, caplog)) == 1


def test_a_server_that_hangs_in_the_middle(
    impatient: None, server: Server, run_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def hang(epoch: int) -> None:
        if epoch == 2:
            wait_for(lambda: server.steps() == [1])
            server.hang.set()

    assert len(train(server.address, run_file, caplog, hang)) == 1
    assert server.steps() == [1]


def test_a_server_that_dies_in_the_middle(
    impatient: None, server: Server, run_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def die(epoch: int) -> None:
        if epoch == 2:
            wait_for(lambda: server.steps() == [1])
            server.stop()

    assert len(train(server.address, run_file, caplog, die)) == 1


def test_a_server_that_comes_back_gets_everything(
    server: Server, run_file: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")

    def hang(epoch: int) -> None:
        if epoch == 1:
            server.hang.set()
        if epoch == 3:
            wait_for(lambda: any(r.levelno >= logging.WARNING for r in caplog.records))
            server.hang.clear()

    assert len(train(server.address, run_file, caplog, hang)) == 1
    assert server.steps() == [1, 2, 3]
    assert server.requests[-1][0] == "runs/update"


def test_a_server_that_refuses(server: Server, run_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    server.refuse = "log-batch"
    assert len(train(server.address, run_file, caplog)) == 1
    assert server.requests[-1][0] == "runs/update"  # the rest is done
    server.requests.clear()
    caplog.clear()
    server.refuse = "create"
    assert len(train(server.address, run_file, caplog)) == 1
    assert server.requests[-1][0] == "runs/create"  # nothing goes without a run


def test_a_database_that_cannot_be_opened(
    impatient: None, run_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert len(train(f"sqlite:///{tmp_path}", run_file, caplog)) == 1  # a directory


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(500):
        if condition():
            return
        time.sleep(0.02)
    pytest.fail("waited ten seconds in vain")


def test_the_users_limits_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    before = dict(os.environ)
    seen: dict[str, str] = {}
    box = Outbox("test", patience=5)
    box.put(lambda: seen.update(os.environ))
    assert box.close()
    assert seen["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77" and seen["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0"
    assert dict(os.environ) == before


def test_jobs_are_done_in_order_and_a_failed_one_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "PAUSES", (0.01, 0.01))
    done: list[int] = []
    failures = iter([OSError("first"), None])

    def fail_once() -> None:
        error = next(failures)
        if error:
            raise error
        done.append(1)

    box = Outbox("test", patience=5)
    box.put(lambda: done.append(0))
    box.put(fail_once)
    box.put(lambda: done.append(2))
    wait_for(lambda: len(done) == 3)
    assert box.close() and done == [0, 1, 2]


# ---- facts ---------------------------------------------------------------------------------------------

names = st.text("abcdefgh_", min_size=1, max_size=5)
leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), st.text("aB1 -", max_size=5), st.lists(st.integers(), max_size=3)
)


@given(
    st.dictionaries(
        names,
        st.recursive(
            leaves, lambda inner: st.dictionaries(names, inner, min_size=1, max_size=3), max_leaves=5
        ),
    )
)
def test_flatten_config_keeps_every_leaf_under_its_id(config: dict[str, Any]) -> None:
    parser, flat = ConfigParser(config), tracking.flatten_config(config)
    assert all(str(parser[key]) == value for key, value in flat.items())
    assert len(flat) == count_leaves(config)


def count_leaves(value: Any) -> int:
    return sum(map(count_leaves, value.values())) if isinstance(value, dict) else 1


def prepared_dataset(folder: Path, level: int = 9, pixel: int = 0) -> Path:
    folder.mkdir(parents=True)
    for name, content in (("a.nii.gz", bytes(1000)), ("b.nii.gz", bytes(999) + bytes([pixel]))):
        with gzip.GzipFile(folder / name, "wb", level, mtime=level) as file:
            file.write(content)
    (folder / "c.png").write_bytes(b"mask")
    listed = {
        "description": "test",
        "training": [{"image": "a.nii.gz", "label": "c.png"}, {"image": "b.nii.gz", "label": "c.png"}],
        "validation": [{"image": "b.nii.gz"}],
    }
    (folder / "datalist.json").write_text(json.dumps(listed))
    return folder / "datalist.json"


def test_the_digest_is_of_the_content(tmp_path: Path) -> None:
    facts = tracking.dataset_facts(prepared_dataset(tmp_path / "a"))
    assert (facts["data/training"], facts["data/validation"]) == ("2", "1") and len(
        facts["data/digest"]
    ) == 16
    assert facts == tracking.dataset_facts(
        prepared_dataset(tmp_path / "b" / "moved and packed again", level=1)
    )
    assert facts != tracking.dataset_facts(prepared_dataset(tmp_path / "c", pixel=1))
    (tmp_path / "a" / "c.png").write_bytes(b"edit")
    assert facts != tracking.dataset_facts(tmp_path / "a" / "datalist.json")


def test_an_unreadable_datalist_is_no_fact(tmp_path: Path) -> None:
    assert tracking.dataset_facts(tmp_path / "missing.json") == {}
    for text in ("", "[]", '{"training": [1]}', '{"training": [{"image": "missing.nii.gz"}]}'):
        (tmp_path / "datalist.json").write_text(text)
        assert tracking.dataset_facts(tmp_path / "datalist.json") == {}


# ---- the machine ---------------------------------------------------------------------------------------


class Thermometer:
    """As MLflow's monitors: its figures are the numbers of its measurements."""

    def __init__(self) -> None:
        self.count = 0

    def collect_metrics(self) -> None:
        self.count += 1

    def aggregate_metrics(self) -> dict[str, float]:
        return {"temperature": float(self.count)}

    def clear_metrics(self) -> None:
        pass


class Broken(Thermometer):
    def collect_metrics(self) -> None:
        raise OSError("no such counter")


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking_system, "_monitors", lambda: [Broken(), Thermometer()])
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.02")


def test_the_machine_is_measured_while_a_training_runs(
    measured: None, store: str, experiment: str, run_file: Path
) -> None:
    handler, sent = MLflowTraining(store, run_file, experiment_name=experiment), list[dict[str, Any]]()
    engine = trainer([handler], 1)
    engine.add_event_handler(Events.EPOCH_STARTED, lambda: time.sleep(0.2))
    close = handler._close

    def look(status: str, error: str) -> None:
        assert handler.run is not None and handler.run.journal is not None
        journal = handler.run.journal
        close(status, error)
        sent.extend(journal.entries.values())

    handler._close = look  # type: ignore[method-assign]
    engine.run()
    client, (run,) = MlflowClient(store), runs(store, experiment)
    found = history(store, run, "system/temperature")
    assert found[:2] == [(0, 2.0), (1, 3.0)]  # the first measurement is where counting begins
    moments = [m.timestamp for m in client.get_metric_history(run.info.run_id, "system/temperature")]
    (loss,) = client.get_metric_history(run.info.run_id, "by_epoch/loss")
    assert moments == sorted(moments) and moments[0] < loss.timestamp
    names = [entry["values"][0][0] for entry in sent if entry["do"] == "metrics"]
    assert names[0] == "by_epoch/loss"  # MLflow's page compares runs by the first that they have
    assert not [thread for thread in threading.enumerate() if thread.name == "system metrics"]


def test_a_run_of_moments_has_figures_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking_system, "_monitors", lambda: [Thermometer()])
    told: list[tuple[dict[str, float], int]] = []
    system = tracking_system.SystemMetrics(lambda figures, step: told.append((figures, step)))
    system.start()
    time.sleep(2 * tracking_system.LEAST)
    system.stop()
    assert told[0] == ({"system/temperature": 2.0}, 0)


@pytest.mark.parametrize(("wanted", "expected"), [(None, [0.5, 1, 2, 4, 8, 10, 10]), ("3", [3] * 7)])
def test_the_pauses_grow_unless_the_user_wants_a_length(
    wanted: str | None, expected: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking_system, "_monitors", lambda: [Thermometer()])
    if wanted:
        monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", wanted)
    pauses: list[float] = []

    class Clock(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            pauses.append(timeout or 0)
            return len(pauses) == 7

    monkeypatch.setattr(tracking_system.threading, "Event", Clock)
    steps: list[int] = []
    system = tracking_system.SystemMetrics(lambda figures, step: steps.append(step))
    monkeypatch.undo()  # a thread's start waits for events of its own
    system._work()
    assert pauses == expected and steps == list(range(6))


def test_measuring_the_machine_can_be_switched_off(measured: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")
    told: list[int] = []
    system = tracking_system.SystemMetrics(lambda figures, step: told.append(step))
    system.start()
    time.sleep(0.1)
    system.stop()
    assert told == []


# ---- what the UI shows ---------------------------------------------------------------------------------


def test_a_run_tells_network_data_and_command(
    store: str, experiment: str, run_file: Path, tmp_path: Path
) -> None:
    data = prepared_dataset(tmp_path / "steel")
    trainer([MLflowTraining(store, run_file, datalist=data, experiment_name=experiment)], 1).run()
    make_evaluator([MLflowEvaluation(store, run_file, "evaluation", experiment_name=experiment)]).run()
    (run,) = runs(store, experiment)
    note = run.data.tags["mlflow.note.content"]
    assert "**Network** Conv2d, 2 parameters, cpu\n" in note
    assert "**Data** steel: 2 training, 1 validation\n" in note and "**Command** `" in note
    assert re.fullmatch(r"Conv2d \d{4}-\d{6}", run.info.run_name)
    assert run.data.tags["mlflow.user"] == getpass.getuser()
    assert "run/command" not in run.data.params  # it is in the note, and no two are equal
    assert run.data.tags["stage"] == "evaluation"  # the last that has been done
    assert (
        tracking.description({}, "") == ""
        and len(tracking.description({"run/command": "x" * 9000}, "")) == 6000
    )


def test_the_figures_of_the_weights_that_are_kept(store: str, experiment: str, run_file: Path) -> None:
    validator, scores = make_evaluator(), iter([0.1, 0.3, 0.2])

    @validator.on(Events.EPOCH_COMPLETED)
    def judge() -> None:
        state, score = validator.state, next(scores)
        state.metrics = {"val_dice": score, "val_loss": 1 - score}
        if score > state.best_metric:
            state.best_metric, state.best_metric_epoch = score, state.epoch

    handler = MLflowTraining(store, run_file, validator, experiment_name=experiment)
    trainer([handler, ValidationHandler(1, validator)], epochs=3).run()
    (run,) = runs(store, experiment)
    found = {name: run.data.metrics[name] for name in ("best/val_dice", "best/val_loss", "best/epoch")}
    assert found == {"best/val_dice": 0.3, "best/val_loss": 0.7, "best/epoch": 2.0}
    assert run.data.metrics["by_epoch/val_dice"] == 0.2
    assert {step for step, _ in history(store, run, "best/val_dice")} == {0}  # one bar a run, no curve


def test_an_experiment_tells_what_it_is_and_offers_a_view_of_its_runs(
    store: str, experiment: str, run_file: Path
) -> None:
    trainer([MLflowTraining(store, run_file, experiment_name=experiment)], 1).run()
    known = MlflowClient(store).get_experiment_by_name(experiment)
    assert known is not None and known.tags["mlflow.note.content"].startswith("Segmentation of carbides")
    assert (
        abs(json.loads(known.tags["mlflow.sharedViewState.trainings"])["createdAt"] / 1000 - time.time())
        < 600
    )


def test_pictures_stand_among_the_charts(store: str, experiment: str, run_file: Path, tmp_path: Path) -> None:
    Image.new("RGB", (40, 30), "red").save(tmp_path / "best frame (1).png")
    pictures = [tmp_path / "best frame (1).png"]
    handler = MLflowEvaluation(store, run_file, "evaluation", artifacts=pictures, experiment_name=experiment)
    make_evaluator([handler]).run()
    (run,) = runs(store, experiment)
    assert run.data.tags["mlflow.loggedImages"] == "True"
    names = [Path(path).name for path in artifacts(store, run, "images")]
    assert len(names) == 2 and all(name.startswith("evaluation~best frame _1_+step+0+") for name in names)
    (whole,) = [name for name in names if name.endswith(".png")]
    file = MlflowClient(store).download_artifacts(run.info.run_id, f"images/{whole}")
    with Image.open(file) as picture:
        assert picture.size == (40, 30)
