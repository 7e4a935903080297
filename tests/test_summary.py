from __future__ import annotations

import json
import math
from io import StringIO
from typing import Any

import numpy as np
import pandas as pd
import pytest
from discs import disc_plane, tables, tiles
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from carde_monai import lognormal
from carde_monai.errors import InputError
from carde_monai.intervals import multiplicities
from carde_monai.particles import label_particles, measure_particles
from carde_monai.stereology import measure_field
from carde_monai.summary import (
    QUANTITIES,
    Sample,
    quantities,
    resampled,
    samples,
    summarise,
    summary_table,
)
from carde_monai.synthetic import STEELS, synthesize_micrograph

KEYS = [
    "number_density",
    "area_fraction",
    "ecd_mean",
    "ecd_median",
    "ecd_sd",
    "ecd_p10",
    "ecd_p90",
    "ecd_p99",
    "lognormal_median",
    "lognormal_gsd",
    "large_fraction",
    "mean_free_path",
    "nearest_neighbour",
    "nearest_neighbour_ratio",
]


def made_up(carbides: list[int], seed: int = 0, *, pixel_size_um: float = 0.007, **columns: Any) -> Sample:
    """A sample of fields with so many carbides, without images; ``columns`` replace those of the fields."""
    rng = np.random.default_rng(seed)
    count = np.array(carbides)
    fields = pd.DataFrame(
        {
            "micrograph": [f"m{number}" for number in range(len(count))],
            "sample": "s",
            "pixel_size_um": pixel_size_um,
            "min_area_px": 1,
            "field_area_um2": 100.0,
            "carbides": count,
            "carbides_counted": count,
            "area_fraction": count * 0.0005,
            "intercepts": count * 20,
            "scan_length_um": 20_000.0,
            "nearest_neighbour_mean_um": rng.uniform(0.4, 0.6, len(count)),
            "nearest_neighbour_random_um": 0.5,
        }
    ).assign(**columns)
    particles = pd.DataFrame(
        {
            "micrograph": np.repeat(fields["micrograph"], count),
            "sample": "s",
            "border_weight": rng.choice([0, 1.05, 1.3], count.sum()),
            "equivalent_circle_diameter_um": rng.lognormal(math.log(0.075), 0.65, count.sum()),
        }
    )
    return Sample("s", "um", fields, particles.reset_index(drop=True))


@pytest.fixture(scope="module")
def plane() -> tuple[np.ndarray, np.ndarray]:
    diameters = np.random.default_rng(1).lognormal(np.log(20), 0.5, 900)
    return diameters, disc_plane(diameters, 2560, seed=1)


def test_every_quantity_is_explained_in_a_line() -> None:
    assert list(QUANTITIES) == KEYS
    for quantity in QUANTITIES.values():
        assert quantity.name and quantity.explanation and "\n" not in quantity.explanation
        assert quantity.unit.format(u="µm") in ("", "µm", "1/µm²")


def test_pooled_quantities_by_hand() -> None:
    fields = pd.DataFrame(
        {
            "micrograph": ["a", "b"],
            "sample": "s",
            "pixel_size_um": 0.01,
            "min_area_px": 1,
            "field_area_um2": [10.0, 30.0],
            "carbides": [4, 1],
            "carbides_counted": [3, 1],
            "area_fraction": [0.1, 0.3],
            "intercepts": [10, 6],
            "scan_length_um": [2000.0, 6000.0],
            "nearest_neighbour_mean_um": [0.5, math.nan],
            "nearest_neighbour_random_um": [0.4, math.nan],
        }
    )
    particles = pd.DataFrame(
        {
            "micrograph": ["b", "a", "a", "a", "a"],
            "border_weight": [2, 1, 0, 1, 1],
            "equivalent_circle_diameter_um": [0.6, 0.2, 9, 0.1, 0.4],
        }
    )
    found = quantities(Sample("s", "um", fields, particles))
    logs, weights = np.log([0.1, 0.2, 0.4, 0.6]), np.array([1, 1, 1, 2])
    fit = lognormal.fit(np.exp(logs), weights, 0.01 * math.sqrt(2 / math.pi))
    mean = 1.9 / 5
    expected = {
        "number_density": 4 / 40,
        "area_fraction": 10 / 40,
        "ecd_mean": mean,
        "ecd_median": 0.4,  # weights up to it: 3 of 5
        "ecd_sd": math.sqrt(np.cov([0.1, 0.2, 0.4, 0.6], aweights=weights)),
        "ecd_p10": 0.1,
        "ecd_p90": 0.6,
        "ecd_p99": 0.6,
        "lognormal_median": fit.median,
        "lognormal_gsd": fit.gsd,
        "large_fraction": 2 / 5,
        "mean_free_path": 0.75 * 8000 / 16,
        "nearest_neighbour": 0.5,  # of the four carbides that have one
        "nearest_neighbour_ratio": 0.5 / 0.4,
    }
    assert list(found) == KEYS
    assert found == pytest.approx(expected)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=4, max_size=4).filter(any), st.integers(0, 99))
