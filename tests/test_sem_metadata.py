"""Pixel size and detector as each maker writes them, and what is no pixel size."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from sem_writer import fei, jeol, noise, tescan, write, zeiss

from carde_monai.sem_metadata import FileMetadata, detector_channel, parse_length
from carde_monai.sem_pixels import read_file, read_file_metadata

NM = 1e-3


def _read(folder: Path, tags: Mapping[int, bytes] | None = None, **options: Any) -> FileMetadata:
    return read_file(write(folder / "a_1.tif", noise(), dict(tags or {}), **options))[1]


@pytest.mark.parametrize(
    ("text", "micrometres"),
    [
        ("6.983 nm", 6.983e-3),
        ("558.2 pm", 558.2e-6),
        ("1 um", 1.0),
        ("1.5µm", 1.5),
        ("1.5 μm", 1.5),  # the Greek letter, not the sign
        ("1.5 Âµm", 1.5),  # UTF-8 read as cp1252
        ("0,5 mm", 500.0),
        ("5E-3 um", 0.005),
        ("-3 nm", -3e-3),
        ("10 nm", 0.01),
        ("12", None),
        ("nm", None),
        ("1.2.3 nm", None),
        ("1 furlong", None),
        ("", None),
    ],
)
def test_lengths(text: str, micrometres: float | None) -> None:
    assert parse_length(text) == (None if micrometres is None else pytest.approx(micrometres, rel=1e-9))


@given(
    st.floats(1e-3, 1e6), st.sampled_from([("pm", 1e-6), ("nm", 1e-3), ("um", 1.0), ("µm", 1.0), ("mm", 1e3)])
)
def test_lengths_of_any_number(number: float, unit: tuple[str, float]) -> None:
    assert parse_length(f"{number!r} {unit[0]}") == pytest.approx(number * unit[1], rel=1e-9)


@pytest.mark.parametrize(
    ("names", "channel"),
    [
        (["SE2", "SESI", "HE-SE2", "SE1", "ETD", "SE", "E-T", "LEI", "LED"], 0),
        (["InLens", "In-lens", "Inlens", "INLENS", "TLD", "In-Beam SE", "UED", "InLens Duo"], 1),
        ([None, "", "BSD", "ESB", "AsB", "SEI", "Mix", "TLD BSE", "CCD"], None),
    ],
)
def test_detectors(names: list[str | None], channel: int | None) -> None:
    assert [detector_channel(name) for name in names] == [channel] * len(names)


@pytest.mark.parametrize(
    ("tags", "micrometres", "source"),
    [
        (zeiss("6.983 nm"), 6.983 * NM, "Zeiss"),
        (zeiss("558.2 pm"), 0.5582 * NM, "Zeiss"),
        (zeiss("1.117 µm"), 1.117, "Zeiss"),
        (zeiss("1.117 um"), 1.117, "Zeiss"),
        (zeiss("0.01 mm"), 10.0, "Zeiss"),
        (zeiss("6,983 nm"), 6.983 * NM, "Zeiss"),
        (zeiss("10 nm", width="1.280 µm"), 10 * NM, "Zeiss"),
        (fei("6.98e-009"), 6.98 * NM, "FEI"),
        (fei("6.98e-009", tag=34680), 6.98 * NM, "FEI"),
        (tescan("6.98e-9"), 6.98 * NM, "Tescan"),
        # the first of the makers counts
        (zeiss("5 nm") | fei("6e-9") | tescan("7e-9"), 5 * NM, "Zeiss"),
    ],
)
def test_pixel_size_of_each_maker(
    tags: dict[int, bytes], micrometres: float, source: str, tmp_path: Path
) -> None:
    found = _read(tmp_path, tags)
    assert found.pixel_size_um == pytest.approx(micrometres, rel=1e-9)
    assert found.source.startswith(source)
    assert found.warnings == ()


def test_zeiss_width_contradicts(tmp_path: Path) -> None:
    found = _read(tmp_path, zeiss("10 nm", width="2.560 µm"))  # 128 px of 10 nm are 1.28 um
    assert found.pixel_size_um == pytest.approx(0.01)
    assert len(found.warnings) == 1
    assert "a_1.tif" in found.warnings[0] and "--pixel_size" in found.warnings[0]


def test_zeiss_width_alone_needs_the_stored_frame(tmp_path: Path) -> None:
    full = _read(tmp_path, zeiss(None, width="1.280 µm", stored="128 * 96"))
    assert full.pixel_size_um == pytest.approx(0.01)
    cut = _read(tmp_path, zeiss(None, width="1.280 µm", stored="256 * 192"))
    assert (cut.pixel_size_um, cut.source) == (None, "unknown")
    assert _read(tmp_path, zeiss(None, width="1.280 µm")).pixel_size_um is None


@pytest.mark.parametrize("value", ["0 nm", "0.0 nm", "-7 nm", "nan nm", "7", "many nm", "9e9 mm", ""])
def test_impossible_pixel_sizes_are_absent_with_a_warning(value: str, tmp_path: Path) -> None:
    found = _read(tmp_path, zeiss(value))
    assert (found.pixel_size_um, found.source) == (None, "unknown")
    assert len(found.warnings) == 1 and "ignored" in found.warnings[0]


@pytest.mark.parametrize("tags", [fei("0"), fei("nan"), fei("-1e-9"), fei("x"), tescan("0"), tescan("nan")])
def test_impossible_numbers_of_other_makers(tags: dict[int, bytes], tmp_path: Path) -> None:
    found = _read(tmp_path, tags)
    assert found.pixel_size_um is None
    assert len(found.warnings) == 1 and "ignored" in found.warnings[0]


@pytest.mark.parametrize(
    "tags", [{34118: b"\xff\xfe\x00garbage"}, {34682: b"[[["}, {50431: b"\x00\x01"}, {34118: b""}]
)
def test_broken_tags_are_no_error(tags: dict[int, bytes], tmp_path: Path) -> None:
    assert _read(tmp_path, tags).pixel_size_um is None


def test_pixels_that_are_not_square(tmp_path: Path) -> None:
    found = _read(tmp_path, tescan("6e-9", height="9e-9"))
    assert found.pixel_size_um == pytest.approx(0.006)
    assert "wide" in found.warnings[0]


def test_rows_of_the_image_proper(tmp_path: Path) -> None:
    assert _read(tmp_path, fei(size="ResolutionX=128\r\nResolutionY=88\r\n")).image_rows == 88
    assert _read(tmp_path, tescan(strip=8)).image_rows == 88
    assert _read(tmp_path, zeiss("10 nm", height="880.0 nm")).image_rows == 88
    assert _read(tmp_path, zeiss("10 nm", height="960.0 nm")).image_rows is None
    assert _read(tmp_path, fei(size="ResolutionX=128\r\nResolutionY=96\r\n")).image_rows is None
    resized = _read(tmp_path, fei(size="ResolutionX=256\r\nResolutionY=88\r\n"))
    assert resized.image_rows is None and "256" in resized.warnings[0]


@pytest.mark.parametrize(
    ("options", "micrometres"),
    [
        ({"resolution": (1e6, 1e6), "resolutionunit": 3}, 0.01),
        ({"resolution": (25.4e5, 25.4e5), "resolutionunit": 2}, 0.01),
        ({"resolution": (1e6, 1e6), "resolutionunit": 1}, None),  # without unit
        ({"resolution": (72, 72), "resolutionunit": 2}, None),
        ({"resolution": (96, 96), "resolutionunit": 2}, None),
        ({"resolution": (300, 300), "resolutionunit": 2}, None),
        ({"resolution": (1200, 1200), "resolutionunit": 2}, None),
        ({"resolution": (118.11, 118.11), "resolutionunit": 3}, None),  # 300 dpi
        ({"resolution": (1, 1), "resolutionunit": 3}, None),
        ({"resolution": (100, 100), "resolutionunit": 1, "description": "ImageJ=1.53t\nunit=micron\n"}, 0.01),
        (
            {"resolution": (100, 100), "resolutionunit": 1, "description": "ImageJ=1.53t\nunit=\\u00B5m\n"},
            0.01,
        ),
        ({"resolution": (100, 100), "resolutionunit": 1, "description": "ImageJ=1.53t\nunit=pixel\n"}, None),
        ({}, None),
    ],
)
def test_tiff_resolution(options: dict[str, Any], micrometres: float | None, tmp_path: Path) -> None:
    found = _read(tmp_path, **options)
    assert found.pixel_size_um == (None if micrometres is None else pytest.approx(micrometres, rel=1e-6))
    assert found.warnings == ()


def test_a_resolution_does_not_overrule_the_microscope(tmp_path: Path) -> None:
    found = _read(tmp_path, zeiss("5 nm"), resolution=(1e6, 1e6), resolutionunit=3)
    assert found.pixel_size_um == pytest.approx(0.005)


@pytest.mark.parametrize(
    ("text", "micrometres"),
    [
        (jeol("143", "1um"), 1 / 143),
        (jeol("200", "100nm"), 0.0005),
        (jeol("100", "1 um"), 0.01),
        (jeol("100", "1\xb5m"), 0.01),
        (jeol("0", "1um"), None),
        (jeol("-5", "1um"), None),
        (jeol("x", "1um"), None),
        ("just notes\n", None),
        ("", None),
    ],
)
@pytest.mark.parametrize("suffix", [".txt", ".TXT"])
def test_jeol_text_beside_the_image(
    text: str, micrometres: float | None, suffix: str, tmp_path: Path
) -> None:
    (tmp_path / f"a_1{suffix}").write_bytes(text.encode("cp1252"))
    found = _read(tmp_path)
    assert found.pixel_size_um == (None if micrometres is None else pytest.approx(micrometres))
    assert bool(found.warnings) == (micrometres is None and "SM_MICRON" in text)


def test_jeol_size_and_detector(tmp_path: Path) -> None:
    (tmp_path / "a_1.txt").write_text(jeol(rest="$CM_FULL_SIZE 128 88\n$CM_SIGNAL LEI\n"))
    found = _read(tmp_path)
    assert (found.image_rows, found.detector) == (88, "LEI")


@pytest.mark.parametrize(
    ("tags", "name"),
    [
        (zeiss(detector="InLens"), "InLens"),
        (zeiss(detector="SE2"), "SE2"),
        (fei(detector="TLD"), "TLD"),
        (fei(detector="TLD", mode="BSE"), "TLD BSE"),
        (tescan(detector="In-Beam SE"), "In-Beam SE"),
        (zeiss(), None),
        ({}, None),
    ],
)
def test_detector_names(tags: dict[int, bytes], name: str | None, tmp_path: Path) -> None:
    path = write(tmp_path / "a_1.tif", noise(), tags)
    assert read_file_metadata(path).detector == name
    assert read_file(path)[1].detector == name


def test_no_detector_of_what_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a_1.tif").write_bytes(b"no image")
    assert read_file_metadata(tmp_path / "a_1.tif").detector is None
    assert read_file_metadata(tmp_path / "none.tif").detector is None


def test_a_cut_image_saved_without_tags_is_unknown(tmp_path: Path) -> None:
    """tifffile and Pillow write their own default resolution; none of it is a pixel size."""
    path = tmp_path / "cut_1.tif"
    tifffile.imwrite(path, noise()[:40])
    assert read_file(path)[1] == FileMetadata()
    from PIL import Image

    Image.fromarray(np.ascontiguousarray(noise()[:40])).save(path, dpi=(300, 300))
    assert read_file(path)[1] == FileMetadata()
