"""Scaling, at once and later, against numbers worked out by hand and MONAI; collation without copies."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from monai.data import DataLoader, MetaTensor, decollate_batch, list_data_collate
from monai.transforms import ScaleIntensityRangePercentilesd

from carde_monai.transforms import (
    SCALING,
    PercentileScaled,
    RobustScaled,
    collate_one,
    percentiles,
    robust_scale,
    scaled,
)

SCALE = {"keys": "image", "lower": 25, "upper": 75, "b_min": -0.5, "b_max": 0.5, "channel_wise": True}
GREYS = st.sampled_from([np.uint8, np.uint16, np.int16]).flatmap(
    lambda dtype: npst.arrays(dtype, st.tuples(st.just(2), st.integers(1, 5), st.integers(1, 5)))
)


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


def test_items_keep_their_meta_data_and_their_raw_greys() -> None:
    raw = MetaTensor(torch.arange(48.0).reshape(2, 4, 6), meta={"filename_or_obj": "a.tif"})
    item = {"image": raw, "raw": raw, "name": "a"}
    found = RobustScaled("image", channels=[1, 0])(item)
    assert found["image"].meta["filename_or_obj"] == "a.tif" and found["image"].dtype == torch.float32
    torch.testing.assert_close(found["image"].as_tensor(), robust_scale(raw.as_tensor()).flip(0))
    assert found["raw"] is raw and item["image"] is raw
    torch.testing.assert_close(raw.as_tensor(), torch.arange(48.0).reshape(2, 4, 6))


def later(image: MetaTensor) -> torch.Tensor:
    """What an inferer makes of an image that is to be scaled later."""
    assert not image.is_floating_point()
    return scaled(image.as_tensor(), image.meta[SCALING].float())


@given(greys=npst.arrays(np.uint8, st.integers(1, 60)), ranks=st.lists(st.floats(0, 100), min_size=1))
def test_percentiles_of_bytes_are_numpys(greys, ranks) -> None:
    found = percentiles(torch.from_numpy(greys), ranks)
    np.testing.assert_allclose(found, np.percentile(greys, ranks), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize("offset", [0, -9000, 60_000])
def test_percentiles_of_wide_integers_are_numpys(dtype, offset) -> None:
    greys = torch.from_numpy(np.random.default_rng(0).integers(0, 5000, (30, 40)) + offset).to(dtype)
    found = percentiles(greys, (0, 25, 33.3, 75, 100))
    np.testing.assert_allclose(found, np.percentile(greys.numpy(), (0, 25, 33.3, 75, 100)), rtol=1e-12)


@settings(max_examples=50)
@given(greys=GREYS)
@example(greys=np.array([[[-1, 32767]], [[32767, 32767]]], np.int16))
@pytest.mark.filterwarnings("ignore:Divide by zero")
def test_percentile_scaling_later_is_monais_at_once(greys) -> None:
    image = MetaTensor(greys.astype(np.int32) if greys.dtype == np.uint16 else greys)
    expected = ScaleIntensityRangePercentilesd(**SCALE)({"image": image.double()})["image"]
    found = PercentileScaled(**SCALE)({"image": image})["image"]
    assert found.dtype == image.dtype
    atol = 2e-5 if greys.max() < 256 else 5e-3  # half a grey of 65535 is as fine as float32 goes
    torch.testing.assert_close(later(found), expected.as_tensor(), rtol=2e-5, atol=atol)


@settings(max_examples=50)
@given(greys=GREYS)
def test_robust_scaling_later_is_that_at_once(greys) -> None:
    image = MetaTensor(greys.astype(np.int32) if greys.dtype == np.uint16 else greys)
    found = RobustScaled("image", channels=[1, 0])({"image": image})["image"]
    expected = robust_scale(image.as_tensor().double()).flip(0)
    torch.testing.assert_close(later(found), expected, rtol=2e-5, atol=2e-5)


def test_a_channel_of_one_grey_is_not_divided_by_zero() -> None:
    """And pytest makes errors of warnings: there is none."""
    image = MetaTensor(torch.full((2, 4, 4), 7, dtype=torch.uint8))
    image[1, 0, 0] = 9
    found = later(PercentileScaled(**SCALE)({"image": image})["image"])
    assert (found[0] == -0.5).all() and found[1, 0, 0] == 1.5 and found[1, 1:].eq(-0.5).all()


@pytest.mark.parametrize(
    "scale", [PercentileScaled(**SCALE), RobustScaled("image")], ids=["quartiles", "robust"]
)
def test_pixels_to_be_scaled_later_are_shared_and_the_meta_data_are_not(scale) -> None:
    raw = MetaTensor(torch.arange(48, dtype=torch.uint8).reshape(2, 4, 6), meta={"filename_or_obj": "a.tif"})
    found = scale({"image": raw, "raw": raw, "name": "a"})
    assert found["raw"] is raw and SCALING not in raw.meta
    assert found["image"].data_ptr() == raw.data_ptr()
    assert found["image"].meta["filename_or_obj"] == "a.tif"


@pytest.mark.parametrize(
    "further", [{"clip": True}, {"relative": True}, {"channel_wise": False}, {"b_max": None}]
)
def test_what_cannot_wait_is_scaled_at_once(further) -> None:
    image = MetaTensor(torch.arange(48, dtype=torch.uint8).reshape(2, 4, 6))
    if further.get("b_max", 0) is None and not further.get("relative"):
        further = further | {"b_min": None}
    expected = ScaleIntensityRangePercentilesd(**SCALE | further)({"image": image.float()})["image"]
    for one in (image, image.float()):
        found = PercentileScaled(**SCALE | further)({"image": one})["image"]
        torch.testing.assert_close(found.as_tensor(), expected.as_tensor())


def items(count: int) -> list[dict[str, object]]:
    """Decollated items whose raw and image are one tensor, the image to be scaled later."""
    raws = [
        MetaTensor(torch.full((2, 4, 6), one, dtype=torch.uint8), meta={"filename_or_obj": f"{one}.tif"})
        for one in range(count)
    ]
    scale = PercentileScaled(**SCALE)
    return [scale({"image": raw, "raw": raw, "name": str(one)}) for one, raw in enumerate(raws)]


@pytest.mark.parametrize("count", [1, 2])
def test_collation_is_monais(count) -> None:
    found, expected = (collate(items(count)) for collate in (collate_one, list_data_collate))
    assert found.keys() == expected.keys() and found["name"] == expected["name"]
    for key in ("image", "raw"):
        torch.testing.assert_close(found[key].as_tensor(), expected[key].as_tensor())
        assert vars(found[key]).keys() == vars(expected[key]).keys()
        assert found[key].is_batch and found[key].meta.keys() == expected[key].meta.keys()
    for one, other in zip(decollate_batch(found), decollate_batch(expected), strict=True):
        assert one["name"] == other["name"] and one["image"].shape == (2, 4, 6)
        assert one["raw"].meta["filename_or_obj"] == other["raw"].meta["filename_or_obj"]
        torch.testing.assert_close(one["image"].meta[SCALING], other["image"].meta[SCALING])
        torch.testing.assert_close(one["image"].affine, other["image"].affine)


def test_collation_of_one_item_copies_nothing() -> None:
    (item,) = items(1)
    found = collate_one([item])
    assert found["image"].data_ptr() == found["raw"].data_ptr() == item["raw"].data_ptr()
    assert decollate_batch(found)[0]["raw"].data_ptr() == item["raw"].data_ptr()


def test_collation_works_in_a_process_of_its_own() -> None:
    loader = DataLoader(items(2), batch_size=1, num_workers=1, collate_fn=collate_one)
    for one, batch in enumerate(loader):
        assert (batch["raw"] == one).all() and batch["image"].meta[SCALING].shape == (1, 2, 2)