def test_times_are_copies_of_the_fields(times: list[int], seed: int) -> None:
    sample = made_up([40, 9, 25, 60], seed)
    rows, carbides = [], []
    for number, repeats in enumerate(times):
        for copy in range(repeats):
            name = {"micrograph": f"{number} {copy}"}
            rows.append(sample.fields.iloc[[number]].assign(**name))
            carbides.append(sample.particles[sample.particles["micrograph"] == f"m{number}"].assign(**name))
    copies = Sample("s", "um", pd.concat(rows, ignore_index=True), pd.concat(carbides, ignore_index=True))
    assert quantities(sample, np.array(times)) == pytest.approx(quantities(copies), nan_ok=True)


def test_many_resamples_are_the_same_as_each() -> None:
    sample, times = made_up([40, 9, 25, 60]), multiplicities(4, 20)
    together = resampled(sample, times, large_um=0.1)
    for row, drawn in enumerate(times):
        alone = quantities(sample, drawn, large_um=0.1)
        assert {key: value[row] for key, value in together.items()} == pytest.approx(alone, rel=1e-9)


def test_percentiles_are_numpys_weighted_ones() -> None:
    sample = made_up([200, 300])
    uncut = sample.particles[sample.particles["border_weight"] > 0]
    x, weights = uncut["equivalent_circle_diameter_um"], uncut["border_weight"]
    levels = [0.1, 0.5, 0.9, 0.99]
    found = quantities(sample)
    expected = np.quantile(x, levels, weights=weights, method="inverted_cdf")
    assert [found[f"ecd_{key}"] for key in ("p10", "median", "p90", "p99")] == list(expected)


def test_one_field_says_the_same_in_both_tables(plane) -> None:
    fields, particles = tables(list(tiles(plane[1], 640))[:1], 0.01, min_area=20)
    found, row = quantities(*samples(fields, particles), large_um=0.5), fields.iloc[0]
    pairs = {
        "number_density": "number_density_per_um2",
        "area_fraction": "area_fraction",
        "ecd_mean": "ecd_mean_um",
        "ecd_median": "ecd_median_um",
        "ecd_sd": "ecd_sd_um",
        "large_fraction": "large_fraction",
        "mean_free_path": "mean_free_path_um",
        "nearest_neighbour": "nearest_neighbour_mean_um",
        "nearest_neighbour_ratio": "nearest_neighbour_ratio",
    }
    assert {key: found[key] for key in pairs} == pytest.approx(
        {key: row[name] for key, name in pairs.items()}
    )


def test_samples_by_name_and_unit() -> None:
    masks = [np.eye(64, dtype=bool)] * 2
    parts = [
        tables(masks, 0.01, sample="b"),
        tables(masks, None, sample="a"),
        tables(masks[:1], None, sample="b"),
    ]
    parts[2] = tuple(table.assign(micrograph="unknown") for table in parts[2])
    fields, particles = (pd.concat([part[index] for part in parts], ignore_index=True) for index in (0, 1))
    found = samples(fields, particles)
    assert [(one.name, one.unit, len(one.fields), len(one.particles)) for one in found] == [
        ("a", "px", 2, 2),
        ("b", "um", 2, 2),
        ("b (pixel size unknown)", "px", 1, 1),
    ]
    assert found[2].particles["micrograph"].tolist() == ["unknown"]
    with pytest.raises(InputError, match="sample b: has two micrographs field 0; rename one of them"):
        samples(pd.concat([fields, fields.iloc[[0]]]), particles)


