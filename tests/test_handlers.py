"""The handlers of calibration, baseline and evaluation, attached to MONAI's own evaluator."""

from __future__ import annotations

import json
import multiprocessing
from datetime import timedelta
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import pandas as pd
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.handlers import MeanDice, from_engine
from monai.inferers import SimpleInferer
from monai.transforms import Activationsd, AsDiscreted, Compose, CopyItemsd
from PIL import Image
from skimage.morphology import disk

from carde_monai.baseline import segment
from carde_monai.errors import InputError
from carde_monai.handlers.baseline import SimpleITKBaseline
from carde_monai.handlers.evaluation import MicrographReport
from carde_monai.handlers.temperature import TemperatureScaling

PIXEL_SIZE = 0.007
OVERCONFIDENCE = 2.5
Item = dict[str, Any]


def micrograph(name: str, section: str = "validation", seed: int = 0, noise: float = 6) -> Item:
    """128 x 192 px with discs; channel 0 of the image is a calibrated logit of the label, times 2.5."""
    random = np.random.default_rng(seed)
    label = np.zeros((128, 192), np.float32)
    for row, column in random.integers(12, (116, 180), (12, 2)):
        label[row - 6 : row + 7, column - 6 : column + 7] = disk(6)
    raw = np.stack([90 + 70 * label + random.normal(0, noise, label.shape) for _ in range(2)])
    # 95 % of the pixels are told right: log odds of the prior and of the evidence add up
    told = np.where(random.random(label.shape) < 0.95, label, 1 - label)
    logit = np.log(label.mean() / (1 - label.mean())) + (2 * told - 1) * np.log(0.95 / 0.05)
    image = np.stack([OVERCONFIDENCE * logit, np.zeros_like(logit)])
    return {
        "name": name,
        "section": section,
        "image": tensor(image),
        "raw": tensor(raw.clip(0, 255).round()),
        "label": tensor(label[None]),
    }


def tensor(array: np.ndarray) -> MetaTensor:
    affine = np.diag([PIXEL_SIZE, PIXEL_SIZE, PIXEL_SIZE, 1.0])
    image = MetaTensor(torch.from_numpy(array).float(), affine=affine)
    image.meta["xyzt_units"] = 3
    return image


class Network(torch.nn.Module):
    """Passes the first channel through."""

    def __init__(self) -> None:
        super().__init__()
        self.final_conv = torch.nn.Conv2d(2, 1, 1)
        with torch.no_grad():
            self.final_conv.weight.copy_(torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1))
            self.final_conv.bias.zero_()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.final_conv(image)


def evaluator(
    items: list[Item], network: torch.nn.Module, handlers: list, **options: Any
) -> SupervisedEvaluator:
    post = Compose(
        [
            CopyItemsd("pred", times=2, names=["logit", "probability"]),
            Activationsd("probability", sigmoid=True),
            AsDiscreted("pred", threshold=0.0),
        ]
    )
    return SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(items), batch_size=1, num_workers=0),
        network=network,
        inferer=SimpleInferer(),
        postprocessing=post,
        val_handlers=handlers,
        **options,
    )


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "models" / "model.pt"
    path.parent.mkdir()
    torch.save(Network().state_dict(), path)
    return path


def calibrate(items: list[Item], checkpoint: Path, **options: Any) -> SupervisedEvaluator:
    network = Network()
    content = torch.load(checkpoint, weights_only=True)
    network.load_state_dict(content.get("model", content))
    handler = TemperatureScaling(checkpoint, "final_conv", checkpoint.parent.parent / "out", **options)
    engine = evaluator(items, network, [handler])
    engine.run()
    return engine


# TemperatureScaling -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def validation() -> list[Item]:
    return [micrograph("m1", seed=1), micrograph("m2", seed=2)]


def test_calibration_folds_the_temperature_into_the_checkpoint(
    validation: list[Item], checkpoint: Path
) -> None:
    engine = calibrate(validation, checkpoint)
    record = json.loads((checkpoint.parent / "calibration.json").read_text())
    assert record["temperature"] == pytest.approx(OVERCONFIDENCE, rel=0.1)
    assert record["total_temperature"] == record["temperature"]
    assert record["micrographs"] == ["m1", "m2"] and record["section"] == "validation"
    assert record["iterations"] > 0
    for key in ("nll", "ece", "brier"):
        assert record["after"][key] < record["before"][key]
        assert engine.state.metrics[f"{key}_after"] == record["after"][key]
        assert engine.state.metrics[f"{key}_before"] == record["before"][key]
    assert engine.state.metrics["temperature"] == record["temperature"]
    pixels = 2 * 128 * 192
    assert sum(point["count"] for point in record["before"]["points"]) == pixels
    weights = torch.load(checkpoint, weights_only=True)
    assert weights["final_conv.weight"][0, 0].item() == pytest.approx(1 / record["temperature"])
    with Image.open(checkpoint.parent.parent / "out" / "reliability.png") as picture:
        assert min(picture.size) > 300
    assert sorted(path.name for path in checkpoint.parent.iterdir()) == ["calibration.json", "model.pt"]


