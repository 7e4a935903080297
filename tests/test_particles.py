"""Discs, ellipses and rectangles of known size; hand-counted pixels; what must not change, does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import perimeter_crofton, regionprops_table

from carde_monai.particles import label_particles, measure_particles, save_labels
from carde_monai.sem_metadata import read_metadata
from carde_monai.synthetic import STEELS, synthesize_micrograph

EIGHT = np.ones((3, 3), bool)
COLUMNS_UM = [
    "label",
    "area_um2",
    "equivalent_circle_diameter_um",
    "major_axis_um",
    "minor_axis_um",
    "aspect_ratio",
    "orientation_deg",
    "perimeter_um",
    "circularity",
    "solidity",
    "feret_max_um",
    "centroid_x_um",
    "centroid_y_um",
    "centroid_x_px",
    "centroid_y_px",
    "nearest_neighbour_um",
    "touches_border",
    "counted",
    "border_weight",
    "mean_probability",
    "mean_grey_se2",
    "mean_grey_inlens",
]
FLAGS = ["touches_border", "counted"]
SHAPES = ["aspect_ratio", "circularity", "solidity"]
LENGTHS = ["equivalent_circle_diameter", "major_axis", "minor_axis", "perimeter", "feret_max"]
PLACE = ["centroid_x_px", "centroid_y_px", "orientation_deg"]
masks = arrays(bool, (10, 12))


def ellipse(
    major: float, minor: float, angle: float = 0, centre: tuple[float, float] | None = None, size: int = 160
) -> NDArray[np.bool_]:
    """Pixels whose centre lies in an ellipse of these axes, turned counter-clockwise as seen."""
    across, up = _turned(angle, centre or (size / 2, size / 2), size)
    return (2 * across / major) ** 2 + (2 * up / minor) ** 2 <= 1


def rectangle(
    length: float, width: float, angle: float = 0, rounded: bool = False, size: int = 160
) -> NDArray[np.bool_]:
    """Pixels whose centre lies in a rectangle, or in a rod with half discs as ends."""
    across, up = _turned(angle, (size / 2 + 0.2, size / 2 - 0.3), size)
    if rounded:
        return np.hypot(np.maximum(abs(across) - (length - width) / 2, 0), up) <= width / 2
    return (abs(across) <= length / 2) & (abs(up) <= width / 2)


def _turned(angle: float, centre: tuple[float, float], size: int) -> tuple[NDArray, NDArray]:
    y, x = np.mgrid[:size, :size]
    x, y, t = x - centre[0], centre[1] - y, np.radians(angle)
    return x * np.cos(t) + y * np.sin(t), y * np.cos(t) - x * np.sin(t)


def one(mask: NDArray, pixel_size_um: float | None = None) -> pd.Series:
    (row,) = measure_particles(mask.astype(np.uint8), pixel_size_um).to_dict("records")
    return pd.Series(row)


# label_particles


def test_diagonal_neighbours_are_one_and_numbers_follow_the_raster() -> None:
    mask = np.array([[0, 0, 0, 255], [255, 0, 255, 0], [0, 0, 0, 0], [255, 0, 0, 255]])
    labels = label_particles(mask)
    assert labels.dtype == np.int32
    assert labels.tolist() == [[0, 0, 0, 1], [2, 0, 1, 0], [0, 0, 0, 0], [3, 0, 0, 4]]


def test_small_components_are_dropped_and_the_others_renumbered() -> None:
    mask = np.array([[1, 0, 1, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 0, 1]])
    assert label_particles(mask, min_area=2).tolist() == [[0, 0, 1, 1, 0], [0, 0, 0, 0, 0], [2, 2, 2, 0, 0]]
    assert label_particles(mask, min_area=3).max() == 1
    assert not label_particles(mask, min_area=4).any()


@given(masks)
@settings(deadline=None, max_examples=40)
def test_labels_are_the_components_in_raster_order(mask: NDArray) -> None:
    labels = label_particles(mask)
    numbers, first = np.unique(labels, return_index=True)
    assert ((labels > 0) == mask).all()
    assert numbers[-1] == ndimage.label(mask, EIGHT)[1]
    assert (np.diff(first[numbers > 0]) > 0).all()


@pytest.mark.parametrize(("shape", "min_area"), [((1, 4, 4), 1), ((4,), 1), ((4, 4), 0)])
def test_wrong_masks_are_refused(shape: tuple[int, ...], min_area: int) -> None:
    with pytest.raises(ValueError, match=r"a mask has the shape|at least 1 px"):
        label_particles(np.ones(shape), min_area=min_area)


@pytest.mark.parametrize("diameter", [16, 24, 50])
@pytest.mark.parametrize("angle", [0, 30, 45, 90, 117])
def test_two_overlapping_discs_become_two(diameter: int, angle: float) -> None:
    t = np.radians(angle)
    step = 0.44 * diameter * np.array((np.cos(t), -np.sin(t)))
    discs = [ellipse(diameter, diameter, centre=(80.3 + d[0], 79.9 + d[1])) for d in (step, -step)]
    mask = discs[0] | discs[1]
    assert label_particles(mask).max() == 1
    labels = label_particles(mask, split_touching=True)
    assert labels.max() == 2
    assert ((labels > 0) == mask).all()
    for disc in discs:  # each piece is its disc, but for the lens that they share and a few pixels beside it
        wrong, _ = sorted(np.bincount(labels[disc & ~(discs[0] & discs[1])], minlength=3)[1:])
        assert wrong < diameter / 5


@pytest.mark.parametrize("angle", range(0, 180, 15))
@pytest.mark.parametrize("width", [1.5, 3, 5, 8, 13, 25])
def test_rods_plates_and_ellipses_stay_one(width: float, angle: int) -> None:
    shapes = [rectangle(length, width, angle, rounded) for length in (40, 130) for rounded in (0, 1)]
    shapes += [ellipse(aspect * width, width, angle) for aspect in (1, 1.3, 2, 5)]
    for number, mask in enumerate(shapes):
        assert label_particles(mask, split_touching=True).max() == 1, number


@pytest.mark.parametrize("seed", [0, 1])
def test_noisy_outlines_of_single_carbides_are_hardly_split(seed: int) -> None:
    """The labels of the generator are noisy as those of a hand: few of its carbides may fall apart."""
    label = synthesize_micrograph(STEELS["jfl"], (256, 384), seed).label
    whole, split = label_particles(label), label_particles(label, split_touching=True)
    assert whole.max() <= split.max() <= 1.1 * whole.max() + 1


@given(masks)
@settings(deadline=None, max_examples=40)
def test_splitting_cuts_but_moves_no_pixel(mask: NDArray) -> None:
    mask = np.kron(mask, np.ones((6, 6), bool))  # coarse enough to have necks
    whole, split = label_particles(mask), label_particles(mask, split_touching=True)
    assert ((split > 0) == mask).all()
    for number in range(1, split.max() + 1):
        piece = split == number
        assert len(np.unique(whole[piece])) == 1
        assert ndimage.label(piece, EIGHT)[1] == 1


def test_splitting_leaves_hairlines_and_full_frames() -> None:
    line = np.zeros((60, 100), bool)
    line[30] = line[10:50, 20] = True
    line[20:28, 40:60] = True  # a neighbour whose basin reaches the line
    labels = label_particles(line, split_touching=True)
    assert labels.max() == 2
    assert len(np.unique(labels[30])) == 1
    assert (label_particles(np.ones((8, 9)), split_touching=True) == 1).all()
    assert not label_particles(np.zeros((8, 9)), split_touching=True).any()


def test_small_pieces_are_dropped_after_splitting() -> None:
    mask = ellipse(60, 60, centre=(60, 80)) | ellipse(16, 16, centre=(96, 80))
    small = np.count_nonzero(mask) - np.count_nonzero(ellipse(60, 60, centre=(60, 80)))
    assert label_particles(mask, min_area=small + 20).max() == 1
    assert label_particles(mask, split_touching=True).max() == 2
    split = label_particles(mask, split_touching=True, min_area=small + 20)
    assert split.max() == 1
    assert np.count_nonzero(split) == np.count_nonzero(label_particles(mask, split_touching=True) == 1)


# measure_particles


def test_single_pixel_by_hand() -> None:
    mask = np.zeros((5, 7))
    mask[2, 4] = 1
    row = one(mask, 0.5)
    assert list(row.index) == COLUMNS_UM
    assert row.label == 1
    assert row.area_um2 == 0.25
    assert row.equivalent_circle_diameter_um == pytest.approx(0.5 * 2 / np.sqrt(np.pi))
    # a unit square: variance 1/12 each way
    assert row.major_axis_um == row.minor_axis_um == pytest.approx(0.5 * 4 / np.sqrt(12))
    assert row.aspect_ratio == 1
    assert np.isnan(row.orientation_deg)
    # pi times the mean of the projections, 1 on the axes and 1/sqrt(2), the spacing of diagonal lines
    assert row.perimeter_um == pytest.approx(0.5 * np.pi * (1 + np.sqrt(0.5)) / 2)
    assert row.circularity == 1
    assert row.solidity == 1
    assert row.feret_max_um == pytest.approx(0.5 * np.sqrt(2))
    assert (row.centroid_x_px, row.centroid_y_px) == (4, 2)
    assert (row.centroid_x_um, row.centroid_y_um) == (2, 1)
    assert not row.touches_border
    assert row.counted
    assert row.border_weight == pytest.approx(7 * 5 / (6 * 4))
    assert row[["nearest_neighbour_um", "mean_probability", "mean_grey_se2", "mean_grey_inlens"]].isna().all()


def test_two_pixels_by_hand() -> None:
    mask = np.zeros((5, 7))
    mask[2, 3:5] = 1
    row = one(mask)
    assert row.area_px2 == 2
    assert row.major_axis_px == pytest.approx(4 * np.sqrt(4 / 12))  # 2 x 1 rectangle: variances 4/12 and 1/12
    assert row.minor_axis_px == pytest.approx(4 * np.sqrt(1 / 12))
    assert row.aspect_ratio == pytest.approx(2)
    assert row.orientation_deg == 0
    assert row.feret_max_px == pytest.approx(np.sqrt(5))
    assert row.solidity == 1
    assert (row.centroid_x_px, row.centroid_y_px) == (3.5, 2)
    assert row.border_weight == pytest.approx(7 * 5 / (5 * 4))
    # on a diagonal the corners' hull is a hexagon: the two pixels and two triangles of 1/2
    mask = np.eye(2)
    assert one(mask).solidity == pytest.approx(2 / 3)
    assert one(mask).feret_max_px == pytest.approx(np.sqrt(8))


@pytest.mark.parametrize("pixel_size_um", [0.0056, 0.00698])
@pytest.mark.parametrize("diameter_um", [0.1, 0.2, 0.5, 0.9])
def test_disc_of_known_diameter(diameter_um: float, pixel_size_um: float) -> None:
    diameter_px = diameter_um / pixel_size_um
    row = one(ellipse(diameter_px, diameter_px, centre=(99.3, 100.6), size=200), pixel_size_um)
    tolerance = 0.35 / diameter_px  # a third of a pixel on the diameter
    assert row.equivalent_circle_diameter_um == pytest.approx(diameter_um, rel=tolerance / 2)
    assert row.area_um2 == pytest.approx(np.pi * diameter_um**2 / 4, rel=tolerance)
    assert row.major_axis_um == pytest.approx(diameter_um, rel=2 * tolerance)
    assert row.minor_axis_um == pytest.approx(diameter_um, rel=2 * tolerance)
    assert row.perimeter_um == pytest.approx(np.pi * diameter_um, rel=0.01 + 2 * tolerance)
    assert row.feret_max_um == pytest.approx(diameter_um, abs=1.5 * pixel_size_um)
    assert 0.9 < row.circularity <= 1
    assert 0.93 < row.solidity <= 1
    assert row.centroid_x_px == pytest.approx(99.3, abs=0.1)
    assert row.centroid_y_um == pytest.approx(100.6 * pixel_size_um, abs=0.1 * pixel_size_um)


@pytest.mark.parametrize("angle", [0, 20, 45, 70, 90, 110, 135, 179])
def test_ellipse_of_known_axes_and_angle(angle: float) -> None:
    row = one(ellipse(90, 30, angle), 0.01)
    assert row.major_axis_um == pytest.approx(0.9, rel=0.01)
    assert row.minor_axis_um == pytest.approx(0.3, rel=0.01)
    assert row.aspect_ratio == pytest.approx(3, rel=0.02)
    assert abs((row.orientation_deg - angle + 90) % 180 - 90) < 0.5
    assert row.feret_max_um == pytest.approx(0.9, abs=0.015)
    # Ramanujan's formula
    assert row.perimeter_um == pytest.approx(
        np.pi * (3 * 0.6 - np.sqrt((1.35 + 0.15) * (0.45 + 0.45))), rel=0.04
    )


def test_orientation_counts_counter_clockwise_as_seen() -> None:
    slash = np.fliplr(np.eye(9))  # from bottom left to top right, as '/'
    assert one(slash).orientation_deg == pytest.approx(45)
    assert one(slash[::-1]).orientation_deg == pytest.approx(135)
    upright = np.zeros((9, 9))
    upright[2:7, 4] = 1
    assert one(upright).orientation_deg == pytest.approx(90)
    assert one(upright.T).orientation_deg == 0


def test_rectangle_by_hand() -> None:
    mask = np.zeros((60, 80))
    mask[10:30, 20:60] = 1
    row = one(mask)
    assert row.area_px2 == 800
    assert row.major_axis_px == pytest.approx(4 * 40 / np.sqrt(12))
    assert row.minor_axis_px == pytest.approx(4 * 20 / np.sqrt(12))
    assert row.solidity == 1
    assert row.feret_max_px == pytest.approx(np.hypot(40, 20))
    assert (row.centroid_x_px, row.centroid_y_px) == (39.5, 19.5)
    # lines that hit it: 20 rows, 40 columns, 59 diagonals each way, which are 1/sqrt(2) apart
    assert row.perimeter_px == pytest.approx(np.pi * (20 + 40 + 2 * 59 * np.sqrt(0.5)) / 4)


def test_concave_solidity_by_hand() -> None:
    mask = np.ones((4, 4))
    mask[2:, 2:] = 0  # an L: 12 px; its hull cuts a triangle of 2 px off the square
    assert one(mask).solidity == pytest.approx(12 / 14)


@given(masks, st.floats(1e-3, 10))
@settings(deadline=None, max_examples=40)
def test_doubling_the_pixel_size_doubles_lengths_only(mask: NDArray, size: float) -> None:
    labels = label_particles(mask)
    fine, coarse, pixels = (measure_particles(labels, s) for s in (size, 2 * size, None))
    assert list(fine) == list(coarse) == COLUMNS_UM
    for name in [*LENGTHS, "centroid_x", "centroid_y", "nearest_neighbour"]:
        np.testing.assert_allclose(coarse[f"{name}_um"], 2 * fine[f"{name}_um"], rtol=1e-12)
        np.testing.assert_allclose(fine[f"{name}_um"], size * pixels[f"{name}_px"], rtol=1e-12)
    np.testing.assert_allclose(coarse.area_um2, 4 * fine.area_um2, rtol=1e-12)
    unchanged = [*SHAPES, *PLACE, *FLAGS, "label", "border_weight"]
    pd.testing.assert_frame_equal(coarse[unchanged], fine[unchanged])
    pd.testing.assert_frame_equal(pixels[unchanged], fine[unchanged])


def _same_shapes(a: pd.DataFrame, b: pd.DataFrame) -> None:
    for name in ["label", "area_px2", *SHAPES, *(f"{name}_px" for name in LENGTHS), "nearest_neighbour_px"]:
        np.testing.assert_allclose(a[name], b[name], rtol=1e-9, err_msg=name)


def _same_angles(a: pd.Series, b: pd.Series) -> None:
    np.testing.assert_array_equal(a.isna(), b.isna())
    np.testing.assert_allclose((a - b + 90) % 180, np.where(a.isna(), np.nan, 90), atol=1e-4)


@given(masks)
@settings(deadline=None, max_examples=40)
def test_flips_rotations_and_shifts_change_only_place_and_angle(mask: NDArray) -> None:
    labels = np.pad(label_particles(mask), 1)
    table = measure_particles(labels)
    width = labels.shape[1]
    flipped, turned = measure_particles(labels[:, ::-1]), measure_particles(np.rot90(labels))
    shifted = measure_particles(np.pad(labels, ((3, 2), (4, 0))))
    for other in (flipped, turned, shifted):
        _same_shapes(other, table)
        assert other.counted.all()
    angle = table.orientation_deg
    _same_angles(flipped.orientation_deg, 180 - angle)
    _same_angles(turned.orientation_deg, angle + 90)
    _same_angles(shifted.orientation_deg, angle)
    np.testing.assert_allclose(flipped.centroid_x_px, width - 1 - table.centroid_x_px)
    np.testing.assert_allclose(turned.centroid_x_px, table.centroid_y_px)
    np.testing.assert_allclose(turned.centroid_y_px, width - 1 - table.centroid_x_px, atol=1e-9)
    np.testing.assert_allclose(shifted.centroid_x_px, table.centroid_x_px + 4)
    np.testing.assert_allclose(shifted.centroid_y_px, table.centroid_y_px + 3)


@given(masks)
@settings(deadline=None, max_examples=40)
def test_shapes_are_within_bounds(mask: NDArray) -> None:
    table = measure_particles(label_particles(mask))
    assert table.area_px2.sum() == mask.sum()
    assert (table.aspect_ratio >= 1).all()
    for name in ("circularity", "solidity"):
        assert table[name].between(0, 1, inclusive="right").all()
    assert (table.orientation_deg.dropna().between(0, 180, inclusive="left")).all()
    # no figure of an area has a smaller diameter than the disc
    assert (table.feret_max_px >= table.equivalent_circle_diameter_px).all()


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_scikit_image_on_random_blobs(seed: int) -> None:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((200, 240)), 4)
    labels = label_particles(np.pad(noise > 0.05, 2))
    table = measure_particles(labels)
    properties = ("area", "centroid", "axis_major_length", "axis_minor_length", "orientation", "bbox")
    reference = regionprops_table(labels, properties=properties)
    pairs = {"area_px2": "area", "centroid_y_px": "centroid-0", "centroid_x_px": "centroid-1"}
    assert len(table) > 15
    for ours, theirs in pairs.items():
        np.testing.assert_allclose(table[ours], reference[theirs], rtol=1e-9)
    for axis in (
        "major",
        "minor",
    ):  # theirs are of points in the pixels' centres, without 1/12 for the square
        squared = reference[f"axis_{axis}_length"] ** 2 + 16 / 12
        np.testing.assert_allclose(table[f"{axis}_axis_px"] ** 2, squared, rtol=1e-9)
    angles = pd.Series(np.degrees(reference["orientation"]) + 90)  # theirs are from the axis of rows
    _same_angles(table.orientation_deg, angles.where(table.aspect_ratio > 1))  # round ones get 45 from them
    height, width = labels.shape
    room = (width - (reference["bbox-3"] - reference["bbox-1"])) * (
        height - (reference["bbox-2"] - reference["bbox-0"])
    )
    np.testing.assert_allclose(table.border_weight, width * height / room)
    perimeters = [perimeter_crofton(labels == number, directions=4) for number in table.label]
    np.testing.assert_allclose(table.perimeter_px, perimeters, rtol=1e-6)


def test_border_rule_on_each_side() -> None:
    labels = np.zeros((9, 11), int)
    labels[0, 5] = 1  # top
    labels[4, 0] = 2  # left
    labels[4, 10] = 3  # right
    labels[8, 5] = 4  # bottom
    labels[3:5, 4:7] = 5  # inside
    labels[1, 1] = labels[7, 9] = 6  # as near as can be without touching; two pieces of one number
    labels[0, 10] = 7  # corners
    labels[8, 0] = 8
    labels[0, 0] = 9
    labels[8, 10] = 10
    table = measure_particles(labels).set_index("label")
    assert table.touches_border[~table.touches_border].index.tolist() == [5, 6]
    assert table.counted[table.counted].index.tolist() == [1, 2, 5, 6, 9]
    assert table.border_weight[table.touches_border].eq(0).all()
    assert table.border_weight[5] == pytest.approx(11 * 9 / ((11 - 3) * (9 - 2)))
    assert table.border_weight[6] == pytest.approx(11 * 9 / ((11 - 9) * (9 - 7)))
    assert table.area_px2[6] == 2


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 2), (4, 5)])
def test_particles_of_any_size_are_counted_equally_often(height: int, width: int) -> None:
    """Slid over the frame, a particle counts in as many positions, whatever its size; seen at all, not."""
    frame = 6, 7
    counted = seen = 0
    for top in range(1 - height, frame[0]):
        for left in range(1 - width, frame[1]):
            labels = np.zeros(frame, np.uint8)
            labels[max(top, 0) : top + height, max(left, 0) : left + width] = 1
            row = one(labels)
            counted += row.counted
            seen += 1
    assert counted == (frame[0] - 1) * (frame[1] - 1)
    assert seen == (frame[0] + height - 1) * (frame[1] + width - 1)


def test_nearest_neighbours_by_hand() -> None:
    labels = np.zeros((20, 20), int)
    labels[2, 2], labels[2, 6], labels[5, 6], labels[19, 19] = 1, 2, 3, 4
    table = measure_particles(labels, 0.1)
    expected = [0.4, 0.3, 0.3, 0.1 * np.hypot(14, 13)]
    np.testing.assert_allclose(table.nearest_neighbour_um, expected)


def test_means_of_greys_and_probability_by_hand() -> None:
    labels = np.array([[0, 1, 1], [7, 0, 0], [7, 0, 3]])
    se2 = np.arange(9).reshape(3, 3)
    image = np.stack((se2, 250 - se2)).astype(np.uint8)
    probability = np.full((3, 3), 0.25, np.float32)
    probability[0, 1] = 0.75
    table = measure_particles(labels, image=image, probability=probability)
    assert table.label.tolist() == [1, 3, 7]
    assert table.mean_grey_se2.tolist() == [1.5, 8, 4.5]
    assert table.mean_grey_inlens.tolist() == [248.5, 242, 245.5]
    assert table.mean_probability.tolist() == [0.5, 0.25, 0.25]
    single = measure_particles(labels, image=image[:1])
    assert single.mean_grey_inlens.tolist() == single.mean_grey_se2.tolist() == [1.5, 8, 4.5]
    assert single.mean_probability.isna().all()


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint16, np.uint32, np.int64, np.uint64])
def test_numbers_from_anywhere_are_kept(dtype: type) -> None:
    high = np.iinfo(dtype).max // 2
    labels = np.zeros((6, 9), dtype)
    labels[1, 1], labels[3, 3:6], labels[5, 8] = high, 5, 1
    table = measure_particles(labels)
    assert table.label.tolist() == [1, 5, high]
    assert table.area_px2.tolist() == [1, 3, 1]
    assert table.touches_border.tolist() == [True, False, False]


def test_pixels_without_size_have_pixel_columns() -> None:
    names = [name.replace("_um", "_px") for name in COLUMNS_UM]
    assert list(measure_particles(np.eye(3, dtype=int))) == list(dict.fromkeys(names))


@pytest.mark.parametrize("pixel_size_um", [None, 0.01])
def test_empty_frame_gives_an_empty_table_of_the_same_types(pixel_size_um: float | None) -> None:
    image, probability = np.zeros((2, 5, 6)), np.zeros((5, 6))
    empty, full = (
        measure_particles(np.full((5, 6), n), pixel_size_um, image=image, probability=probability)
        for n in (0, 1)
    )
    assert len(empty) == 0
    assert len(full) == 1
    pd.testing.assert_series_equal(empty.dtypes, full.dtypes)
    assert empty.dtypes["label"] == np.int64
    assert (empty.dtypes[FLAGS] == np.bool_).all()
    assert (empty.dtypes.drop(["label", *FLAGS]) == np.float64).all()


@pytest.mark.parametrize("size", [0, -0.1, float("nan"), float("inf")])
def test_impossible_pixel_sizes_are_refused(size: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a pixel size is a length above 0"):
        measure_particles(np.eye(3, dtype=int), size)
    with pytest.raises(ValueError, match="a pixel size is a length above 0"):
        save_labels(np.eye(3, dtype=int), tmp_path / "a.tif", size)


@pytest.mark.parametrize(
    ("labels", "more", "message"),
    [
        (np.zeros((1, 3, 3), int), {}, r"shape \(H, W\), not \(1, 3, 3\)"),
        (np.zeros((3, 3)), {}, "integers, not float64"),
        (np.zeros((3, 3), bool), {}, "integers, not bool; number a mask"),
        (np.full((3, 3), -1), {}, "the smallest is -1"),
        (np.zeros((3, 3), int), {"image": np.zeros((3, 3))}, r"not \(3, 3\)"),
        (np.zeros((3, 3), int), {"image": np.zeros((3, 3, 3))}, r"1 or 2, H, W\), not \(3, 3, 3\)"),
        (np.zeros((3, 4), int), {"image": np.zeros((2, 4, 3))}, r"not \(2, 4, 3\)"),
        (np.zeros((3, 4), int), {"probability": np.zeros((4, 3))}, r"not \(4, 3\)"),
    ],
)
def test_wrong_arrays_are_refused(labels: NDArray, more: dict[str, NDArray], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure_particles(labels, **more)


def test_area_and_number_of_synthetic_steel() -> None:
    """Through the whole chain, the generator's own table of what its label shows comes back."""
    scene = synthesize_micrograph(STEELS["jfl"], (256, 384), 5)
    table = measure_particles(label_particles(scene.label), scene.pixel_size_um)
    assert table.area_um2.sum() == pytest.approx(scene.label.sum() * scene.pixel_size_um**2)
    assert len(table) == pytest.approx(len(scene.instances), rel=0.1)
    truth = scene.instances.query("label_area_px > 0")
    truth_ecd = np.sqrt(4 * truth.label_area_px / np.pi) * scene.pixel_size_um
    assert table.equivalent_circle_diameter_um.median() == pytest.approx(truth_ecd.median(), rel=0.1)


