"""Comparing samples: changes that were made are found, others are not, and mistakes are named."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from matplotlib.figure import Figure
from PIL import Image
from scipy import stats

from carde_monai import compare_report, size_test
from carde_monai.compare import agreement, compare, difference, match_micrographs, read_sample, table
from carde_monai.errors import InputError
from carde_monai.locking import claimed
from carde_monai.particles import label_particles, measure_particles, save_labels
from carde_monai.stereology import measure_field
from carde_monai.summary import QUANTITIES, Sample, samples

PIXEL = 0.01  # micrometres
PITCH = 24  # pixels between the centres of discs


def discs(seed: int, rows: int = 6, columns: int = 6) -> np.ndarray:
    """(H, W) mask of separate discs of log-normal sizes, none of which touches the border."""
    rng = np.random.default_rng(seed)
    radii = np.clip(4 * np.exp(0.4 * rng.standard_normal((rows, columns))), 1.5, 9.5)
    at_row, at_column = np.ogrid[: rows * PITCH, : columns * PITCH]
    mask = np.zeros((rows * PITCH, columns * PITCH), bool)
    for (row, column), radius in np.ndenumerate(radii):
        y, x = ((place + 0.5) * PITCH + rng.uniform(-2, 2) for place in (row, column))
        mask |= (at_row - y) ** 2 + (at_column - x) ** 2 <= radius**2
    return mask


def without_every_second(mask: np.ndarray) -> np.ndarray:
    labels = label_particles(mask)
    return mask & (labels % 2 == 1)


def write(
    folder: Path,
    masks: Mapping[str, np.ndarray],
    pixel_size: float | None = PIXEL,
    sample: str = "steel",
    min_area: int = 1,
) -> Path:
    """A folder as ``carde-monai measure`` leaves it."""
    folder.mkdir(parents=True)
    rows, tables = [], []
    for name, mask in masks.items():
        labels = label_particles(mask, min_area=min_area)
        particles = measure_particles(labels, pixel_size)
        row = measure_field(labels, particles, pixel_size, min_area=min_area)
        save_labels(labels, folder / f"{name}_labels.tif", pixel_size)
        rows.append({"micrograph": name, "sample": sample, **row})
        particles.insert(0, "sample", sample)
        particles.insert(0, "micrograph", name)
        tables.append(particles)
    pd.DataFrame(rows).to_csv(folder / "micrographs.csv", index=False, float_format="%.6g")
    pd.concat(tables).to_csv(folder / "particles.csv", index=False, float_format="%.6g")
    return folder


def simulated(
    rng: np.random.Generator,
    effects: np.ndarray,
    carbides: float = 100,
    log_median: float = -2.5,
    prefix: str = "m",
) -> Sample:
    """A sample from no pictures: fields of log-normal sizes, which ``effects`` (F,) shift."""
    fields, tables = [], []
    for number, effect in enumerate(effects):
        name = f"{prefix}{number}"
        count = rng.poisson(carbides * math.exp(effect))
        ecd = np.exp(log_median + effect + 0.5 * rng.standard_normal(count))
        fields.append(
            {
                "micrograph": name,
                "sample": "s",
                "width_px": 1000,
                "height_px": 1000,
                "pixel_size_um": 0.01,
                "field_area_um2": 100.0,
                "min_area_px": 1,
                "carbides": count,
                "carbides_counted": count,
                "area_fraction": math.pi / 4 * (ecd**2).sum() / 100,
                "intercepts": int(2 * ecd.sum() * 100),
                "scan_length_um": 2e4,
                "nearest_neighbour_mean_um": 0.5,
                "nearest_neighbour_random_um": 0.5,
            }
        )
        particles = pd.DataFrame({"equivalent_circle_diameter_um": ecd, "border_weight": 1.0})
        tables.append(particles.assign(micrograph=name, sample="s"))
    return samples(pd.DataFrame(fields), pd.concat(tables, ignore_index=True))[0]


@pytest.fixture(scope="module")
def masks() -> dict[str, np.ndarray]:
    return {f"m_{number}": discs(number) for number in range(6)}


@pytest.fixture(scope="module")
def reference(masks: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("compare") / "annotation", masks)


@pytest.fixture(scope="module")
def halved(masks: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    half = {name: without_every_second(mask) for name, mask in masks.items()}
    return write(tmp_path_factory.mktemp("compare") / "network", half)


class TestCompare:
    def test_a_folder_agrees_with_itself(self, reference: Path) -> None:
        result, failures = compare(reference, reference)
        assert failures == result["failures"] == result["warnings"] == []
        assert result["paired"] and result["a"] == result["b"]
        assert list(result["quantities"]) == list(QUANTITIES)
        for key, quantity in result["quantities"].items():
            assert quantity["difference"] == 0, key
            if key != "large_fraction":  # 0 on both sides: see below
                assert quantity["low"] == quantity["high"] == quantity["relative_percent"] == 0, key
        assert (result["sizes"]["d"], result["sizes"]["p"]) == (0, 1)
        objects = result["objects"]
        for score in ("precision", "recall", "f1", "sq", "pq"):
            assert objects[score] == {"median": 1, "q1": 1, "q3": 1, "mean": 1, "n": 6}
        assert objects["micrographs"][0] == {
            "micrograph": "m_0",
            **{"true_positive": 36, "false_positive": 0, "false_negative": 0},
            **{"precision": 1, "recall": 1, "f1": 1, "sq": 1, "pq": 1},
        }

    def test_every_second_carbide_removed(self, reference: Path, halved: Path) -> None:
        result, failures = compare(reference, halved)
        assert failures == []
        density = result["quantities"]["number_density"]
        assert density["a"] == pytest.approx(36 / 1.44**2, rel=1e-5)
        assert density["unit"] == "1/µm²"
        for key in ("relative_percent", "relative_low", "relative_high"):
            assert density[key] == pytest.approx(-50, abs=1e-9)  # in each field, so in each resample
        objects = result["objects"]
        assert objects["precision"]["median"] == 1
        assert objects["recall"]["median"] == 0.5
        assert objects["f1"]["mean"] == objects["pq"]["mean"] == pytest.approx(2 / 3)

    def test_all_sizes_larger(self, masks: dict[str, np.ndarray], reference: Path, tmp_path: Path) -> None:
        result, _ = compare(reference, write(tmp_path / "scaled", masks, pixel_size=1.2 * PIXEL))
        expected = {"ecd_mean": 1.2, "ecd_p99": 1.2, "nearest_neighbour": 1.2, "mean_free_path": 1.2}
        expected |= {"number_density": 1 / 1.44, "area_fraction": 1, "nearest_neighbour_ratio": 1}
        for key, factor in expected.items():
            quantity = result["quantities"][key]
            for what in ("relative_percent", "relative_low", "relative_high"):
                assert quantity[what] == pytest.approx(100 * (factor - 1), abs=1e-3), key
        assert result["sizes"]["d"] > 0.1
        assert result["sizes"]["p"] == pytest.approx(2 / 2**6)  # all fields changed: the extreme split
        [warning] = result["warnings"]
        assert "smallest ECD counted is not the same (A 0.00798 µm, B 0.00957 µm)" in warning

    def test_result_is_json(self, reference: Path, tmp_path: Path) -> None:
        empty = write(tmp_path / "empty", {"m_0": np.zeros((144, 144), bool)})
        for other in (reference, empty):
            result, _ = compare(empty, other)
            assert json.loads(json.dumps(result, allow_nan=False)) == result
            assert result["quantities"]["ecd_mean"]["difference"] is None
            assert result["sizes"]["reason"] == "a sample has no uncut carbide"
            assert "no uncut carbide" in table(result)

    def test_units_in_pixels(self, masks: dict[str, np.ndarray], reference: Path, tmp_path: Path) -> None:
        unknown = write(tmp_path / "unknown", masks, pixel_size=None)
        result, _ = compare(unknown, unknown)
        assert result["unit"] == "px"
        assert result["quantities"]["number_density"]["unit"] == "1/px²"
        assert result["quantities"]["large_fraction"]["a"] is None
        assert "µm" not in table(result)
        for pair in ((unknown, reference), (reference, unknown)):
            with pytest.raises(InputError, match=r"unknown: is measured in px.*but .*annotation in µm"):
                compare(*pair)

    def test_names_of_others_are_not_matched(
        self, masks: dict[str, np.ndarray], reference: Path, tmp_path: Path
    ) -> None:
        others = write(tmp_path / "others", {f"other_{name}": mask for name, mask in masks.items()})
        result, failures = compare(reference, others)
        assert (result["objects"], failures, result["paired"]) == (None, [], False)
        with pytest.raises(InputError, match=r"no <micrograph>_labels\.tif"):
            compare(reference, others, match=True)
        with pytest.raises(InputError, match="no micrograph has the name"):
            compare(reference, others, paired=True)
        assert compare(reference, reference, match=False)[0]["objects"] is None

    def test_what_cannot_be_matched_is_a_failure(self, reference: Path, halved: Path, tmp_path: Path) -> None:
        broken = tmp_path / "broken"
        shutil.copytree(halved, broken)
        tifffile.imwrite(broken / "m_1_labels.tif", np.zeros((8, 9), np.uint16))
        (broken / "m_2_labels.tif").write_bytes(b"damaged")
        (broken / "m_3_labels.tif").unlink()
        tifffile.imwrite(broken / "m_4_labels.tif", np.zeros((144, 144), np.float32))
        result, failures = compare(reference, broken)
        assert [failure.name for failure in failures] == ["m_1", "m_2", "m_3", "m_4"]
        for failure, reason in zip(
            failures, ("9 x 8 px, but", "cannot be read", "no such", "not an image"), strict=True
        ):
            assert reason in failure.reason and f"{failure.name}_labels.tif" in failure.reason
        assert [row["micrograph"] for row in result["objects"]["micrographs"]] == ["m_0", "m_5"]
        assert result["objects"]["recall"]["n"] == 2

    def test_nothing_found(self, reference: Path, tmp_path: Path) -> None:
        empty = write(tmp_path / "empty", {"m_0": np.zeros((144, 144), bool)})
        objects, _ = match_micrographs(reference, empty, ["m_0"])
        assert objects is not None
        assert objects["precision"] == {"median": None, "q1": None, "q3": None, "mean": None, "n": 0}
        assert objects["recall"]["mean"] == objects["pq"]["mean"] == 0


class TestDifference:
    def test_same_population(self) -> None:
        """Intervals at 95 % hold the true difference, 0, about that often; so does the test of sizes."""
        rng = np.random.default_rng(7)
        keys = ("number_density", "area_fraction", "ecd_mean", "ecd_median", "lognormal_gsd")
        hits, small_p, runs = dict.fromkeys(keys, 0), 0, 40
        for _ in range(runs):
            a, b = (simulated(rng, 0.15 * rng.standard_normal(n), 40) for n in (5, 7))
            result = difference(a, b, seed=3)
            assert not result["paired"]
            for key in keys:
                quantity = result["quantities"][key]
                hits[key] += quantity["low"] <= 0 <= quantity["high"]
            small_p += result["sizes"]["p"] <= 0.05
        # with a coverage of 95 % it is 35 or more of 40 in 99 % of the cases
        assert {key: count for key, count in hits.items() if count < 35} == {}
        assert small_p <= 5

    def test_changed_population(self) -> None:
        rng = np.random.default_rng(1)
        a = simulated(rng, np.zeros(6), log_median=-2.5)
        b = simulated(rng, np.zeros(8), log_median=-2.5 + math.log(1.2))
        quantity = difference(a, b)["quantities"]["ecd_median"]
        assert quantity["low"] > 0
        assert quantity["relative_low"] < 20 < quantity["relative_high"]

    def test_pairs_cancel_what_fields_have_in_common(self) -> None:
        rng = np.random.default_rng(2)
        effects = 0.5 * rng.standard_normal(10)
        a, b = simulated(rng, effects, 400), simulated(rng, effects + 0.1, 400)
        paired, independent = difference(a, b), difference(a, b, paired=False)
        assert paired["paired"] and not independent["paired"]
        for key in ("number_density", "ecd_mean"):
            width = [
                one["quantities"][key]["high"] - one["quantities"][key]["low"]
                for one in (paired, independent)
            ]
            assert width[0] < 0.5 * width[1], key
            assert paired["quantities"][key]["difference"] == independent["quantities"][key]["difference"]
        assert paired["quantities"]["ecd_mean"]["low"] > 0 > independent["quantities"]["ecd_mean"]["low"]
        assert paired["sizes"]["p"] < 0.05 < independent["sizes"]["p"]

    def test_pairs_are_found_by_name(self) -> None:
        a = simulated(np.random.default_rng(3), np.linspace(-1, 1, 6))
        turned = Sample("turned", "um", a.fields[::-1].reset_index(drop=True), a.particles)
        quantity = difference(a, turned)["quantities"]["ecd_mean"]
        assert quantity["low"] == pytest.approx(0, abs=1e-12) and quantity["high"] == pytest.approx(
            0, abs=1e-12
        )
        assert difference(a, turned)["sizes"]["p"] == 1

    def test_when_pairs_are_made(self) -> None:
        rng = np.random.default_rng(4)
        a, others = simulated(rng, np.zeros(6)), simulated(rng, np.zeros(6), prefix="n")
        more = simulated(rng, np.zeros(8))
        resized = Sample("resized", "um", a.fields.assign(width_px=999), a.particles)
        assert difference(a, others)["reason"] == "the micrographs differ"
        assert "other sizes" in difference(a, resized)["reason"]
        loose, tight = difference(a, more), difference(a, more, paired=True)
        assert (loose["paired"], loose["b"]["micrographs"]) == (False, 8)
        assert loose["warnings"] == ["6 micrographs are in both samples, but others in one only: not paired"]
        assert (tight["paired"], tight["b"]["micrographs"]) == (True, 6)
        assert tight["warnings"] == ["left out, as they are on one side only: 2 micrographs"]
        with pytest.raises(ValueError, match="no micrograph in common"):
            difference(a, others, paired=True)
        with pytest.raises(ValueError, match="px"):
            difference(a, Sample("px", "px", a.fields, a.particles))

    def test_one_field_has_no_interval(self) -> None:
        rng = np.random.default_rng(5)
        a, b = simulated(rng, np.zeros(1)), simulated(rng, np.zeros(6))
        for result in (difference(a, a), difference(a, b), difference(b, a)):
            assert all(quantity["low"] is None for quantity in result["quantities"].values())
            assert result["quantities"]["ecd_mean"]["difference"] is not None
            assert any("one micrograph" in warning for warning in result["warnings"])
            assert "interval excludes" not in table(result)

    def test_few_fields_are_as_wide_as_welchs_test(self) -> None:
        rng = np.random.default_rng(6)
        a, b = (simulated(rng, 0.1 * rng.standard_normal(n)) for n in (3, 3))
        density = difference(a, b)["quantities"]["number_density"]
        counts = [sample.fields["carbides_counted"] / 100 for sample in (b, a)]
        low, high = stats.ttest_ind(*counts, equal_var=False).confidence_interval()
        assert density["low"] == pytest.approx(low, rel=0.2)
        assert density["high"] == pytest.approx(high, rel=0.2)

    def test_none_found_is_not_none_there(self) -> None:
        """No resample shows a share that was not seen; the rule of three does."""
        rng = np.random.default_rng(8)
        a, b = simulated(rng, np.zeros(6)), simulated(rng, np.zeros(6), prefix="n")
        share = difference(a, b, large_um=10)["quantities"]["large_fraction"]
        count = [len(sample.pooled.ecd) for sample in (a, b)]
        assert (share["low"], share["high"]) == pytest.approx((-3 / count[0], 3 / count[1]))
        assert share["relative_percent"] is None

    @settings(max_examples=15, deadline=None)
    @given(st.integers(0, 2**32 - 1), st.integers(2, 6))
    def test_swapped_sides_swap_signs(self, seed: int, fields: int) -> None:
        rng = np.random.default_rng(seed)
        a, b = (simulated(rng, 0.2 * rng.standard_normal(fields), 20) for _ in range(2))
        there, back = difference(a, b), difference(b, a)
        for key in ("number_density", "ecd_mean", "mean_free_path"):
            one, other = there["quantities"][key], back["quantities"][key]
            assert one["difference"] == -other["difference"]
            assert (one["low"], one["high"]) == pytest.approx((-other["high"], -other["low"]), rel=1e-6)
        for key in ("d", "p", "reason", "p_independent"):
            assert there["sizes"][key] == pytest.approx(back["sizes"][key])


class TestSizeTest:
    def sample(self, *fields: list[float], weight: float = 1.0) -> Sample:
        tables = [
            pd.DataFrame({"equivalent_circle_diameter_um": ecd, "micrograph": f"m{number}"}, dtype=object)
            for number, ecd in enumerate(fields)
        ]
        particles = pd.concat(tables).assign(sample="s", border_weight=weight)
        particles["equivalent_circle_diameter_um"] = particles["equivalent_circle_diameter_um"].astype(float)
        frame = simulated(np.random.default_rng(0), np.zeros(len(fields))).fields
        return Sample("s", "um", frame, particles)

    def test_by_hand(self) -> None:
        """Fields of 1 um against fields of 2 um: only the split itself and its mirror are as extreme."""
        ones, twos = self.sample(*[[1.0, 1.0]] * 4), self.sample(*[[2.0]] * 4)
        found = size_test.size_test(ones, twos, paired=False)
        assert (found["d"], found["diameter"]) == (1, 1)
        assert (found["p"], found["permutations"], found["exact"]) == (pytest.approx(2 / 70), 70, True)
        ones, twos = self.sample(*[[1.0]] * 6), self.sample(*[[2.0]] * 6)
        assert size_test.size_test(ones, twos, paired=True)["p"] == pytest.approx(2 / 2**6)

    def test_too_few_fields(self) -> None:
        for fields, paired in ((3, False), (5, True)):
            ones, twos = self.sample(*[[1.0]] * fields), self.sample(*[[2.0]] * fields)
            found = size_test.size_test(ones, twos, paired=paired)
            assert (found["d"], found["p"], found["permutations"]) == (1, None, None)
            assert "no p below" in found["reason"]
        uneven = size_test.size_test(self.sample([1.0], [1.0]), self.sample(*[[2.0]] * 6), paired=False)
        assert uneven["p"] == pytest.approx(1 / 28)
        alone = size_test.size_test(self.sample([1.0]), self.sample(*[[2.0]] * 30), paired=False)
        assert (alone["d"], alone["p"]) == (1, None) and "one micrograph" in alone["reason"]

    def test_as_scipy_without_weights(self) -> None:
        rng = np.random.default_rng(0)
        a, b = simulated(rng, np.zeros(8)), simulated(rng, np.zeros(8) + 0.1)
        found = size_test.size_test(a, b, paired=False)
        textbook = stats.ks_2samp(a.pooled.ecd, b.pooled.ecd)
        assert found["d"] == pytest.approx(textbook.statistic)
        assert found["diameter"] == textbook.statistic_location
        assert found["p_independent"] == pytest.approx(textbook.pvalue, rel=0.05)
        assert not found["exact"] and found["permutations"] == size_test.PERMUTATIONS

    def test_weights_count(self) -> None:
        """Of sizes 1 and 3 with weights 1 and 3 a quarter is below 2."""
        a, b = self.sample([1.0, 3.0]), self.sample([2.0])
        assert size_test.size_test(a, b, paired=True)["d"] == 0.5
        a.particles["border_weight"] = [1.0, 3.0]
        weighted = Sample("weighted", "um", a.fields, a.particles)
        assert size_test.size_test(weighted, b, paired=True)["d"] == 0.75

    def test_fields_without_carbides(self) -> None:
        """A split with all empty fields on one side has no distance: it counts against the finding."""
        a = self.sample([1.0], [], [], [])
        b = self.sample([2.0], [], [], [])
        assert size_test.size_test(a, b, paired=False)["p"] == 1

    def test_false_alarms_on_clustered_fields(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whole fields change sides: where fields vary, the textbook's p cries wolf and this one does not."""
        monkeypatch.setattr(size_test, "PERMUTATIONS", 199)
        rng = np.random.default_rng(11)
        found = [
            size_test.size_test(*(simulated(rng, 0.15 * rng.standard_normal(6)) for _ in "ab"), paired=False)
            for _ in range(60)
        ]
        assert sum(one["p"] <= 0.05 for one in found) <= 7  # of 60 at 5 %: more in 2 % of the cases
        assert sum(one["p_independent"] <= 0.05 for one in found) > 15


