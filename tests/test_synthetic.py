"""What goes in comes out: numbers, sizes, outlines and files of the synthetic micrographs."""

from __future__ import annotations

import dataclasses
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage, stats
from skimage.filters import threshold_otsu

from carde_monai import replacing
from carde_monai.errors import InputError
from carde_monai.locking import claimed
from carde_monai.synthetic import STEELS, TRUTH_COLUMNS, Steel, Synthetic, synthesize, synthesize_micrograph
from carde_monai.synthetic_outlines import ANGLES, outline, signed_depth
from carde_monai.synthetic_tiff import info_bar, sem_metadata, write_raw

JFL = STEELS["jfl"]
EXACT = dataclasses.replace(JFL, label_noise_px=0, label_bias_px=0)
SIZE = (512, 640)
SHAPES = [shape.name for shape in JFL.shapes]
ALL_AROUND = np.ones((3, 3))


@pytest.fixture(scope="module", params=["jfl", "anp"])
def sample(request: pytest.FixtureRequest) -> tuple[Steel, list[Synthetic]]:
    steel = STEELS[request.param]
    return steel, [synthesize_micrograph(steel, SIZE, seed) for seed in range(8)]


def dice(first: np.ndarray, second: np.ndarray) -> float:
    return 2 * (first & second).sum() / (first.sum() + second.sum())


# --- what a micrograph is


def test_arrays_have_the_size_asked_for_and_the_truth_its_columns(
    sample: tuple[Steel, list[Synthetic]],
) -> None:
    steel, (first, *_) = sample
    for array in (first.se2, first.inlens, first.label):
        assert array.shape == SIZE and array.dtype == np.uint8
    assert set(np.unique(first.label)) == {0, 1}
    assert first.pixel_size_um == steel.pixel_size_um
    assert tuple(first.instances.columns) == TRUTH_COLUMNS


def test_same_arguments_same_micrograph_even_from_a_used_seed_sequence() -> None:
    seed = np.random.SeedSequence(5)
    first, second = (synthesize_micrograph(JFL, (96, 64), seed) for _ in range(2))
    np.testing.assert_array_equal(first.se2, second.se2)
    np.testing.assert_array_equal(first.inlens, second.inlens)
    np.testing.assert_array_equal(first.label, second.label)
    pd.testing.assert_frame_equal(first.instances, second.instances)
    other = synthesize_micrograph(JFL, (96, 64), 6)
    assert (first.se2 != other.se2).mean() > 0.5


# CRC-32 of SE2, InLens, label and table, their means, and the pixels of the label: first drawn before random
# steels came. Tests and documented figures depend on them.
DRAWN = {
    ("jfl", (160, 208), 3): ((827389469, 562665014, 1789870194, 4215674828), (114.0416, 137.4474), 561),
    ("jfl", (351, 512), 7): ((2964748664, 1369399171, 3244379806, 2841223238), (140.2655, 135.9021), 10256),
    ("anp", (160, 208), 3): ((427342378, 893156968, 1418487646, 4118222190), (104.8020, 110.5232), 914),
    ("anp", (351, 512), 7): ((2934207273, 272719796, 4063486944, 3246598449), (115.8721, 110.9979), 13323),
}
ARITHMETIC = 4225161439


def arithmetic() -> int:
    """Tells whether this machine and its libraries round as those do that ``DRAWN`` was made with."""
    x = np.random.default_rng(0).normal(2, 0.5, 4000)
    parts = [np.exp(-(x**2)), np.arctan2(x, x[::-1]), np.hypot(x, 1 / x), np.cos(x), np.abs(x) ** 2.3]
    parts += [np.log(np.abs(x)), ndimage.gaussian_filter(x, 1.7), np.exp(x.astype(np.float32)), x.mean()]
    return zlib.crc32(b"".join(np.asarray(part).tobytes() for part in parts))


