"""Pictures and charts: pixels of known colour, known scales, files that other programs read."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from carde_monai import pictures, report, tiff
from carde_monai.error_picture import PANEL, dice, error_picture, informative_window
from carde_monai.errors import InputError
from carde_monai.pictures import (
    BLACK,
    LEVEL_COLOURS,
    SKY_BLUE,
    VERMILLION,
    WHITE,
    YELLOW,
    confidence_levels,
    confidence_picture,
    draw_scale_bar,
    outline,
    overlay_picture,
    percent,
    scale_bar_length,
    to_grey8,
)


def disc(size: tuple[int, int], centre: tuple[int, int], radius: float) -> np.ndarray:
    rows, columns = np.ogrid[: size[0], : size[1]]
    return (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2


def read(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def share_of(picture: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((picture == colour).all(axis=-1).sum())


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved, for looking at what they hold."""
    figures: list[Figure] = []
    save = Figure.savefig

    def keep(figure: Figure, *args: object, **kwargs: object) -> None:
        figures.append(figure)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


# --- grey values


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32", "float64", "int32"])
def test_a_ramp_is_stretched_the_same_for_every_number_type(kind: str) -> None:
    ramp = np.tile(np.arange(200), (50, 1)).astype(kind)
    grey = to_grey8(ramp, 0, 100)
    assert grey.dtype == np.uint8 and grey.shape == ramp.shape
    np.testing.assert_array_equal(grey[0], np.rint(np.arange(200) * 255 / 199))


def test_one_hot_pixel_does_not_darken_the_image() -> None:
    image = np.tile(np.linspace(100, 200, 256), (256, 1)).astype(np.uint16)
    hot = image.copy()
    hot[7, 9] = 65535
    assert abs(to_grey8(hot).mean() - to_grey8(image).mean()) < 1


@pytest.mark.parametrize("value", [0, 255])
def test_a_constant_image_is_mid_grey(value: int) -> None:
    assert np.unique(to_grey8(np.full((8, 8), value, np.uint8))).tolist() == [127]


def test_values_that_are_no_numbers_are_black() -> None:
    image = np.tile(np.linspace(0, 1, 64), (64, 1))
    image[3, 60], image[4, 60], image[5, 60] = np.nan, np.inf, -np.inf
    grey = to_grey8(image)
    assert grey[3:6, 60].tolist() == [0, 0, 0] and grey[6, 60] > 200
    assert to_grey8(np.full((4, 4), np.nan)).max() == 0


def test_a_few_bright_pixels_on_black_are_seen() -> None:
    image = np.zeros((100, 100), np.uint8)
    image[0, 0] = 40
    assert to_grey8(image)[0, 0] == 255


# --- scale bar


@pytest.mark.parametrize(
    ("width", "pixel_size", "pixels", "name"),
    [
        (2048, 0.00698, 2 / 0.00698, "2 µm"),
        (645, 0.00698, 1 / 0.00698, "1 µm"),
        (128, 0.007, 0.2 / 0.007, "200 nm"),
        (1000, 5.0, 200, "1 mm"),
        (1000, None, 200, "200 px"),
        (3, None, 1, "1 px"),
    ],
)
def test_the_scale_bar_is_a_round_length(
    width: int, pixel_size: float | None, pixels: float, name: str
) -> None:
    length, text = scale_bar_length(width, pixel_size)
    assert text == name
    assert length == pytest.approx(pixels)


@given(width=st.floats(20, 1e5), pixel_size=st.one_of(st.none(), st.floats(1e-5, 1e3)))
def test_the_scale_bar_is_about_a_fifth_and_says_its_length(width: float, pixel_size: float | None) -> None:
    length, text = scale_bar_length(width, pixel_size)
    assert 0.12 < length / width < 0.33
    number, unit = text.split()
    in_um = float(number) * {"nm": 1e-3, "µm": 1.0, "mm": 1e3, "px": pixel_size or 1.0}[unit]
    assert in_um == pytest.approx(length * (pixel_size or 1.0), rel=1e-6)
    assert f"{in_um:e}"[0] in "125"


