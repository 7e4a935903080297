"""The scaling that carde's network was trained with, against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from monai.data import MetaTensor

from carde_monai.transforms import RobustScaled, robust_scale


def test_median_and_interquartile_range_by_hand() -> None:
    """Greys 0, 1, 2, 3, 10: quartiles 1, 2, 3. Of 0, 0, 4, 5, 8 they are 0, 4, 5."""
    image = np.array([[[0, 1, 2, 3, 10]], [[8, 5, 4, 0, 0]]], dtype=np.uint8)
    expected = [[[-1, -0.5, 0, 0.5, 4]], [[0.8, 0.2, 0, -0.8, -0.8]]]
    scaled = robust_scale(image)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled, expected, rtol=1e-6)


def test_a_frame_of_few_greys_is_not_divided_by_zero() -> None:
    image = np.full((1, 4, 4), 7, dtype=np.uint16)
    image[0, 0, 0] = 9
    scaled = robust_scale(image)
    assert scaled[0, 0, 0] == 2 and scaled.sum() == 2


@settings(max_examples=30, deadline=None)
@given(
    image=npst.arrays(np.uint8, (2, 5, 7)),
    gain=st.floats(0.5, 4),
    offset=st.floats(-50, 50),
)
def test_gain_and_offset_of_the_detector_do_not_matter(image, gain, offset) -> None:
    image = image.astype(np.float64)
    spread = np.subtract(*np.percentile(image, (75, 25), axis=(1, 2)))
    if (spread > 0).all():
        np.testing.assert_allclose(robust_scale(image * gain + offset), robust_scale(image), atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_items_keep_their_meta_data_and_their_raw_greys(dtype) -> None:
    raw = MetaTensor(torch.arange(48).reshape(2, 4, 6).to(dtype), meta={"filename_or_obj": "a.tif"})
    item = {"image": raw, "raw": raw, "name": "a"}
    found = RobustScaled("image", channels=[1, 0])(item)
    assert found["image"].meta["filename_or_obj"] == "a.tif" and found["image"].dtype == torch.float32
    torch.testing.assert_close(found["image"].as_tensor(), robust_scale(raw.as_tensor()).flip(0))
    assert found["raw"] is raw and item["image"] is raw
    torch.testing.assert_close(raw.as_tensor(), torch.arange(48).reshape(2, 4, 6).to(dtype))
