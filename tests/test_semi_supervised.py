"""Unlabelled crops in a training: who labels them, when they join, and the overlay as it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SHORT, SMALL
from ignite.engine import Engine
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

from carde_monai import bundles
from carde_monai.batch_augmentation import BatchAugmentation
from carde_monai.handlers.semi_supervised import MeanTeacher
from carde_monai.prepare import prepare
from carde_monai.seeding import SeededDataset, SeededSampler

STILL = BatchAugmentation(
    zoom_prob=0, rotate_prob=0, flip_prob=0, scale_prob=0, shift_prob=0, noise_prob=0, smooth_prob=0
)
TURNED = BatchAugmentation(
    zoom_prob=0, rotate_prob=0, flip_prob=1, scale_prob=0, shift_prob=0, noise_prob=0, smooth_prob=0
)


class Crops:
    """Item i is full of i; MONAI's data sets have such a transform."""

    class transform:
        @staticmethod
        def set_random_state(seed: int) -> None:
            pass

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"image": torch.full((2, 16, 16), float(index)) + torch.arange(16.0) / 16}


class Doubles(nn.Module):
    """The logit is twice the first channel."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return 2 * image[:, :1]


def teacher(augmentation: BatchAugmentation, start: int) -> MeanTeacher:
    data = SeededDataset(Crops())
    sampler = SeededSampler(data, num_samples=6, seed=0)
    return MeanTeacher(augmentation, DataLoader(data, batch_size=2, sampler=sampler), Doubles(), start)


def batches(one: MeanTeacher, epochs: int = 2) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """What a trainer gets: epochs of three iterations."""
    labelled = {"image": torch.zeros(3, 2, 16, 16), "label": torch.ones(3, 1, 16, 16)}
    seen: list[Any] = []
    engine = Engine(lambda engine, batch: seen.append(one(batch, torch.device("cpu"))))
    one.attach(engine)
    engine.run([labelled] * 3, max_epochs=epochs)
    return seen


def test_the_teacher_labels_what_joins_the_batch() -> None:
    seen = batches(teacher(STILL, start=0))
    for image, label in seen:
        assert image.shape == (5, 2, 16, 16) and label.shape == (5, 1, 16, 16)
        assert (image[:3] == 0).all() and (label[:3] == 1).all()
        torch.testing.assert_close(label[3:], torch.sigmoid(2 * image[3:, :1]))
    drawn = [image[3:, 0, 0, 0].tolist() for image, _ in seen]
    assert drawn[:3] != drawn[3:], "every epoch draws anew"
    assert [image[3:, 0, 0, 0].tolist() for image, _ in batches(teacher(STILL, start=0))] == drawn


def test_labels_move_with_their_crops() -> None:
    for image, label in batches(teacher(TURNED, start=0), epochs=1):
        assert (image[3:, 0, :, 0] > image[3:, 0, :, -1]).all(), "flipped"
        torch.testing.assert_close(label[3:], torch.sigmoid(2 * image[3:, :1]))


def test_the_teacher_learns_first() -> None:
    sizes = [len(image) for image, _ in batches(teacher(STILL, start=4))]
    assert sizes == [3, 3, 3, 3, 5, 5]


def test_the_overlay_trains_with_unlabelled_micrographs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    for folder in ("raw/images", "raw/labels"):
        (tmp_path / folder).mkdir(parents=True)
    for name in "abcd":
        label = np.zeros((80, 96), np.uint8)
        label[20:40, 30:60] = 255
        grey = 100 + 0.4 * label + rng.normal(0, 5, label.shape)
        Image.fromarray(grey.astype(np.uint8)).save(tmp_path / "raw" / "images" / f"{name}.png")
        if name < "c":
            Image.fromarray(label).save(tmp_path / "raw" / "labels" / f"{name}.png")
    prepare(tmp_path / "raw", tmp_path / "data", detectors=1, split="1,1,0")
    settings = SMALL | SHORT | {"max_epochs": 1, "epoch_length": 2, "batch_size": 4, "teacher_start": 1}
    settings |= {"dataset_dir": str(tmp_path / "data"), "tracking_uri": None, "unlabelled_crops": 3}
    bundle = bundles.working_bundle(tmp_path / "bundle")
    prepared, shapes = MeanTeacher.__call__, []

    def spy(self: MeanTeacher, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        image, label = prepared(self, *args, **kwargs)
        shapes.append((tuple(image.shape), tuple(label.shape)))
        return image, label

    monkeypatch.setattr(MeanTeacher, "__call__", spy)
    bundles.run(bundle, ["train", "few", "semi_supervised"], settings, training=True)
    assert shapes == [((4, 2, 64, 64), (4, 1, 64, 64)), ((7, 2, 64, 64), (7, 1, 64, 64))]
    assert (bundle / "models" / "model.pt").is_file()
