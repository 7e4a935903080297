from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.metrics import DiceMetric, MeanIoU

from carde_monai.evaluation import quartiles, scores, signed_rank, summarise, tile_dice

# TP 2, FP 1, FN 2, TN 5
MASK = torch.tensor([[1.0, 1, 1, 0, 0], [0, 0, 0, 0, 0]])
LABEL = torch.tensor([[1.0, 1, 0, 1, 0], [1, 0, 0, 0, 0]])


def test_overlaps_by_hand() -> None:
    found = scores(MASK, LABEL)
    assert found["dice"] == pytest.approx(4 / 7)
    assert found["iou"] == pytest.approx(2 / 5)
    assert found["precision"] == pytest.approx(2 / 3)
    assert found["recall"] == pytest.approx(2 / 4)


def test_a_hard_mask_has_the_share_of_wrong_pixels_as_calibration_error_and_no_likelihood() -> None:
    found = scores(MASK, LABEL)
    assert found["ece"] == pytest.approx(3 / 10)
    assert math.isnan(found["nll"])


def test_calibration_error_and_likelihood_by_hand() -> None:
    probability = torch.where(MASK > 0, 0.8, 0.1)
    found = scores(MASK, LABEL, probability)
    assert found["ece"] == pytest.approx((3 * abs(0.8 - 2 / 3) + 7 * abs(0.1 - 2 / 7)) / 10, rel=1e-5)
    nll = 2 * math.log(0.8) + math.log(0.2) + 2 * math.log(0.1) + 5 * math.log(0.9)
    assert found["nll"] == pytest.approx(-nll / 10, rel=1e-5)


def test_a_certain_and_wrong_pixel_has_a_finite_likelihood() -> None:
    label = torch.tensor([[1.0, 0.0]])
    assert scores(label, label, torch.tensor([[0.0, 0.0]]))["nll"] == pytest.approx(
        -math.log(1e-7) / 2, rel=1e-4
    )


def test_empty_masks() -> None:
    empty = torch.zeros_like(MASK)
    overlaps = ("dice", "iou", "precision", "recall")
    assert [scores(empty, empty)[name] for name in overlaps] == [1, 1, 1, 1]
    missed = scores(empty, LABEL)
    assert (missed["dice"], missed["iou"], missed["recall"]) == (0, 0, 0) and math.isnan(missed["precision"])
    invented = scores(MASK, empty)
    assert (invented["dice"], invented["iou"], invented["precision"]) == (0, 0, 0)
    assert math.isnan(invented["recall"])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), share=st.floats(0.05, 0.9))
def test_overlaps_agree_with_monais_metrics_and_with_each_other(seed: int, share: float) -> None:
    random = torch.Generator().manual_seed(seed)
    mask, label = (torch.rand(2, 1, 12, 9, generator=random) < share).float()
    label[0, 0, 0] = 1
    found = scores(MetaTensor(mask), label.numpy())
    assert found["dice"] == pytest.approx(DiceMetric()(mask[None], label[None]).item(), abs=1e-6)
    assert found["iou"] == pytest.approx(MeanIoU()(mask[None], label[None]).item(), abs=1e-6)
    assert found["iou"] == pytest.approx(found["dice"] / (2 - found["dice"]), abs=1e-6)
    swapped = scores(label, mask)
    if mask.any():
        assert (swapped["precision"], swapped["recall"]) == (found["recall"], found["precision"])


def test_tiles_by_hand() -> None:
    mask, label = torch.zeros(2, 1, 5, 7)
    label[0, 0, 0:2] = 1  # upper left tile of 2 px: one of two found
    mask[0, 0, 0] = 1
    label[0, 2:4, 4:6] = mask[0, 2:4, 4:6] = 1  # lower right: all found
    mask[0, 0, 4] = 1  # upper right: invented
    label[0, 4, 6] = 1  # beyond the last full tile
    expected = [[2 / 3, 1, 0], [1, 1, 1]]
    np.testing.assert_allclose(tile_dice(mask, label, 2), expected, rtol=1e-6)
    np.testing.assert_allclose(tile_dice(mask[0].numpy(), label[0].numpy(), 2), expected, rtol=1e-6)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), rows=st.integers(1, 20), columns=st.integers(1, 20), tile=st.integers(1, 8))
