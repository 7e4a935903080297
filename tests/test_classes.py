"""Networks of several classes: labels, scores, and a training through the configs."""

from __future__ import annotations

import csv
import json
import sqlite3
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from ignite.engine import Engine
from PIL import Image

from carde_monai import __main__ as command_line
from carde_monai.errors import InputError
from carde_monai.handlers.classes import ClassReport, class_map, counts, overlaps
from carde_monai.labels import LabelRule
from carde_monai.prepare import prepare

MAPS = arrays(np.int64, (6, 7), elements=st.integers(0, 3))


def test_a_pixel_belongs_to_the_likeliest_class_above_a_half() -> None:
    probability = torch.tensor([[[0.9, 0.6, 0.5, 0.1]], [[0.2, 0.8, 0.4, 0.51]]])
    np.testing.assert_array_equal(class_map(probability), [[1, 2, 0, 2]])


def test_overlaps_known_by_hand() -> None:
    truth = np.array([[0, 0, 1, 1], [0, 2, 2, 2]])
    found = np.array([[0, 1, 1, 1], [0, 0, 2, 2]])
    got = overlaps(counts(found, truth, 2))
    # matrix 2 of 4, first class 2 of 3, second 2 of 3; summed 6 of 10
    assert got["iou_0"] == 2 / 4 and got["iou_1"] == 2 / 3 and got["iou_2"] == 2 / 3
    assert got["dice_0"] == 4 / 6 and got["iou"] == 6 / 10
    assert got["mean_iou"] == pytest.approx((2 / 4 + 2 / 3 + 2 / 3) / 3)


@given(MAPS, MAPS)
def test_overlaps_are_symmetric_and_bounded(found: np.ndarray, truth: np.ndarray) -> None:
    got, other = (overlaps(counts(a, b, 3)) for a, b in ((found, truth), (truth, found)))
    np.testing.assert_equal(got, other)
    assert 0 <= got["iou"] <= 1
    # every pixel is in one class of each map, so the sums are those of the share of equal pixels
    equal = (found == truth).mean()
    assert got["iou"] == pytest.approx(equal / (2 - equal))


def test_a_class_that_is_nowhere_is_left_out() -> None:
    zeros = np.zeros((3, 3), int)
    got = overlaps(counts(zeros, zeros, 2))
    assert got["iou"] == got["mean_iou"] == 1 and np.isnan(got["iou_2"])


def _evaluated(items: list[tuple[str, str, np.ndarray, np.ndarray]], out: Path) -> Any:
    """Run the handler over (name, section, found, truth), class maps of two classes."""

    def step(_: Engine, one: tuple[str, str, np.ndarray, np.ndarray]) -> list[dict[str, Any]]:
        engine.state.batch = [{"name": one[0], "section": one[1]}]
        channels = [torch.tensor(np.stack([one[at] == k for k in (1, 2)])).float() for at in (2, 3)]
        return [{"probability": channels[0], "label": channels[1]}]

    engine = Engine(step)
    ClassReport(out).attach(engine)
    engine.run(items)
    return engine.state.metrics


def test_the_report_holds_a_row_a_micrograph_means_and_pooled(tmp_path: Path) -> None:
    truth = np.array([[0, 1, 1, 2]])
    half = np.array([[0, 1, 0, 2]])
    metrics = _evaluated([("a", "test", truth, truth), ("b", "test", half, truth)], tmp_path)
    with (tmp_path / "classes.csv").open() as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert float(rows["a"]["iou"]) == 1 and float(rows["b"]["iou_1"]) == 0.5
    told = json.loads((tmp_path / "classes.json").read_text())["test"]
    assert told["n"] == 2
    assert told["micrographs"]["iou_1"]["mean"] == 0.75 == metrics["test_iou_1"]
    assert told["pooled"]["iou_1"] == 0.75  # 3 of 4 pixels
    assert told["pooled"]["iou"] == pytest.approx(7 / 9)


def test_shapes_that_differ_are_refused(tmp_path: Path) -> None:
    report = ClassReport(tmp_path)
    engine = Engine(lambda *_: [{"probability": torch.zeros(2, 4, 4), "label": torch.zeros(1, 4, 4)}])
    report.attach(engine)
    with pytest.raises(ValueError, match="a channel a class is needed"):
        engine.run([[{"name": "a"}]])


@pytest.mark.parametrize(("value", "wrong"), [(0, "no number"), (99, "no number"), ("2", "no number")])
def test_strange_numbers_of_classes_are_refused(value: object, wrong: str) -> None:
    with pytest.raises(InputError, match=wrong):
        LabelRule.parse(classes=value)


