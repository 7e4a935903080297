from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.morphology import disk

from carde_monai.baseline import segment, white_top_hat

CENTRES = [(30, 30), (40, 100), (90, 50), (100, 120), (150, 80), (140, 25)]


def discs(radius: int = 6, shape: tuple[int, int] = (176, 160)) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    for row, column in CENTRES:
        mask[row - radius : row + radius + 1, column - radius : column + radius + 1] |= disk(radius)
    return mask


def micrograph(mask: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Discs of 70 greys over slow shading, with noise that differs between the detectors."""
    random = np.random.default_rng(seed)
    shading = np.linspace(60, 120, mask.shape[1])
    pair = (70.0 * mask + shading + random.normal(0, 6, mask.shape) for _ in range(2))
    return tuple(image.clip(0, 255).astype(np.uint8) for image in pair)  # type: ignore[return-value]


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * float((a & b).sum()) / float(a.sum() + b.sum())


def test_discs_over_shading_are_found() -> None:
    truth = discs()
    found = segment(*micrograph(truth))
    assert found.shape == truth.shape and found.dtype == np.uint8 and set(np.unique(found)) == {0, 1}
    assert dice(found, truth) > 0.95


def test_without_top_hat_the_shading_is_taken_for_carbide() -> None:
    truth = discs()
    ramp = np.linspace(0, 150, truth.shape[1]).astype(np.uint8)[None] + 50 * truth
    assert dice(segment(ramp, ramp), truth) > 0.9
    assert dice(segment(ramp, ramp, radius=0), truth) < 0.5


def test_what_the_disc_fits_into_is_background_and_the_rest_is_not() -> None:
    image = np.zeros((200, 200), np.uint8)
    image[100 - 34 : 100 + 35, 100 - 34 : 100 + 35] = 200 * disk(
        34
    )  # grain: wider than the disc of radius 30
    image[10:22, 10:22] = 200  # carbide
    found = segment(image, image, sigma=0)
    assert found[10:22, 10:22].all() and found.sum() == 144
    assert segment(image, image, sigma=0, radius=40).sum() == 144 + disk(34).sum()


def assert_top_hat_is_that_of_itk(image: np.ndarray, radius: int) -> None:
    expected = sitk.WhiteTopHat(sitk.GetImageFromArray(image), [radius] * 2, sitk.sitkBall)
    np.testing.assert_array_equal(white_top_hat(image, radius), sitk.GetArrayFromImage(expected))


@settings(max_examples=60)
@given(
    shape=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    radius=st.integers(1, 40),
    greys=st.sampled_from([2, 5, 256]),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_top_hat_is_that_of_itk(shape: tuple[int, int], radius: int, greys: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, greys, shape)
    assert_top_hat_is_that_of_itk((image * (255 // (greys - 1))).astype(np.uint8), radius)


@pytest.mark.parametrize("radius", [1, 2, 7, 30, 31])
def test_the_top_hat_of_a_frame_is_that_of_itk(radius: int) -> None:
    for image in micrograph(discs()):
        assert_top_hat_is_that_of_itk(image, radius)


def test_holes_are_filled() -> None:
    image = np.zeros((80, 80), np.uint8)
    image[20:40, 20:40] = 200
    image[25:35, 25:35] = 0
    assert segment(image, image, sigma=0).sum() == 400


def test_components_below_three_pixels_are_dropped() -> None:
    image = np.zeros((80, 80), np.uint8)
    image[10, 10:12] = 200  # two pixels
    image[30, 30] = image[31, 31] = image[32, 32] = 200  # three, touching at corners only
    image[50, 50:53] = 200  # three pixels
    image[60:70, 60:70] = 200
    found = segment(image, image, sigma=0)
    assert found.sum() == 103 and found[50, 50:53].all()
    assert segment(image, image, sigma=0, min_size=1).sum() == 108


def test_both_detectors_count_alike() -> None:
    se2, inlens = micrograph(discs())
    np.testing.assert_array_equal(segment(se2, inlens), segment(inlens, se2))
    flat = np.full_like(se2, 90)
    assert dice(segment(se2, flat), discs()) > 0.9 and dice(segment(flat, se2), discs()) > 0.9


@settings(max_examples=15, deadline=None)
@given(gain=st.integers(1, 200), offset=st.integers(0, 10_000))
def test_gain_and_offset_of_the_detector_change_nothing(gain: int, offset: int) -> None:
    image = micrograph(discs())[0][:64, :64].astype(np.uint16)
    scaled = image * gain + offset
    assert (segment(image, image) != segment(scaled, scaled)).mean() < 0.005


def test_floats_and_bytes_give_the_same_mask() -> None:
    se2, inlens = micrograph(discs())
    expected = segment(se2, inlens)
    np.testing.assert_array_equal(segment(se2.astype(np.float32), inlens.astype(np.uint16)), expected)


@pytest.mark.parametrize("value", [0, 7, 255])
@pytest.mark.parametrize("sigma", [0.0, 1.0])
def test_a_constant_image_has_no_carbides(value: int, sigma: float) -> None:
    image = np.full((40, 50), value, np.uint8)
    assert segment(image, image, sigma=sigma).shape == (40, 50)
    assert not segment(image, image, sigma=sigma).any()
    assert not segment(image[:1, :1], image[:1, :1]).any()


@pytest.mark.parametrize(
    ("se2", "inlens", "message"),
    [
        (np.zeros((4, 5)), np.zeros((5, 4)), r"\(4, 5\) and \(5, 4\)"),
        (np.zeros((1, 4, 5)), np.zeros((1, 4, 5)), "one .H, W. shape"),
        (np.zeros((0, 5)), np.zeros((0, 5)), "one .H, W. shape"),
        (np.full((4, 5), np.nan), np.zeros((4, 5)), "not finite"),
    ],
)
def test_other_inputs_are_refused(se2: np.ndarray, inlens: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        segment(se2, inlens)
