"""Trainings start from the shipped weights where that is possible and honest, and from random ones else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SHORT, SMALL
from monai.networks.nets import BasicUNet

from carde_monai import bundles
from carde_monai.provenance import file_digest
from carde_monai.warm_start import DIGEST, start_from_shipped

WIDTHS = (4, 4, 8, 8, 16, 4)


def network(seed: int, out_channels: int = 1, widths: tuple[int, ...] = WIDTHS) -> BasicUNet:
    torch.manual_seed(seed)
    return BasicUNet(2, 2, out_channels, widths, norm="batch")


def ship(path: Path, *networks: BasicUNet) -> Path:
    """The first network's weights as shipped; then those of others in their place."""
    for one in networks:
        torch.save(one.state_dict(), path)
        if one is networks[0]:
            path.with_name(DIGEST).write_text(f"{file_digest(path)}  {path.name}\n")
    return path


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    return ship(tmp_path / "model.pt", network(0))


def same(one: dict[str, Any], other: dict[str, Any]) -> set[str]:
    return {name for name in one if torch.equal(one[name], other[name])}


def test_the_whole_network_is_loaded(shipped: Path) -> None:
    found = network(1)
    assert start_from_shipped(found, "final_conv", shipped)
    assert same(found.state_dict(), network(0).state_dict()) == set(found.state_dict())


def test_with_several_classes_the_output_layer_is_new(shipped: Path) -> None:
    found, before = network(1, 2), network(1, 2).state_dict()
    assert start_from_shipped(found, "final_conv", shipped)
    new = {"final_conv.weight", "final_conv.bias"}
    source = {name: one for name, one in network(0).state_dict().items() if name not in new}
    assert same(source, found.state_dict()) == set(source)
    assert {name for name in new if torch.equal(found.state_dict()[name], before[name])} == new


@pytest.mark.parametrize(
    ("networks", "said"),
    [
        ([network(0), network(2)], "is not what was shipped, but of another training"),
        ([network(0, widths=(4, 4, 8, 8, 16, 8))], "network differs"),
        ([], "there is no "),
    ],
    ids=["trained there", "other widths", "missing"],
)
def test_otherwise_the_network_stays_as_it_is(
    networks: list[BasicUNet], said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = ship(tmp_path / "model.pt", *networks)
    found = network(1)
    caplog.set_level("INFO", "carde_monai")
    assert not start_from_shipped(found, "final_conv", path)
    assert same(found.state_dict(), network(1).state_dict()) == set(found.state_dict())
    assert "random weights" in caplog.text and said in caplog.text


def test_train_starts_from_the_packaged_weights_unless_told(dataset: Path, tmp_path: Path) -> None:
    """Two trainings that change nothing, as the learning rate is next to nothing."""
    packaged = torch.load(bundles.packaged_bundle() / "models" / "model.pt", weights_only=True)
    still = SMALL | SHORT | {"max_epochs": 1, "epoch_length": 1, "batch_size": 4, "learning_rate": 1e-12}
    for from_scratch in (False, True):
        folder = tmp_path / str(from_scratch)
        settings = {"dataset_dir": str(dataset), "tracking_uri": None, "from_scratch": from_scratch}
        bundle = bundles.working_bundle(folder)
        bundles.run(bundle, ["train"], settings | still, training=True)
        found = torch.load(folder / "models" / "model.pt", weights_only=True)
        layer = "conv_0.conv_0.conv.weight"
        for name in (layer, "final_conv.bias"):
            assert torch.allclose(found[name], packaged[name], atol=1e-6) != from_scratch
