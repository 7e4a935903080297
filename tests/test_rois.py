"""Carbides as ImageJ's regions of interest."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib.path import Path as Polygon
from PIL import Image
from roifile import ROI_TYPE, ImagejRoi, roiread

from carde_monai.errors import InputError
from carde_monai.labels import LabelRule
from carde_monai.masks import Source, measure_masks
from carde_monai.measurement import Settings
from carde_monai.particles import label_particles
from carde_monai.pixel_sizes import PixelSizes
from carde_monai.rois import outlines, region_of, write_rois


def covered(outlines: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """The pixels whose centre lies in an odd number of outlines, as ImageJ's PolygonFiller has it."""
    rows, columns = np.indices(shape) + 0.5
    centres = np.column_stack([columns.ravel(), rows.ravel()])
    inside = np.zeros(len(centres), bool)
    for outline in outlines:
        inside ^= Polygon(outline).contains_points(centres)
    return inside.reshape(shape)


@given(arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_a_region_covers_just_its_carbide(mask: np.ndarray) -> None:
    labels = label_particles(mask)
    found = outlines(labels)
    assert list(found) == list(range(1, labels.max() + 1))
    for number, around in found.items():
        np.testing.assert_array_equal(covered(around, mask.shape), labels == number)


def test_numbers_that_are_missing_have_no_region() -> None:
    labels = np.zeros((9, 9), np.uint32)
    labels[2:5, 3:7] = 2**32 - 1
    assert list(outlines(labels)) == [2**32 - 1]
    assert outlines(np.zeros((3, 3), np.uint8)) == {}


def test_holes_and_parts_make_a_composite() -> None:
    labels = np.zeros((9, 12), np.uint8)
    labels[1:6, 1:6] = labels[7:, 8:11] = 4
    labels[2:5, 2:5] = 0
    region = ImagejRoi.frombytes(region_of(outlines(labels)[4], 4).tobytes())
    assert region.name == "4" and region.composite
    path = region.multi_coordinates
    assert path is not None
    np.testing.assert_array_equal(path[:6], [0, *path[1:3], 1, *path[4:6]])
    around = region.coordinates(multi=True)
    assert len(around) == 3
    np.testing.assert_array_equal(covered(around, labels.shape), labels == 4)


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    """Results of three masks: two carbides, none, one."""
    masks, out = tmp_path / "masks", tmp_path / "out"
    masks.mkdir()
    for name, windows in {
        "a": [np.s_[2:8, 3:9], np.s_[20:28, 10:30]],
        "b": [],
        "c": [np.s_[5:15, 5:15]],
    }.items():
        mask = np.zeros((32, 48), np.uint8)
        for window in windows:
            mask[window] = 255
        Image.fromarray(mask).save(masks / f"{name}_mask.png")
    assert not measure_masks(
        Source(masks, None, LabelRule(), False, PixelSizes(0.01)), out, Settings(False, 5, 0.5, False)
    )
    return out


def test_the_regions_stand_beside_the_labels(measured: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert write_rois(measured) == []
    assert sorted(path.name for path in measured.glob("*.zip")) == ["a_rois.zip", "c_rois.zip"]
    assert "regions of 3 micrographs" in caplog.text
    regions = roiread(measured / "a_rois.zip")
    assert [one.name for one in regions] == ["1", "2"]
    assert all(one.roitype == ROI_TYPE.FREEHAND for one in regions)
    labels = tifffile.imread(measured / "a_labels.tif")
    for number, region in enumerate(regions, 1):
        np.testing.assert_array_equal(covered([region.coordinates()], labels.shape), labels == number)


def test_one_damaged_file_does_not_stop_the_others(measured: Path) -> None:
    write_rois(measured)
    (measured / "a_labels.tif").write_bytes(b"no picture")
    (failure,) = write_rois(measured)
    assert failure.name == "a" and "a_labels.tif: cannot be read" in failure.reason
    assert [path.name for path in measured.glob("*.zip")] == ["c_rois.zip"]  # the old ones of a are gone


def test_measuring_again_removes_them(measured: Path) -> None:
    write_rois(measured)
    masks = measured.parent / "masks"
    measure_masks(
        Source(masks, None, LabelRule(), False, PixelSizes(0.01)), measured, Settings(False, 5, 0.5, False)
    )
    assert not list(measured.glob("*.zip"))


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="missing: no such folder"):
        write_rois(tmp_path / "missing")
    with pytest.raises(InputError, match=r"has no micrographs\.csv"):
        write_rois(tmp_path)
    (tmp_path / "micrographs.csv").write_text("name\na\n")
    with pytest.raises(InputError, match="no column micrograph"):
        write_rois(tmp_path)
    (tmp_path / "micrographs.csv").write_text("micrograph\n../a\n")
    with pytest.raises(InputError, match="no file name"):
        write_rois(tmp_path)