@pytest.mark.parametrize("pixel_size", [0.0, -1.0, math.nan, math.inf])
def test_an_impossible_pixel_size_is_refused(pixel_size: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        scale_bar_length(100, pixel_size)


def test_the_strip_covers_no_pixel_and_its_bar_has_the_stated_length() -> None:
    image = np.random.default_rng(0).integers(0, 256, (300, 1000, 3), dtype=np.uint8)
    picture = np.asarray(draw_scale_bar(Image.fromarray(image), 0.01))  # a fifth is 2 um
    np.testing.assert_array_equal(picture[:300], image)
    strip = picture[300:]
    bar = (strip == BLACK).all(axis=-1)
    longest = max(len(run) for row in bar for run in "".join(map(str, row.astype(int))).split("0"))
    assert longest == 200
    assert share_of(strip, WHITE) > strip.shape[0] * strip.shape[1] / 2


def test_an_enlarged_picture_has_an_enlarged_bar() -> None:
    image = Image.new("RGB", (1000, 10), (90, 90, 90))
    pixel_by_pixel = np.asarray(draw_scale_bar(image, 0.01))
    enlarged = np.asarray(draw_scale_bar(image, 0.02, zoom=2))  # the same micrometres a picture pixel
    np.testing.assert_array_equal(pixel_by_pixel, enlarged)


@given(width=st.integers(1, 700), height=st.integers(1, 40))
def test_any_picture_gets_a_strip(width: int, height: int) -> None:
    legend = [pictures.Key("carbide", VERMILLION), pictures.Key("é (Å) 中")]
    picture = draw_scale_bar(Image.new("L", (width, height)), None, legend)
    assert picture.width == max(width, 320) and picture.height > height


@pytest.mark.parametrize(
    ("share", "text"), [(0, "0.0 %"), (1e-5, "< 0.1 %"), (0.052, "5.2 %"), (1, "100.0 %")]
)
def test_percent(share: float, text: str) -> None:
    assert percent(share) == text


# --- confidence and overlay


def test_levels_change_at_the_stated_probabilities() -> None:
    probability = np.array([[0, 0.0249, 0.025, 0.5], [0.501, 0.975, 0.976, 1]], np.float32)
    assert confidence_levels(probability).tolist() == [[0, 0, 1, 1], [2, 2, 3, 3]]
    assert confidence_levels(probability).dtype == np.uint8


@given(st.lists(st.floats(0, 1, width=32), min_size=1))
def test_the_upper_two_levels_are_the_mask(values: list[float]) -> None:
    probability = np.array([values], np.float32)
    np.testing.assert_array_equal(confidence_levels(probability) >= 2, probability > 0.5)


def test_each_level_has_its_colour(tmp_path: Path) -> None:
    probability = np.repeat([0.01, 0.3, 0.7, 0.99], [50, 100, 150, 200])[None].repeat(400, axis=0)
    confidence_picture(probability, tmp_path / "c.png", 0.007)
    picture = read(tmp_path / "c.png")[:400]
    for column, colour in zip((25, 100, 200, 400), LEVEL_COLOURS, strict=True):
        assert tuple(picture[7, column]) == colour
    luminance = [np.dot(colour, (0.299, 0.587, 0.114)) for colour in LEVEL_COLOURS]
    assert luminance == sorted(luminance)  # reads in grey, too


def test_the_outline_of_a_pixel_is_its_four_neighbours() -> None:
    mask = np.zeros((5, 5), np.uint8)
    mask[2, 2] = 1
    assert np.argwhere(outline(mask)).tolist() == [[1, 2], [2, 1], [2, 3], [3, 2]]
    assert outline(mask, 2).sum() == 12
    assert not outline(np.zeros((5, 5), bool)).any() and not outline(np.ones((5, 5), bool)).any()


def test_the_overlay_leaves_the_carbide_visible(tmp_path: Path) -> None:
    mask = disc((330, 400), (100, 150), 20)
    image = np.stack([np.where(mask, 200, 80), np.zeros(mask.shape)]).astype(np.uint8)
    overlay_picture(image, mask, tmp_path / "o.png")
    picture = read(tmp_path / "o.png")[:330]
    around = (picture == VERMILLION).all(axis=-1)
    np.testing.assert_array_equal(around, outline(mask))
    np.testing.assert_array_equal(picture[mask], np.broadcast_to(255, (mask.sum(), 3)))


def test_the_overlay_has_the_greys_of_the_stretch(tmp_path: Path) -> None:
    mask = disc((330, 400), (100, 150), 20)
    noise = np.random.default_rng(0).random((1, 330, 400)).astype(np.float32)
    for image in (noise, (60 + 90 * noise).astype(np.uint8)):
        overlay_picture(image, mask, tmp_path / "o.png")
        picture, grey = read(tmp_path / "o.png")[:330].astype(int), to_grey8(image[0]).astype(int)
        elsewhere = ~outline(mask)
        moved = (picture[elsewhere] - grey[elsewhere][:, None]).max(-1)
        if image.dtype == np.uint8:  # greys are free
            assert not moved.any()
        else:  # the outline has the place of the rarest grey, which becomes the next
            assert set(moved.tolist()) <= {0, 1} and moved.mean() < 1 / 200


def black_runs(picture: np.ndarray) -> list[str]:
    rows = ("".join("#" if black else " " for black in row) for row in (picture == 0).all(-1))
    return [run for row in rows for run in row.split()]


def test_pictures_of_a_mosaic_are_reduced_with_the_scale_bar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probability = np.zeros((600, 2400), np.float32)
    probability[99:399, 300:900] = 1
    image = np.random.default_rng(0).integers(90, 110, (2, 600, 2400), dtype=np.uint8)

    monkeypatch.setattr(pictures, "LARGEST_SIDE", 800)
    confidence_picture(probability, tmp_path / "c.png", 0.01)
    overlay_picture(image, probability > 0.5, tmp_path / "o.png", 0.01)
    confidence, overlay = (read(tmp_path / name) for name in ("c.png", "o.png"))
    assert confidence.shape[1] == overlay.shape[1] == 800
    assert share_of(confidence[:200], LEVEL_COLOURS[3]) == 200 * 100
    assert tuple(confidence[100, 200]) == LEVEL_COLOURS[3] and tuple(confidence[10, 10]) == LEVEL_COLOURS[0]
    assert tuple(overlay[50, 99]) == VERMILLION and tuple(overlay[50, 100]) != VERMILLION
    for picture in (confidence, overlay):  # 5 um, 500 of the mosaic's pixels
        assert max(len(one) for one in black_runs(picture[200:])) == round(500 / 3)


# --- error_picture


def test_errors_have_the_stated_colours(tmp_path: Path) -> None:
    label, mask = np.zeros((512, 512), bool), np.zeros((512, 512), bool)
    label[100:120, 100:140] = True
    mask[100:120, 110:160] = True  # 30 columns in common, 20 too many, 10 missed
    image = np.random.default_rng(0).integers(50, 200, (2, 512, 512), dtype=np.uint8)
    error_picture(image, label, {"network": mask}, tmp_path / "c.png")
    picture = read(tmp_path / "c.png")
    panel = picture[:540, -520:]  # the last panel, without the legend
    assert [share_of(panel, colour) for colour in (SKY_BLUE, VERMILLION, YELLOW)] == [600, 400, 200]
    assert share_of(picture[:540, :-530], SKY_BLUE) == 0


def test_one_detector_is_shown_once(tmp_path: Path) -> None:
    label = disc((128, 128), (60, 60), 20)
    image = np.random.default_rng(0).integers(0, 256, (2, 128, 128), dtype=np.uint8)
    error_picture(image, label, {"a": label}, tmp_path / "two.png")
    error_picture(image[[0, 0]], label, {"a": label}, tmp_path / "one.png")
    assert read(tmp_path / "two.png").shape[1] - read(tmp_path / "one.png").shape[1] == PANEL + 8


def test_a_large_frame_gets_a_detail_pixel_by_pixel(tmp_path: Path) -> None:
    label = np.zeros((700, 1024), np.uint8)
    mask = label.copy()
    mask[600:610, 900:920] = 1
    image = np.random.default_rng(0).integers(0, 256, (2, 700, 1024), dtype=np.uint16)
    error_picture(
        image, label, {"network": mask, "baseline": label}, tmp_path / "c.png", 0.007, "WD_06mm_001"
    )
    picture = read(tmp_path / "c.png")
    assert picture.shape[1] == 4 * PANEL + 3 * 8 + 2 * 8
    assert share_of(picture[-580:-40], VERMILLION) == 200


@given(row=st.integers(0, 690), column=st.integers(0, 1000))
def test_the_detail_holds_the_error(row: int, column: int) -> None:
    label = np.zeros((700, 1024), bool)
    mask = label.copy()
    mask[row : row + 10, column : column + 20] = True
    window = informative_window(label, [mask])
    assert window is not None
    assert mask[window].sum() == mask.sum() and mask[window].shape == (512, 512)


@pytest.mark.parametrize("size", [(100, 100), (700, 700), (900, 300), (300, 900), (769, 513)])
def test_the_window_lies_in_the_frame(size: tuple[int, int]) -> None:
    window = informative_window(np.ones(size, bool), [])
    if max(size) <= 768:
        assert window is None
    else:
        assert window is not None
        assert np.ones(size)[window].shape == (min(512, *size), min(512, *size))


@pytest.mark.parametrize(
    ("mask", "label", "value"),
    [
        ([1, 1, 0, 0], [1, 0, 1, 0], 0.5),
        ([0] * 4, [0] * 4, 1.0),
        ([1] * 4, [0] * 4, 0.0),
        ([1] * 4, [1] * 4, 1.0),
    ],
)
def test_dice(mask: list[int], label: list[int], value: float) -> None:
    assert dice(np.array(mask, bool), np.array(label, bool)) == value


# --- charts


def points(*rows: tuple[float, float, int]) -> list[dict[str, float]]:
    return [dict(zip(("predicted", "observed", "count"), row, strict=True)) for row in rows]


def test_the_expected_calibration_error_is_weighted_with_counts() -> None:
    curve = points((0.1, 0.2, 300), (0.9, 0.6, 100), (0.5, math.nan, 0))
    assert report.expected_calibration_error(curve) == pytest.approx((300 * 0.1 + 100 * 0.3) / 400)
    assert math.isnan(report.expected_calibration_error([]))


def test_the_reliability_diagram_states_both_errors(tmp_path: Path, drawn: list[Figure]) -> None:
    before = points((0.9, 0.6, 100), (0.1, 0.2, 300), (0.5, math.nan, 0))
    after = points((0.1, 0.1, 300), (0.9, 0.9, 100))
    report.reliability_diagram(before, after, tmp_path / "r.png", title="Validation")
    curve, counts = drawn[0].axes
    texts = [text.get_text() for text in curve.get_legend().get_texts()]
    assert texts[1:] == ["before calibration: ECE 0.1500", "after calibration: ECE 0.0000"]
    assert curve.lines[1].get_xydata().tolist() == [[0.1, 0.2], [0.9, 0.6]]
    assert counts.get_yscale() == "log" and counts.lines[0].get_ydata().tolist() == [300, 100]
    assert drawn[0].get_suptitle() == "Validation (n = 400 pixels)"
    assert counts.get_xlabel() and counts.get_ylabel() and curve.get_ylabel()
    report.reliability_diagram(before, None, tmp_path / "r.png")
    assert len(drawn[1].axes[0].lines) == 2


def test_the_box_plot_states_n_and_median(tmp_path: Path, drawn: list[Figure]) -> None:
    groups = {
        "network test": [0.9, 0.8, 0.7, math.nan],
        "baseline test": np.linspace(0, 1, 1001),
        "network hold-out": [],
    }
    report.box_plot(groups, tmp_path / "b.png", "Dice per micrograph")
    (axes,) = drawn[0].axes
    assert [tick.get_text().split("\n")[-2:] for tick in axes.get_xticklabels()] == [
        ["n = 3", "median 0.800"],
        ["n = 1,001", "median 0.500"],
        ["n = 0", "median none"],
    ]
    assert axes.get_ylabel() == "Dice per micrograph"
    for place, (scatter, n) in enumerate(zip(axes.collections, (3, 1001), strict=True)):
        offsets = np.asarray(scatter.get_offsets())
        assert len(offsets) == n and np.abs(offsets[:, 0] - place).max() <= 0.2


def test_the_box_plot_is_the_same_each_time(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        report.box_plot({"network": [0.5, 0.6, 0.7]}, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_the_training_curve_marks_the_best_epoch(tmp_path: Path, drawn: list[Figure]) -> None:
    table = pd.DataFrame({"epoch": [1, 2, 3, 4], "loss": [0.9, 0.5, 0.4, 0.3]})
    table["learning_rate"] = 2e-4
    table["val_loss"] = [math.nan, 0.6, math.nan, 0.7]
    table["val_mean_dice"] = [math.nan, 0.8, math.nan, 0.75]
    table.to_csv(tmp_path / "t.csv", index=False)
    report.training_curve(tmp_path / "t.csv", tmp_path / "t.png")
    loss, score, rate = drawn[0].axes
    assert "best epoch 2: Dice 0.8000" in [text.get_text() for text in score.get_legend().get_texts()]
    assert len(loss.lines) == 3 and loss.lines[1].get_xydata().tolist() == [[2, 0.6], [4, 0.7]]
    assert rate.get_yscale() == "log" and rate.get_xlabel() == "epoch"
    assert all(axes.get_ylabel() for axes in drawn[0].axes)


@pytest.mark.parametrize("columns", [["epoch"], ["epoch", "loss"], ["epoch", "val_loss", "learning_rate"]])
@pytest.mark.parametrize("epochs", [1, 2])
def test_a_short_or_poor_training_has_a_curve_too(tmp_path: Path, columns: list[str], epochs: int) -> None:
    table = pd.DataFrame({column: range(1, epochs + 1) for column in columns})
    table.to_csv(tmp_path / "t.csv", index=False)
    report.training_curve(tmp_path / "t.csv", tmp_path / "t.png")
    assert (tmp_path / "t.png").stat().st_size > 0


@pytest.mark.parametrize("text", [None, "", "epoch,loss\n", "a,b\n1,2\n"])
def test_a_training_table_that_is_none_is_named(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "t.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=r"t\.csv"):
        report.training_curve(path, tmp_path / "t.png")


# --- the four files


KINDS = ["mask.png", "probability.tif", "confidence.png", "overlay.png"]


@pytest.fixture
def segmented() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (2, 90, 333), dtype=np.uint8), rng.random((90, 333), dtype=np.float32)


def test_the_four_files_hold_what_they_say(tmp_path: Path, segmented: tuple[np.ndarray, np.ndarray]) -> None:
    image, probability = segmented
    paths = report.write_segmentation("WD 6.5mm_é_001", image, probability, tmp_path / "new", 0.00698)
    assert paths == [tmp_path / "new" / f"WD 6.5mm_é_001_{kind}" for kind in KINDS]
    assert sorted((tmp_path / "new").iterdir()) == sorted(paths)  # nothing temporary is left
    with Image.open(paths[0]) as mask:
        assert mask.mode == "L"
        np.testing.assert_array_equal(np.asarray(mask), np.where(probability > 0.5, 255, 0))
    np.testing.assert_array_equal(tifffile.imread(paths[1]), probability)
    for path in paths[2:]:
        assert read(path).shape[1] == 333


def test_fiji_finds_pixel_size_and_unit(tmp_path: Path, segmented: tuple[np.ndarray, np.ndarray]) -> None:
    path = report.write_segmentation("a", *segmented, tmp_path, 0.0056)[1]
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        assert page.dtype == np.float32 and page.compression == tifffile.COMPRESSION.NONE
        assert page.predictor == 1  # ImageJ reads no floating-point predictor
        assert file.imagej_metadata["unit"] == "micron"
        assert (file.imagej_metadata["min"], file.imagej_metadata["max"]) == (0, 1)
        # ImageJ takes 1 / XResolution as pixel width, in the unit of the description
        assert [1 / value for value in page.get_resolution()] == pytest.approx([0.0056] * 2, rel=1e-6)


def test_beyond_four_gigabytes_the_tiff_is_a_plain_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(0).random((30, 40)).astype(np.float32)
    monkeypatch.setattr(tiff, "LARGEST", values.nbytes - 1)  # ImageJ's dialect has no BigTIFF
    tiff.write_tiff(values, tmp_path / "a.tif", 0.005, (0, 1))
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert not file.is_imagej and file.pages[0].get_resolution("micrometer")[0] == pytest.approx(200)
        np.testing.assert_array_equal(file.asarray(), values)


def test_an_unknown_pixel_size_is_not_invented(
    tmp_path: Path, segmented: tuple[np.ndarray, np.ndarray]
) -> None:
    path = report.write_segmentation("a", *segmented, tmp_path)[1]
    with tifffile.TiffFile(path) as file:
        assert "unit" not in file.imagej_metadata
        assert file.pages[0].get_resolution() == (1, 1)


@pytest.mark.parametrize("name", ["", "a/b", "../a", "."])
def test_a_name_that_is_no_file_name_is_refused(
    tmp_path: Path, segmented: tuple[np.ndarray, np.ndarray], name: str
) -> None:
    with pytest.raises(InputError, match="rename"):
        report.write_segmentation(name, *segmented, tmp_path)


def test_a_failed_write_leaves_the_earlier_files(
    tmp_path: Path, segmented: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    image, probability = segmented
    paths = report.write_segmentation("a", image, probability, tmp_path)
    before = [path.read_bytes() for path in paths]

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report, "overlay_picture", full)
    with pytest.raises(OSError, match="No space"):
        report.write_segmentation("a", image, 1 - probability, tmp_path)
    assert [path.read_bytes() for path in paths] == before
    assert sorted(tmp_path.iterdir()) == sorted(paths)


def test_other_sizes_and_no_numbers_are_refused(
    tmp_path: Path, segmented: tuple[np.ndarray, np.ndarray]
) -> None:
    image, probability = segmented
    with pytest.raises(InputError, match="differ in size"):
        report.write_segmentation("a", image, probability[1:], tmp_path)
    probability[0, 0] = np.nan
    with pytest.raises(InputError, match="not a number"):
        report.write_segmentation("a", image, probability, tmp_path)
    assert list(tmp_path.iterdir()) == []
