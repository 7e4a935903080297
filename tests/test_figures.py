from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from report_data import Study, study

from carde_monai.figure_series import Series, printable
from carde_monai.figures import FIGURES, FigureFile, write_figures


@pytest.fixture(scope="module")
def two() -> Study:
    return study(
        [("steel A", f"a{i}") for i in range(4)] + [("steel B", f"b{i}") for i in range(3)], count=25
    )


@pytest.fixture(scope="module")
def files(two: Study, tmp_path_factory: pytest.TempPathFactory) -> dict[str, FigureFile]:
    folder = tmp_path_factory.mktemp("figures") / "new" / "folder"
    return {file.png.stem: file for file in write_figures(two.samples, two.summaries, folder)}


def text_of(svg: Path) -> str:
    return " ".join(ET.parse(svg).getroot().itertext())


def test_every_figure_is_a_column_wide_as_png_and_svg(files: dict[str, FigureFile]) -> None:
    assert list(files) == list(FIGURES)
    for file in files.values():
        with Image.open(file.png) as picture:
            assert picture.info["dpi"] == pytest.approx((300, 300), abs=0.1)
            assert picture.width / 300 * 25.4 == pytest.approx(88, abs=0.5)
        assert "steel A" in text_of(file.svg)  # text, not outlines of letters


def test_captions_and_legends_state_the_numbers(two: Study, files: dict[str, FigureFile]) -> None:
    a, b = two.summaries
    uncut = f"n = {a['carbides_uncut']:,} / {b['carbides_uncut']:,} carbides"
    assert uncut in files["size_distribution"].caption and uncut in files["cumulative_size"].caption
    assert f"n = {a['carbides']:,} / {b['carbides']:,} carbides" in files["spacing"].caption
    assert "n = 4 / 3 micrographs" in files["micrographs"].caption
    assert f"steel A (n = {a['carbides_uncut']})" in text_of(files["size_distribution"].svg)


def test_axes_have_units(files: dict[str, FigureFile]) -> None:
    texts = {name: text_of(file.svg) for name, file in files.items()}
    assert "equivalent circle diameter (µm)" in texts["size_distribution"]
    assert "distance to the nearest carbide (µm)" in texts["spacing"]
    assert "carbides per µm²" in texts["micrographs"] and "area fraction (%)" in texts["micrographs"]


def test_the_same_tables_give_the_same_svg(two: Study, files: dict[str, FigureFile], tmp_path: Path) -> None:
    for again in write_figures(two.samples, two.summaries, tmp_path):
        first = files[again.svg.stem].svg.read_bytes()
        assert again.svg.read_bytes() == first
        assert b"date" not in first


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("fields", [1, 3])
def test_hardly_any_carbides(count: int, fields: int, tmp_path: Path) -> None:
    few = study([("steel", f"m{i}") for i in range(fields)], count=count)
    assert len(write_figures(few.samples, few.summaries, tmp_path)) == len(FIGURES)


def test_an_empty_sample_beside_a_full_one(two: Study, tmp_path: Path) -> None:
    empty = study([("none", "x")], count=0)
    samples, summaries = [*empty.samples, *two.samples], [*empty.summaries, *two.summaries]
    files = write_figures(samples, summaries, tmp_path)
    assert "n = 0 / " in files[0].caption


def test_more_than_six_samples_are_said(tmp_path: Path) -> None:
    eight = study([(f"steel {i}", f"m{i}") for i in range(8)])
    files = write_figures(eight.samples, eight.summaries, tmp_path)
    assert all("The first 6 of 8 samples are shown." in file.caption for file in files)
    assert "steel 6" not in text_of(files[0].svg)


def test_pixels_and_micrometres_share_no_axis(two: Study, tmp_path: Path) -> None:
    unknown = study([("steel C", "c1"), ("steel C", "c2")], pixel_size_um=None)
    samples, summaries = [*two.samples, *unknown.samples], [*two.summaries, *unknown.summaries]
    files = write_figures(samples, summaries, tmp_path)
    assert [file.png.stem for file in files] == [*FIGURES, *(f"{name}_px" for name in FIGURES)]
    assert "steel C" not in text_of(files[0].svg)
    assert "equivalent circle diameter (px)" in text_of(tmp_path / "size_distribution_px.svg")


def test_shares_are_weighted_against_the_border(two: Study) -> None:
    sample = two.samples[0]
    size, share = Series(sample, two.summaries[0], "a", (0, 0, 0), "-", "o").sizes()
    table = sample.particles[~sample.particles["touches_border"]]
    weight = table["border_weight"]
    assert size.size == len(table) and (np.diff(size) >= 0).all()
    assert share.sum() == pytest.approx(1)
    mean = (table["equivalent_circle_diameter_um"] * weight).sum() / weight.sum()
    assert (size * share).sum() == pytest.approx(mean)


def test_any_name_can_be_drawn(tmp_path: Path) -> None:
    names = ["_hidden", "$x$ $", "a\nb\x01", "日本鋼", "<script>&\"'", "x" * 300]
    odd = study([(name, "m") for name in names])
    text = text_of(write_figures(odd.samples, odd.summaries, tmp_path)[0].svg)
    for name in names:
        shown = printable(name).replace(r"\$", "$")
        assert shown in text and len(shown) <= 28


def test_letters_of_no_font_become_question_marks() -> None:
    assert printable("鋼 µ α") == "? µ α"
    assert printable("a\udcff\x07") == "a??"
    assert printable("") == ""


def test_long_names_keep_their_end() -> None:
    one, other = (printable(f"22NiMoCr37, tempered at 650 °C for {hours} h") for hours in (1, 12))
    assert len(one) == len(other) == 28 and one != other and other.endswith("for 12 h")
