"""mean_variance.json, tta.json and ensemble.json on top of every config that they are made for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from conftest import REPOSITORY, SHORT, SMALL
from monai.bundle import ConfigWorkflow

from carde_monai import bundles
from carde_monai.errors import user_mistake

CONFIGS = REPOSITORY / "bundle" / "configs"
TILE = {"window_size": SMALL["window_size"]}


def run(bundle: Path, names: list[str], source: Path, **overrides) -> ConfigWorkflow:
    training = names[0] == "train"
    settings = {**SMALL, "tracking_uri": None} if training else TILE
    return bundles.run(bundle, names, {"dataset_dir": str(source), **settings, **overrides}, training)


def mistake(*args, **kwargs) -> str:
    """What a user is told of a run that fails."""
    with pytest.raises(Exception) as error:  # MONAI wraps it
        run(*args, **kwargs)
    return str(user_mistake(error.value))


def first(dataset: Path) -> dict[str, object]:
    """Overrides of inference.json: one micrograph is enough."""
    return {"dataset#data": [{"image": str(dataset / "images" / "jfl_001.nii.gz")}]}


def nifti(folder: Path, kind: str) -> dict[str, np.ndarray]:
    ending = f"_{kind}.nii.gz"
    found = {
        path.name.removesuffix(ending): np.asarray(nibabel.load(path).dataobj)
        for path in folder.rglob(f"*{ending}")
    }
    assert found
    return found


@pytest.fixture(scope="module")
def mean_variance(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    bundle = bundles.working_bundle(tmp_path_factory.mktemp("mean_variance") / "bundle")
    run(bundle, ["train", "mean_variance"], dataset, **SHORT | {"epoch_length": 8}, draws=10, warmup_epochs=1)
    return bundle


@pytest.fixture(scope="module")
def one_pair(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one_pair")
    for name in ("jfl_001.tif", "jfl_002.tif"):
        shutil.copy(raw / name, folder)
    return folder


@pytest.fixture(scope="module")
def other(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that differ from the trained ones."""
    torch.manual_seed(0)
    state = torch.load(trained / "models" / "model.pt", weights_only=True)
    kernel = state["final_conv.weight"]
    state["final_conv.weight"] = kernel + kernel.std() * torch.randn_like(kernel)
    path = tmp_path_factory.mktemp("other") / "other.pt"
    torch.save(state, path)
    return path


def test_mean_variance_trains_two_outputs(mean_variance: Path) -> None:
    table = pd.read_csv(mean_variance / "eval" / "training.csv")
    assert table["loss"].between(0, 1).all() and table["val_loss"].between(0, 1).all()
    state = torch.load(mean_variance / "models" / "model.pt", weights_only=True)
    assert state["final_conv.weight"].shape[0] == 2


def test_mean_variance_evaluates_as_in_training(mean_variance, dataset, tmp_path) -> None:
    settings = {"sections": ["validation"], "output_dir": str(tmp_path)}
    run(mean_variance, ["train", "evaluate", "mean_variance"], dataset, **settings)
    table = pd.read_csv(mean_variance / "eval" / "training.csv")
    metrics = pd.read_csv(tmp_path / "metrics.csv")
    assert metrics["network_dice"].mean() == pytest.approx(table["val_mean_dice"].max(), abs=1e-5)


def test_mean_variance_calibrates(mean_variance, trained, dataset, tmp_path) -> None:
    bundle = Path(shutil.copytree(mean_variance, tmp_path / "bundle"))
    for first in (True, False):
        run(bundle, ["train", "calibrate", "mean_variance"], dataset)
        record = json.loads((bundle / "models" / "calibration.json").read_text())
        assert record["after"]["nll"] <= record["before"]["nll"] + 1e-9
        assert first or record["temperature"] == pytest.approx(1, abs=0.1)


