from __future__ import annotations

import math
from itertools import groupby

import numpy as np
import pytest
from discs import disc_plane, tables, tiles
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial import KDTree

from carde_monai.particles import label_particles, measure_particles
from carde_monai.stereology import (
    intercepts,
    mean_free_path,
    measure_field,
    random_nearest_neighbour,
    weighted_moments,
)

PLANE_PX, FIELD_PX = 2560, 128


def field(mask: np.ndarray, pixel_size_um: float | None = None, **options: object) -> dict[str, float]:
    labels = label_particles(mask, min_area=options.get("min_area", 1))
    return measure_field(labels, measure_particles(labels, pixel_size_um), pixel_size_um, **options)


def squares(period: int = 8, side: int = 4, repeats: int = 8) -> np.ndarray:
    """A carbide of side x side in each cell; the last row and column begin a new one."""
    mask = np.zeros((period * repeats + 1,) * 2, bool)
    for row in range(side):
        for column in range(side):
            mask[row + 1 :: period, column + 1 :: period] = True
    return mask


@pytest.fixture(scope="module")
def plane() -> tuple[np.ndarray, np.ndarray]:
    """Diameters of 900 log-normal discs, and the plane they lie in; 128 px fields cut many of them."""
    diameters = np.random.default_rng(1).lognormal(np.log(20), 0.5, 900)
    return diameters, disc_plane(diameters, PLANE_PX, seed=1)


@pytest.fixture(scope="module")
def cut_fields(plane):
    return tables(list(tiles(plane[1], FIELD_PX)))


def test_intercepts_by_hand() -> None:
    # two runs, the second reaches the frame: its end belongs to the next field. 5 pixels show 4 ends.
    assert intercepts([[0, 1, 1, 0, 1]]) == (1, 4)
    assert intercepts([[1, 1, 0, 0, 0]]) == (1, 4)
    assert intercepts([[1, 1, 1, 1, 1]]) == (0, 4)
    # a pixel in the middle is met by one row and one column
    assert intercepts(np.pad([[1]], 1)) == (2, 12)