@pytest.mark.parametrize("arguments", DRAWN)
def test_the_documented_steels_stay_as_they_are(arguments: tuple[str, tuple[int, int], int]) -> None:
    steel, size, seed = arguments
    checksums, means, labelled = DRAWN[arguments]
    micrograph = synthesize_micrograph(STEELS[steel], size, seed)
    images = micrograph.se2, micrograph.inlens, micrograph.label
    assert (images[0].mean(), images[1].mean()) == pytest.approx(means, abs=1e-2)
    assert micrograph.label.sum() == pytest.approx(labelled, abs=5)
    if arithmetic() == ARITHMETIC:
        table = pd.util.hash_pandas_object(micrograph.instances).to_numpy()
        assert tuple(zlib.crc32(array.tobytes()) for array in (*images, table)) == checksums


@settings(max_examples=15, deadline=None)
@given(st.integers(64, 150), st.integers(64, 150), st.integers(0, 1000), st.sampled_from(sorted(STEELS)))
def test_any_size_and_seed_draws(rows: int, columns: int, seed: int, steel: str) -> None:
    micrograph = synthesize_micrograph(STEELS[steel], (rows, columns), seed)
    assert micrograph.se2.shape == micrograph.inlens.shape == micrograph.label.shape == (rows, columns)
    truth = micrograph.instances
    assert truth["row_px"].between(0, rows).all() and truth["column_px"].between(0, columns).all()
    assert (truth["label_area_px"] >= 1).all()


def test_the_holdout_steel_is_another_one() -> None:
    jfl, anp = STEELS["jfl"], STEELS["anp"]
    assert jfl.frame_width_um() == pytest.approx(14.3, abs=0.05)
    assert anp.frame_width_um() == pytest.approx(11.5, abs=0.05)
    for name in ("grain_grey", "ecd_median_um", "noise_grey", "carbide_grey", "density_per_um2"):
        assert getattr(jfl, name) != getattr(anp, name)


# --- what goes in comes out


def test_number_density_is_the_one_asked_for(sample: tuple[Steel, list[Synthetic]]) -> None:
    steel, micrographs = sample
    expected = steel.density_per_um2 * len(micrographs) * SIZE[0] * SIZE[1] * steel.pixel_size_um**2
    found = sum(len(micrograph.instances) for micrograph in micrographs)
    assert abs(found - expected) < 4 * np.sqrt(expected)  # counting error of a Poisson number


def test_diameters_are_the_log_normal_asked_for(sample: tuple[Steel, list[Synthetic]]) -> None:
    steel, micrographs = sample
    logs = np.log(np.concatenate([micrograph.instances["ecd_um"] for micrograph in micrographs]))
    assert np.exp(logs.min()) >= steel.ecd_min_um and np.exp(logs.max()) <= steel.ecd_max_um
    assert abs(logs.mean() - np.log(steel.ecd_median_um)) < 4 * steel.ecd_sigma / np.sqrt(len(logs))
    assert logs.std() == pytest.approx(steel.ecd_sigma, rel=4 / np.sqrt(2 * len(logs)))
    assert stats.kstest(logs, stats.norm(np.log(steel.ecd_median_um), steel.ecd_sigma).cdf).pvalue > 1e-4


def test_twice_the_density_gives_twice_the_carbides() -> None:
    once, twice = (
        sum(len(synthesize_micrograph(steel, (256, 256), seed).instances) for seed in range(10))
        for steel in (JFL, dataclasses.replace(JFL, density_per_um2=2 * JFL.density_per_um2))
    )
    assert abs(twice - 2 * once) < 4 * np.sqrt(twice + 4 * once)