def test_mean_variance_stands_beside_temperature_scaling(mean_variance, trained, dataset, tmp_path) -> None:
    one, two = (
        Path(shutil.copytree(b, tmp_path / n)) for n, b in (("mv", mean_variance), ("plain", trained))
    )
    run(one, ["train", "calibrate", "mean_variance"], dataset)
    beside = {"mean variance": str(one / "models" / "calibration.json")}
    run(two, ["train", "calibrate"], dataset, beside=beside)
    assert (two / "eval" / "reliability.png").stat().st_size > 10_000
    told = mistake(two, ["train", "calibrate"], dataset, beside={"x": str(dataset / "datalist.json")})
    assert "datalist.json: holds no reliability points" in told


def test_mean_variance_infers_probability_and_sigma(mean_variance, dataset, raw, tmp_path) -> None:
    overlays = ([], dataset, "a"), (["sem"], raw, "b"), (["sem", "segment"], raw, "c")
    for names, data, out in overlays:
        configs = ["inference", *names, "mean_variance"]
        run(mean_variance, configs, data, output_dir=str(tmp_path / out), amp=False)
    probabilities, sigmas = nifti(tmp_path / "a", "probability"), nifti(tmp_path / "a", "sigma")
    again = nifti(tmp_path / "b", "sigma")
    for name, sigma in sigmas.items():
        assert sigma.shape == probabilities[name].shape == (160, 208) and (sigma >= 0).all()
        np.testing.assert_allclose(again[name], sigma, atol=1e-5)
        np.testing.assert_allclose(tifffile.imread(tmp_path / "c" / f"{name}_sigma.tif"), sigma, atol=1e-5)
        tiff = tifffile.imread(tmp_path / "c" / f"{name}_probability.tif")
        np.testing.assert_allclose(tiff, probabilities[name], atol=1e-5)
    assert not list((tmp_path / "c").rglob("*.nii.gz"))


def test_symmetries_infer_and_evaluate(trained, dataset, one_pair, tmp_path) -> None:
    one = {"amp": False, **first(dataset)}
    run(trained, ["inference", "tta"], dataset, output_dir=str(tmp_path / "a"), **one)
    run(trained, ["inference"], dataset, output_dir=str(tmp_path / "plain"), **one)
    probabilities, plain = (nifti(tmp_path / folder, "probability") for folder in ("a", "plain"))
    masks, maps = nifti(tmp_path / "a", "mask"), nifti(tmp_path / "a", "mutual_information")
    for name, probability in probabilities.items():
        np.testing.assert_array_equal(masks[name] > 0, probability > 0.5)
        assert 1e-4 < np.abs(probability - plain[name]).max() < 1
        assert (maps[name] >= 0).all() and 0 < maps[name].max() <= np.log(2) + 1e-6
    run(trained, ["inference", "sem", "segment", "tta"], one_pair, output_dir=str(tmp_path / "b"), amp=False)
    tiff = tifffile.imread(tmp_path / "b" / "jfl_001_mutual_information.tif")
    np.testing.assert_allclose(tiff, maps["jfl_001"], atol=1e-5)
    run(trained, ["train", "evaluate", "tta"], dataset, output_dir=str(tmp_path / "c"), sections=["test"])
    assert pd.read_csv(tmp_path / "c" / "metrics.csv")["network_dice"].between(0.1, 1).all()


def test_the_same_weights_twice_are_the_weights_once(trained, dataset, tmp_path) -> None:
    weights = str(trained / "models" / "model.pt")
    run(trained, ["inference"], dataset, output_dir=str(tmp_path / "one"), **first(dataset))
    settings = {"weights": f"{weights},{weights}", "output_dir": str(tmp_path / "two"), **first(dataset)}
    run(trained, ["inference", "ensemble"], dataset, **settings)
    maps = nifti(tmp_path / "two", "mutual_information")
    one, two = (nifti(tmp_path / folder, "probability") for folder in ("one", "two"))
    for name in one:
        np.testing.assert_allclose(one[name], two[name], atol=1e-6)
        assert maps[name].max() < 1e-6


