"""Pixel sizes by option: a number, or a table with names and patterns."""

from __future__ import annotations

from pathlib import Path

import pytest

from carde_monai.errors import InputError
from carde_monai.pixel_sizes import PixelSizes


def test_one_number_is_for_all() -> None:
    assert PixelSizes(0.007).of("any") == 0.007
    assert PixelSizes(None).of("any") is None


def test_the_first_row_that_fits_counts(tmp_path: Path) -> None:
    table = tmp_path / "sizes.csv"
    table.write_text("\ufeffname,pixel_size_um\nWD_06mm_003,0.009\nWD_06mm_*,0.00698\nWD6mm_2[17],0.0056\n")
    sizes = PixelSizes(str(table))
    assert [sizes.of(name) for name in ("WD_06mm_003", "WD_06mm_001", "WD6mm_21", "WD6mm_23")] == [
        0.009,
        0.00698,
        0.0056,
        None,
    ]


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        ("name\na\n", "has no column pixel_size_um"),
        ("", "has no column name"),
        ("name,pixel_size_um\na,\n", "the pixel size of a, '', is none"),
        ("name,pixel_size_um\na,7 nm\n", "the pixel size of a, '7 nm', is none"),
        ("name,pixel_size_um\na,-1\n", "the pixel size of a, '-1', is none"),
        ("name,pixel_size_um\na\n", "the pixel size of a, 'None', is none"),
    ],
)
def test_a_bad_table_is_named(tmp_path: Path, content: str, wrong: str) -> None:
    table = tmp_path / "sizes.csv"
    table.write_text(content)
    with pytest.raises(InputError, match=wrong) as error:
        PixelSizes(table)
    assert str(error.value).startswith(str(table))


def test_brackets_in_a_name_are_no_pattern_for_themselves(tmp_path: Path) -> None:
    table = tmp_path / "sizes.csv"
    table.write_text("name,pixel_size_um\nimg[1],0.005\n")
    assert PixelSizes(table).of("img[1]") == PixelSizes(table).of("img1") == 0.005


def test_neither_number_nor_file() -> None:
    with pytest.raises(InputError, match="none is neither a number nor a file"):
        PixelSizes("none")
    with pytest.raises(InputError, match="no pixel size"):
        PixelSizes(0.0)