def test_labels_are_the_carbides_drawn(sample: tuple[Steel, list[Synthetic]]) -> None:
    """Components of the label, counted and measured, tell what was drawn although edges are noisy."""
    steel, micrographs = sample
    drawn = labelled = components = carbides = 0.0
    for micrograph in micrographs:
        truth = micrograph.instances
        whole = ~truth["touches_border"]
        drawn += np.pi / 4 * (truth["ecd_um"][whole] ** 2).sum()
        labelled += truth["label_area_px"][whole].sum() * steel.pixel_size_um**2
        components += ndimage.label(micrograph.label, ALL_AROUND)[1]
        carbides += len(truth)
        assert 0.02 < micrograph.label.mean() < 0.13
    assert labelled == pytest.approx(drawn, rel=0.04)
    assert components == pytest.approx(carbides, rel=0.03)
    assert 0.03 < np.mean([micrograph.label.mean() for micrograph in micrographs]) < 0.10


def test_without_label_noise_no_two_carbides_touch_and_each_has_its_area() -> None:
    micrograph = synthesize_micrograph(EXACT, SIZE, 3)
    truth = micrograph.instances
    # holds in chains too: 1.5 px between outlines, so that not even corners of pixels touch
    assert ndimage.label(micrograph.label, ALL_AROUND)[1] >= len(truth)
    assert micrograph.label.sum() == truth["label_area_px"].sum()
    large = truth[(truth["ecd_um"] > 0.05) & ~truth["touches_border"]]
    assert len(large) > 30
    ecd_um = 2 * np.sqrt(large["label_area_px"] / np.pi) * EXACT.pixel_size_um
    np.testing.assert_allclose(ecd_um, large["ecd_um"], atol=EXACT.pixel_size_um)


def test_label_edges_are_noisy_by_about_a_pixel() -> None:
    noisy, exact = (synthesize_micrograph(steel, SIZE, 3).label > 0 for steel in (JFL, EXACT))
    changed = noisy ^ exact
    assert changed.any()
    away = ndimage.distance_transform_edt(exact) + ndimage.distance_transform_edt(~exact)
    assert np.median(away[changed]) <= 1.5 and np.percentile(away[changed], 99) <= 3


# --- what the detectors see


def test_carbides_are_brighter_than_their_surroundings_in_both_detectors(
    sample: tuple[Steel, list[Synthetic]],
) -> None:
    for micrograph in sample[1]:
        label = micrograph.label > 0
        distance = ndimage.distance_transform_edt(~label)
        ring = (distance > 4) & (distance < 10)
        for image in (micrograph.se2, micrograph.inlens):
            assert image[label].mean() > image[ring].mean() + 8


def test_a_large_carbide_is_bright_to_se2_and_grey_with_a_bright_rim_to_inlens() -> None:
    steel = dataclasses.replace(EXACT, ecd_median_um=0.3, ecd_sigma=0.01, density_per_um2=0.6)
    steel = dataclasses.replace(steel, ghosts_per_um2=0, shapes=(steel.shapes[0]._replace(share=1.0),))
    micrograph = synthesize_micrograph(steel, SIZE, 1)
    depth = ndimage.distance_transform_edt(micrograph.label)
    matrix = ndimage.distance_transform_edt(micrograph.label == 0) > 8
    rim, core = (depth > 1) & (depth < 3), depth > 8
    assert micrograph.inlens[rim].mean() > micrograph.inlens[core].mean() + 10
    assert micrograph.inlens[core].mean() > micrograph.inlens[matrix].mean()
    assert micrograph.se2[core].mean() > micrograph.se2[matrix].mean() + 30
    assert abs(micrograph.se2[rim].mean() - micrograph.se2[core].mean()) < 10


def test_a_grey_threshold_fails_because_grains_are_as_bright_as_carbides(
    sample: tuple[Steel, list[Synthetic]],
) -> None:
    scores = []
    for micrograph in sample[1]:
        merged = ndimage.gaussian_filter(0.5 * micrograph.se2 + 0.5 * micrograph.inlens, 1)
        scores.append(dice(merged > threshold_otsu(merged), micrograph.label > 0))
    assert np.median(scores) < 0.75


