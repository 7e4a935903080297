"""What the published code gets wrong, one test each: ours must not share it.

Some are tested elsewhere, too: splits by micrograph in test_datalist.py (disjoint splits, refusal of a
micrograph on both sides) and test_study.py (lists of the honest protocol, tiles of the baseline); masks as
high as their frames in bundle/test_configs.py; radius of the baseline in test_baseline.py; the folding of the
temperature in test_handlers.py; label numbers up to 70 000 in test_particles.py.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import tifffile
import torch
from conftest import REPOSITORY, SHORT, SMALL
from monai.bundle import ConfigParser
from monai.inferers import SlidingWindowInferer
from monai.transforms import Randomizable
from skimage.measure import label as components

from carde_monai import baseline, bundles, datalist
from carde_monai.calibration import LogitHistogram, reliability
from carde_monai.error_picture import dice
from carde_monai.gallery import separated
from carde_monai.measurement import Field, Settings, measure
from carde_monai.particles import label_particles
from carde_monai.study_baseline import read_frame
from carde_monai.study_lists import annotated

BUNDLE = REPOSITORY / "bundle"
EVALUATE = ("train", "evaluate", "study")  # without the measurement of the carbides, which takes longest


def run(bundle: Path, names: Sequence[str], data: Path, **overrides: Any) -> Any:
    settings = SMALL if names[0] == "train" else {"window_size": SMALL["window_size"]}
    settings = settings | {
        "dataset_dir": str(data),
        **({"tracking_uri": None} if names[0] == "train" else {}),
    }
    return bundles.run(bundle, list(names), {**settings, **overrides}, training=names[0] == "train")


def parsed(names: list[str], data: Path) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(bundles.config_files(BUNDLE, names))
    parser["dataset_dir"] = str(data)
    return parser


@pytest.fixture
def bundle(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "bundle"))


@pytest.fixture(scope="module")
def segmented(trained: Path, raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("segmented")
    run(trained, ["inference", "sem", "segment"], raw, output_dir=str(folder))
    return folder


# augmentation silently off in training: a flag on the data set shared by all splits


def test_augmentation_is_on_in_training(dataset: Path) -> None:
    trainer = parsed(["train"], dataset).get_parsed_content("train#trainer")
    generator = torch.Generator().manual_seed(0)
    batch = {
        "image": torch.rand(12, 2, 32, 32, generator=generator),
        "label": torch.zeros(12, 1, 32, 32),
    }
    batch["label"][..., 3:9, 5:20] = 1
    torch.manual_seed(0)
    images, labels = trainer.prepare_batch(batch, torch.device("cpu"), False)
    changed = [not torch.equal(*pair) for pair in zip(images, batch["image"], strict=True)]
    moved = [not torch.equal(*pair) for pair in zip(labels, batch["label"], strict=True)]
    assert sum(changed) >= 11 and sum(moved) >= 6
    assert len({image.sum().item() for image in images}) >= 11, "each tile has a draw of its own"


@pytest.mark.parametrize("configs", [["train"], ["train", "calibrate"], ["train", "evaluate"]])
def test_augmentation_is_off_elsewhere(configs: list[str], dataset: Path) -> None:
    data = parsed(configs, dataset).get_parsed_content("validate#dataset")
    first, second = data[0], data[0]
    for key in ("image", "label"):
        assert torch.equal(first[key].as_tensor(), second[key].as_tensor())
    transforms = parsed(configs, dataset).get_parsed_content("validate#preprocessing").transforms
    assert not any(isinstance(one, Randomizable) for one in transforms)


# tiles and micrographs of test in training


def test_no_micrograph_stands_in_two_sections(dataset: Path) -> None:
    sections = {name: {one["image"] for one in datalist.load(dataset, name)} for name in datalist.SPLIT}
    assert sum(map(len, sections.values())) == len(set.union(*sections.values())) == 5


# the bottom rows of a frame, which fill no tile, never segmented nor scored


def pixelwise(folder: Path) -> dict[str, Any]:
    """Settings that put a network in place that knows nothing but a pixel's own greys, and its weights."""
    network = torch.nn.Conv2d(2, 1, 1)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([1.5, 1.0]).reshape(1, 2, 1, 1))
        network.bias.fill_(-3.0)
    (folder / "models").mkdir()
    torch.save(network.state_dict(), folder / "models" / "model.pt")
    definition = {"_target_": "torch.nn.Conv2d", "in_channels": 2, "out_channels": 1, "kernel_size": 1}
    return {"network_def": definition, "ckpt_dir": str(folder / "models"), "output_dir": str(folder / "eval")}