class TestReadSample:
    def test_reads_what_was_measured(self, reference: Path) -> None:
        sample = read_sample(reference)
        assert (sample.name, sample.unit, len(sample.fields)) == ("annotation", "um", 6)
        assert len(sample.particles) == 6 * 36

    def test_names_stay_text(self, masks: dict[str, np.ndarray], tmp_path: Path) -> None:
        folder = write(tmp_path / "a", {"001": masks["m_0"], "NA": masks["m_1"]}, sample="1e3")
        assert list(read_sample(folder).fields["micrograph"]) == ["001", "NA"]
        assert read_sample(f"{folder}::1e3").name == "a, 1e3"
        assert compare(folder, folder)[0]["objects"]["f1"]["mean"] == 1

    def test_several_samples(self, masks: dict[str, np.ndarray], tmp_path: Path) -> None:
        folder = write(tmp_path / "both", masks)
        for name in ("micrographs", "particles"):
            frame = pd.read_csv(folder / f"{name}.csv")
            frame["sample"] = np.where(frame["micrograph"] < "m_2", "first/steel", "second")
            frame.to_csv(folder / f"{name}.csv", index=False)
        assert (read_sample(folder).name, len(read_sample(folder).fields)) == ("both", 6)
        first = read_sample(f"{folder}::first/steel")
        assert list(first.fields["micrograph"]) == ["m_0", "m_1"]
        assert set(first.particles["micrograph"]) == {"m_0", "m_1"}
        with pytest.raises(InputError, match="no sample third; it holds first/steel, second"):
            read_sample(f"{folder}::third")
        result, _ = compare(f"{folder}::first/steel", f"{folder}::second", tmp_path / "out")
        assert (result["a"]["micrographs"], result["b"]["micrographs"]) == (2, 4)

    def test_without_carbides(self, tmp_path: Path) -> None:
        sample = read_sample(write(tmp_path / "empty", {"m": np.zeros((20, 30), bool)}))
        assert (len(sample.fields), len(sample.particles)) == (1, 0)

    def test_known_and_unknown_pixel_sizes(self, masks: dict[str, np.ndarray], tmp_path: Path) -> None:
        known = write(tmp_path / "known", {"k": masks["m_0"]})
        unknown = write(tmp_path / "unknown", {"u": masks["m_1"]}, pixel_size=None)
        for name in ("micrographs.csv", "particles.csv"):
            frames = [pd.read_csv(folder / name) for folder in (known, unknown)]
            pd.concat(frames).to_csv(known / name, index=False)
        with pytest.raises(InputError, match=r"some micrographs is known, of others not.*::SAMPLE"):
            read_sample(known)
        assert read_sample(f"{known}::steel").unit == "um"
        assert read_sample(f"{known}::steel (pixel size unknown)").unit == "px"

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (lambda f: shutil.rmtree(f), r"copy: no such folder; give a folder that"),
            (lambda f: (f / "micrographs.csv").unlink(), r"has no micrographs.csv; run carde-monai measure"),
            (lambda f: (f / "particles.csv").unlink(), r"has no particles.csv; run carde-monai measure"),
            (
                lambda f: (f / "particles.csv").write_text("Area,Mean\n3,4\n"),
                r"particles.csv: has no column micrograph",
            ),
            (
                lambda f: (f / "micrographs.csv").write_text("a,b\n3,4\n"),
                r"micrographs.csv: has no column pixel_size",
            ),
            (lambda f: (f / "micrographs.csv").write_text(""), r"micrographs.csv: is damaged"),
            (lambda f: (f / "particles.csv").write_bytes(b"\xff\xfe\x00,\n"), r"particles.csv: is damaged"),
            (lambda f: edit(f / "particles.csv", "border_weight", None), r"has no column border_weight"),
            (
                lambda f: edit(f / "particles.csv", "border_weight", "?"),
                r"not every border_weight is a number",
            ),
            (lambda f: edit(f / "micrographs.csv", "scan_length_um", None), r"has no column scan_length_um"),
            (lambda f: edit(f / "micrographs.csv", "micrograph", "m_1"), r"micrographs.csv: names m_1 twice"),
            (lambda f: edit(f / "particles.csv", "micrograph", "x"), r"particles.csv: names x, which"),
            (lambda f: shorten(f / "particles.csv"), r"has 35 carbides of m_5, but micrographs.csv says 36"),
        ],
    )
    def test_mistakes_are_named(self, reference: Path, tmp_path: Path, damage, message: str) -> None:
        folder = tmp_path / "copy"
        shutil.copytree(reference, folder)
        damage(folder)
        with pytest.raises(InputError, match=message) as caught:
            compare(reference, folder)
        assert "\n" not in str(caught.value)