def test_ghosts_and_pores_show_but_are_not_labelled() -> None:
    bare = dataclasses.replace(
        JFL, density_per_um2=0, bright_grains=0, grain_grey=(0, 0), cell_grey=(0, 0), mottle_grey=0
    )
    empty = dataclasses.replace(bare, ghosts_per_um2=0, pores_per_um2=0, rim_grey=(0, 0))
    ghostly, plain = (synthesize_micrograph(steel, (256, 256), 1) for steel in (bare, empty))
    assert not ghostly.label.any() and not plain.label.any()
    assert len(ghostly.instances) == 0 and tuple(ghostly.instances.columns) == TRUTH_COLUMNS
    smooth_ghostly, smooth_plain = (
        ndimage.gaussian_filter(micrograph.se2.astype(float), 2) for micrograph in (ghostly, plain)
    )
    assert np.ptp(smooth_ghostly) > np.ptp(smooth_plain) + 8


# --- outlines


@given(st.sampled_from(SHAPES), st.floats(1, 9), st.floats(0, 0.15), st.integers(0, 2**32 - 1))
def test_outlines_have_the_area_of_the_unit_circle(
    shape: str, aspect: float, rough: float, seed: int
) -> None:
    radius = outline(np.random.default_rng(seed), shape, aspect, rough)
    assert radius.shape == ANGLES.shape and radius.min() > 0
    # area of a polar curve: half the integral of r^2
    assert np.trapezoid(radius**2, ANGLES) / 2 == pytest.approx(np.pi, rel=1e-6)


@given(st.floats(2, 12), st.floats(0, 30), st.floats(0, 40), st.floats(-4, 4))
def test_depth_in_a_disc_is_radius_less_distance(
    radius: float, row: float, column: float, turn: float
) -> None:
    circle = np.full(ANGLES.shape, radius)
    rows, columns, depth = signed_depth(circle, (row, column), turn, (31, 41), 4)
    y, x = np.mgrid[rows, columns]
    np.testing.assert_allclose(depth, radius - np.hypot(y - row, x - column), atol=1e-4)
    assert 0 <= rows.start < rows.stop <= 31 and 0 <= columns.start < columns.stop <= 41


def test_an_outline_turns_from_columns_towards_rows() -> None:
    radius = outline(np.random.default_rng(0), "plate", 6.0, 0.0) * 20
    for angle, along in ((0.0, (60, 90)), (np.pi / 2, (90, 60)), (np.pi / 4, (80, 80))):
        rows, columns, depth = signed_depth(radius, (60, 60), angle, (121, 121), 4)
        canvas = np.full((121, 121), -9.0)
        canvas[rows, columns] = depth
        assert canvas[along] > 0
        assert canvas[along[1], 120 - along[0]] < 0  # a right angle further


# --- raw files


def test_raw_files_carry_what_a_zeiss_microscope_writes(tmp_path: Path) -> None:
    micrograph = synthesize_micrograph(JFL, (351, 512), 0)
    path = write_raw(tmp_path, "WD_06mm", 21, micrograph)
    assert path == tmp_path / "WD_06mm_021.tif"
    expected = {"WD_06mm_021.tif": ("SESI", micrograph.se2), "WD_06mm_022.tif": ("InLens", micrograph.inlens)}
    for name, (signal, image) in expected.items():
        with tifffile.TiffFile(tmp_path / name) as file:
            frame, metadata = file.asarray(), file.sem_metadata
        assert frame.shape == (384, 512) and frame.dtype == np.uint8  # 351 x 1536 / 1404
        np.testing.assert_array_equal(frame[:351], image)
        assert np.median(frame[351:]) > 230
        assert metadata["ap_image_pixel_size"] == ("Image Pixel Size", 6.98, "nm")
        assert metadata["ap_width"] == ("Width", pytest.approx(512 * 0.00698, rel=1e-3), "µm")
        assert metadata["dp_detector_channel"] == ("Signal A", signal)
        assert metadata["ap_actualkv"] == ("EHT", 20.0, "kV")
        assert metadata["ap_wd"] == ("WD", 5.5, "mm")
        assert metadata["ap_date"] == ("Date", "23 Oct 2020")
        assert metadata["ap_mag"][0] == "Mag"
    label = np.asarray(Image.open(tmp_path / "WD_06mm_021_label.png"))
    np.testing.assert_array_equal(label, micrograph.label * 255)
    table = pd.read_csv(tmp_path / "WD_06mm_021_carbides.csv")
    np.testing.assert_allclose(table["ecd_um"], micrograph.instances["ecd_um"], rtol=1e-5)
    assert tuple(table.columns) == TRUTH_COLUMNS