def test_the_tables_read_back_say_the_same(plane) -> None:
    fields, particles = tables(list(tiles(plane[1], 640)), 0.01)
    back = [pd.read_csv(StringIO(table.to_csv(index=False))) for table in (fields, particles)]
    one, other = summarise(*samples(fields, particles)), summarise(*samples(*back))
    assert json.dumps(one) == json.dumps(other)


def test_summary_is_json_with_the_agreed_keys() -> None:
    summary = summarise(made_up([150, 120, 170, 140, 160, 130]), saltykov=True)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert {
        "sample",
        "unit",
        "micrographs",
        "carbides",
        "carbides_counted",
        "carbides_uncut",
        "area",
        "confidence",
        "smallest_counted",
        "quantities",
        "area_fraction_astm",
        "lognormal",
        "thresholds",
        "saltykov",
        "warnings",
    } <= set(summary)
    assert (summary["micrographs"], summary["carbides"], summary["area"]) == (6, 870, 600)
    assert summary["confidence"] == 0.95
    assert summary["thresholds"] == []
    assert set(summary["saltykov"]) == {"classes", "number_per_volume", "low", "high", "assumption"}
    for key, entry in summary["quantities"].items():
        assert list(entry) == ["name", "unit", "value", "low", "high"]
        assert entry["low"] <= entry["value"] <= entry["high"], key
    assert summary["quantities"]["number_density"]["unit"] == "1/µm²"
    assert summarise(made_up([150, 120]))["saltykov"] is None


def test_area_fraction_is_the_mean_of_the_standard() -> None:
    sample = made_up([100, 140, 120], area_fraction=[0.04, 0.05, 0.06])
    summary = summarise(sample)
    astm, pooled = summary["area_fraction_astm"], summary["quantities"]["area_fraction"]
    assert astm["mean"] == pooled["value"] == pytest.approx(0.05)
    # few fields: the bootstrap's interval is the standard's mean -+ t s / sqrt(n), but for 999 random draws
    assert pooled["high"] - 0.05 == pytest.approx(astm["half_width"], rel=0.05)


def test_smallest_size_counted_by_hand() -> None:
    summary = summarise(made_up([50, 60], min_area_px=9, pixel_size_um=0.007))
    # 2 sqrt(9 / pi) = 3.385 px = 23.7 nm
    assert summary["smallest_counted"] == pytest.approx(
        {"area_px": 9, "diameter_px": 3.3851, "diameter_nm": 23.696}, rel=1e-4
    )


def test_one_field_has_values_but_no_intervals() -> None:
    summary = summarise(made_up([700]), saltykov=True)
    for entry in summary["quantities"].values():
        assert entry["value"] is not None and entry["low"] is entry["high"] is None
    assert summary["area_fraction_astm"]["half_width"] is None
    assert summary["saltykov"]["low"] is None
    assert any(line.startswith("one field only") for line in summary["warnings"])


def test_no_carbides() -> None:
    sample = made_up([0, 0], nearest_neighbour_mean_um=math.nan, nearest_neighbour_random_um=math.nan)
    summary = summarise(sample, saltykov=True)
    values = {key: entry["value"] for key, entry in summary["quantities"].items()}
    assert values.pop("number_density") == values.pop("area_fraction") == 0
    assert set(values.values()) == {None}
    assert summary["saltykov"] is None
    assert summary["warnings"][-1] == "no carbides were found"


def test_tables_of_empty_fields_read_back() -> None:
    fields, particles = tables([np.zeros((64, 64), bool), np.zeros((64, 64), bool)], 0.01)
    back = [pd.read_csv(StringIO(table.to_csv(index=False))) for table in (fields, particles)]
    assert summarise(*samples(*back))["warnings"][-1] == "no carbides were found"
    fields, particles = tables([np.zeros((64, 64), bool), np.eye(64, k=3, dtype=bool)], 0.01)
    assert quantities(*samples(fields, particles))["area_fraction"] == pytest.approx(61 / 64**2 / 2)


