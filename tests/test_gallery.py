from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from carde_monai.errors import InputError
from carde_monai.gallery import (
    LARGEST_SIDE,
    LIKELY,
    OUTLINE,
    SMALLEST_SIDE,
    UNLIKELY,
    gallery_picture,
    picture_side,
    separated,
)


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def square(shape: tuple[int, int] = (60, 80)) -> np.ndarray:
    labels = np.zeros(shape, np.int32)
    labels[10:20, 30:50] = 1
    return labels


@given(st.integers(0, 100_000), st.integers(0, 100_000))
def test_more_micrographs_are_never_shown_larger(one: int, other: int) -> None:
    few, many = sorted((one, other))
    assert SMALLEST_SIDE <= picture_side(many) <= picture_side(few) <= LARGEST_SIDE


def test_one_micrograph_is_shown_in_full_and_500_still_larger_than_a_thumbnail() -> None:
    assert picture_side(1) == LARGEST_SIDE
    assert 500 < picture_side(500) < 700


def test_500_noisy_micrographs_fit_into_60_megabytes() -> None:
    side = picture_side(500)
    noise = np.random.default_rng(0).poisson(40, (2, 3 * side // 2, 2 * side)).astype(np.uint8)
    labels = np.zeros(noise.shape[1:], np.int32)
    labels[:: side // 8, :: side // 8] = 1
    picture = gallery_picture("a", "s", labels, 0.007, image=noise, side=side)
    size = sum(map(len, (picture.picture, picture.overlay, picture.thumbnail))) * 4 / 3
    assert 500 * size < 60e6


def test_pictures_keep_the_shape_and_the_side() -> None:
    labels = square((1200, 1600))
    image = np.full((2, 1200, 1600), 90, np.uint8)
    picture = gallery_picture("a", "s", labels, 0.01, image=image, side=800)
    assert (picture.width_px, picture.height_px) == (1600, 1200)
    assert opened(picture.picture).size == opened(picture.overlay).size == (800, 600)
    assert opened(picture.thumbnail).size == (320, 240)
    assert picture.has_image and not picture.has_confidence


def test_a_small_micrograph_is_not_magnified_but_its_outline_is_finer() -> None:
    picture = gallery_picture("a", "s", square(), None)
    assert opened(picture.picture).size == (80, 60)
    assert opened(picture.overlay).size == (160, 120)


def test_outline_runs_around_the_carbide_and_the_rest_is_clear() -> None:
    overlay = opened(gallery_picture("a", "s", square(), 0.01, side=80).overlay)
    indices = np.asarray(overlay)
    expected = np.zeros((60, 80), bool)
    expected[9:21, 29:51] = True
    expected[10:20, 30:50] = False
    expected[[9, 9, 20, 20], [29, 50, 29, 50]] = False  # no corners: steps along rows and columns
    assert np.array_equal(indices == OUTLINE, expected)
    alpha = np.asarray(overlay.convert("RGBA"))[..., 3]
    assert np.array_equal(alpha > 0, expected)


def test_only_what_is_uncertain_is_tinted() -> None:
    probability = np.full((60, 80), 0.01)
    probability[10:20, 30:50] = 0.99
    probability[10:20, 30] = 0.6
    probability[40, 40] = 0.2
    overlay = opened(gallery_picture("a", "s", square(), 0.01, probability=probability, side=80).overlay)
    indices = np.asarray(overlay)
    assert (indices[10:20, 30] == LIKELY).all() and (indices[10:20, 31:50] == 0).all()
    assert indices[40, 40] == UNLIKELY


def test_carbides_that_were_split_are_drawn_apart() -> None:
    labels = np.zeros((5, 6), np.int32)
    labels[1:4, 1:3], labels[1:4, 3:5] = 1, 2
    assert separated(labels).tolist()[2] == [False, True, False, True, True, False]
    assert separated(labels > 0).tolist()[2] == [False, True, True, True, True, False]


def test_the_smallest_carbides_survive_reduction() -> None:
    labels = np.zeros((400, 400), np.int32)
    labels[100:102, 100:102] = 1
    overlay = gallery_picture("a", "s", labels, 0.01, side=200).overlay
    assert (np.asarray(opened(overlay)) == OUTLINE).sum() == 4


def test_without_an_image_the_mask_is_shown() -> None:
    picture = np.asarray(opened(gallery_picture("a", "s", square(), None).picture).convert("L")).astype(int)
    assert picture[15, 40] > picture[40, 10] + 100


def test_no_carbides_and_a_constant_image() -> None:
    picture = gallery_picture("a", "s", np.zeros((50, 70), int), 0.01, image=np.zeros((2, 50, 70)))
    assert not np.asarray(opened(picture.overlay)).any()


def test_sizes_that_differ_are_refused() -> None:
    with pytest.raises(InputError, match="image"):
        gallery_picture("a", "s", square(), None, image=np.zeros((2, 10, 10)))
    with pytest.raises(InputError, match="probability"):
        gallery_picture("a", "s", square(), None, probability=np.zeros((10, 10)))
