"""Federated learning by MONAI's own client: two of them, a server that averages, all in one process."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SHORT, SMALL
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems, ModelType
from monai.fl.utils.exchange_object import ExchangeObject

from carde_monai import bundles

# MONAI warns of every config that it runs
pytestmark = pytest.mark.filterwarnings("ignore:executing the bundle config:UserWarning")

Weights = dict[str, np.ndarray]


def site(dataset: Path, folder: Path, first: int, last: int) -> Path:
    """A data set of some of the training micrographs, and the others' validation micrograph."""
    shutil.copytree(dataset, folder)
    lists = json.loads((folder / "datalist.json").read_text())
    lists["training"] = lists["training"][first:last]
    (folder / "datalist.json").write_text(json.dumps(lists))
    return folder


@pytest.fixture
def clients(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[MonaiAlgo]]:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    made = []
    for name, part in {"one": (0, 1), "two": (1, 3)}.items():
        bundle = bundles.working_bundle(tmp_path / name)
        settings = {
            **SMALL,
            **SHORT,
            "epoch_length": 4,
            "dataset_dir": str(site(dataset, tmp_path / f"data_{name}", *part)),
        }
        client = MonaiAlgo(
            bundle_root=bundle.name,
            send_weight_diff=False,
            config_train_filename=["configs/train.json", "configs/federated.json"],
            config_evaluate_filename=[
                "configs/train.json",
                "configs/federated.json",
                "configs/federated_evaluate.json",
            ],
            train_kwargs=dict(settings),
            eval_kwargs=dict(settings),
        )
        client.initialize({ExtraItems.CLIENT_NAME: name, ExtraItems.APP_ROOT: str(tmp_path)})
        made.append(client)
    yield made
    for client in made:
        client.finalize()
    assert not list(elsewhere.iterdir()), "all that is written goes to the bundles"


def weights(client: MonaiAlgo) -> Weights:
    return {name: one.numpy().copy() for name, one in client.get_weights().weights.items()}


def mean(parts: list[Weights]) -> Weights:
    return {name: np.mean([part[name] for part in parts], axis=0) for name in parts[0]}


def test_two_clients_learn_one_network(clients, tmp_path) -> None:
    server = weights(clients[0])
    for done in (1, 2):
        for client in clients:
            client.train(ExchangeObject(weights=server))
            assert client.trainer.state.epoch == done and client.trainer.state.iteration == 4 * done
        parts = [weights(client) for client in clients]
        assert any((parts[0][name] != parts[1][name]).any() for name in server), "each has data of its own"
        before, server = server, mean(parts)
        assert any((before[name] != server[name]).any() for name in server)
    metrics = [client.evaluate(ExchangeObject(weights=server)).metrics for client in clients]
    for client in clients:
        for name, one in client.evaluator.network.state_dict().items():
            torch.testing.assert_close(one, torch.as_tensor(server[name]).to(one.dtype))
    # the same weights, the same validation micrograph
    assert metrics[0] == metrics[1] and set(metrics[0]) == {"val_mean_dice", "val_loss"}
    assert 0 < metrics[0]["val_mean_dice"] < 1
    best = clients[0].get_weights({ExtraItems.MODEL_TYPE: ModelType.BEST_MODEL}).weights
    assert best.keys() == server.keys()
    for name in ("one", "two"):
        assert (tmp_path / name / "eval" / "training.csv").is_file()
        assert not list((tmp_path / name).rglob("*mlflow*")), "no server, no run"


def test_the_bundle_as_it_is(dataset, tmp_path) -> None:
    """Without the overlays: MONAI's default configs, which evaluate with the bundle's own reports."""
    bundle = shutil.copytree(bundles.packaged_bundle(), tmp_path / "bundle")
    settings = {"bundle_root": str(bundle), "dataset_dir": str(dataset), "tracking_uri": None}
    settings |= {**SMALL, **SHORT, "epoch_length": 2}
    client = MonaiAlgo(str(bundle), train_kwargs=dict(settings), eval_kwargs=dict(settings))
    client.initialize()
    network = client.trainer.network
    server = {name: one.clone() for name, one in network.state_dict().items()}
    client.train(ExchangeObject(weights=server))
    change = client.get_weights().weights  # by default the difference to what the server sent
    trained_on = {name: server[name] + change[name] for name in server}
    for name, one in network.state_dict().items():
        torch.testing.assert_close(trained_on[name], one)
    metrics = client.evaluate(ExchangeObject(weights=trained_on)).metrics
    assert {"network_mean_dice", "baseline_mean_dice"} <= set(metrics)
    client.finalize()