def test_no_uncut_carbides() -> None:
    sample = made_up([3, 2])
    sample.particles["border_weight"] = 0.0
    summary = summarise(sample)
    assert summary["carbides"] == 5 and summary["quantities"]["ecd_mean"]["value"] is None
    assert "0 uncut carbides only: a size distribution needs at least 30" in summary["warnings"]


def test_a_percentile_is_known_to_half_a_pixel_at_best() -> None:
    sample = made_up([100, 100, 100, 100, 100, 100])
    sample.particles["equivalent_circle_diameter_um"] = 0.007 * math.sqrt(4 * 17 / math.pi)
    median = summarise(sample)["quantities"]["ecd_median"]
    limits = [0.007 * math.sqrt(4 * area / math.pi) for area in (16.5, 17.5)]
    assert [median["low"], median["high"]] == pytest.approx(limits)


def test_unknown_pixel_size(plane) -> None:
    summary = summarise(*samples(*tables(list(tiles(plane[1], 640)))))
    assert summary["unit"] == "px"
    assert summary["quantities"]["number_density"]["unit"] == "1/px²"
    assert summary["quantities"]["ecd_mean"]["unit"] == "px"
    assert summary["quantities"]["large_fraction"]["value"] is None
    assert summary["smallest_counted"]["diameter_nm"] is None
    assert "the pixel size is unknown: lengths are in pixels" in summary["warnings"]
    assert not any("larger than" in line for line in summary["warnings"])


def test_thresholds_are_pooled_where_every_field_has_them() -> None:
    columns = {
        "area_fraction_at_0.025": [0.08, 0.12],
        "area_fraction_at_0.975": [0.02, 0.03],
        "number_density_at_0.025_per_um2": [1.5, 1.7],
        "number_density_at_0.975_per_um2": [0.5, 0.7],
    }
    sample = made_up([100, 140], field_area_um2=[100.0, 300.0], **columns)
    low, middle, high = summarise(sample)["thresholds"]
    assert low == pytest.approx({"threshold": 0.025, "area_fraction": 0.11, "number_density": 1.65})
    assert middle == pytest.approx({"threshold": 0.5, "area_fraction": 0.065, "number_density": 0.6})
    assert high == pytest.approx({"threshold": 0.975, "area_fraction": 0.0275, "number_density": 0.65})
    columns["area_fraction_at_0.975"] = [0.02, math.nan]
    assert summarise(made_up([100, 140], **columns))["thresholds"] == []


def found_warning(sample: Sample, start: str, **options: Any) -> str | None:
    return next((line for line in summarise(sample, **options)["warnings"] if start in line), None)


def test_warnings_say_what_is_missing() -> None:
    assert found_warning(made_up([400] * 4), "4 fields only")
    assert not found_warning(made_up([400] * 5), "fields only")
    assert found_warning(made_up([20, 15]), "uncut carbides only: a size distribution needs at least 30")
    few = made_up([300, 300])  # two thirds of them uncut
    uncut = summarise(few)["carbides_uncut"]
    line = found_warning(few, "too few carbides for percentiles")
    assert f"{uncut} uncut" in line and line.endswith("for the 99th") and "10th" not in line
    assert not found_warning(made_up([2000] * 5), "too few")
    differing = made_up([400] * 5, pixel_size_um=0.007)
    differing.fields.loc[2, "pixel_size_um"] = 0.0056
    assert "5.6 to 7 nm" in found_warning(differing, "differ in pixel size")
    assert summarise(made_up([2000] * 5))["warnings"] == []


def test_no_large_carbide_still_has_an_upper_bound() -> None:
    sample = made_up([500] * 6)
    summary = summarise(sample, large_um=9)
    large, uncut = summary["quantities"]["large_fraction"], summary["carbides_uncut"]
    assert (large["value"], large["low"], large["high"]) == (0, 0, pytest.approx(3 / uncut))
    assert found_warning(sample, f"none of {uncut} uncut carbides is larger than 9 µm", large_um=9)
    assert summarise(sample, large_um=0.075)["quantities"]["large_fraction"]["value"] == pytest.approx(
        0.5, abs=0.05
    )


