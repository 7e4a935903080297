"""The evaluated bundle in MLflow's registry: it segments as the bundle does, in this process and served."""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import nibabel
import numpy as np
import pytest
import torch
from conftest import REPOSITORY, SMALL
from mlflow import MlflowClient
from mlflow.entities import Metric
from monai.bundle import ConfigParser

from carde_monai import __version__, bundles, outbox
from carde_monai.errors import InputError
from carde_monai.handlers.tracking import MLflowEvaluation
from carde_monai.registry import BundleModel, Registration, evaluated, middle, pack
from carde_monai.tracking_models import register
from carde_monai.tracking_sync import sync_tracking

NAME = "carbides v1.0"
CONFIGS = REPOSITORY / "bundle" / "configs"


def evaluate(bundle: Path, dataset: Path, out: Path, **settings: Any) -> None:
    told = {"output_dir": str(out), "run_file": str(out / "run.json"), "sections": ["test"]}
    bundles.run(
        bundle,
        ["train", "evaluate"],
        {"dataset_dir": str(dataset), **SMALL, **told, **settings},
        training=True,
    )


@pytest.fixture(scope="module")
def registered(trained: Path, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """An evaluation that has registered its bundle: ``store``, its folder ``out``, the ``version``."""
    out = tmp_path_factory.mktemp("registered")
    store = f"sqlite:///{out}/mlflow.db"
    evaluate(trained, dataset, out, tracking_uri=store, register=NAME)
    (version,) = MlflowClient(store).search_model_versions(f"name = '{NAME}'")
    return SimpleNamespace(store=store, out=out, version=version)


def raw_frame(dataset: Path, name: str = "jfl_001") -> np.ndarray:
    """Greys (2, H, W) of a prepared micrograph, as stored."""
    stored = np.asarray(nibabel.load(dataset / "images" / f"{name}.nii.gz").dataobj)
    return np.moveaxis(stored.squeeze(), -1, 0)


def probability(bundle: Path, dataset: Path, out: Path, overlays: list[str], **settings: Any) -> np.ndarray:
    """What inference.json finds in the micrograph of `raw_frame`."""
    told = {"dataset_dir": str(dataset), "output_dir": str(out), **settings}
    bundles.run(bundle, ["inference", *overlays], told, training=False)
    return nibabel.load(out / "jfl_001_probability.nii.gz").get_fdata(dtype=np.float32).squeeze()


# ---- what is registered --------------------------------------------------------------------------------


def test_the_version_belongs_to_the_run_of_the_evaluation(registered: SimpleNamespace) -> None:
    client, told = MlflowClient(registered.store), json.loads((registered.out / "run.json").read_text())
    assert str(registered.version.version) == "1" and registered.version.run_id == told["run_id"]
    run = client.get_run(told["run_id"])
    assert run.info.status == "FINISHED"
    (output,) = run.outputs.model_outputs
    model = client.get_logged_model(output.model_id)
    assert model.status == "READY" and model.source_run_id == run.info.run_id
    assert registered.version.source == model.artifact_location
    dice = run.data.metrics["evaluation/network_mean_dice"]
    assert {m.key: m.value for m in model.metrics}["evaluation/network_mean_dice"] == dice
    assert len(client.get_metric_history(run.info.run_id, "evaluation/network_mean_dice")) == 1
    assert registered.version.tags["network_mean_dice"] == f"{dice:.4g}"
    note = run.data.tags["mlflow.note.content"]
    assert (
        registered.version.description.startswith("**Evaluation** ")
        and note in registered.version.description
    )
    assert "(N, 2, rows, columns)" in client.get_registered_model(NAME).description


def test_signature_example_and_requirements(registered: SimpleNamespace, dataset: Path) -> None:
    folder = Path(registered.version.source.removeprefix("file://"))
    info = mlflow.models.get_model_info(str(folder))
    (greys,), (found,) = info.signature.inputs.inputs, info.signature.outputs.inputs
    assert (greys.type, greys.shape) == (np.float32, (-1, 2, -1, -1))
    assert (found.type, found.shape) == (np.float32, (-1, 1, -1, -1))
    model = mlflow.pyfunc.load_model(registered.version.source)
    assert model.input_example.shape == (1, 2, 64, 64)
    names = [path.name.removesuffix(".nii.gz") for path in sorted((dataset / "images").iterdir())]
    middles = [middle(raw_frame(dataset, name), 64) for name in names]
    assert any(np.array_equal(model.input_example, one) for one in middles)
    required = (folder / "requirements.txt").read_text().splitlines()
    assert (
        f"torch=={torch.__version__.partition('+')[0]}" in required
        and f"carde-monai=={__version__}" in required
    )
    assert all("==" in line for line in required)
    assert not list(folder.rglob("*.pkl"))


def test_the_weights_travel_with_the_record_of_their_calibration(
    trained: Path, dataset: Path, tmp_path: Path
) -> None:
    bundle = Path(shutil.copytree(trained, tmp_path / "bundle"))
    bundles.run(
        bundle, ["train", "calibrate"], {"dataset_dir": str(dataset), **SMALL, "tracking_uri": None}, True
    )
    pack(bundle, str(bundle / "models" / "model.pt"), running(["train", "evaluate"]), tmp_path / "packed")
    for name in ("model.pt", "calibration.json"):
        original = bundle / "models" / name
        copy = tmp_path / "packed" / "models" / name
        same = original.read_bytes() == copy.read_bytes()
        assert (
            same if name == "model.pt" else json.loads(copy.read_text()) == json.loads(original.read_text())
        )


# ---- the same result -----------------------------------------------------------------------------------


def test_the_model_finds_what_inference_json_finds(
    registered: SimpleNamespace, trained: Path, dataset: Path, tmp_path: Path
) -> None:
    expected = probability(trained, dataset, tmp_path, [], window_size=SMALL["window_size"])
    frame = raw_frame(dataset)
    model = mlflow.pyfunc.load_model(registered.version.source)
    found = model.predict(np.stack([frame, frame[:, ::-1]]).astype(np.float32))
    assert found.shape == (2, 1, *frame.shape[1:]) and found.dtype == np.float32
    np.testing.assert_allclose(found[0, 0], expected, atol=1e-6)
    assert np.abs(found[1, 0] - expected).max() > 0.1, "the frames of a batch are different frames"


def running(names: list[str], **overrides: Any) -> dict[str, Any]:
    """The merged config of a run with these configs."""
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / f"{name}.json") for name in names])
    parser.update({**SMALL, **overrides})
    return {key: value for key, value in parser.get().items() if key != "_meta_"}


