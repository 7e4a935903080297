"""Runs of pixels against SciPy and SimpleITK on random frames, and cut into strips of a row or two."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from carde_monai import particles, pictures, runs
from carde_monai.gallery import separated
from carde_monai.particle_shapes import Particles, perimeters
from carde_monai.particles import label_particles
from carde_monai.runs import Runs, strips
from carde_monai.stereology import intercepts

EIGHT = np.ones((3, 3), bool)
SHAPES = ((1, 1), (1, 9), (9, 1), (5, 7), (40, 61))


@pytest.fixture(params=[None, 1, 150], ids=["one strip", "a row a strip", "few rows a strip"])
def pixels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int | None:
    """Pixels that a strip may have."""
    if request.param is not None:
        monkeypatch.setattr(runs.strips, "__defaults__", (request.param,))
    return request.param


def blobs(seed: int, shape: tuple[int, int] = (90, 120), share: float = 0.4) -> NDArray[np.bool_]:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).random(shape), 2)
    return noise > np.quantile(noise, 1 - share)


def test_strips_cover_each_row_once() -> None:
    parts = list(strips((10, 4), 12))
    assert [(one.start, one.stop) for one in parts] == [(0, 3), (3, 6), (6, 9), (9, 10)]
    assert list(strips((3, 100), 12)) == [slice(0, 1), slice(1, 2), slice(2, 3)]  # a row at least
    assert list(strips((0, 4))) == []


def test_runs_of_a_label_image_worked_out_by_hand() -> None:
    found = Runs.of(np.array([[0, 7, 7, 3], [0, 0, 0, 0], [5, 0, 5, 5]]))
    assert found.values.tolist() == [7, 3, 5, 5] and found.rows.tolist() == [0, 0, 2, 2]
    assert found.starts.tolist() == [1, 3, 0, 2] and found.stops.tolist() == [3, 4, 1, 4]
    assert found.lengths.tolist() == [2, 1, 1, 2]


@pytest.mark.parametrize("shape", SHAPES)
def test_painted_runs_give_the_frame_back(shape: tuple[int, int], pixels: int | None) -> None:
    frame = np.random.default_rng(0).integers(0, 4, shape)
    found = Runs.of(frame)
    np.testing.assert_array_equal(found.painted(shape, found.values), frame)
    above = Runs.of(frame, lambda strip: strip > 2)
    np.testing.assert_array_equal(above.painted(shape, above.values), frame > 2)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", [0, 0.1, 0.4, 0.9, 1])
def test_components_are_those_of_scipy_in_the_order_of_first_pixels(
    shape: tuple[int, int], share: float
) -> None:
    mask = np.random.default_rng(1).random(shape) < share
    found = Runs.of(mask)
    expected = ndimage.label(mask, EIGHT)[0]
    np.testing.assert_array_equal(found.painted(shape, found.components() + 1), expected)


@pytest.mark.parametrize("seed", range(4))
def test_perimeters_are_those_of_simpleitk(seed: int) -> None:
    labels = np.where(blobs(seed), np.random.default_rng(seed).integers(1, 9, (90, 120)), 0)
    labels[:, 60:] = label_particles(blobs(seed)[:, 60:]) + 10  # speckles that touch on the left, blobs here
    found = Particles.of(labels)
    area = np.bincount(labels.ravel())[found.ids].astype(float)
    reference = sitk.LabelShapeStatisticsImageFilter()
    reference.Execute(sitk.GetImageFromArray(labels.astype(np.uint32)))
    expected = [reference.GetPerimeter(int(number)) for number in found.ids]
    np.testing.assert_allclose(perimeters(found, area), expected, rtol=1e-12)


@pytest.mark.parametrize("band", [1, 700, 3000])
def test_splitting_in_bands_cuts_where_splitting_at_once_does(
    band: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = blobs(5, (200, 150))
    whole = label_particles(mask, split_touching=True, min_area=4)
    assert whole.max() > label_particles(mask, min_area=4).max()
    monkeypatch.setattr(particles, "BAND", band)
    np.testing.assert_array_equal(label_particles(mask, split_touching=True, min_area=4), whole)


def test_pixel_sums_of_few_runs_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = label_particles(blobs(2))
    plane = np.random.default_rng(2).random(labels.shape)
    expected = ndimage.sum_labels(plane, labels, np.arange(1, labels.max() + 1))
    for pixels in (1, 50, 10**6):
        monkeypatch.setattr("carde_monai.particle_shapes.STRIP", pixels)
        np.testing.assert_allclose(Particles.of(labels).pixel_sums(plane), expected, rtol=1e-12)


def test_what_goes_by_strips_sees_across_their_borders(pixels: int | None) -> None:
    labels = label_particles(blobs(3), split_touching=True)
    mask = labels > 0
    right, down = (np.roll(labels, -1, axis) for axis in (1, 0))
    touching = mask & ((right > 0) & (right != labels))[...]
    touching[:, -1] = False
    below = mask & (down > 0) & (down != labels)
    below[-1] = False
    np.testing.assert_array_equal(separated(labels), mask & ~touching & ~below)
    ends = sum(int((line[:-1] & ~line[1:]).sum()) for side in (mask, mask.T) for line in side)
    assert intercepts(mask)[0] == ends


def test_pictures_reduced_by_strips_are_means(pixels: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if pixels is not None:
        monkeypatch.setattr(pictures, "STRIP", pixels)
    values: Any = np.random.default_rng(4).random((60, 80)).astype(np.float32)
    blocks = values.reshape(20, 3, 40, 2).mean((1, 3))
    np.testing.assert_allclose(pictures.resized(values, (40, 20)), blocks, rtol=1e-5)
    odd = pictures.resized(values, (37, 23))
    assert odd.shape == (23, 37) and odd.mean() == pytest.approx(values.mean(), rel=1e-2)
    edges = [round(one * 60 / 23) for one in range(24)]
    rows = np.array([values[a:b].mean() for a, b in pairwise(edges)])
    assert np.corrcoef(odd.mean(1), rows)[0, 1] > 0.8
