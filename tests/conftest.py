"""Shared, small, real data: synthetic steel, prepared once, and a bundle trained on it for seconds."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from carde_monai import bundles
from carde_monai.prepare import prepare
from carde_monai.synthetic import synthesize

# A busy machine is no fault of the program's.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

REPOSITORY = Path(__file__).resolve().parent.parent
# Small enough for seconds on two cores; overrides of the real configs, nothing else.
SMALL = {"roi_size": [64, 64], "window_size": [128, 128]}
SHORT = {
    "max_epochs": 2,
    "epoch_length": 16,
    "batch_size": 8,
    "crops_per_micrograph": 4,
    "learning_rate": 0.003,
}


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Small tensors gain nothing from more, and threads that spin on a busy machine lose minutes."""
    os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def signals_arrive() -> None:
    """A shell without job control starts what follows ``&`` with Ctrl-C ignored, and that is inherited."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The networks that tests convert, in processes that they start, too, stay out of the user's cache."""
    os.environ["TORCH_HOME"] = str(tmp_path_factory.mktemp("torch"))


@pytest.fixture(scope="session")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder as from the microscope: five pairs with labels, and two of another steel in hold-out."""
    folder = tmp_path_factory.mktemp("raw")
    synthesize(folder, 5, (160, 208), "jfl", seed=3)
    synthesize(folder / "hold-out", 2, (160, 208), "anp", seed=4)
    return folder


@pytest.fixture(scope="session")
def dataset(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "prepared"
    assert prepare(raw, folder, split="3,1,1") == []
    return folder


@pytest.fixture(scope="session")
def trained(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root of a bundle trained by its own train.json; tests that change it work on a copy."""
    bundle = bundles.working_bundle(tmp_path_factory.mktemp("trained") / "bundle")
    bundles.run(bundle, ["train"], {"dataset_dir": str(dataset), **SMALL, **SHORT}, training=True)
    return bundle


@pytest.fixture
def experiment(request: pytest.FixtureRequest) -> str:
    """An MLflow experiment of the test's own."""
    return request.node.name.replace("[", "_").replace("]", "")


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    """Where a training tells its MLflow run."""
    return tmp_path / "models" / "mlflow_run.json"