@given(st.floats(1e-4, 0.5), st.integers(64, 4096))
def test_pixel_size_and_width_agree_in_the_metadata(pixel_size_um: float, columns: int) -> None:
    lines = sem_metadata((100, columns), pixel_size_um, "InLens", "a_002.tif").decode("cp1252").split("\r\n")
    values = {key: lines[lines.index(key) + 1].split()[-2:] for key in ("AP_IMAGE_PIXEL_SIZE", "AP_WIDTH")}
    assert float(values["AP_IMAGE_PIXEL_SIZE"][0]) / 1000 == pytest.approx(pixel_size_um, rel=1e-3)
    assert float(values["AP_WIDTH"][0]) == pytest.approx(pixel_size_um * columns, rel=1e-3)


def test_a_whole_frame_is_1536_rows_and_its_scale_bar_is_a_micrometre_long() -> None:
    bar = info_bar((1404, 2048), 0.00698, "SESI")
    assert bar.shape == (132, 2048)
    line = np.flatnonzero(bar[82, :300] < 100)  # 0.62 of 132 rows
    assert np.ptp(line) == pytest.approx(1 / 0.00698, abs=3)


def test_an_even_number_is_no_se2_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="odd"):
        write_raw(tmp_path, "a", 2, synthesize_micrograph(JFL, (64, 64), 0))


def test_synthesize_writes_a_folder_as_a_microscope_would(tmp_path: Path) -> None:
    paths = synthesize(tmp_path / "new" / "raw", 2, (96, 128), steel="anp", seed=4)
    assert [path.name for path in paths] == ["anp_001.tif", "anp_003.tif"]
    names = {path.name for path in paths[0].parent.iterdir()}
    assert names == {f"anp_{n:03d}.tif" for n in (1, 2, 3, 4)} | {
        f"anp_{n:03d}_{what}" for n in (1, 3) for what in ("label.png", "carbides.csv")
    }
    assert paths[0].read_bytes() != paths[1].read_bytes()
    again = synthesize(tmp_path / "again", 1, [96, 128], steel="anp", seed=4, stem="other")
    assert again[0].name == "other_001.tif"
    np.testing.assert_array_equal(tifffile.imread(again[0]), tifffile.imread(paths[0]))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"steel": "gold"}, "--steel gold: unknown steel; choose one of jfl, anp"),
        ({"micrographs": 0}, "--micrographs 0"),
        ({"micrographs": True}, "--micrographs True"),
        ({"size": (63, 128)}, "--size 63,128: too small"),
        ({"size": (128, -1)}, "--size 128,-1: too small"),
        ({"size": 512}, "--size 512: not two whole numbers"),
        ({"size": (64.5, 128)}, "not two whole numbers"),
        ({"seed": -1}, "--seed -1"),
        ({"stem": "a/b"}, "--stem a/b"),
    ],
)
def test_numbers_that_make_no_micrograph_are_refused(tmp_path: Path, arguments: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        synthesize(tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(InputError, match="is a file"):
        synthesize(tmp_path / "taken", 1, (64, 64))


def test_a_folder_that_another_run_writes_to_is_refused(tmp_path: Path) -> None:
    with claimed(tmp_path), pytest.raises(InputError, match="another run of carde-monai is writing there"):
        synthesize(tmp_path, 1, (64, 64))
    assert not list(tmp_path.iterdir())


def test_a_micrograph_that_is_cut_short_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(replacing.os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        synthesize(tmp_path / "out", 1, (64, 64))
    assert not (tmp_path / "out").exists()