def shorten(path: Path) -> None:
    """Lose the last row."""
    pd.read_csv(path).iloc[:-1].to_csv(path, index=False)


def edit(path: Path, column: str, value: str | None) -> None:
    """Overwrite the first row of a column, or remove it."""
    frame = pd.read_csv(path, dtype=object)
    if value is None:
        frame = frame.drop(columns=column)
    else:
        frame.loc[0, column] = value
    frame.to_csv(path, index=False)


class TestAgreement:
    def test_by_hand(self) -> None:
        """Four squares of 4 x 4 px; the found mask lacks one and has one of 2 x 4 px in its place."""
        label = np.zeros((40, 40), bool)
        for row, column in ((4, 4), (4, 24), (24, 4), (24, 24)):
            label[row : row + 4, column : column + 4] = True
        found = label.copy()
        found[24:28, 24:28] = False
        found[14:16, 14:18] = True
        truth_ecd, small = math.sqrt(4 * 16 / math.pi), math.sqrt(4 * 8 / math.pi)
        weight, small_weight = 40 * 40 / 36**2, 40 * 40 / (36 * 38)
        mean = (3 * weight * truth_ecd + small_weight * small) / (3 * weight + small_weight)
        expected = {
            "number_density_error": 0.0,
            "area_fraction_error": -8 / 64,
            "mean_ecd_error": mean / truth_ecd - 1,
            "object_precision": 0.75,
            "object_recall": 0.75,
            "object_f1": 0.75,
            "pq": 0.75,
        }
        assert agreement(found, label) == pytest.approx(expected)
        assert agreement(found, label, 0.00698) == pytest.approx(expected)
        assert list(agreement(found, label)) == list(expected)
        without = agreement(found, label, min_area=9)
        assert without["number_density_error"] == pytest.approx(-0.25)
        assert without["object_precision"] == 1

    def test_nothing_there(self) -> None:
        nothing, disc = np.zeros((24, 24), bool), discs(0, 1, 1)
        empty = agreement(nothing, nothing)
        assert math.isnan(empty["number_density_error"]) and math.isnan(empty["mean_ecd_error"])
        assert empty["object_f1"] == empty["pq"] == 1
        missed = agreement(nothing, disc)
        assert missed["number_density_error"] == missed["area_fraction_error"] == -1
        assert math.isnan(missed["mean_ecd_error"]) and missed["object_recall"] == 0
        assert math.isnan(agreement(disc, nothing)["area_fraction_error"])

    @settings(max_examples=30, deadline=None)
    @given(hnp.arrays(bool, st.tuples(st.integers(3, 12), st.integers(3, 12))), st.integers(1, 3))
    def test_a_mask_agrees_with_itself(self, mask: np.ndarray, min_area: int) -> None:
        for key, value in agreement(mask, mask, min_area=min_area).items():
            perfect = 0 if key.endswith("error") else 1
            assert math.isnan(value) or value == perfect, key

    def test_shapes_differ(self) -> None:
        with pytest.raises(ValueError, match="shape"):
            agreement(np.zeros((4, 5)), np.zeros((5, 4)))