def test_an_ensemble_is_the_mean_of_its_members(trained, other, dataset, one_pair, tmp_path) -> None:
    one = str(trained / "models" / "model.pt")
    for folder, weights in (("a", one), ("b", str(other)), ("both", f"{one},{other}")):
        names = ["inference"] + (["ensemble"] if folder == "both" else [])
        run(trained, names, dataset, output_dir=str(tmp_path / folder), weights=weights, **first(dataset))
    a, b, both = (nifti(tmp_path / folder, "probability") for folder in ("a", "b", "both"))
    for name in both:
        np.testing.assert_allclose(both[name], (a[name] + b[name]) / 2, atol=1e-5)
    assert nifti(tmp_path / "both", "mutual_information")["jfl_001"].max() > 1e-4
    segment = ["inference", "sem", "segment", "ensemble", "tta"]
    run(trained, segment, one_pair, output_dir=str(tmp_path / "c"), weights=f"{one},{other}")
    assert (tmp_path / "c" / "jfl_001_mutual_information.tif").is_file()
    assert str(other) in json.loads((tmp_path / "c" / "summary.json").read_text())["facts"]["weights"]
    settings = {"output_dir": str(tmp_path / "d"), "sections": ["test"]}
    run(trained, ["train", "evaluate", "ensemble"], dataset, weights=f"{one},{other}", **settings)
    assert len(pd.read_csv(tmp_path / "d" / "metrics.csv")) == 1


def test_mistakes_are_told_in_a_line(trained, mean_variance, dataset, tmp_path) -> None:
    own, foreign = (str(bundle / "models" / "model.pt") for bundle in (trained, mean_variance))
    output = {"output_dir": str(tmp_path)}
    for weights, told in {
        f"{own},no.pt": "no.pt: there are no such weights",
        f"{own},{foreign}": f"{foreign}: holds weights of another network",
    }.items():
        names = ["inference", "ensemble"]
        assert mistake(trained, names, dataset, weights=weights, **output).startswith(told)
    for names, told in {
        ("mean_variance", "tta"): "needs networks of one output, this one has 2",
        ("tta", "mean_variance"): "one output, this one has 2",
        ("ensemble", "mean_variance"): "one output, this one has 2",
    }.items():
        assert told in mistake(mean_variance, ["inference", *names], dataset, **output)
    settings = {"weights": f"{own},{own}", **output}
    assert "an ensemble: cannot be trained" in mistake(trained, ["train", "ensemble"], dataset, **settings)


@pytest.mark.parametrize("overlay", ["mean_variance", "tta", "ensemble"])
@pytest.mark.parametrize("base", [["train"], ["train", "evaluate"], ["inference"], ["inference", "segment"]])
def test_no_property_is_missing(base, overlay, dataset, trained, mean_variance) -> None:
    bundle = mean_variance if overlay == "mean_variance" else trained
    files = [str(CONFIGS / f"{name}.json") for name in [*base, overlay]]
    kind = "train" if base[0] == "train" else "infer"
    settings = {"bundle_root": str(bundle), "dataset_dir": str(dataset), "initialize": []}
    workflow = ConfigWorkflow(files, workflow_type=kind, logging_file=False, **settings)
    workflow.initialize()
    assert workflow.check_properties() == []


def test_the_overlays_patch_what_both_bases_define() -> None:
    bases = [json.loads((CONFIGS / f"{name}.json").read_text()) for name in ("train", "inference")]
    for overlay in ("mean_variance", "tta", "ensemble"):
        content = json.loads((CONFIGS / f"{overlay}.json").read_text())
        for key in content:
            parent = key.lstrip("+").partition("#")[0]
            assert "#" not in key or all(parent in base for base in bases)
        assert "unpack" in content and all("unpack" in base for base in bases)
