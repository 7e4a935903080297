from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carde_monai.intervals import multiplicities
from carde_monai.pooling import Pooled
from carde_monai.saltykov import class_edges, saltykov, section_matrix, unfold


def sections(
    spheres: list[tuple[float, float]], areas: np.ndarray, seed: int = 0, smallest: float = 0.01
) -> Pooled:
    """Random plane sections of (diameter, number per volume) spheres, without those below ``smallest``."""
    rng = np.random.default_rng(seed)
    ecd, field = [], []
    for diameter, density in spheres:
        # a sphere is met if its centre lies within half a diameter of the plane
        for index, count in enumerate(rng.poisson(density * diameter * areas)):
            ecd.append(diameter * np.sqrt(1 - rng.random(count) ** 2))
            field.append(np.full(count, index))
    ecd, field = np.concatenate(ecd), np.concatenate(field)
    order = np.argsort(ecd)
    order = order[ecd[order] >= smallest]
    return Pooled(ecd[order], np.ones(len(order)), field[order], {"area": areas}, smallest)


def test_the_matrix_is_that_of_saltykovs_equal_classes() -> None:
    matrix = section_matrix(np.arange(4) * 2.0)  # class width 2
    # sqrt(j^2 - (i-1)^2) - sqrt(j^2 - i^2), times the width
    by_hand = [[1, 2 - 3**0.5, 3 - 8**0.5], [0, 3**0.5, 8**0.5 - 5**0.5], [0, 0, 5**0.5]]
    assert matrix == pytest.approx(2 * np.array(by_hand))


def test_unfolding_three_classes_by_hand() -> None:
    # backwards: N_V(3) = 10 / 2.2361; N_V(2) = (20 - 0.5924 N_V(3)) / 1.7321;
    # N_V(1) = 30 - 0.2679 N_V(2) - 0.1716 N_V(3)
    assert unfold([30.0, 20.0, 10.0], np.arange(4.0)) == pytest.approx([26.548, 10.018, 4.472], abs=2e-3)


def test_the_first_coefficients_of_the_inverse_by_hand() -> None:
    table = np.linalg.inv(section_matrix(np.arange(16.0)))
    # -(2 - sqrt 3) / sqrt 3; -(sqrt 8 - sqrt 5) / (sqrt 3 sqrt 5)
    assert table[0, 1] == pytest.approx(-0.1547, abs=5e-5)
    assert table[1, 2] == pytest.approx(-0.1529, abs=5e-5)
    assert np.diag(table) == pytest.approx(1 / np.sqrt(2 * np.arange(1, 16) - 1))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 100), min_size=1, max_size=15))
def test_unfolding_undoes_the_cutting(spheres: list[float]) -> None:
    edges = np.geomspace(0.01, 1, len(spheres) + 1)
    assert unfold(section_matrix(edges) @ spheres, edges) == pytest.approx(np.array(spheres), abs=1e-6)


def test_all_sections_of_a_sphere_are_its_diameter() -> None:
    # number per area = number per volume x diameter, wherever the classes lie
    assert section_matrix(np.array([0, 0.3, 0.7, 1.1])).sum(0) == pytest.approx([0.3, 0.7, 1.1])


def test_the_classes_reach_from_the_smallest_counted_to_the_largest() -> None:
    edges = class_edges(0.01, np.array([0.3, 0.02]))
    assert (edges[0], edges[-1], len(edges)) == (pytest.approx(0.01), pytest.approx(0.3), 9)
    assert edges[1:] / edges[:-1] == pytest.approx(np.full(8, 30**0.125))
    assert len(class_edges(0.01, np.full(1000, 0.3))) == 16


def test_spheres_of_one_size_come_back() -> None:
    areas = np.full(10, 100.0)
    found = saltykov(sections([(0.2, 5.0)], areas), multiplicities(10))
    assert found["low"] < 5 < found["high"]
    assert found["number_per_volume"] == pytest.approx(5, rel=0.1)
    top = found["classes"][-1]
    assert top["low"] < 5 < top["high"]
    assert top["diameter_high"] == pytest.approx(0.2, rel=1e-3)
    for smaller in found["classes"][:-1]:
        assert smaller["low"] < 0 < smaller["high"] or abs(smaller["number_per_volume"]) < 0.5
    assert "spheres" in found["assumption"] and "ill-conditioned" in found["assumption"]


def test_a_mixture_comes_back() -> None:
    areas = np.full(12, 200.0)
    # the small size is the upper limit of a class of the 15 from 0.01 to 0.4, as the method has it
    small_size = 0.4 * 40 ** (-6 / 15) * 0.9999
    found = saltykov(sections([(small_size, 30.0), (0.4, 3.0)], areas, seed=1), multiplicities(12))
    assert found["low"] < 33 < found["high"]
    large = sum(c["number_per_volume"] for c in found["classes"] if c["diameter_low"] > 0.2)
    small = sum(c["number_per_volume"] for c in found["classes"] if c["diameter_low"] <= 0.2)
    assert large == pytest.approx(3, rel=0.15)
    assert small == pytest.approx(30, rel=0.15)
    assert sum(c["number_per_volume"] for c in found["classes"]) == pytest.approx(found["number_per_volume"])


def test_a_broad_log_normal_comes_back_nearly_and_equal_classes_would_not() -> None:
    rng = np.random.default_rng(2)
    mean = 0.075 * np.exp(0.65**2 / 2)
    met = 0.075 * np.exp(
        0.65**2 + 0.65 * rng.standard_normal(20_000)
    )  # a plane meets large spheres more often
    ecd = np.sort(met * np.sqrt(1 - rng.random(20_000) ** 2))
    true = 20_000 / mean  # spheres per volume, with 20 000 sections per unit of area
    pooled = Pooled(ecd, np.ones(20_000), np.zeros(20_000, int), {"area": np.ones(1)}, 0.01)
    assert saltykov(pooled, np.ones((999, 1)))["number_per_volume"] == pytest.approx(true, rel=0.08)
    equal = np.linspace(0, ecd[-1], 16)
    assert unfold(np.histogram(ecd, equal)[0], equal).sum() < 0.85 * true


def test_one_field_has_no_interval_and_no_carbides_no_estimate() -> None:
    pooled = sections([(0.2, 50.0)], np.full(1, 10.0))
    found = saltykov(pooled, multiplicities(1))
    assert np.isnan(found["low"]) and np.isnan(found["classes"][0]["high"])
    empty = np.empty(0)
    assert (
        saltykov(Pooled(empty, empty, empty.astype(int), {"area": np.ones(1)}, 0.1), np.ones((9, 1))) is None
    )


def test_border_weights_count() -> None:
    pooled = sections([(0.2, 5.0)], np.full(4, 100.0))
    once = saltykov(pooled, multiplicities(4))
    twice = saltykov(pooled._replace(weight=2 * pooled.weight), multiplicities(4))
    assert twice["number_per_volume"] == pytest.approx(2 * once["number_per_volume"])
    assert twice["high"] == pytest.approx(2 * once["high"])