def test_calibrating_a_calibrated_model_gives_one(validation: list[Item], checkpoint: Path) -> None:
    first = calibrate(validation, checkpoint).state.metrics["temperature"]
    second = calibrate(validation, checkpoint).state.metrics
    assert second["temperature"] == pytest.approx(1, abs=1e-4)
    assert second["ece_after"] == pytest.approx(second["ece_before"], abs=1e-4)
    record = json.loads((checkpoint.parent / "calibration.json").read_text())
    assert record["total_temperature"] == pytest.approx(first, rel=1e-4)


def test_a_checkpoint_trained_anew_starts_again_from_one(validation: list[Item], checkpoint: Path) -> None:
    calibrate(validation, checkpoint)
    torch.save(Network().state_dict(), checkpoint)
    calibrate(validation, checkpoint)
    record = json.loads((checkpoint.parent / "calibration.json").read_text())
    assert record["total_temperature"] == record["temperature"]
    assert record["temperature"] == pytest.approx(OVERCONFIDENCE, rel=0.1)


def test_a_checkpoint_with_more_than_the_model_keeps_the_rest(
    validation: list[Item], checkpoint: Path
) -> None:
    torch.save({"model": Network().state_dict(), "epoch": 7}, checkpoint)
    temperature = calibrate(validation, checkpoint).state.metrics["temperature"]
    content = torch.load(checkpoint, weights_only=True)
    assert content["epoch"] == 7
    assert content["model"]["final_conv.weight"][0, 0].item() == pytest.approx(1 / temperature)


def test_the_live_network_is_folded_too_and_must_be_the_checkpoints(
    validation: list[Item], checkpoint: Path
) -> None:
    network = Network()
    handler = TemperatureScaling(checkpoint, "final_conv", checkpoint.parent, network=network)
    evaluator(validation, network, [handler]).run()
    saved = torch.load(checkpoint, weights_only=True)
    torch.testing.assert_close(network.state_dict(), saved)
    with pytest.raises(InputError, match="not the evaluated network's"):
        handler = TemperatureScaling(checkpoint, "final_conv", checkpoint.parent, network=Network())
        evaluator(validation, network, [handler]).run()


def test_calibration_refuses_the_training_split(validation: list[Item], checkpoint: Path) -> None:
    before = checkpoint.read_bytes()
    with pytest.raises(InputError, match=r"t1: is of the section 'training'.*validation split"):
        calibrate([*validation, micrograph("t1", "training")], checkpoint)
    with pytest.raises(InputError, match="training"):
        calibrate(validation, checkpoint, section="training")
    assert checkpoint.read_bytes() == before


def test_calibration_says_what_is_wrong_with_the_checkpoint(validation: list[Item], checkpoint: Path) -> None:
    def run(path: Path, layer: str = "final_conv") -> None:
        evaluator(validation, Network(), [TemperatureScaling(path, layer, checkpoint.parent)]).run()

    with pytest.raises(InputError, match=r"model\.pt: layer 'last'.*final_conv"):
        run(checkpoint, "last")
    with pytest.raises(InputError, match=r"other\.pt: there is no such checkpoint"):
        run(checkpoint.with_name("other.pt"))
    checkpoint.write_bytes(checkpoint.read_bytes()[:200])
    with pytest.raises(InputError, match=r"model\.pt: cannot be read"):
        run(checkpoint)
    torch.save([1, 2], checkpoint)
    with pytest.raises(InputError, match=r"model\.pt: holds no weights"):
        run(checkpoint)


def test_calibration_says_when_there_is_no_temperature(checkpoint: Path) -> None:
    item = micrograph("m1")
    item["label"] = torch.zeros_like(item["label"])
    before = checkpoint.read_bytes()
    with pytest.raises(InputError, match=r"model\.pt: all 24576 pixels have the label 0"):
        calibrate([item], checkpoint)
    item["label"] = torch.full_like(item["label"], 255)
    with pytest.raises(InputError, match="m1: labels must be 0 or 1"):
        calibrate([item], checkpoint)
    assert checkpoint.read_bytes() == before


