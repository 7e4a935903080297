"""Augmentation of what detector, voltage and etching do: each part alone, and that labels stay."""

from __future__ import annotations

import pytest
import torch
from monai.transforms import AdjustContrast

from carde_monai.detector_augmentation import DetectorAugmentation

OFF = dict.fromkeys(
    ["zoom_prob", "rotate_prob", "flip_prob", "scale_prob", "shift_prob", "noise_prob", "smooth_prob"], 0.0
)
ALL = dict.fromkeys(
    ["contrast_prob", "levels_prob", "edge_prob", "relief_prob", "shade_prob", "pore_prob"], 1.0
)


def only(**settings: object) -> DetectorAugmentation:
    return DetectorAugmentation(**(OFF | settings))  # type: ignore[arg-type]


def disc(tiles: int = 1, size: int = 64) -> torch.Tensor:
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    middle = (size - 1) / 2
    return ((rows - middle) ** 2 + (columns - middle) ** 2 < 256).float().expand(tiles, 2, size, size)


def varied(image: torch.Tensor, **settings: object) -> torch.Tensor:
    label = image[:, :1]
    found, same = only(**settings)({"image": image, "label": label})
    assert torch.equal(same, label)
    assert not torch.equal(found, image) and torch.equal(found[:, 0], found[:, 1]), "channels change alike"
    return found[0, 0]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def test_nothing_changes_where_all_is_off_and_the_batch_itself_never() -> None:
    data = {"image": disc(8), "label": disc(8)[:, :1]}
    before = data["image"].clone()
    assert torch.equal(only()(data)[0], before)
    only(**ALL)(data)
    assert torch.equal(data["image"], before)


def test_contrast_is_monais() -> None:
    image = torch.rand(1, 1, 32, 32).expand(1, 2, 32, 32)
    found = varied(image, contrast=(1.5, 1.5), contrast_prob=1.0)
    torch.testing.assert_close(found, AdjustContrast(1.5)(image[0]).as_tensor()[0])


@pytest.mark.parametrize(("amount", "sign"), [(2.0, 1), (-0.5, -1)])
def test_edges_become_bright_or_soft(amount: float, sign: int) -> None:
    image = disc()
    change = varied(image, edge=(amount, amount), edge_prob=1.0, width=(2.0, 2.0)) - image[0, 0]
    inside, outside = change[32, 17], change[32, 14]  # of the edge at column 15.5
    assert sign * inside > 0.1 and sign * outside < -0.1
    assert abs(change[32, 32]) < 1e-4 and abs(change[0, 0]) < 1e-4


def test_relief_lights_one_side_and_darkens_the_other() -> None:
    image = disc()
    change = varied(image, relief=2.0, relief_prob=1.0, width=(2.0, 2.0)) - image[0, 0]
    assert change.max() > 0.1
    torch.testing.assert_close(change, -change.flip(0).flip(1), atol=1e-4, rtol=0)


def test_shade_is_slow() -> None:
    image = disc()
    change = varied(image, shade=0.5, shade_prob=1.0) - image[0, 0]
    assert change.max() - change.min() > 0.05
    assert change.diff(dim=0).abs().max() < 0.1 * (change.max() - change.min())


def test_levels_keep_the_order_of_greys_and_their_ends() -> None:
    image = torch.rand(1, 1, 32, 32).expand(1, 2, 32, 32)
    found = varied(image, levels=(4, 4), levels_prob=1.0)
    assert (found.flatten()[image[0, 0].flatten().argsort()].diff() >= -1e-6).all()
    torch.testing.assert_close(torch.stack(found.aminmax()), torch.stack(image.aminmax()))


def test_pores_are_ellipses_darker_than_all() -> None:
    image = 0.1 * torch.rand(1, 1, 96, 96).expand(1, 2, 96, 96)
    found = varied(image, pore=(6.0, 6.0), pore_prob=1.0)
    changed = (found - image[0, 0]).abs() > 0.05
    assert 0 < changed.sum() <= 4 * 3.2 * 7**2  # at most four discs of that radius, and their soft edges
    assert (found[changed] < image.min()).float().mean() > 0.5 and found.max() <= image.max()