def own_weights(names: list[str], file: Path, **overrides: Any) -> Path:
    """Random weights of the network that these configs define."""
    torch.manual_seed(0)
    parser = ConfigParser(running(names, **overrides))
    torch.save(parser.get_parsed_content("network_def").state_dict(), file)
    return file


@pytest.mark.parametrize("overlay", ["tta", "ensemble", "unet", "mean_variance"])
def test_overlays_of_the_evaluation_are_those_of_the_model(
    overlay: str, trained: Path, dataset: Path, tmp_path: Path
) -> None:
    depth = {"depth": 2, "features": 8} if overlay == "unet" else {}
    weights = str(trained / "models" / "model.pt")
    if overlay in ("unet", "mean_variance"):
        weights = str(own_weights(["train", overlay], tmp_path / "own.pt", **depth))
    if overlay == "ensemble":
        weights += f",{own_weights(['train'], tmp_path / 'other.pt')}"
    config = running(["train", overlay, "evaluate"], **depth)
    pack(trained, weights, config, tmp_path / "packed")
    frame = raw_frame(dataset)[:, :96, :128]
    few = tmp_path / "few" / "images"
    few.mkdir(parents=True)
    stored = np.moveaxis(frame, 0, -1)[:, :, None, None]
    nibabel.save(nibabel.Nifti1Image(stored, np.eye(4)), few / "jfl_001.nii.gz")
    settings = {"window_size": SMALL["window_size"], "weights": weights, **depth}
    expected = probability(trained, few.parent, tmp_path / "out", [overlay], **settings)
    found = BundleModel(tmp_path / "packed").predict(frame[None])
    np.testing.assert_allclose(found[0, 0], expected, atol=1e-6)


def test_the_bundle_as_it_is_needs_no_overlay() -> None:
    base = json.loads((CONFIGS / "inference.json").read_text())
    config = running(["train", "evaluate"])
    assert evaluated(config, base) == {"window_size": SMALL["window_size"]}
    assert evaluated(config | {"window_size": base["window_size"]}, base) == {}


@pytest.fixture(scope="module")
def packed(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> BundleModel:
    folder = tmp_path_factory.mktemp("packed") / "bundle"
    pack(trained, str(trained / "models" / "model.pt"), running(["train", "evaluate"]), folder)
    return BundleModel(folder)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int64, np.float64])
def test_any_type_of_greys(kind: type, packed: BundleModel, dataset: Path) -> None:
    frame = raw_frame(dataset)[None]
    np.testing.assert_array_equal(
        packed.predict(frame.astype(kind)), packed.predict(frame.astype(np.float32))
    )


