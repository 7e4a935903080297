"""The flat sliding window against MONAI's: same arguments, same result, less memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor, decollate_batch
from monai.inferers import SlidingWindowInferer
from monai.transforms import ScaleIntensityRangePercentilesd
from torch import Tensor, nn

from carde_monai.inferers import FlatWindowInferer
from carde_monai.transforms import PercentileScaled, collate_one
from carde_monai.uncertainty import SymmetryInferer

SCALE = {"keys": "image", "lower": 25, "upper": 75, "b_min": -0.5, "b_max": 0.5, "channel_wise": True}
SIDES = st.integers(1, 40)
WINDOWS = st.sampled_from([8, 13, 16, 50, -1])


def network(outputs: int = 1) -> nn.Module:
    """Sees its window's border, as real ones do: windows that stood elsewhere would give other results."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, outputs, 3, padding=1)).eval()


def mosaic(height: int, width: int, seed: int = 0) -> Tensor:
    """(2, H, W) uint8 with structures across the borders of windows."""
    greys = np.random.default_rng(seed).normal(0, 20, (2, height, width))
    greys += 120 + 60 * np.sin(np.arange(width) / 17) * np.cos(np.arange(height) / 11)[:, None]
    return torch.from_numpy(greys.clip(0, 255).astype(np.uint8))


def read(greys: Tensor) -> MetaTensor:
    """A batch of one, as a data loader gives it to the inferer."""
    return collate_one(
        [PercentileScaled(**SCALE)({"image": MetaTensor(greys, meta={"filename_or_obj": "a.tif"})})]
    )["image"]


@settings(max_examples=60)
@given(
    size=st.tuples(SIDES, SIDES),
    window=st.tuples(WINDOWS, WINDOWS),
    overlap=st.tuples(st.floats(0, 0.9), st.floats(0, 0.9)),
    images=st.integers(1, 2),
    outputs=st.integers(1, 2),
    batch=st.integers(1, 5),
    mode=st.sampled_from(["constant", "gaussian"]),
    padding_mode=st.sampled_from(["constant", "replicate"]),
)
def test_result_is_that_of_monai(size, window, overlap, images, outputs, batch, mode, padding_mode) -> None:
    torch.manual_seed(1)
    image = torch.randn(images, 2, *size)
    arguments = {"sw_batch_size": batch, "overlap": overlap, "mode": mode, "padding_mode": padding_mode}
    with torch.no_grad():
        ours = FlatWindowInferer(window, **arguments)(image, network(outputs))
        theirs = SlidingWindowInferer(window, **arguments)(image, network(outputs))
        same = FlatWindowInferer(window, **arguments)(image, nn.Identity())
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(same, image, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_integers_are_scaled_window_by_window_as_a_whole(dtype) -> None:
    greys = mosaic(70, 90).to(dtype)
    whole = ScaleIntensityRangePercentilesd(**SCALE)({"image": greys.float()})["image"][None]
    window = FlatWindowInferer((32, 32), sw_batch_size=3, mode="gaussian")
    with torch.no_grad():
        found = window(read(greys), network())
        expected = SlidingWindowInferer((32, 32), sw_batch_size=3, mode="gaussian")(whole, network())
    assert isinstance(found, MetaTensor) and found.dtype == torch.float32
    assert decollate_batch(found)[0].meta["filename_or_obj"] == "a.tif"
    torch.testing.assert_close(found.as_tensor(), expected.as_tensor(), rtol=1e-5, atol=1e-5)


def test_an_integer_image_smaller_than_the_window_is_scaled_before_it_is_padded() -> None:
    greys = mosaic(20, 70)
    whole = ScaleIntensityRangePercentilesd(**SCALE)({"image": greys.float()})["image"][None]
    with torch.no_grad():
        found, expected = (
            kind((32, 32), 4, mode="gaussian")(image, network())
            for kind, image in ((FlatWindowInferer, read(greys)), (SlidingWindowInferer, whole))
        )
    torch.testing.assert_close(found.as_tensor(), expected.as_tensor(), rtol=1e-5, atol=1e-5)


def test_integers_without_a_scaling_keep_their_values() -> None:
    greys = mosaic(30, 50)[None]
    found = FlatWindowInferer((16, 16), 4)(greys, nn.Identity())
    torch.testing.assert_close(found, greys.float())


def test_a_crop_of_a_mosaic_is_that_of_the_whole() -> None:
    """Far enough from the crop's border for the windows to be the same ones."""
    greys = mosaic(600, 800)
    image = read(greys)
    whole = ScaleIntensityRangePercentilesd(**SCALE)({"image": greys.float()})["image"][None]
    arguments = {"sw_batch_size": 4, "overlap": 0.25, "mode": "gaussian"}
    step = 96  # of windows of 128 px
    with torch.no_grad():
        found = FlatWindowInferer((128, 128), **arguments)(image, network())
        rows, columns = slice(step, 3 * step + 128), slice(2 * step, 5 * step + 128)
        crop = whole.as_tensor()[..., rows, columns]
        expected = SlidingWindowInferer((128, 128), **arguments)(crop, network())
    inner = np.s_[..., 32:-32, 32:-32]
    torch.testing.assert_close(
        found.as_tensor()[..., rows, columns][inner], expected[inner], rtol=1e-4, atol=1e-5
    )


def test_nothing_but_the_result_has_the_size_of_the_image() -> None:
    """Every other tensor stays below two rows of windows."""
    image, sizes = read(mosaic(800, 60)), []

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None) -> Any:
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor):
                sizes.append((out.untyped_storage().nbytes(), out.untyped_storage().data_ptr()))
            return out

    with torch.no_grad(), Sizes():
        found = FlatWindowInferer((32, 32), 4, mode="gaussian")(image, nn.Identity())
    own = {one.as_tensor().untyped_storage().data_ptr() for one in (image, found)}
    others = [size for size, place in sizes if place not in own]
    assert len(own) == 2 and others and max(others) < found.nbytes / 8


def test_symmetries_scale_integers_too() -> None:
    greys = mosaic(40, 56)
    whole = ScaleIntensityRangePercentilesd(**SCALE)({"image": greys.float()})["image"][None]
    arguments = {"roi_size": (16, 16), "sw_batch_size": 4, "mode": "gaussian"}
    with torch.no_grad():
        found = SymmetryInferer(FlatWindowInferer(**arguments))(read(greys), network())
        expected = SymmetryInferer(SlidingWindowInferer(**arguments))(whole, network())
    assert found.dtype == torch.float32 and found.shape == (1, 8, 40, 56)
    torch.testing.assert_close(found.as_tensor(), expected.as_tensor(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("device", ["cpu", None])
def test_result_lies_on_the_device_asked_for(device) -> None:
    image = torch.randn(1, 2, 20, 20)
    inferer = FlatWindowInferer((8, 8), device=device, cpu_thresh=10, sw_device="cpu", progress=False)
    assert inferer(image, nn.Identity(), buffer_steps=1).device.type == "cpu"


@pytest.mark.parametrize(
    ("arguments", "net"),
    [
        ({"with_coord": True}, nn.Identity()),
        ({"overlap": 1.0}, nn.Identity()),
        ({}, nn.MaxPool2d(2)),
        ({}, lambda image: (image, image)),
    ],
    ids=["coordinates", "overlap", "smaller output", "two outputs"],
)
def test_what_it_cannot_do_is_said(arguments, net) -> None:
    with pytest.raises(ValueError, match=r"FlatWindowInferer|overlap"):
        FlatWindowInferer((8, 8), **arguments)(torch.zeros(1, 2, 16, 16), net)
