"""unet.json and carde_unet.json, in every run that they are for, on small synthetic steel."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from carde_reference import carde_forward, carde_shapes, lightning_checkpoint, random_state
from conftest import REPOSITORY, SHORT, SMALL
from monai.bundle import ConfigParser
from PIL import Image

from carde_monai import bundles
from carde_monai.carde_checkpoint import import_carde
from carde_monai.errors import InputError, user_mistake

FRAME = (160, 208)  # of the synthetic micrographs; multiples of 8, so that a frame can be one window
QUICK = SHORT | {"max_epochs": 1, "tracking_uri": None}
LEVELS, H = 2, 4
BASIC = [32, 32, 64, 128, 256, 32]  # widths of the configs' BasicUNet


def train(bundle: Path, names: list[str], dataset: Path, **overrides) -> None:
    bundles.run(bundle, ["train", *names], {"dataset_dir": str(dataset), **SMALL, **overrides}, training=True)


def segment(bundle: Path, names: list[str], source: Path, **overrides) -> None:
    bundles.run(bundle, ["inference", *names], {"dataset_dir": str(source), **overrides}, training=False)


def probability(folder: Path, name: str) -> np.ndarray:
    return tifffile.imread(folder / f"{name}_probability.tif")


def nifti(path: Path) -> np.ndarray:
    """A mask or probability, (H, W)."""
    return np.asarray(nibabel.load(path).dataobj).reshape(FRAME)


def network_input(raw: Path, odd: int) -> torch.Tensor:
    """What carde's network is given of a micrograph, worked out from the microscope's files."""
    channels = []
    for number in (odd + 1, odd):  # InLens has the even number, SE2 the odd one
        image = tifffile.imread(raw / f"jfl_{number:03d}.tif")[: FRAME[0]].astype(float)  # no info bar
        low, middle, high = np.quantile(image, (0.25, 0.5, 0.75))
        channels.append((image - middle) / (high - low))
    return torch.tensor(np.stack(channels)[None], dtype=torch.float32)


@pytest.fixture(scope="module")
def state(raw) -> dict[str, torch.Tensor]:
    """Random weights that call a tenth of the first micrograph carbide."""
    state = random_state(LEVELS, H, seed=5)
    state["final.0.bias"] -= carde_forward(state, network_input(raw, 1)).quantile(0.9)
    return state


@pytest.fixture(scope="module")
def carde(state, tmp_path_factory) -> Path:
    """Bundle with imported weights, as import-carde leaves it."""
    folder = tmp_path_factory.mktemp("carde")
    torch.save(lightning_checkpoint(state), folder / "best.ckpt")
    return import_carde(folder / "best.ckpt", folder / "bundle").parent.parent


@pytest.mark.parametrize("overlay", ["unet", "carde_unet"])
def test_overlays_say_only_what_both_bases_know(overlay) -> None:
    settings = {"unet": {"depth", "features"}, "carde_unet": {"levels", "features"}}[overlay]
    said = json.loads((REPOSITORY / "bundle" / "configs" / f"{overlay}.json").read_text())
    for base in ("train", "inference"):
        parser = ConfigParser()
        parser.read_config(str(REPOSITORY / "bundle" / "configs" / f"{base}.json"))
        unknown = {key for key in said if key not in parser} - settings
        assert unknown <= {"output_layer"}, f"{base}.json knows no {unknown}"


def test_basic_unets_weights_give_the_same_masks_in_ours(trained, dataset, tmp_path) -> None:
    ours, basic = tmp_path / "ours", tmp_path / "basic"
    segment(trained, [], dataset, output_dir=str(basic))
    segment(trained, ["unet"], dataset, output_dir=str(ours), **{"network_def#features": BASIC})
    found = sorted(path.name for path in ours.iterdir())
    assert len(found) == 14
    for name in found:
        np.testing.assert_array_equal(nifti(ours / name), nifti(basic / name))


def test_a_flatter_unet_trains_and_segments(dataset, tmp_path) -> None:
    bundle = bundles.working_bundle(tmp_path / "bundle")
    size = {"depth": 2, "features": 4}
    train(bundle, ["unet"], dataset, **QUICK, **size)
    weights = torch.load(bundle / "models" / "model.pt", weights_only=True)
    assert weights["down_2.convs.conv_0.conv.weight"].shape == (16, 8, 3, 3)
    assert not any(name.startswith("down_3") for name in weights)
    segment(bundle, ["unet"], dataset, output_dir=str(tmp_path / "out"), **size)
    assert len(list((tmp_path / "out").glob("*_mask.nii.gz"))) == 7
    with pytest.raises(RuntimeError) as caught:  # MONAI wraps what was raised
        segment(bundle, ["unet"], dataset, output_dir=str(tmp_path / "no"), depth=7)
    assert str(user_mistake(caught.value)).startswith("depth 7: is no whole number from 1 to 5")
    with pytest.raises(InputError, match="weights of another network than the configs'"):
        segment(bundle, ["unet"], dataset, output_dir=str(tmp_path / "no"), depth=3, features=4)


def by_hand(state: dict[str, torch.Tensor], raw: Path, odd: int) -> np.ndarray:
    """Probability of a frame as the publication computes it."""
    return torch.sigmoid(carde_forward(state, network_input(raw, odd)) / 1.8677)[0, 0].numpy()


def test_imported_weights_segment_raw_files_as_the_publication_does(carde, state, raw, tmp_path) -> None:
    settings = {"output_dir": str(tmp_path), "window_size": list(FRAME), "amp": False}
    segment(carde, ["sem", "segment", "carde_unet"], raw, **settings)
    for odd in (1, 3, 5, 7, 9):
        expected = by_hand(state, raw, odd)
        assert expected.std() > 0.05
        found = probability(tmp_path, f"jfl_{odd:03d}")
        np.testing.assert_allclose(found, expected, atol=1e-5)
        with Image.open(tmp_path / f"jfl_{odd:03d}_mask.png") as mask:
            np.testing.assert_array_equal(np.asarray(mask) > 0, found > 0.5)
    # the greys that are measured stay SE2 first
    particles = pd.read_csv(tmp_path / "particles.csv").query("micrograph == 'jfl_001'")
    labels = tifffile.imread(tmp_path / "jfl_001_labels.tif")
    for channel, number in (("se2", 1), ("inlens", 2)):
        image = tifffile.imread(raw / f"jfl_{number:03d}.tif")[: FRAME[0]]
        greys = [image[labels == label].mean() for label in particles["label"]]
        np.testing.assert_allclose(particles[f"mean_grey_{channel}"], greys, rtol=1e-4)


def test_imported_weights_segment_prepared_micrographs_alike(carde, state, raw, dataset, tmp_path) -> None:
    settings = {"output_dir": str(tmp_path), "window_size": list(FRAME), "amp": False}
    segment(carde, ["carde_unet"], dataset, **settings)
    for odd in (1, 9):
        found = nifti(tmp_path / f"jfl_{odd:03d}_probability.nii.gz")
        np.testing.assert_allclose(found, by_hand(state, raw, odd), atol=1e-5)


def test_imported_weights_are_evaluated(carde, state, raw, dataset, tmp_path) -> None:
    settings = {"output_dir": str(tmp_path), "window_size": list(FRAME), "tracking_uri": None}
    train(carde, ["evaluate", "carde_unet"], dataset, sections=["test"], amp=False, **settings)
    metrics = pd.read_csv(tmp_path / "metrics.csv").iloc[0]
    name = metrics["name"]
    label = nifti(dataset / "labels" / f"{name}.nii.gz") > 0
    mask = by_hand(state, raw, int(name[-3:])) > 0.5
    dice = 2 * (mask & label).sum() / (mask.sum() + label.sum())
    assert metrics["network_dice"] == pytest.approx(dice, abs=1e-4)


def test_imported_weights_are_fine_tuned_and_calibrated(carde, dataset, tmp_path) -> None:
    settings = {"output_dir": str(tmp_path), **QUICK, "epoch_length": 1}
    train(carde, ["carde_unet"], dataset, **settings)
    tuned = torch.load(carde / "models" / "model.pt", weights_only=True)
    assert {name: tuple(one.shape) for name, one in tuned.items()} == carde_shapes(LEVELS, H)
    start = torch.load(carde / "models" / "carde.pt", weights_only=True)["model"]
    distance = (tuned["down.0.conv.conv0.weight"] - start["down.0.conv.conv0.weight"]).abs().max()
    assert 0 < distance < 0.1, "trained from the imported weights, not from others"
    # before calibrate (or evaluate) the overlay leaves it the weights of the training
    train(carde, ["carde_unet", "calibrate"], dataset, **settings)
    record = json.loads((carde / "models" / "calibration.json").read_text())
    assert (record["layer"], record["checkpoint"]) == ("final.0", "model.pt")
    calibrated = torch.load(carde / "models" / "model.pt", weights_only=True)["final.0.weight"]
    expected = tuned["final.0.weight"] / record["temperature"]
    torch.testing.assert_close(calibrated, expected, rtol=1e-5, atol=1e-7)


def test_a_mean_variance_network_of_carde_segments_by_its_draws(raw, tmp_path) -> None:
    """The mean of sigmoid(z + sigma e) over normal e, by quadrature; carde puts out sigma itself."""
    state = random_state(LEVELS, H, outputs=2, seed=3)
    torch.save(lightning_checkpoint(state), tmp_path / "mve.ckpt")
    import_carde(tmp_path / "mve.ckpt", tmp_path / "bundle")
    settings = {"output_dir": str(tmp_path / "out"), "window_size": list(FRAME), "amp": False}
    overlays = ["sem", "segment", "carde_unet", "mean_variance"]
    segment(tmp_path / "bundle", overlays, raw, sigma_link="abs", draws=2000, **settings)
    z, sigma = carde_forward(state, network_input(raw, 1))[0].double().numpy()
    points, weights = np.polynomial.hermite_e.hermegauss(40)
    expected = sum(w / (1 + np.exp(-z - np.abs(sigma) * e)) for e, w in zip(points, weights, strict=True))
    found = probability(tmp_path / "out", "jfl_001")
    np.testing.assert_allclose(found, expected / weights.sum(), atol=0.03)
    np.testing.assert_allclose(tifffile.imread(tmp_path / "out" / "jfl_001_sigma.tif"), abs(sigma), atol=1e-4)


def test_cardes_network_trains_from_scratch(dataset, tmp_path) -> None:
    bundle = bundles.working_bundle(tmp_path / "bundle")
    train(bundle, ["carde_unet"], dataset, weights=None, levels=1, features=3, **QUICK)
    weights = torch.load(bundle / "models" / "model.pt", weights_only=True)
    assert {name: tuple(one.shape) for name, one in weights.items()} == carde_shapes(1, 3)
    table = pd.read_csv(bundle / "eval" / "training.csv")
    assert list(table["epoch"]) == [1] and table["val_loss"].between(0, 1).all()


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ({"features": 8}, "has 2 levels and 4 features, not those asked for"),
        ({"network_def#out_channels": 2}, "has 1 output, not 2"),
        ({"window_size": [162, 208]}, "input of 208 x 162 px: does not fit carde's network of 2 levels"),
        ({"weights": "nowhere.pt"}, "nowhere.pt: there are no such weights"),
    ],
)
def test_what_does_not_fit_is_said_in_a_line(overrides, told, carde, dataset, tmp_path) -> None:
    with pytest.raises((InputError, RuntimeError)) as caught:
        segment(carde, ["carde_unet"], dataset, output_dir=str(tmp_path), **overrides)
    assert told in str(user_mistake(caught.value))