def test_input_that_is_no_micrograph(packed: BundleModel) -> None:
    for shape in [(2, 64, 64), (1, 1, 64, 64), (1, 2, 0, 64)]:
        with pytest.raises(InputError, match="has the shape"):
            packed.predict(np.zeros(shape))
    with pytest.raises(InputError, match="not finite"):
        packed.predict(np.full((1, 2, 64, 64), np.nan))
    assert packed.predict(np.zeros((0, 2, 64, 64))).shape == (0, 1, 64, 64)


def test_the_middle_of_a_small_image_is_all_of_it() -> None:
    frame = np.arange(2 * 5 * 9).reshape(2, 5, 9)
    assert np.array_equal(middle(frame, 64), frame[None]) and middle(frame, 64).dtype == np.float32
    assert np.array_equal(middle(frame, 3), frame[None, :, 1:4, 3:6])


# ---- what goes wrong -----------------------------------------------------------------------------------


def test_a_dead_server_stops_nothing_and_gets_the_model_later(
    registered: SimpleNamespace,
    trained: Path,
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(outbox, "PATIENCE", 1.25)
    evaluate(trained, dataset, tmp_path, tracking_uri="http://127.0.0.1:9", register=NAME)
    (warning,) = [r.message for r in caplog.records if r.levelno >= logging.WARNING and "MLflow" in r.message]
    assert "127.0.0.1:9" in warning
    assert (tmp_path / "summary.json").is_file() and (tmp_path / "overlay_best.png").is_file()
    shutil.rmtree(tmp_path / "mlflow_model")  # as the next evaluation does
    for _ in range(2):
        assert sync_tracking(tmp_path, registered.store) == []
    versions = MlflowClient(registered.store).search_model_versions(f"name = '{NAME}'")
    assert sorted(int(one.version) for one in versions) == [1, 2]
    newest = max(versions, key=lambda one: int(one.version))
    model = mlflow.pyfunc.load_model(newest.source)
    assert model.predict(model.input_example).shape == (1, 1, 64, 64)


def test_what_is_sent_twice_is_registered_once(registered: SimpleNamespace) -> None:
    client, run_id = MlflowClient(registered.store), registered.version.run_id
    folder = registered.out / "mlflow_model"
    point = Metric("evaluation/again", 0.5, 1000, 0)
    versions = {register(client, run_id, folder, "twice", "a key", [point]) for _ in range(2)}
    assert versions == {"1"} and len(client.search_model_versions("name = 'twice'")) == 1
    assert register(client, run_id, folder, "twice", "another key") == "2"
    assert len(client.get_metric_history(run_id, "evaluation/again")) == 1


@pytest.mark.parametrize("name", ["", " ", "a/b", "a:b", ".", "..", "it's", True])
def test_names_that_no_registry_takes(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--register"):
        Registration(name, tmp_path, "model.pt", tmp_path)


def test_there_is_no_registry_without_mlflow(tmp_path: Path) -> None:
    registration = Registration("carbides", tmp_path, "model.pt", tmp_path)
    with pytest.raises(InputError, match="--tracking_uri"):
        MLflowEvaluation(None, tmp_path / "run.json", "evaluation", registration=registration)


# ---- served --------------------------------------------------------------------------------------------


@contextmanager
def served(store: str, model: str) -> Iterator[str]:
    """Address of ``mlflow models serve``, on this machine only."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["models", "serve", "-m", model, "-h", "127.0.0.1", "-p", str(port), "--env-manager", "local"]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": store}
    folder = Path(sys.executable).parent
    environment["PATH"] = f"{folder}{os.pathsep}{environment['PATH']}"  # it calls uvicorn by its name
    # in a group of its own: the command starts the server as a process, and a signal must reach that
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", *words], env=environment, start_new_session=True
    )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(1200):
            assert process.poll() is None, "the server has ended"
            try:
                urllib.request.urlopen(f"{address}/ping", timeout=5).close()
                break
            except OSError:
                time.sleep(0.1)
        yield address
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)


@pytest.mark.slow
def test_a_request_to_mlflow_models_serve(registered: SimpleNamespace, dataset: Path) -> None:
    frame = raw_frame(dataset)[None]
    expected = mlflow.pyfunc.load_model(registered.version.source).predict(frame.astype(np.float32))
    with served(registered.store, f"models:/{NAME}/1") as address:
        answer = json.loads(post(address, {"inputs": frame.tolist()}))
        np.testing.assert_allclose(np.array(answer["predictions"]), expected, atol=1e-6)
        with pytest.raises(urllib.error.HTTPError) as refused:
            post(address, {"inputs": frame[:, :1].tolist()})
        assert refused.value.code == 400
        refused.value.close()


def post(address: str, content: dict[str, Any]) -> bytes:
    request = urllib.request.Request(
        f"{address}/invocations", json.dumps(content).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read()