def test_tiles_agree_with_the_scores_of_the_cut_out_tiles(
    seed: int, rows: int, columns: int, tile: int
) -> None:
    random = np.random.default_rng(seed)
    mask, label = random.random((2, rows, columns)) < 0.3
    found = tile_dice(mask, label, tile)
    assert found.shape == (rows // tile, columns // tile)
    for r, c in np.ndindex(found.shape):
        cut = np.s_[r * tile : (r + 1) * tile, c * tile : (c + 1) * tile]
        assert found[r, c] == pytest.approx(scores(mask[cut], label[cut])["dice"])


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="mask"):
        scores(MASK, LABEL.T)
    with pytest.raises(ValueError, match="probability"):
        scores(MASK, LABEL, LABEL.T)
    with pytest.raises(ValueError, match="mask"):
        tile_dice(MASK, LABEL.T)


def test_quartiles_leave_out_what_is_not_finite() -> None:
    found = quartiles(np.array([1.0, math.nan, 2, 3, 4, 5, math.inf]))
    assert found == {"n": 5, "median": 3, "q1": 2, "q3": 4, "iqr": 2}
    assert quartiles(np.array([math.nan]))["median"] is None


def test_signed_rank_of_six_wins_is_the_smallest_possible() -> None:
    better = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert signed_rank(better, np.zeros(6)) == {"p": pytest.approx(2 / 2**6), "n": 6, "reason": None}
    assert signed_rank(np.zeros(6), better)["p"] == pytest.approx(2 / 2**6)


def test_signed_rank_says_why_it_has_no_p() -> None:
    few = signed_rank(np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]), np.array([0, 0, 0, 0, 0, math.nan]))
    assert few == {"p": None, "n": 5, "reason": "fewer than 6 pairs"}
    assert signed_rank(np.ones(8), np.ones(8)) == {"p": None, "n": 8, "reason": "all differences are zero"}
    assert signed_rank(np.ones(9), np.r_[np.ones(5), np.zeros(4)])["p"] is not None  # ties and zeros


def rows(section: str, count: int) -> list[dict]:
    return [
        {"name": f"m{i}", "section": section, "network_dice": 0.9 + i / 100, "baseline_dice": 0.5,
         "network_nll": 0.1, "baseline_nll": math.nan}
        for i in range(count)
    ]  # fmt: skip


def test_summary_goes_by_section_and_method() -> None:
    found = summarise(rows("test", 7) + rows("holdout", 2), rows("test", 20), ("network", "baseline"))
    assert list(found) == ["test", "holdout"]
    test = found["test"]["micrographs"]
    assert test["n"] == 7 and test["network"]["dice"]["median"] == pytest.approx(0.93)
    assert test["network"]["dice"]["iqr"] == pytest.approx(0.03)
    assert test["baseline"]["nll"] == {"n": 0, "median": None, "q1": None, "q3": None, "iqr": None}
    assert test["wilcoxon_dice"]["p"] == pytest.approx(2 / 2**7)
    assert found["holdout"]["micrographs"]["wilcoxon_dice"]["p"] is None
    assert (
        found["test"]["tiles"]["network"]["dice"]["n"] == 20
        and "not independent" in found["test"]["tiles"]["note"]
    )
    assert found["holdout"]["tiles"]["network"]["dice"]["n"] == 0


def test_summary_of_one_method_has_no_comparison() -> None:
    found = summarise(rows("test", 7), [], ("network",))
    assert "wilcoxon_dice" not in found["test"]["micrographs"] and "baseline" not in found["test"]["tiles"]
