"""Objects shifted by a known amount; counts by hand; MONAI's own panoptic quality."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.metrics.panoptic_quality import compute_panoptic_quality
from numpy.typing import NDArray

from carde_monai.matching import Match, match_objects

EMPTY = np.zeros((12, 12), np.int32)
label_images = arrays(np.uint8, (8, 9), elements=st.integers(0, 4))


def squares(shift: int = 0) -> NDArray[np.int32]:
    """Four squares of 10 x 10 px, shifted to the right."""
    labels = np.zeros((60, 60), np.int32)
    for number, (row, column) in enumerate(((5, 5), (5, 35), (35, 5), (35, 35)), 1):
        labels[row : row + 10, column + shift : column + shift + 10] = number
    return labels


@pytest.mark.parametrize(("shift", "matched"), [(0, True), (1, True), (3, True), (4, False), (9, False)])
def test_shifted_squares_match_while_their_iou_is_above_a_half(shift: int, matched: bool) -> None:
    iou = (10 - shift) / (10 + shift)  # 4 px: 6 / 14 = 0.43
    match = match_objects(squares(shift), squares())
    if matched:
        assert match == pytest.approx(Match(4, 0, 0, 1, 1, 1, iou, iou))
    else:
        assert match == pytest.approx(Match(0, 4, 4, 0, 0, 0, math.nan, 0), nan_ok=True)


def test_the_threshold_is_exclusive() -> None:
    truth, found = EMPTY.copy(), EMPTY.copy()
    truth[2, 2:4], found[2, 2] = 1, 1  # IoU 1/2
    assert match_objects(found, truth).true_positive == 0
    found[3, 2:4] = truth[3, 2:4] = 1  # 3/4
    assert match_objects(found, truth).true_positive == 1
    assert match_objects(found, truth, iou=0.75).true_positive == 0


def test_counts_and_qualities_by_hand() -> None:
    truth, found = EMPTY.copy(), EMPTY.copy()
    truth[0, 0:4] = 3
    found[0, 0:3] = 8  # IoU 3/4
    truth[2, 0:5] = 4
    found[2, 0:5] = 2  # IoU 1
    truth[4, 0:2] = 5  # missed
    found[6, 0:2], found[8, 0], found[10, 3] = 4, 5, 200  # false, although their numbers occur in truth
    match = match_objects(found, truth)
    assert match == pytest.approx(Match(2, 3, 1, 2 / 5, 2 / 3, 2 / (2 + 1.5 + 0.5), 1.75 / 2, 1.75 / 4))


def test_a_split_object_matches_its_larger_part_only() -> None:
    truth, found = EMPTY.copy(), EMPTY.copy()
    truth[3:6] = 1
    found[3:6, :8], found[3:6, 8:] = 1, 2
    assert match_objects(found, truth)[:3] == (1, 1, 0)
    assert match_objects(truth, found)[:3] == (1, 0, 1)


def test_empty_frames() -> None:
    one = EMPTY.copy()
    one[2:5, 2:5] = 1
    nan = math.nan
    assert match_objects(EMPTY, EMPTY) == pytest.approx(Match(0, 0, 0, nan, nan, 1, nan, 1), nan_ok=True)
    assert match_objects(one, EMPTY) == pytest.approx(Match(0, 1, 0, 0, nan, 0, nan, 0), nan_ok=True)
    assert match_objects(EMPTY, one) == pytest.approx(Match(0, 0, 1, nan, 0, 0, nan, 0), nan_ok=True)
    full = np.ones_like(EMPTY)  # no matrix at all
    assert match_objects(full, full) == Match(1, 0, 0, 1, 1, 1, 1, 1)


@given(label_images, label_images, st.sampled_from((0.5, 0.7)))
@settings(deadline=None, max_examples=50)
def test_agrees_with_monai(found: NDArray, truth: NDArray, iou: float) -> None:
    match = match_objects(found, truth, iou)
    reference = compute_panoptic_quality(
        torch.from_numpy(found),
        torch.from_numpy(truth),
        match_iou_threshold=iou,
        output_confusion_matrix=True,
    )
    tp, fp, fn, iou_sum = reference.tolist()
    assert match[:3] == (tp, fp, fn)
    if tp:
        assert match.sq * tp == pytest.approx(iou_sum, rel=1e-5)
        assert match.pq == pytest.approx(iou_sum / (tp + fp / 2 + fn / 2), rel=1e-5)


@given(label_images, label_images)
@settings(deadline=None, max_examples=50)
def test_symmetry_and_numbering(found: NDArray, truth: NDArray) -> None:
    match, swapped = match_objects(found, truth), match_objects(truth, found)
    assert swapped[:3] == (match.true_positive, match.false_negative, match.false_positive)
    assert (match.precision, match.recall) == pytest.approx((swapped.recall, swapped.precision), nan_ok=True)
    assert match[5:] == pytest.approx(swapped[5:], nan_ok=True)
    assert 0 <= match.pq <= match.f1 <= 1
    # names of objects do not matter, nor does a frame larger than int32 numbers
    renamed = np.where(truth, (9 - truth.astype(np.uint64)) * np.uint64(2**40), np.uint64(0))
    assert match_objects(found, renamed) == pytest.approx(match, nan_ok=True)


@pytest.mark.parametrize(
    ("found", "truth", "iou", "message"),
    [
        (np.zeros((3, 4), int), np.zeros((4, 3), int), 0.5, r"one shape \(H, W\)"),
        (np.zeros((1, 3, 4), int), np.zeros((1, 3, 4), int), 0.5, r"one shape \(H, W\)"),
        (np.zeros((3, 4)), np.zeros((3, 4), int), 0.5, "integers, not float64"),
        (np.zeros((3, 4), int), np.zeros((3, 4), bool), 0.5, "integers, not bool"),
        (np.zeros((3, 4), int), np.full((3, 4), -1), 0.5, "smallest is -1"),
        (EMPTY, EMPTY, 0.4, "not 0.4"),
        (EMPTY, EMPTY, 1, "not 1"),
    ],
)
def test_wrong_arguments_are_refused(found: NDArray, truth: NDArray, iou: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        match_objects(found, truth, iou)