def test_a_failed_write_leaves_the_old_checkpoint(
    validation: list[Item], checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = checkpoint.read_bytes()

    def full_disk(content: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="no space"):
        calibrate(validation, checkpoint)
    assert checkpoint.read_bytes() == before
    assert [path.name for path in checkpoint.parent.iterdir()] == ["model.pt"]


# SimpleITKBaseline --------------------------------------------------------------------------------


def test_baseline_stands_beside_the_network_in_the_same_evaluator() -> None:
    items = [micrograph("a", seed=3), micrograph("b", seed=4)]
    dice = {
        "key_val_metric": {"network": MeanDice(output_transform=from_engine(["pred", "label"]))},
        "additional_metrics": {"baseline": MeanDice(output_transform=from_engine(["baseline", "label"]))},
    }
    engine = evaluator(items, Network(), [SimpleITKBaseline()], **dice)
    engine.run()
    found = engine.state.output[0]["baseline"]
    raw = items[1]["raw"].numpy()
    np.testing.assert_array_equal(found[0].numpy(), segment(raw[0], raw[1]))
    assert found.shape == (1, 128, 192) and found.dtype == torch.float32
    assert engine.state.metrics["baseline"] > 0.9
    assert engine.state.metrics["network"] != engine.state.metrics["baseline"]


def test_baseline_takes_one_detector_for_both_and_names_a_missing_key() -> None:
    item = micrograph("a")
    one = item | {"raw": item["raw"][:1]}
    engine = evaluator([one], Network(), [SimpleITKBaseline(key="classical")])
    engine.run()
    raw = item["raw"].numpy()
    np.testing.assert_array_equal(engine.state.output[0]["classical"][0].numpy(), segment(raw[0], raw[0]))
    with pytest.raises(KeyError, match="'greys'"):
        evaluator([item], Network(), [SimpleITKBaseline("greys")]).run()
    with pytest.raises(TypeError, match="decollate=True"):
        evaluator([item], Network(), [SimpleITKBaseline()], decollate=False).run()


# MicrographReport ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SupervisedEvaluator]:
    folder = tmp_path_factory.mktemp("evaluation") / "new"
    items = [micrograph(f"t{i}", "test", seed=i) for i in range(6)]
    items += [micrograph("h1", "holdout", seed=9, noise=60)]
    # a network that knows nothing of h1: its image is noise
    items[-1]["image"] = torch.randn(items[-1]["image"].shape, generator=torch.Generator().manual_seed(0))
    handlers = [SimpleITKBaseline(), MicrographReport(folder, tile=64)]
    engine = evaluator(items, Network(), handlers)
    engine.run()
    engine.run()  # a second run starts afresh
    return folder, engine


def test_report_writes_one_row_a_micrograph_and_a_tile(report: tuple[Path, SupervisedEvaluator]) -> None:
    folder, engine = report
    table = pd.read_csv(folder / "metrics.csv")
    metrics = ["dice", "iou", "precision", "recall", "ece", "nll"]
    metrics += ["number_density_error", "area_fraction_error", "mean_ecd_error"]
    metrics += ["object_precision", "object_recall", "object_f1", "pq"]
    columns = [f"{method}_{metric}" for method in ("network", "baseline") for metric in metrics]
    assert list(table) == ["name", "section", *columns]
    assert list(table["name"]) == ["t0", "t1", "t2", "t3", "t4", "t5", "h1"]
    assert table["baseline_nll"].isna().all() and table.drop(columns="baseline_nll").notna().all(axis=None)
    tiles = pd.read_csv(folder / "tiles.csv")
    assert list(tiles) == ["name", "section", "row", "column", "network_dice", "baseline_dice"]
    assert len(tiles) == 7 * 2 * 3 and set(tiles["column"]) == {0, 1, 2}
    test = table[table["section"] == "test"]
    medians = engine.state.metrics
    assert medians["test_network_dice_median"] == pytest.approx(test["network_dice"].median(), rel=1e-4)
    assert medians["test_baseline_tile_dice_median"] == pytest.approx(
        tiles[tiles["section"] == "test"]["baseline_dice"].median(), rel=1e-4
    )
    assert medians["holdout_network_dice_median"] < medians["test_network_dice_median"]
    assert "test_baseline_nll_median" not in medians


def test_report_sums_up_by_section(report: tuple[Path, SupervisedEvaluator]) -> None:
    folder, _ = report
    summary = json.loads((folder / "summary.json").read_text())
    table = pd.read_csv(folder / "metrics.csv").set_index("name")["network_dice"]
    assert (summary["best"], summary["worst"], summary["tile_px"]) == (table.idxmax(), table.idxmin(), 64)
    assert summary["worst"] == "h1" and set(summary["sections"]) == {"test", "holdout"}
    test = summary["sections"]["test"]
    assert test["micrographs"]["n"] == 6 and test["tiles"]["n"] == 36
    assert test["micrographs"]["wilcoxon_dice"]["p"] == pytest.approx(2 / 2**6)  # the baseline wins all six
    assert summary["sections"]["holdout"]["micrographs"]["wilcoxon_dice"]["reason"] == "fewer than 6 pairs"


def test_report_draws(report: tuple[Path, SupervisedEvaluator]) -> None:
    folder, _ = report
    pictures = {path.name for path in folder.glob("*.png")}
    assert pictures == {"box_plot.png", "overlay_best.png", "overlay_worst.png"}
    for name in pictures:
        with Image.open(folder / name) as picture:
            assert len(picture.convert("RGB").getcolors(1 << 24)) > 10


def test_report_needs_no_baseline_but_every_method_that_is_named(tmp_path: Path) -> None:
    items = [micrograph("a", "test")]
    evaluator(items, Network(), [MicrographReport(tmp_path)]).run()
    assert not any("baseline" in column for column in pd.read_csv(tmp_path / "metrics.csv"))
    assert pd.read_csv(tmp_path / "tiles.csv").shape == (1, 5)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["best"] == summary["worst"] == "a"
    with pytest.raises(KeyError, match="basline"):
        methods = {"network": "pred", "baseline": "basline"}
        evaluator(items, Network(), [SimpleITKBaseline(), MicrographReport(tmp_path, methods)]).run()
    with pytest.raises(ValueError, match="at least one method"):
        MicrographReport(tmp_path, {})
    with pytest.raises(ValueError, match="tile"):
        MicrographReport(tmp_path, tile=0)


def test_report_of_a_frame_smaller_than_a_tile(tmp_path: Path) -> None:
    evaluator([micrograph("a", "test")], Network(), [MicrographReport(tmp_path, tile=500)]).run()
    assert list(pd.read_csv(tmp_path / "tiles.csv")) == ["name", "section", "row", "column", "network_dice"]
    assert (tmp_path / "box_plot.png").exists()


# Two processes ------------------------------------------------------------------------------------


def _evaluate_on_one_rank(rank: int, folder: Path) -> None:
    meeting = {"init_method": f"file://{folder / 'meeting'}", "world_size": 2, "rank": rank}
    idist.initialize("gloo", timeout=timedelta(minutes=3), **meeting)
    try:
        # three micrographs on two ranks: the sampler repeats the first
        mine = [("m1", 1), ("m3", 3)] if rank == 0 else [("m2", 2), ("m1", 1)]
        handlers = [
            TemperatureScaling(folder / "model.pt", "final_conv", folder),
            SimpleITKBaseline(),
            MicrographReport(folder, tile=64),
        ]
        items = [micrograph(name, seed=seed, noise=6 if name != "m2" else 60) for name, seed in mine]
        engine = evaluator(items, Network(), handlers)
        engine.run()
        (folder / f"rank{rank}.json").write_text(json.dumps(engine.state.metrics))
    finally:
        idist.finalize()


def test_two_ranks_agree(tmp_path: Path) -> None:
    torch.save(Network().state_dict(), tmp_path / "model.pt")
    other = multiprocessing.get_context("spawn").Process(target=_evaluate_on_one_rank, args=(1, tmp_path))
    other.start()
    try:
        _evaluate_on_one_rank(0, tmp_path)
        other.join()  # gloo waits three minutes at most
    finally:
        other.kill()
        other.join()
    assert other.exitcode == 0
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first == second and first["temperature"] == pytest.approx(OVERCONFIDENCE, rel=0.1)
    record = json.loads((tmp_path / "calibration.json").read_text())
    assert record["micrographs"] == ["m1", "m2", "m3"]
    assert sum(point["count"] for point in record["after"]["points"]) == 4 * 128 * 192
    table = pd.read_csv(tmp_path / "metrics.csv").set_index("name")
    assert list(table.index) == ["m1", "m2", "m3"]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["worst"] == table["network_dice"].idxmin()
    assert (tmp_path / "overlay_best.png").exists() and (tmp_path / "overlay_worst.png").exists()
