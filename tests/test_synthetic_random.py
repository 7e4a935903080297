"""Random steels, their scenes as maps, and the crops of them that a training sees."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import DataLoader, Dataset, ThreadDataLoader
from monai.transforms import Compose, ScaleIntensityRangePercentilesd
from scipy import ndimage

from carde_monai.errors import InputError
from carde_monai.seeding import SeededDataset, SeededSampler
from carde_monai.synthetic import TRUTH_COLUMNS, synthesize, synthesize_micrograph
from carde_monai.synthetic_bodies import FAR, Canvas, depths, outlines, sizes
from carde_monai.synthetic_dataset import RandMicrographCrops
from carde_monai.synthetic_fields import Scatter, smooth_noise
from carde_monai.synthetic_look import look_at, random_micrograph
from carde_monai.synthetic_maps import Scene, draw_scene
from carde_monai.synthetic_outlines import signed_depth
from carde_monai.synthetic_paint import cut, label_of, paint
from carde_monai.synthetic_random import (
    ASPECTS,
    CHANCES,
    LOOK,
    MADE,
    STEEL,
    Look,
    RandomSteel,
    Range,
    random_greys,
    random_look,
    random_steel,
    regreyed,
)
from carde_monai.synthetic_scan import MARGIN, detect, focus, inner, row_shifts, shift_rows

# nothing but carbides, flat and sharp
PLAIN = RandomSteel(
    label_noise_px=0, label_bias_px=0, roughness=0, carbide_grey=(50.0, 50.0), rim_grey=(0, 0), small_boost=0,
    shadow_grey=(0, 0), grain_grey=(0, 0), cell_grey=(0, 0), bright_grains=0, mottle_grey=0, ghosts_per_um2=0,
    pores_per_um2=0, noise_grey=(0, 0), line_noise_grey=0, blur_px=(0.01, 0.01), shading=0, gain=(1.0, 1.0),
    matrix_grey=(100.0, 100.0),
)  # fmt: skip
FLAT = Look(body_spread=0)
SIZE = (192, 224)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def disc(radius: float, row: float, column: float, size: tuple[int, int] = SIZE) -> Scene:
    """A scene with one disc, of which everything is known."""
    y, x = np.mgrid[: size[0], : size[1]]
    depth = np.maximum(radius - np.hypot(y - row, x - column), FAR).astype(np.float32)
    body = np.where(depth > FAR, 0, -1).astype(np.int32)
    zero = np.zeros(size, np.float32)
    one = [np.float32([value]) for value in (row, column, 2 * radius, depth.max())]
    one += [np.array(["ellipse"]), np.ones(1), np.zeros(1)]
    return Scene(PLAIN, depth, body, zero.astype(int), zero.astype(np.int16), zero, zero, *one)


# --- ranges


def test_everything_of_a_random_steel_is_inside_its_range() -> None:
    steels = [random_steel(rng(seed)) for seed in range(300)]
    for name in STEEL.keys() - {"cell_size_um", "grain_size_um"}:
        values = [getattr(steel, name) for steel in steels]
        low, high, _ = STEEL[name]
        assert low <= min(values) and max(values) <= high, name
    for steel in steels:
        pixel = steel.pixel_size_um
        assert steel.ecd_min_um / pixel * (1 + 1e-9) >= 2.2
        assert steel.ecd_min_um < steel.ecd_median_um < steel.ecd_max_um
        assert MADE["ecd_median_um"].low <= steel.ecd_median_um <= MADE["ecd_median_um"].high
        assert steel.cell_size_um >= 24 * pixel and steel.grain_size_um >= 2 * steel.cell_size_um
        assert steel.density_per_um2 * pixel**2 * 1e6 <= 5000.001
        assert tuple(shape.name for shape in steel.shapes) == tuple(ASPECTS)
        assert sum(shape.share for shape in steel.shapes) == pytest.approx(1)
        assert all(1 <= shape.aspect_min <= shape.aspect_max for shape in steel.shapes)
        assert steel.carbide_grey[1] + steel.rim_grey[1] > 0.3 * steel.carbide_grey[0], "seen by InLens alone"
        assert steel.noise_grey[0] <= steel.carbide_grey[0] / MADE["contrast_to_noise"].low + 1e-9


def test_a_range_is_drawn_from_end_to_end() -> None:
    pixels = np.log([random_steel(rng(seed)).pixel_size_um for seed in range(300)])
    low, high = np.log(STEEL["pixel_size_um"][:2])
    assert pixels.min() < low + 0.1 and pixels.max() > high - 0.1
    assert np.mean(pixels) == pytest.approx((low + high) / 2, abs=4 * (high - low) / np.sqrt(12 * 300))
    assert 0.9 < Range(1, 100, log=True).draw(rng(1)) < 101
    assert {0.005 <= random_steel(rng(seed), (0.005, 0.006)).pixel_size_um <= 0.006 for seed in range(9)} == {
        True
    }


def test_looks_are_inside_their_ranges_and_as_frequent_as_said() -> None:
    looks = [random_look(rng(seed)) for seed in range(400)]
    for name, (low, high, _) in LOOK.items():
        values = np.array([getattr(look, name) for look in looks], float).reshape(400, -1)
        rare = name in CHANCES
        drawn = values[values != (1.0 if name == "gamma" else 0.0)] if rare else values
        assert low <= drawn.min() and drawn.max() <= high, name
        if rare:
            often = drawn.size / values.size
            assert often == pytest.approx(CHANCES[name], abs=0.1), name
    one = np.mean([look.detectors == 1 for look in looks])
    assert one == pytest.approx(CHANCES["one_detector"], abs=0.1)
    assert all(random_look(rng(seed), 1.0).detectors == 1 for seed in range(9))


def test_other_greys_leave_the_geometry() -> None:
    steel = random_steel(rng(3))
    other = regreyed(rng(4), steel)
    names = [one.name for one in dataclasses.fields(steel)]
    changed = {name for name in names if getattr(steel, name) != getattr(other, name)}
    assert changed - {"bright_grains"} == random_greys(rng(5), 0.007).keys() - {"bright_grains"}
    assert not changed & {"pixel_size_um", "density_per_um2", "shapes", "ecd_median_um", "gap_px"}


def test_a_random_steel_makes_micrographs_as_the_documented_ones_do() -> None:
    micrograph = synthesize_micrograph(random_steel(rng(1), (0.006, 0.008)), (96, 128), 0)
    assert micrograph.se2.shape == micrograph.label.shape == (96, 128)


# --- maps


@given(st.sampled_from(list(ASPECTS)), st.floats(1, 6), st.floats(0, np.pi), st.integers(0, 999))
@settings(max_examples=25)
def test_distances_drawn_together_are_those_drawn_one_by_one(
    shape: str, aspect: float, angle: float, seed: int
) -> None:
    radius = outlines(rng(seed), np.array([shape] * 3), np.full(3, aspect), 0.1) * 9
    np.testing.assert_allclose((radius[:, :-1] ** 2).mean(1), 81, rtol=1e-4)
    shift = rng(seed).uniform(-0.5, 0.5, (3, 2))
    half = int(radius.max()) + 8
    found = depths(radius, np.full(3, angle), shift, half)
    for one, (dy, dx), window in zip(radius, shift, found, strict=True):
        frame = (2 * half + 1, 2 * half + 1)
        rows, columns, depth = signed_depth(one, (half + dy, half + dx), angle, frame, 3)
        here = window[rows, columns]
        # the same to first order; the tables of angles are not read in the same way
        assert np.abs(here - depth)[np.abs(depth) < 3].max() < 1
        assert (((here > 0) == (depth > 0)) | (np.abs(depth) < 0.3)).all()


def test_the_nearest_of_scattered_points_is_found() -> None:
    scatter = Scatter(rng(), 25.0, (90, 100))
    places = np.array(np.mgrid[:90, :100], np.float32)
    exact = scatter.tree.query(np.moveaxis(places, 0, -1))[1]
    assert (scatter.nearest(places) == exact).mean() > 0.995


def test_smooth_noise_has_unit_variance_and_its_length() -> None:
    noise = np.stack([smooth_noise(rng(seed), (256, 256), 12.0) for seed in range(6)])
    assert noise.mean() == pytest.approx(0, abs=0.05) and noise.std() == pytest.approx(1, abs=0.15)
    rough = smooth_noise(rng(), (256, 256), 3.0)
    assert np.abs(np.diff(rough)).mean() > 2 * np.abs(np.diff(noise[0])).mean()


def test_a_body_is_laid_on_the_first_free_place_and_apart() -> None:
    canvas = Canvas((60, 60), 40)
    window = disc(6.0, 15, 15, (31, 31)).depth
    places = np.array([(20, 20), (20, 30), (20, 36), (20, 20)])
    assert canvas.lay(window, places[:1], 3.0, 0) == 0
    assert canvas.lay(window, places, 3.0, 1) == 2, (
        "16 px apart: 4 px of matrix between two discs of radius 6"
    )
    assert canvas.lay(window, places, 3.0, 2) == -1
    assert canvas.body[20, 20] == 0 and canvas.body[20, 36] == 1 and canvas.body[55, 55] == -1
    assert canvas.depth[20, 20] == 6 and canvas.depth[20, 28] == -2
    assert canvas.lay(window, np.array([(0, 59)]), 3.0, 3) == 0, "cut by the border"
    assert (canvas.depth > 0).sum() < 3 * (window > 0).sum()


def test_twice_the_pixel_size_gives_half_the_pixels() -> None:
    steel = random_steel(rng(2), (0.005, 0.006))
    coarse = dataclasses.replace(steel, pixel_size_um=2 * steel.pixel_size_um)
    fine, half = (sizes(rng(7), one, 500) for one in (steel, coarse))
    np.testing.assert_allclose(half, fine / 2)
    assert (np.diff(fine) <= 0).all(), "largest first"


def test_as_many_carbides_are_laid_as_asked_for_where_there_is_room() -> None:
    steel = dataclasses.replace(PLAIN, density_per_um2=4.0)
    scenes = [draw_scene(rng(seed), steel, (320, 320)) for seed in range(8)]
    expected = 4.0 * 8 * (320 * steel.pixel_size_um) ** 2
    assert abs(sum(len(scene.row) for scene in scenes) - expected) < 4 * np.sqrt(expected)
    scene = scenes[0]
    label = label_of(rng(), scene, steel, FLAT)
    components = ndimage.label(label, np.ones((3, 3)))[1]
    assert components == pytest.approx(len(scene.row), abs=0.05 * len(scene.row))
    drawn = np.pi / 4 * (scene.ecd**2).sum()
    assert label.sum() == pytest.approx(drawn, rel=0.12)  # cut by the border, first-order corners
    assert set(np.unique(scene.body[label > 0])) == set(range(len(scene.row)))


def test_crowds_fill_the_share_asked_for_with_bodies_apart() -> None:
    crowded = dataclasses.replace(
        PLAIN, density_per_um2=0, crowd_share=1.0, crowd_size_um=0.35, crowd_channel_um=0.05
    )
    scene = draw_scene(rng(1), crowded, (512, 512))
    inside = scene.depth > 0
    assert 0.5 < inside.mean() < 0.9
    assert ndimage.label(scene.depth > 2)[1] == pytest.approx(len(scene.row), rel=0.25)
    half = draw_scene(rng(1), dataclasses.replace(crowded, crowd_share=0.5), (512, 512))
    assert (half.depth > 0).mean() == pytest.approx(inside.mean() / 2, rel=0.3)
    outside = ndimage.distance_transform_edt(~inside)
    channel = np.percentile(outside[~inside], 95) * 2 * crowded.pixel_size_um
    assert 0.02 < channel < 0.25


def test_films_lie_on_grain_boundaries() -> None:
    steel = dataclasses.replace(PLAIN, density_per_um2=0, film_um=0.07, film_share=0.9, grain_size_um=1.5)
    scene = draw_scene(rng(2), steel, (400, 400))
    assert len(scene.row) == 1 and (scene.depth > 0).any()
    edge = np.zeros(scene.size, bool)
    edge[1:] |= scene.grain[1:] != scene.grain[:-1]
    away = ndimage.distance_transform_edt(~edge)
    thickness = steel.film_um / steel.pixel_size_um
    assert np.percentile(away[scene.depth > 0], 95) < thickness
    assert (scene.depth[edge] > 0).mean() > 0.6


@given(st.integers(0, 10_000))
@settings(max_examples=20)
def test_centres_turn_with_the_part_that_is_cut(seed: int) -> None:
    part = cut(rng(seed), disc(9.0, 100, 120, (200, 230)), (190, 180))
    assert part.depth.shape == part.body.shape == (190, 180)
    found = np.unravel_index(part.depth.argmax(), part.depth.shape)
    assert np.hypot(found[0] - part.row[0], found[1] - part.column[0]) < 1e-3 or part.depth.max() < 9


# --- greys and labels


def test_the_label_is_what_is_drawn() -> None:
    scene = disc(20.0, 95, 110)
    label = label_of(rng(), scene, PLAIN, FLAT)
    np.testing.assert_array_equal(label, scene.depth > 0)
    frames = paint(rng(), scene, PLAIN, FLAT)
    relief = 0.12 * 50 * 1.01
    assert (frames[:, label > 0] > 24).all() and (frames[:, scene.depth < -0.5] == 0).all()
    assert np.abs(frames[0, scene.depth > 1] - 50).max() <= relief
    image, inner_label, body = look_at(rng(), scene, PLAIN, FLAT)
    np.testing.assert_array_equal(body >= 0, inner(scene.body) >= 0)
    assert image.shape == (2, SIZE[0] - 2 * MARGIN, SIZE[1] - 2 * MARGIN)
    np.testing.assert_array_equal(inner_label[0], inner(label))
    lifted = image - np.median(image, (1, 2), keepdims=True)
    depth = inner(scene.depth)
    assert ((lifted > 24) == (depth > 0))[:, np.abs(depth) > 0.5].all()


def test_the_convention_of_the_label_moves_its_edge() -> None:
    scene = disc(20.0, 95, 110)
    for bias in (-0.7, 0.0, 0.9):
        label = label_of(rng(), scene, PLAIN, dataclasses.replace(FLAT, label_bias_px=bias))
        assert np.sqrt(label.sum() / np.pi) == pytest.approx(20 + bias, abs=0.15)
    rough = label_of(rng(), scene, dataclasses.replace(PLAIN, label_noise_px=0.8), FLAT)
    changed = rough != (scene.depth > 0)
    assert 5 < changed.sum() < 120 and np.abs(scene.depth[changed]).max() <= 2.5


@given(st.floats(1.1, 3.0), st.floats(80, 81), st.floats(90, 91), st.sampled_from([-0.7, 0.9]))
@settings(max_examples=25)
def test_no_carbide_is_too_small_for_its_label(radius: float, row: float, column: float, bias: float) -> None:
    steel = dataclasses.replace(PLAIN, label_noise_px=0.8, label_bias_px=0.4)
    assert label_of(
        rng(), disc(radius, row, column), steel, dataclasses.replace(FLAT, label_bias_px=bias)
    ).any()


def test_a_label_is_empty_only_where_no_carbide_is() -> None:
    seen = 0
    for seed in range(12):
        steel = random_steel(rng(seed))
        scene = draw_scene(rng(seed + 100), steel, (160, 160))
        look = dataclasses.replace(random_look(rng(seed)), jitter_px=0.0, drift_px=0.0)
        label = look_at(rng(seed), scene, regreyed(rng(seed), steel), look).label[0]
        depth, body = inner(scene.depth), inner(scene.body)
        for number, thickest in enumerate(scene.thickest):
            if (depth[body == number] == thickest).any():
                assert label[body == number].any()
                seen += 1
        assert not label[body < 0].any()
    assert seen > 50


def test_one_detector_is_the_same_image_twice() -> None:
    for chance, same in ((1.0, True), (0.0, False)):
        crops = RandMicrographCrops((64, 64), crops=3, one_detector=chance).set_random_state(seed=2)(0)
        assert [torch.equal(*one["image"]) for one in crops] == [same] * 3


def test_focus_has_the_width_asked_for_and_astigmatism_its_direction() -> None:
    point = np.zeros((1, 65, 65), np.float32)
    point[0, 32, 32] = 1
    steel = dataclasses.replace(PLAIN, blur_px=(2.0, 2.0))
    y, x = np.mgrid[-32:33, -32:33]
    for look, expected in (
        (FLAT, (4.0, 4.0)),
        (dataclasses.replace(FLAT, astigmatism=1.5), (4 / 1.5, 4 * 1.5)),
        (dataclasses.replace(FLAT, astigmatism=1.5, astigmatism_angle=np.pi / 2), (4 * 1.5, 4 / 1.5)),
    ):
        spread = focus(rng(), point, steel, look)[0]
        assert spread.sum() == pytest.approx(1, abs=1e-4)
        variance = (spread * y**2).sum(), (spread * x**2).sum()
        assert variance == pytest.approx(expected, rel=0.02)


def test_rows_shift_with_their_label() -> None:
    look = dataclasses.replace(FLAT, jitter_px=0.5, drift_px=6.0)
    shift = row_shifts(rng(), SIZE[0], look)
    assert shift is not None and np.abs(shift).max() > 3 and row_shifts(rng(), 9, FLAT) is None
    ramp = np.tile(np.arange(SIZE[1], dtype=np.float32), (SIZE[0], 1))
    inside = slice(MARGIN, -MARGIN)
    np.testing.assert_allclose(
        (shift_rows(ramp, shift) - ramp)[:, inside], shift[:, None].repeat(192, 1), atol=1e-3
    )
    steel = dataclasses.replace(PLAIN, noise_grey=(5.0, 5.0))
    image, label, body = look_at(rng(), disc(30.0, 95, 110), steel, look)
    assert (body[label[0] > 0] == 0).all()
    lifted = image[0] - np.median(image[0])
    half = np.median(lifted[label[0] > 0]) / 2
    assert ((lifted > half) == (label[0] > 0)).mean() > 0.998


def test_noise_has_the_grey_asked_for_and_saturation_ends_at_8_bits() -> None:
    grey = np.full((256, 256), 100, np.float32)
    steel = dataclasses.replace(PLAIN, noise_grey=(9.0, 7.0), noise_px=(0.5, 0.5))
    for detector, noise in ((0, 9.0), (1, 7.0)):
        assert detect(rng(), grey, detector, steel, FLAT, False).std() == pytest.approx(noise, rel=0.03)
    bright = detect(rng(), grey + 120, 0, steel, dataclasses.replace(FLAT, offset=(30.0, 0.0)), False)
    assert bright.max() == 255 and (bright == 255).mean() > 0.15 and (bright == np.rint(bright)).all()


def test_contrast_and_brightness_are_turned_until_something_is_seen() -> None:
    steel = dataclasses.replace(PLAIN, noise_grey=(0.5, 0.5))
    grey = np.tile(np.linspace(19, 21, 256, dtype=np.float32), (256, 1))
    for offset in (-60.0, 0.0, 240.0):
        image = detect(rng(), grey, 0, steel, dataclasses.replace(FLAT, offset=(offset, offset)), False)
        low, high = np.percentile(image, [25, 75])
        assert 5 <= high - low <= 7 and low >= 1 and high <= 254, offset


def test_a_scale_bar_is_burnt_into_the_image_and_not_the_label() -> None:
    look = dataclasses.replace(FLAT, legend_px=14.0)
    scene = disc(30.0, 95, 110)
    plain, marked = (look_at(rng(1), scene, PLAIN, one) for one in (FLAT, look))
    np.testing.assert_array_equal(plain.label, marked.label)
    inked = (plain.image != marked.image).any(0)
    assert 30 < inked.sum() < 0.2 * inked.size
    assert set(np.unique(marked.image[:, inked]).tolist()) & {0.0, 255.0}


# --- whole micrographs


def test_a_random_micrograph_has_the_truth_of_its_label() -> None:
    for seed in (0, 3, 4):
        micrograph = random_micrograph((96, 128), seed)
        truth = micrograph.instances
        assert micrograph.se2.shape == micrograph.inlens.shape == micrograph.label.shape == (96, 128)
        assert micrograph.se2.dtype == micrograph.label.dtype == np.uint8
        assert tuple(truth.columns) == TRUTH_COLUMNS
        assert truth["label_area_px"].sum() == micrograph.label.sum()
        assert truth["row_px"].between(0, 96).all() and truth["column_px"].between(0, 128).all()
        assert set(truth["shape"]) <= {*ASPECTS, "film", "cell"}
    again = random_micrograph((96, 128), 4)
    np.testing.assert_array_equal(again.inlens, micrograph.inlens)
    assert again.pixel_size_um != random_micrograph((96, 128), 5).pixel_size_um


def test_a_folder_of_random_steels_has_a_steel_a_micrograph(tmp_path: Path) -> None:
    paths = synthesize(tmp_path, 3, (64, 96), steel="random", seed=2)
    assert [path.name for path in paths] == ["random_001.tif", "random_003.tif", "random_005.tif"]
    sizes_nm = set()
    for path in paths:
        with tifffile.TiffFile(path) as file:
            sizes_nm.add(file.sem_metadata["ap_image_pixel_size"][1])
    assert len(sizes_nm) == 3


# --- the transform


def test_crops_are_raw_greys_and_labels() -> None:
    crops = RandMicrographCrops((96, 64), crops=4).set_random_state(seed=0)(None)
    assert len(crops) == 4
    for one in crops:
        assert one["image"].shape == (2, 96, 64) and one["label"].shape == (1, 96, 64)
        assert one["image"].dtype == one["label"].dtype == torch.float32
        assert (
            torch.equal(one["image"], one["image"].round())
            and one["image"].min() >= 0
            and one["image"].max() <= 255
        )
        assert one["image"].std() > 0.5


def test_crops_depend_on_seed_and_epoch_and_not_on_workers() -> None:
    scale = ScaleIntensityRangePercentilesd("image", 25, 75, -0.5, 0.5, channel_wise=True)
    dataset = Dataset(range(6), Compose([RandMicrographCrops((48, 48), crops=2), scale]))

    def epoch(workers: int, number: int = 1, loader_class: type[DataLoader] = DataLoader) -> torch.Tensor:
        sampler = SeededSampler(dataset, 4, seed=1)
        sampler.set_epoch(number)
        loader = loader_class(SeededDataset(dataset), batch_size=2, sampler=sampler, num_workers=workers)
        batches = list(loader)
        assert [len(batch["image"]) for batch in batches] == [4, 4], "crops of two scenes make a batch"
        return torch.cat([torch.cat([batch["image"], batch["label"]], 1) for batch in batches])

    whole = epoch(0)
    assert torch.equal(epoch(2), whole) and torch.equal(epoch(0), whole)
    assert torch.equal(epoch(0, 1, ThreadDataLoader), whole)
    assert not torch.equal(epoch(0, 2), whole)
    assert len({float(one.std()) for one in whole}) == 8


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"spatial_size": (31, 64)}, "too small; give at least 32"),
        ({"spatial_size": (64, 64), "scene_size": (95, 300)}, "scene_size .* give at least 96"),
    ],
)
def test_crops_that_do_not_fit_are_refused(arguments: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        RandMicrographCrops(**arguments)
