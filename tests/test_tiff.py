"""TIFF files as ImageJ takes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile

from carde_monai.tiff import COLOR_MAP, number_colours, write_tiff


def test_numbers_have_colours_and_greys_have_none(tmp_path: Path) -> None:
    labels = np.arange(70, dtype=np.uint16).reshape(7, 10)
    for numbers in (True, False):
        write_tiff(labels, tmp_path / "a.tif", 0.01, (0, 69), numbers=numbers)
        with tifffile.TiffFile(tmp_path / "a.tif") as file:
            tags = file.pages[0].tags
            assert (COLOR_MAP in tags) == numbers
            assert file.is_imagej and file.pages[0].photometric == tifffile.PHOTOMETRIC.MINISBLACK
            np.testing.assert_array_equal(file.asarray(), labels)
            if numbers:
                assert tags[COLOR_MAP].count == 768  # no other count is read by ImageJ
                assert tags[COLOR_MAP].value.ravel().tolist() == number_colours()


def test_only_the_matrix_is_black_and_neighbours_differ() -> None:
    colours = np.reshape(number_colours(), (3, 256)) / 65535
    assert not colours[:, 0].any() and (colours[:, 1:].max(axis=0) > 0.7).all()
    assert (np.abs(np.diff(colours)).sum(axis=0) > 0.4).all()