def test_sizes_that_no_log_normal_fits_are_said_to_be_so() -> None:
    sample = made_up([300] * 5, min_area_px=30)
    rng = np.random.default_rng(0)
    limit = 0.007 * math.sqrt(4 * 30 / math.pi)
    sample.particles["equivalent_circle_diameter_um"] = limit * np.exp(rng.exponential(0.5, 1500))
    summary = summarise(sample)
    assert summary["lognormal"]["mu"] is summary["quantities"]["lognormal_gsd"]["value"] is None
    assert "no log-normal fits the sizes" in summary["warnings"]


def test_summary_table_is_long() -> None:
    table = summary_table([summarise(made_up([100, 140])), summarise(made_up([100]))])
    assert list(table) == [
        "sample",
        "quantity",
        "name",
        "unit",
        "value",
        "low",
        "high",
        "micrographs",
        "carbides",
    ]
    assert table["quantity"].tolist() == 2 * KEYS
    assert table["micrographs"].tolist() == [2] * 14 + [1] * 14
    assert table["low"].iloc[14:].isna().all() and table["low"].iloc[:14].notna().all()
    assert summary_table([]).empty


def test_the_log_normal_of_discs_comes_back(plane) -> None:
    fields, particles = tables(list(tiles(plane[1], 128)))
    found = summarise(*samples(fields, particles))["quantities"]
    assert found["lognormal_median"]["low"] < 20 < found["lognormal_median"]["high"]
    assert found["lognormal_gsd"]["low"] < math.exp(0.5) < found["lognormal_gsd"]["high"]
    assert found["lognormal_median"]["high"] - found["lognormal_median"]["low"] < 2
    # the same sizes without weight are wrong by more than the interval: large discs are cut more often
    bare = particles.assign(border_weight=(particles["border_weight"] > 0) * 1.0)
    biased = summarise(*samples(fields, bare))["quantities"]
    assert biased["lognormal_median"]["high"] < 20 and biased["ecd_mean"]["high"] < plane[0].mean()
    # without the smallest quarter the median of all is an extrapolation, told by the interval
    large = particles[particles["area_px2"] >= 150]
    part = summarise(*samples(fields.assign(min_area_px=150), large))
    assert part["quantities"]["lognormal_median"]["low"] < 20 < part["quantities"]["lognormal_median"]["high"]
    assert part["quantities"]["ecd_median"]["low"] > 20
    assert part["lognormal"]["unseen"] == pytest.approx((plane[0] ** 2 * math.pi / 4 < 150).mean(), abs=0.1)


def test_synthetic_steel_comes_back() -> None:
    steel, rows, carbides, drawn = STEELS["jfl"], [], [], []
    for seed in range(5):
        micrograph = synthesize_micrograph(steel, (704, 1024), seed)
        labels = label_particles(micrograph.label)
        table = measure_particles(labels, micrograph.pixel_size_um)
        key = {"micrograph": f"m{seed}", "sample": "jfl"}
        rows.append(key | measure_field(labels, table, micrograph.pixel_size_um))
        carbides.append(table.assign(**key))
        drawn.append(micrograph.instances)
    (sample,) = samples(pd.DataFrame(rows), pd.concat(carbides))
    found, truth = summarise(sample)["quantities"], pd.concat(drawn)
    ends = (np.log([steel.ecd_min_um, steel.ecd_max_um]) - math.log(steel.ecd_median_um)) / steel.ecd_sigma
    ecd = stats.truncnorm(*ends, math.log(steel.ecd_median_um), steel.ecd_sigma)
    area = 704 * 1024 * steel.pixel_size_um**2 * 5
    expected = {
        "number_density": steel.density_per_um2,
        "area_fraction": truth["label_area_px"].sum() / (5 * 704 * 1024),
        "ecd_mean": ecd.expect(np.exp),
        "ecd_median": math.exp(ecd.median()),
        "ecd_p90": math.exp(ecd.ppf(0.9)),
        "ecd_p99": math.exp(ecd.ppf(0.99)),
        "lognormal_median": steel.ecd_median_um,
        "lognormal_gsd": math.exp(steel.ecd_sigma),
    }
    for key, value in expected.items():
        assert found[key]["low"] < value < found[key]["high"], key
    # what was drawn in these very frames: touching carbides of a chain are one in the label
    assert found["number_density"]["value"] == pytest.approx(len(truth) / area, rel=0.03)
    assert found["area_fraction"]["value"] == pytest.approx(expected["area_fraction"], rel=1e-3)