def test_the_bottom_rows_are_segmented_and_scored(dataset: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(dataset, tmp_path / "data"))
    item = next(one for one in annotated(data)[0] if one["name"] == datalist.load(data, "test")[0]["name"])
    image, label = read_frame(data, item)
    assert label.shape == (160, 208), "128 rows are a tile, 32 are left over"
    label = label.copy()
    label[:128] = 0  # all that is annotated lies below the only row of tiles
    label[140:150, 20:60] = 1
    header = nibabel.load(data / item["label"])
    nibabel.save(nibabel.Nifti1Image(label[..., None], header.affine, header.header), data / item["label"])
    run(BUNDLE, EVALUATE, data, sections=["test"], amp=False, **pixelwise(tmp_path))
    lower, upper = (np.percentile(image, q, axis=(1, 2), keepdims=True) for q in (25, 75))
    scaled = (image - lower) / (upper - lower) - 0.5
    mask = 1.5 * scaled[0] + scaled[1] - 3 > 0
    found = pd.read_csv(tmp_path / "eval" / "metrics.csv")["network_dice"].item()
    assert found == pytest.approx(dice(mask, label > 0), abs=1e-3)
    assert found > 0.05 and dice(mask[:128], label[:128] > 0) == 0


# the last epoch's weights instead of the best


def test_the_best_epoch_is_evaluated_not_the_last(bundle: Path, dataset: Path, tmp_path: Path) -> None:
    worse = {"_target_": "torch.optim.Adam", "params": "$@network.parameters()", "lr": 1e-3, "maximize": True}
    settings = SHORT | {"epoch_length": 6, "max_epochs": 3, "weights": str(bundle / "models" / "model.pt")}
    folders = {"ckpt_dir": str(tmp_path / "models"), "output_dir": str(tmp_path / "eval")}
    run(bundle, ["train"], dataset, optimizer=worse, **settings, **folders)
    scores = pd.read_csv(tmp_path / "eval" / "training.csv")["val_mean_dice"]
    assert scores.idxmax() == 0 and scores.iloc[-1] < scores.max() - 0.01, "the training was made to fail"
    run(bundle, EVALUATE, dataset, sections=["validation"], **folders)
    found = pd.read_csv(tmp_path / "eval" / "metrics.csv")["network_dice"].mean()
    assert found == pytest.approx(scores.max(), abs=1e-5)


# batch norm in training mode during evaluation, which also alters the weights' statistics


@pytest.mark.parametrize("stage", [EVALUATE, ("train", "calibrate")], ids=["evaluate", "calibrate"])
def test_evaluation_leaves_the_statistics_alone(
    stage: tuple[str, ...], bundle: Path, dataset: Path, tmp_path
) -> None:
    before = torch.load(bundle / "models" / "model.pt", weights_only=True)
    modes: list[bool] = []
    hook = torch.nn.modules.batchnorm._BatchNorm.forward

    def spy(self: torch.nn.Module, *args: Any) -> Any:
        modes.append(self.training)
        return hook(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.modules.batchnorm._BatchNorm, "forward", spy)
        workflow = run(bundle, stage, dataset, output_dir=str(tmp_path / "out"))
    assert modes and not any(modes)
    after = torch.load(bundle / "models" / "model.pt", weights_only=True)
    live = workflow.parser.get_parsed_content("network_def").state_dict()
    statistics = [
        name for name in before if name.endswith(("running_mean", "running_var", "batches_tracked"))
    ]
    assert len(statistics) == 3 * 18
    for name in statistics:
        assert torch.equal(before[name], after[name]) and torch.equal(before[name], live[name].cpu())


