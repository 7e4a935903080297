"""The same seed on the same machine gives the same results, whoever loads the images."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import SMALL

from carde_monai import bundles


@pytest.mark.parametrize("workers", [(0, 0), (0, 2)])
def test_calibrating_twice_gives_the_same_temperature_and_weights(
    workers: tuple[int, int], trained: Path, dataset: Path, tmp_path: Path
) -> None:
    found = []
    for name, number in zip(("one", "two"), workers, strict=True):
        bundle = Path(shutil.copytree(trained, tmp_path / name))
        settings = {**SMALL, "dataset_dir": str(dataset), "tracking_uri": None}
        settings["validate#dataloader#num_workers"] = number
        bundles.run(bundle, ["train", "calibrate"], settings, training=True)
        record = json.loads((bundle / "models" / "calibration.json").read_text())
        found.append((record, torch.load(bundle / "models" / "model.pt", weights_only=True)))
    (record, weights), (other_record, other) = found
    record.pop("checkpoint_sha256"), other_record.pop("checkpoint_sha256")
    assert record == other_record
    assert all(torch.equal(value, other[name]) for name, value in weights.items())


def test_evaluating_twice_gives_the_same_scores(trained, dataset, tmp_path) -> None:
    settings = {**SMALL, "dataset_dir": str(dataset), "tracking_uri": None}
    for name in ("one", "two"):
        bundles.run(
            trained, ["train", "evaluate"], {**settings, "output_dir": str(tmp_path / name)}, training=True
        )
    for file in ("metrics.csv", "tiles.csv", "summary.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


@pytest.mark.parametrize("overlay", [[], pytest.param(["mean_variance"], marks=pytest.mark.slow)])
def test_segmenting_with_and_without_workers_gives_the_same_pictures(
    overlay: list[str], trained: Path, raw: Path, tmp_path: Path
) -> None:
    settings = {"dataset_dir": str(raw)}
    if overlay:  # its draws are random
        settings["weights"] = str(tmp_path / "two.pt")
        torch.save(
            two_channels(torch.load(trained / "models" / "model.pt", weights_only=True)), settings["weights"]
        )
    for workers in (0, 2):
        out = tmp_path / str(workers)
        overrides = {**settings, "output_dir": str(out), "dataloader#num_workers": workers}
        bundles.run(trained, ["inference", "sem", "segment", *overlay], overrides, training=False)
    pictures = sorted(path.name for path in (tmp_path / "0").glob("*_probability.tif"))
    assert len(pictures) == 7
    for name in pictures:
        for file in (name, name.replace("probability.tif", "mask.png")):
            assert (tmp_path / "0" / file).read_bytes() == (tmp_path / "2" / file).read_bytes(), file
    tables = [pd.read_csv(tmp_path / workers / "particles.csv") for workers in ("0", "2")]
    pd.testing.assert_frame_equal(*tables)


def two_channels(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights of a mean-variance network whose variance is large everywhere."""
    last = {name: value for name, value in weights.items() if name.startswith("final_conv.")}
    return {**weights, **{name: torch.cat([value, torch.ones_like(value)]) for name, value in last.items()}}