def test_classes_and_a_value_exclude_each_other() -> None:
    with pytest.raises(InputError, match="leave out one"):
        LabelRule.parse(1, None, 2)


QUICK = {"max_epochs": 3, "batch_size": 4, "roi_size": [64, 64], "window_size": [96, 96]}
QUICK |= {"network_def#features": [8, 8, 8, 8, 8, 8]}


@pytest.fixture
def several(tmp_path: Path) -> Path:
    """A folder of three single images: bright squares are class 1, dark ones class 2."""
    folder = tmp_path / "several"
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    rng = np.random.default_rng(0)
    for name in "abc":
        label = np.zeros((80, 96), np.uint8)
        for number in (1, 2):
            for row, column in rng.integers(0, (70, 86), (6, 2)):
                label[row : row + 10, column : column + 10] = number
        grey = np.choose(label, [120, 200, 40]) + rng.normal(0, 5, label.shape)
        Image.fromarray(grey.clip(0, 255).astype(np.uint8)).save(folder / "images" / f"{name}.png")
        Image.fromarray(label).save(folder / "labels" / f"{name}.png")
    return folder


def test_prepare_keeps_the_numbers(several: Path, tmp_path: Path) -> None:
    assert prepare(several, tmp_path / "data", detectors=1, classes=2, split="1,1,1") == []
    stored = np.squeeze(np.asarray(nib.load(tmp_path / "data" / "labels" / "a.nii.gz").dataobj))
    np.testing.assert_array_equal(stored, np.asarray(Image.open(several / "labels" / "a.png")))
    listed = json.loads((tmp_path / "data" / "datalist.json").read_text())
    assert listed["labels"] == {"0": "matrix", "1": "class 1", "2": "class 2"}


def test_a_label_with_other_numbers_fails_alone(several: Path, tmp_path: Path) -> None:
    Image.fromarray(np.full((80, 96), 7, np.uint8)).save(several / "labels" / "b.png")
    (failure,) = prepare(several, tmp_path / "data", detectors=1, classes=2, split="1,1,0")
    assert failure.name == "b" and "holds the value 7, but of 2 classes" in failure.reason


def test_few_trains_classes_without_validation(
    several: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The overlays `few` and `classes`, then an evaluation with symmetries: squares are easy."""
    monkeypatch.chdir(tmp_path)
    prepare(several, tmp_path / "data", detectors=1, classes=2, split="2,0,1")
    quick = QUICK | {"epoch_length": 12, "ema_momentum": 0.3, "learning_rate": 0.01, "amp": False}
    common = {"bundle": "bundle", "classes": 2, "tracking_uri": None, "quiet": True}
    command_line.train("data", overlay="few", **common, **quick)
    short = {key: quick[key] for key in ("network_def#features", "window_size")}
    command_line.evaluate("data", overlay="tta", **common, **short)
    with Path("bundle", "eval", "classes.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["section"] == "test" and float(row["mean_iou"]) > 0.5
    del common["tracking_uri"], common["quiet"]
    for number in (1, 2):
        command_line.segment("data", f"out{number}", class_number=number, **common, **short)
    name, truth = row["name"], np.asarray(Image.open(several / "labels" / f"{row['name']}.png"))
    for number in (1, 2):
        mask = np.asarray(Image.open(Path(f"out{number}", f"{name}_mask.png"))) > 0
        assert (mask & (truth == number)).sum() > 2 * (mask & (truth != number)).sum()
    with pytest.raises(InputError, match="class_number 3"):
        command_line.segment("data", "out3", class_number=3, **common, **short)


def test_few_tells_the_figures_of_the_weights_that_it_keeps(
    several: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last weights, though this training improves nothing."""
    monkeypatch.chdir(tmp_path)
    prepare(several, tmp_path / "data", detectors=1, label_value=1, split="2,1,0")
    quick = QUICK | {"epoch_length": 6, "ema_momentum": 0.5, "learning_rate": 0.03}
    worse = {"_target_": "torch.optim.AdamW", "params": "$@network.parameters()", "maximize": True}
    command_line.train("data", overlay="few", optimizer=worse, **quick)
    with sqlite3.connect("bundle/eval/mlflow.db") as database:
        told = dict(database.execute("select key, value from latest_metrics where key like 'best/%'"))
    with Path("bundle", "eval", "training.csv").open() as file:
        epochs = list(csv.DictReader(file))
    scores = [float(row["val_mean_dice"]) for row in epochs]
    assert scores[-1] <= scores[0], "the training was made to fail"
    assert told["best/epoch"] == 3 and told["best/val_mean_dice"] == pytest.approx(scores[-1])