# the baseline per tile, on robust-scaled floats, with options ignored or misread


def test_the_baseline_gets_whole_frames_of_raw_greys(
    bundle: Path, dataset: Path, tmp_path, monkeypatch
) -> None:
    given: list[tuple[np.ndarray, np.ndarray]] = []
    original = baseline.segment

    def spy(se2: np.ndarray, inlens: np.ndarray) -> np.ndarray:
        given.append((np.array(se2), np.array(inlens)))
        return original(se2, inlens)

    monkeypatch.setattr(baseline, "segment", spy)
    run(bundle, EVALUATE, dataset, sections=["holdout"], output_dir=str(tmp_path / "out"))
    frames = [read_frame(dataset, item)[0] for item in annotated(dataset)[1]]
    assert len(given) == len(frames) == 2
    for (se2, inlens), frame in zip(given, frames, strict=True):
        np.testing.assert_array_equal(np.stack([se2, inlens]), frame)
        assert frame.dtype == np.uint8 and frame.shape == (2, 160, 208)


def test_sigma_of_the_baseline_is_no_variance(monkeypatch: pytest.MonkeyPatch) -> None:
    variances = []
    gaussian = sitk.DiscreteGaussian

    def spy(image: sitk.Image, variance: list[float]) -> sitk.Image:
        variances.append(variance)
        return gaussian(image, variance=variance)

    monkeypatch.setattr(baseline.sitk, "DiscreteGaussian", spy)
    image = np.random.default_rng(0).integers(0, 255, (40, 50)).astype(np.uint8)
    baseline.segment(image, image, sigma=3)
    assert variances == [[9, 9]]


def test_every_option_of_the_baseline_takes_effect(dataset: Path) -> None:
    image, _ = read_frame(dataset, annotated(dataset)[0][0])
    usual = baseline.segment(*image)
    for option in ({"sigma": 3.0}, {"radius": 5}, {"min_size": 200}):
        assert (baseline.segment(*image, **option) != usual).any(), option


# temperature twice in one path, lost on reload, back to 1 when fitted again


def test_the_temperature_is_applied_once_and_stays(bundle: Path, dataset: Path, tmp_path: Path) -> None:
    def logits(name: str) -> np.ndarray:  # from the file anew each time
        run(bundle, ["inference"], dataset, output_dir=str(tmp_path / name), amp=False)
        (path,) = (tmp_path / name).glob(f"{annotated(dataset)[0][0]['name']}_probability.nii.gz")
        p = np.asarray(nibabel.load(path).dataobj).astype(np.float64)
        p[(p <= 1e-4) | (p >= 1 - 1e-4)] = np.nan
        return np.log(p / (1 - p))

    def calibrate() -> dict[str, Any]:
        run(bundle, ["train", "calibrate"], dataset, output_dir=str(tmp_path / "calibration"))
        return json.loads((bundle / "models" / "calibration.json").read_text())

    raw = logits("raw")
    first = calibrate()
    assert abs(first["temperature"] - 1) > 0.02
    once = logits("once")
    both = np.isfinite(raw) & np.isfinite(once)
    assert both.sum() > 1000
    np.testing.assert_allclose(once[both], raw[both] / first["temperature"], atol=0.01)
    second = calibrate()
    assert second["temperature"] == pytest.approx(1, abs=1e-3)
    assert second["total_temperature"] == pytest.approx(first["total_temperature"], rel=1e-3)
    np.testing.assert_allclose(logits("twice")[both], once[both], atol=0.01)


# three different pixel sizes