# save_labels


@pytest.mark.parametrize("count", [0, 3, 65_535])
def test_labels_come_back_from_imagej_tiff(count: int, tmp_path: Path) -> None:
    labels = np.minimum(np.arange(256 * 300).reshape(256, 300), count).astype(np.int32)
    save_labels(labels, tmp_path / "a_labels.tif", 0.00698)
    with tifffile.TiffFile(tmp_path / "a_labels.tif") as file:
        read = file.asarray()
        metadata = read_metadata(tmp_path / "a_labels.tif", file.pages[0], labels.shape)
        assert file.is_imagej
        assert file.imagej_metadata["unit"] == "micron"
    assert read.dtype == np.uint16
    assert (read == labels).all()
    assert metadata.pixel_size_um == pytest.approx(0.00698, rel=1e-6)


def test_more_labels_than_16_bits_are_written_in_32(tmp_path: Path) -> None:
    labels = np.arange(65_537 * 2).reshape(2, -1) // 2
    assert labels.max() == 65_536
    save_labels(labels, tmp_path / "a_labels.tif", 0.0056)
    with tifffile.TiffFile(tmp_path / "a_labels.tif") as file:
        read = file.asarray()
        metadata = read_metadata(tmp_path / "a_labels.tif", file.pages[0], labels.shape)
    assert read.dtype == np.uint32
    assert (read == labels).all()
    assert metadata.pixel_size_um == pytest.approx(0.0056, rel=1e-6)


@pytest.mark.parametrize("count", [9, 70_000])
def test_an_unknown_pixel_size_is_not_written(count: int, tmp_path: Path) -> None:
    save_labels(np.full((4, 5), count), tmp_path / "a_labels.tif")
    with tifffile.TiffFile(tmp_path / "a_labels.tif") as file:
        metadata = read_metadata(tmp_path / "a_labels.tif", file.pages[0], (4, 5))
    assert metadata.pixel_size_um is None