class TestFiles:
    def test_table(self, reference: Path, halved: Path) -> None:
        text = table(compare(reference, halved)[0])
        lines = text.splitlines()
        assert lines[0] == "A  annotation: 6 micrographs, 216 carbides"
        assert lines[1] == "B  network: 6 micrographs, 108 carbides"
        assert lines[2] == "paired: micrographs of the same names and sizes are taken for the same"
        [density] = [line for line in lines if line.startswith("number density")]
        assert density.split()[2:] == [
            "1/µm²",
            "17.36",
            "8.681",
            "-8.681",
            "-8.681",
            "to",
            "-8.681",
            "*",
            "-50.0",
            "%",
        ]
        columns = lines[4 : 5 + len(QUANTITIES)]
        ends = {line.index("%") for line in columns[1:] if line.endswith("%")}
        assert len(ends) == 1  # aligned
        assert "median" in text and "0.500" in text and "0.667" in text
        assert "all 64 splits" in text

    def test_files(self, reference: Path, halved: Path, tmp_path: Path) -> None:
        result, _ = compare(reference, halved, tmp_path / "new" / "out")
        out = tmp_path / "new" / "out"
        assert sorted(path.name for path in out.iterdir()) == sorted(compare_report.FILES)
        assert json.loads((out / "comparison.json").read_text(encoding="utf-8")) == result
        written = pd.read_csv(out / "comparison.csv")
        assert tuple(written) == compare_report.COLUMNS
        assert list(written["quantity"]) == list(QUANTITIES)
        assert written["relative_percent"][0] == pytest.approx(-50)
        objects = pd.read_csv(out / "objects.csv")
        assert list(objects["micrograph"]) == [f"m_{number}" for number in range(6)]
        assert (objects["recall"] == 0.5).all() and (objects["false_negative"] == 18).all()
        with Image.open(out / "comparison.png") as picture:
            assert picture.width == round(compare_report.WIDTH * compare_report.DOTS_PER_INCH)
        assert "<svg" in (out / "comparison.svg").read_text(encoding="utf-8")
        compare(reference, halved, out, match=False)
        assert not (out / "objects.csv").exists()

    def test_a_second_run_is_refused(self, reference: Path, halved: Path, tmp_path: Path) -> None:
        with (
            claimed(tmp_path),
            pytest.raises(InputError, match="another run of carde-monai is writing there"),
        ):
            compare(reference, halved, tmp_path)
        assert not list(tmp_path.iterdir())

    def test_picture(self, reference: Path, halved: Path) -> None:
        result, _ = compare(reference, halved)
        samples = [read_sample(folder) for folder in (reference, halved)]
        figure = compare_report.picture(result, *(sample.pooled for sample in samples))
        assert isinstance(figure, Figure)
        curves, forest = figure.axes
        a, b = curves.lines[:2]
        assert a.get_ydata()[-1] == b.get_ydata()[-1] == pytest.approx(1)
        assert list(a.get_xdata()) == sorted(set(samples[0].pooled.ecd))
        assert [text.get_text() for text in curves.get_legend().get_texts()] == [
            "A: annotation, n = 216",
            "B: network, n = 108",
        ]
        ends = curves.lines[2].get_ydata()
        assert abs(ends[1] - ends[0]) == pytest.approx(result["sizes"]["d"])
        names = [label.get_text() for label in forest.get_yticklabels()]
        assert names[-1] == "number density" and len(names) == len(QUANTITIES) - 1  # no large ones in A

    def test_picture_of_the_common_micrographs(
        self, masks: dict[str, np.ndarray], reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        drawn: list[int] = []
        picture = compare_report.picture

        def keep(result, a, b) -> Figure:
            drawn.extend((len(a.ecd), len(b.ecd)))
            return picture(result, a, b)

        monkeypatch.setattr(compare_report, "picture", keep)
        two = write(tmp_path / "two", {name: masks[name] for name in ("m_1", "m_2")})
        result, _ = compare(reference, two, tmp_path / "out", paired=True)
        assert drawn == [72, 72] == [result[side]["carbides"] for side in "ab"]

    def test_picture_without_carbides(self, tmp_path: Path) -> None:
        empty = write(tmp_path / "empty $\\frac$", {"m": np.zeros((30, 30), bool)})
        disc = write(tmp_path / "disc $\\frac$", {"m": discs(0, 1, 1)})
        for pair in ((empty, empty), (disc, empty), (disc, disc)):
            compare(*pair, tmp_path / "out")
        assert (tmp_path / "out" / "comparison.svg").exists()