@settings(max_examples=50, deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_intercepts_are_the_runs_that_end_inside(mask: np.ndarray) -> None:
    lines = [*mask, *mask.T]
    runs = sum(key for line in lines for key, _ in groupby(line))
    cut = sum(bool(line[-1]) for line in lines)
    assert intercepts(mask) == (runs - cut, sum(len(line) - 1 for line in lines))
    assert intercepts(mask.T) == intercepts(mask)


def test_mean_free_path_of_squares_by_hand() -> None:
    # squares of 4 px every 8 px: half of the lines meet one every 8 px, N_L = 1/16; (1 - 1/4) 16 = 12 px
    mask = squares()
    ends, length = intercepts(mask)
    assert ends / length == pytest.approx(1 / 16, rel=0.02)
    assert mean_free_path(0.25, ends, length) == pytest.approx(12, rel=0.02)
    assert mean_free_path(0.25, 10, 160.0) == 12


def test_mean_free_path_of_stripes_by_hand() -> None:
    # rows meet a stripe of 2 px every 8 px, columns meet none: N_L = 1/16 over both; 3/4 x 16 = 12 px
    mask = np.zeros((81, 81), bool)
    mask[:, 1::8] = mask[:, 2::8] = True
    ends, length = intercepts(mask)
    assert mean_free_path(0.25, ends, length) == pytest.approx(12)


def test_nothing_met_is_no_mean_free_path() -> None:
    assert math.isnan(mean_free_path(0.0, 0, 100.0))


def test_random_nearest_neighbour_by_hand() -> None:
    # 100 points in 10 x 10: 0.5 + (0.0514 + 0.0041) x 40 / 100
    assert random_nearest_neighbour(100, 10, 10) == pytest.approx(0.5222)
    assert math.isnan(random_nearest_neighbour(1, 10, 10))


def test_random_points_have_the_distance_of_random_points() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(0, [3, 5], (1500, 40, 2))
    measured = np.mean([KDTree(one).query(one, k=2)[0][:, 1].mean() for one in points])
    assert measured / random_nearest_neighbour(40, 3, 5) == pytest.approx(1, abs=0.01)
    # without the correction for hidden neighbours it would look regular
    assert measured / (0.5 * math.sqrt(15 / 40)) > 1.06


def test_ratio_tells_clusters_from_a_lattice() -> None:
    clusters = np.zeros((200, 200), bool)
    for row, column in np.random.default_rng(0).integers(10, 190, (15, 2)):
        clusters[row - 4 : row + 5 : 4, column - 4 : column + 5 : 4] = True
    assert field(clusters)["nearest_neighbour_ratio"] < 0.6
    lattice = field(squares())
    assert lattice["nearest_neighbour_ratio"] > 1.5
    assert lattice["nearest_neighbour_mean_px"] == pytest.approx(8, rel=0.02)


def test_weighted_moments() -> None:
    x, weights = np.array([1.0, 2.0, 4.0]), np.array([1.0, 2.0, 1.5])
    mean, deviation = weighted_moments(x, weights)
    assert mean == pytest.approx(np.average(x, weights=weights))
    assert deviation == pytest.approx(math.sqrt(np.cov(x, aweights=weights)))
    assert weighted_moments(x, np.ones(3))[1] == pytest.approx(x.std(ddof=1))
    mean, deviation = weighted_moments(np.array([3.0]), np.array([1.1]))
    assert mean == pytest.approx(3) and math.isnan(deviation)
    assert np.isnan(weighted_moments(np.empty(0), np.empty(0))).all()


def by_hand() -> np.ndarray:
    mask = np.zeros((10, 20), bool)
    mask[2:4, 2:4] = True  # 4 px, free
    mask[0, 10] = True  # 1 px at the top: counted, cut
    mask[5:8, 18:] = True  # 6 px at the right: not counted
    return mask


def test_a_field_by_hand() -> None:
    row = field(by_hand(), 0.5)
    assert list(row) == [
        "width_px",
        "height_px",
        "pixel_size_um",
        "field_area_um2",
        "min_area_px",
        "carbides",
        "carbides_counted",
        "carbides_uncut",
        "number_density_per_um2",
        "area_fraction",
        "ecd_mean_um",
        "ecd_median_um",
        "ecd_sd_um",
        "large_fraction",
        "intercepts",
        "scan_length_um",
        "mean_free_path_um",
        "nearest_neighbour_mean_um",
        "nearest_neighbour_random_um",
        "nearest_neighbour_ratio",
    ]
    assert (row["width_px"], row["height_px"], row["pixel_size_um"], row["min_area_px"]) == (20, 10, 0.5, 1)
    assert row["field_area_um2"] == 50
    assert (row["carbides"], row["carbides_counted"], row["carbides_uncut"]) == (3, 2, 1)
    assert row["number_density_per_um2"] == pytest.approx(2 / 50)
    assert row["area_fraction"] == pytest.approx(11 / 200)
    assert row["ecd_mean_um"] == row["ecd_median_um"] == pytest.approx(math.sqrt(4 * 4 / math.pi) * 0.5)
    assert math.isnan(row["ecd_sd_um"])
    assert row["large_fraction"] == 1  # 1.13 um is above 0.5 um
    # free: 2 rows, 2 columns; top: 1 row, 1 column; right: no row ends inside, 2 columns do
    assert row["intercepts"] == 8
    assert row["scan_length_um"] == (10 * 19 + 20 * 9) * 0.5
    assert row["mean_free_path_um"] == pytest.approx((1 - 11 / 200) * 185 / 8)
    # centres (row, column) in px: (2.5, 2.5), (0, 10), (6, 18.5)
    to_top, to_right = math.hypot(2.5, 7.5), math.hypot(6, 8.5)
    assert row["nearest_neighbour_mean_um"] == pytest.approx((2 * to_top + to_right) / 3 * 0.5)
    random = 0.5 * math.sqrt(50 / 3) + (0.0514 + 0.041 / math.sqrt(3)) * 30 / 3
    assert row["nearest_neighbour_random_um"] == pytest.approx(random)
    assert row["nearest_neighbour_ratio"] == pytest.approx(row["nearest_neighbour_mean_um"] / random)


def test_lengths_follow_the_pixel_size() -> None:
    one, two = field(by_hand(), 0.25), field(by_hand(), 0.5)
    for key in one:
        power = 2 if key == "field_area_um2" else -2 if key.endswith("_per_um2") else int(key.endswith("_um"))
        if key != "large_fraction" and not math.isnan(one[key]):
            assert two[key] == pytest.approx(one[key] * 2.0**power), key


def test_unknown_pixel_size_is_measured_in_pixels() -> None:
    row, known = field(by_hand()), field(by_hand(), 0.5)
    assert list(row) == [key if key == "pixel_size_um" else key.replace("_um", "_px") for key in known]
    assert math.isnan(row["pixel_size_um"]) and math.isnan(row["large_fraction"])
    assert row["ecd_mean_px"] == pytest.approx(known["ecd_mean_um"] / 0.5)
    assert row["number_density_per_px2"] == 2 / 200


@pytest.mark.parametrize("pixel_size_um", [None, 0.007])
def test_a_field_without_carbides(pixel_size_um: float | None) -> None:
    row = field(np.zeros((70, 90), bool), pixel_size_um, probability=np.zeros((70, 90)))
    u = "px" if pixel_size_um is None else "um"
    assert row["carbides"] == row["area_fraction"] == row["intercepts"] == row["area_fraction_at_0.025"] == 0
    assert row[f"number_density_at_0.975_per_{u}2"] == 0
    for key in (f"ecd_mean_{u}", f"mean_free_path_{u}", "nearest_neighbour_ratio", "large_fraction"):
        assert math.isnan(row[key])


def test_thresholds_by_hand() -> None:
    probability = np.zeros((10, 10))
    probability[2:4, 2:4] = 0.99  # carbide at all thresholds
    probability[1, 2:4] = 0.1  # its rim
    probability[6, 6] = 0.99  # below the smallest area
    probability[5:7, 8:] = 0.3  # at the right border: area, but not counted
    row = field(probability > 0.5, 0.1, probability=probability, min_area=2)
    assert (row["area_fraction"], row["carbides_counted"]) == (0.04, 1)
    assert (row["area_fraction_at_0.025"], row["area_fraction_at_0.975"]) == (0.10, 0.04)
    assert (
        row["number_density_at_0.025_per_um2"] == row["number_density_at_0.975_per_um2"] == pytest.approx(1)
    )
    assert list(row)[-4:] == [
        "area_fraction_at_0.025",
        "area_fraction_at_0.975",
        "number_density_at_0.025_per_um2",
        "number_density_at_0.975_per_um2",
    ]


def test_touching_carbides_are_split_at_each_threshold() -> None:
    rows, columns = np.mgrid[:40, :60]
    two = np.hypot(rows - 20, columns - 20) < 9.5
    two |= np.hypot(rows - 20, columns - 37) < 9.5
    labels = label_particles(two, split_touching=True)
    particles = measure_particles(labels)
    joined = measure_field(labels, particles, probability=two.astype(float))
    split = measure_field(labels, particles, probability=two.astype(float), split_touching=True)
    assert joined["number_density_at_0.975_per_px2"] == pytest.approx(1 / 2400)
    assert split["number_density_at_0.975_per_px2"] == pytest.approx(2 / 2400)
    assert split["number_density_per_px2"] == pytest.approx(2 / 2400)


def test_the_border_rule_counts_each_disc_once(plane, cut_fields) -> None:
    diameters, _ = plane
    fields, _ = cut_fields
    # a disc that ends just on the last row or column of its field is lost, one in 64
    expected = len(diameters) * (1 - 1 / FIELD_PX) ** 2
    assert fields["carbides_counted"].sum() == pytest.approx(expected, rel=0.01)
    # counting whatever is seen is wrong, and so is counting uncut discs only
    assert fields["carbides"].sum() > 1.25 * len(diameters)
    assert fields["carbides_uncut"].sum() < 0.75 * len(diameters)


def test_border_weights_give_the_sizes_back(plane, cut_fields) -> None:
    diameters, _ = plane
    _, particles = cut_fields
    uncut = particles[particles["border_weight"] > 0]
    ecd, weight = uncut["equivalent_circle_diameter_px"].to_numpy(), uncut["border_weight"].to_numpy()
    assert weight.sum() == pytest.approx(len(diameters), rel=0.05)
    assert weighted_moments(ecd, weight)[0] == pytest.approx(diameters.mean(), rel=0.03)
    assert ecd.mean() < 0.93 * diameters.mean()


def test_mean_free_path_of_discs(plane, cut_fields) -> None:
    diameters, mask = plane
    fields, _ = cut_fields
    # lines meet number per area x mean diameter of them
    expected = (1 - mask.mean()) * PLANE_PX**2 / diameters.sum()
    fraction = fields["area_fraction"].mean()
    measured = mean_free_path(fraction, fields["intercepts"].sum(), fields["scan_length_px"].sum())
    assert measured == pytest.approx(expected, rel=0.01)