def test_each_micrograph_has_one_pixel_size_all_the_way(raw: Path, dataset: Path, segmented: Path) -> None:
    told = json.loads((dataset / datalist.FILE).read_text())["micrographs"]
    fields = pd.read_csv(segmented / "micrographs.csv").set_index("micrograph")
    particles = pd.read_csv(segmented / "particles.csv")
    assert {facts["pixel_size_um"] for facts in told.values()} == {0.00698, 0.0056}
    for name, facts in told.items():
        size = facts["pixel_size_um"]
        header = nibabel.load(dataset / "images" / f"{name}.nii.gz")
        np.testing.assert_allclose(np.abs(header.affine[[0, 1], [1, 0]]), size, rtol=1e-6)
        assert fields.loc[name, "pixel_size_um"] == pytest.approx(size, rel=1e-6)
        labels = tifffile.imread(segmented / f"{name}_labels.tif")
        mine = particles[particles["micrograph"] == name]
        np.testing.assert_allclose(mine["area_um2"], np.bincount(labels.ravel())[1:] * size**2, rtol=1e-4)


# label numbers above 255 lost


def test_all_of_300_carbides_keep_their_numbers(tmp_path: Path) -> None:
    mask = np.zeros((150, 200), bool)
    for row in range(15):
        for column in range(20):
            mask[10 * row + 2 : 10 * row + 7, 10 * column + 2 : 10 * column + 7] = True
    field = Field("a", "S", mask, 0.01, "file", np.full((2, 150, 200), 90, np.uint8), None)
    done = measure(field, tmp_path, Settings(), 200)
    labels = tifffile.imread(tmp_path / "a_labels.tif")
    np.testing.assert_array_equal(np.unique(labels), np.arange(301))
    np.testing.assert_array_equal(labels, label_particles(mask))
    assert list(done.particles["label"]) == list(range(1, 301))
    assert components(separated(labels), connectivity=1).max() == 300, "all are drawn"


# first and last bin of the probability dropped from the figures of calibration


def test_the_first_and_the_last_bin_count() -> None:
    histogram = LogitHistogram()
    p = torch.tensor([0.01] * 50 + [0.5] * 10 + [0.99] * 40, dtype=torch.float64)
    labels = torch.cat(
        [torch.zeros(45), torch.ones(5), torch.ones(5), torch.zeros(5), torch.ones(20), torch.zeros(20)]
    )
    histogram.update(torch.logit(p), labels)
    found = reliability(histogram, bins=30)
    assert [point["count"] for point in found.points] == [50, 10, 40]
    assert found.points[0]["observed"] == pytest.approx(0.1) and found.points[0]["predicted"] < 1 / 30
    assert found.points[-1]["observed"] == pytest.approx(0.5) and found.points[-1]["predicted"] > 29 / 30
    assert found.ece == pytest.approx((50 * 0.09 + 40 * 0.49) / 100)


# visible seams between tiles


def steepest(map: torch.Tensor) -> float:
    """The largest step from a column to the next, mean of all rows, off the borders of the frame."""
    steps = (map[..., 1:] - map[..., :-1]).abs().mean(dim=(0, 1, 2))
    return steps[8:-8].max().item()


def test_there_are_no_seams_between_windows(trained: Path, dataset: Path) -> None:
    parser = parsed(["train"], dataset)
    parser["window_size"] = [64, 64]
    network = parser.get_parsed_content("network_def").eval()
    network.load_state_dict(torch.load(trained / "models" / "model.pt", weights_only=True))
    shading = torch.linspace(-1, 1, 208).expand(1, 2, 160, 208).contiguous()  # steps are not the image's
    with torch.no_grad():
        ours = parser.get_parsed_content("validate#inferer")(shading, network)
        tiled = SlidingWindowInferer((64, 64), sw_batch_size=4, overlap=0)(shading, network)
    assert steepest(ours) < 0.5 * steepest(tiled)


def test_windows_of_a_pixelwise_network_give_its_own_map(dataset: Path) -> None:
    parser = parsed(["train"], dataset)
    parser["window_size"] = [64, 64]
    image = parser.get_parsed_content("validate#dataset")[0]["image"].as_tensor()[None]
    network = torch.nn.Conv2d(2, 1, 1)
    with torch.no_grad():
        blended = parser.get_parsed_content("validate#inferer")(image, network)
        torch.testing.assert_close(blended, network(image), rtol=1e-4, atol=1e-5)
