"""Augmentation of a batch: MONAI's arithmetic and distributions, label and image alike, input untouched."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Zoom

from carde_monai.batch_augmentation import BatchAugmentation, zoomed

OFF = dict.fromkeys(
    ["zoom_prob", "rotate_prob", "flip_prob", "scale_prob", "shift_prob", "noise_prob", "smooth_prob"], 0.0
)


def only(**settings: object) -> BatchAugmentation:
    return BatchAugmentation(**(OFF | settings))  # type: ignore[arg-type]


def batch(tiles: int = 200, height: int = 8, width: int = 8) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    label = (torch.rand(tiles, 1, height, width, generator=generator) < 0.3).float()
    return {"image": torch.rand(tiles, 2, height, width, generator=generator), "label": label}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("factor", [0.8, 0.93, 0.999, 1.0, 1.004, 1.1, 1.25])
@pytest.mark.parametrize("mode", ["bilinear", "nearest-exact"])
@pytest.mark.parametrize("size", [(32, 32), (31, 48)])
def test_zoom_is_monais(factor: float, mode: str, size: tuple[int, int]) -> None:
    tile = torch.rand(2, *size)
    theirs = Zoom(factor, mode=mode, padding_mode="reflect")(tile).as_tensor()
    torch.testing.assert_close(zoomed(tile, factor, mode), theirs, rtol=0, atol=0)


def test_nothing_changes_where_all_is_off() -> None:
    data = batch()
    image, label = only()(data)
    assert torch.equal(image, data["image"]) and torch.equal(label, data["label"])


def test_the_batch_itself_stays() -> None:
    data = batch()
    before = {key: value.clone() for key, value in data.items()}
    image, label = BatchAugmentation()(data)
    assert all(torch.equal(data[key], before[key]) for key in data)
    assert not torch.equal(image, data["image"]) and not torch.equal(label, data["label"])


def test_the_network_gets_plain_tensors_in_channels_last_layout() -> None:
    data = {key: MetaTensor(value) for key, value in batch().items()}
    image, label = BatchAugmentation()(data)
    assert type(image) is type(label) is torch.Tensor
    assert image.is_contiguous(memory_format=torch.channels_last)
    assert set(label.unique().tolist()) == {0.0, 1.0}


def symmetries(tile: torch.Tensor) -> list[torch.Tensor]:
    turned = [tile.rot90(turn, (1, 2)) for turn in range(4)]
    return turned + [one.flip(1) for one in turned]


def test_turns_and_flips_are_the_eight_symmetries_and_the_label_moves_along() -> None:
    data = batch(tiles=4000)
    images, labels = only(rotate_prob=0.75, flip_prob=0.5)(data)
    found = np.zeros(8)
    for old, old_label, new, new_label in zip(data["image"], data["label"], images, labels, strict=True):
        which = next(k for k, one in enumerate(symmetries(old)) if torch.equal(one, new))
        assert torch.equal(symmetries(old_label)[which], new_label)
        found[which] += 1
    # MONAI's: the turns by 0, 90, 180, 270 degrees and both flips are all equally likely
    np.testing.assert_allclose(found, 500, atol=5 * math.sqrt(500))


def test_tiles_that_are_not_square_keep_their_shape() -> None:
    data = batch(tiles=50, height=6, width=10)
    image, _ = only(rotate_prob=1.0)(data)
    assert torch.equal(image, data["image"].rot90(2, (2, 3)))


def test_zoom_takes_image_and_label_alike() -> None:
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    disc = ((rows - 15.5) ** 2 + (columns - 15.5) ** 2 < 64).float().expand(100, 1, 32, 32)
    image, label = only(zoom_prob=1.0)({"image": disc, "label": disc})
    # apart from single pixels of the rim; "nearest", half a pixel off, would give 0.02, other factors 0.06
    assert ((image > 0.5).float() - label).abs().mean() < 0.01
    factors = (label.sum((1, 2, 3)) / disc[0].sum()).sqrt()
    assert 0.7 < factors.min() < 0.9 and 1.15 < factors.max() < 1.3


def test_scale_and_shift_by_channel() -> None:
    data = {"image": torch.ones(4000, 2, 4, 4), "label": torch.zeros(4000, 1, 4, 4)}
    gain, _ = only(scale=0.2, scale_prob=0.5)(data)
    shift = only(shift=0.1, shift_prob=0.5)(data)[0] - 1
    for changes, largest in ((gain - 1, 0.2), (shift, 0.1)):
        assert torch.equal(changes, changes[..., :1, :1].expand_as(changes)), "one number a channel"
        change = changes[..., 0, 0]
        touched = change.abs().sum(1) > 0
        assert touched.float().mean().item() == pytest.approx(0.5, abs=0.04)
        assert (change[touched, 0] != change[touched, 1]).all()
        # uniform over both sides
        assert change.abs().max().item() == pytest.approx(largest, rel=0.01)
        assert change[touched].std().item() == pytest.approx(largest / math.sqrt(3), rel=0.05)
        assert change[touched].mean().item() == pytest.approx(0, abs=0.1 * largest)


def test_noise_has_a_standard_deviation_uniform_below_the_largest() -> None:
    data = {"image": torch.zeros(2000, 1, 16, 16), "label": torch.zeros(2000, 1, 16, 16)}
    image, label = only(noise=0.05, noise_prob=0.3)(data)
    deviation = image.std((1, 2, 3))
    touched = deviation > 0
    assert touched.float().mean().item() == pytest.approx(0.3, abs=0.04)
    assert deviation[touched].mean().item() == pytest.approx(0.025, rel=0.08)
    assert deviation.max().item() == pytest.approx(0.05, rel=0.15)
    assert not label.any()


def test_smoothing_is_gaussian_on_both_axes() -> None:
    point = torch.zeros(300, 1, 17, 17)
    point[..., 8, 8] = 1
    image, _ = only(sigma=(0.6, 1.0), smooth_prob=0.5)({"image": point, "label": torch.zeros_like(point)})
    touched = image[..., 8, 8].flatten() < 1
    assert touched.float().mean().item() == pytest.approx(0.5, abs=0.1)
    torch.testing.assert_close(image.sum((1, 2, 3)), torch.ones(300), rtol=0, atol=1e-3)
    places = torch.arange(17.0) - 8
    for axis in (2, 3):
        # a pixel's own width adds a twelfth to the variance
        variance = (image[touched].sum(axis) * places**2).sum((1, 2)) - 1 / 12
        assert 0.58 < variance.min().sqrt() < 0.65 and 0.95 < variance.max().sqrt() < 1.02


def test_the_seed_decides() -> None:
    draws = []
    for number in (3, 3, 4):
        torch.manual_seed(number)
        draws.append(BatchAugmentation()(batch(tiles=16, height=16, width=16)))
    for first, again, other in zip(*draws, strict=True):
        assert torch.equal(first, again) and not torch.equal(first, other)
