"""What holds for any folder, frame, table and pixel size: found by hypothesis where it does not."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureChannelFirst, LoadImage, SqueezeDim
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist
from sem_writer import framed_bar, info_bar, noise, write
from skimage.measure import perimeter_crofton, regionprops_table

from carde_monai import datalist
from carde_monai.errors import InputError
from carde_monai.nifti import read_nifti, write_nifti
from carde_monai.particles import measure_particles
from carde_monai.sem import SEMReader, find_micrographs, pixel_affine, read_micrograph
from carde_monai.sem_files import order_pair
from carde_monai.sem_metadata import CHAMBER, IN_COLUMN
from carde_monai.sem_pixels import read_file_metadata
from carde_monai.synthetic_tiff import CZ_SEM, SIGNALS, sem_metadata
from carde_monai.tiff import write_tiff

Array = npt.NDArray[Any]

SIDES = st.integers(2, 12)
# that every format of file can say; powers, as hypothesis likes round numbers
SIZES_UM = st.floats(-5, 1).map(lambda power: 10.0**power)
IN_PLANE = np.ix_([0, 1, 3], [0, 1, 3])  # a plane's thickness is of no account
FILES = st.sets(
    st.tuples(st.sampled_from(["", "b"]), st.sampled_from(["s_", "S_", "ä 1_", ""]), st.integers(0, 9))
    .flatmap(lambda file: st.tuples(*map(st.just, file), st.integers(1, 2)))
    .map(lambda file: f"{file[0]}/{file[1]}{file[2]:0{file[3]}}.tif".lstrip("/")),
    min_size=1,
    max_size=16,
)


# Pairing


def _groups(folder: Path, names: set[str]) -> tuple[set[tuple[Path, ...]], list[list[Path]]]:
    """The pairs among the files, by the rule in words, and the other files that belong together."""
    groups = defaultdict(list)
    for path in sorted(folder / name for name in names):
        digits = path.stem[-2:] if path.stem[-2:].isdigit() else path.stem[-1:]
        stem, number = path.stem.removesuffix(digits), int(digits)
        groups[path.parent, stem, (number + 1) // 2].append((number, path))
    pairs, others = set(), []
    for members in groups.values():
        numbers = sorted(number for number, _ in members)
        if len(members) == 2 and numbers[0] % 2 == 1 and numbers[1] == numbers[0] + 1:
            pairs.add(tuple(path for _, path in sorted(members)))
        else:
            others.append([path for _, path in members])
    return pairs, others


@settings(max_examples=60)
@given(FILES)
def test_every_file_is_of_one_pair_or_named_in_a_failure(names: set[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            (Path(folder) / name).parent.mkdir(exist_ok=True)
            (Path(folder) / name).write_bytes(b"II")
        found, failures = find_micrographs(folder)
        pairs, others = _groups(Path(folder), names)
    assert {one.paths for one in found} == pairs and len(found) == len(pairs)
    assert len({one.name for one in found}) == len(found)
    assert len(failures) == len(others)
    for members in others:
        told = [one.reason for one in failures if f"{members[0].parent}" in one.reason]
        assert any(all(path.name in reason for path in members) for reason in told), members


DETECTORS = st.sampled_from([None, "", "BSD", "Signal 3", *sorted(CHAMBER), *sorted(IN_COLUMN)])


@given(DETECTORS, DETECTORS)
def test_the_order_of_two_files_does_not_matter_where_one_names_its_detector(
    one: str | None, other: str | None
) -> None:
    a, b = Path("a.tif"), Path("b.tif")
    kinds = {0 if name in CHAMBER else 1 if name in IN_COLUMN else name for name in (one, other)}
    if len(kinds) == 1 and kinds <= {0, 1}:
        with pytest.raises(InputError, match="both name the"):
            order_pair(a, b, one, other)
    elif kinds & {0, 1}:
        first = a if one in CHAMBER or other in IN_COLUMN else b
        assert order_pair(a, b, one, other) == order_pair(b, a, other, one)
        assert order_pair(a, b, one, other)[0] == first
    else:
        assert order_pair(a, b, one, other) == (a, b)


# Info bar


@settings(max_examples=25)
@given(
    rows=st.integers(12, 70),
    paper=st.integers(0, 255),
    ink=st.integers(0, 255),
    mean=st.integers(40, 215),
    draw=st.sampled_from([info_bar, framed_bar]),
    depth=st.sampled_from([1, 16, 257]),  # 8 bits, 12 of 16, 16
    border=st.booleans(),
)
def test_any_bar_is_cut_from_both_detectors_and_nothing_else(
    rows, paper, ink, mean, draw, depth, border
) -> None:
    assume(abs(ink - paper) > 100 and abs(mean - paper) > 40)  # letters of 5 px are half as strong
    bar = draw(rows, 512, paper, ink)
    bar[0] = ink if border else bar[0]
    kind = np.uint8 if depth == 1 else np.uint16
    images = [noise(380, 512, seed, mean=mean).astype(kind) * kind(depth) for seed in (0, 1)]
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"a_{number}.tif") for number in (1, 2)]
        for path, image in zip(paths, images, strict=True):
            write(path, np.vstack([image, bar.astype(kind) * kind(depth)]))
        found = read_micrograph(paths)
    assert (found.info_bar_rows, found.warnings) == (rows, ())
    np.testing.assert_array_equal(found.pixels, images)


# Particle table


@settings(max_examples=100)
@given(
    npst.arrays(np.int32, st.tuples(SIDES, SIDES), elements=st.sampled_from([0, 0, 0, 2, 5, 70_000])),
    st.integers(0, 2**32 - 1),
)
def test_the_particle_table_is_scikit_images(labels: Array, seed: int) -> None:
    greys = np.random.default_rng(seed).integers(0, 256, (2, *labels.shape), np.uint8)
    table = measure_particles(labels, image=greys, probability=greys[0] / 255)
    if not labels.any():
        assert len(table) == 0
        return
    names = (
        "label",
        "area",
        "centroid",
        "axis_major_length",
        "axis_minor_length",
        "intensity_mean",
        "coords",
    )
    theirs = regionprops_table(labels, np.moveaxis(greys, 0, -1), names)
    same = {
        "label": "label",
        "area_px2": "area",
        "centroid_y_px": "centroid-0",
        "centroid_x_px": "centroid-1",
    }
    same |= {"mean_grey_se2": "intensity_mean-0", "mean_grey_inlens": "intensity_mean-1"}
    for mine, name in same.items():
        np.testing.assert_allclose(table[mine], theirs[name], rtol=1e-9, err_msg=mine)
    np.testing.assert_allclose(table.mean_probability, theirs["intensity_mean-0"] / 255)
    for axis in ("major", "minor"):  # theirs are of points, without the 1/12 of a square
        squares = theirs[f"axis_{axis}_length"] ** 2 + 16 / 12
        np.testing.assert_allclose(table[f"{axis}_axis_px"] ** 2, squares, rtol=1e-9)
    outer = np.zeros_like(labels, bool)
    outer[[0, -1]] = outer[:, [0, -1]] = True
    np.testing.assert_array_equal(table.touches_border, np.isin(table.label, labels[outer]))
    forbidden = np.isin(table.label, np.append(labels[-1], labels[:, -1]))
    np.testing.assert_array_equal(table.counted, ~forbidden)
    perimeters = [perimeter_crofton(labels == number, directions=4) for number in table.label]
    np.testing.assert_allclose(table.perimeter_px, perimeters, rtol=1e-6)
    corners = [np.concatenate([pixels + shift for shift in np.ndindex(2, 2)]) for pixels in theirs["coords"]]
    np.testing.assert_allclose(table.feret_max_px, [pdist(one).max() for one in corners])
    hulls = [ConvexHull(one).volume for one in corners]
    np.testing.assert_allclose(table.solidity, theirs["area"] / hulls)


# Splits


@settings(max_examples=25)
@given(st.integers(3, 14), st.integers(0, 3), st.data())
def test_each_fold_is_disjoint_and_complete_as_training_reads_it(
    count: int, seed: int, data: st.DataObject
) -> None:
    names = [f"m{number}" for number in range(count)]
    k = data.draw(st.integers(3, count))
    folds = datalist.assign_folds(names, k, seed)
    sections: dict[str, list[dict[str, Any]]] = {"holdout": [{"name": "h"}]}
    sections["training"] = [{"name": name, "fold": folds[name]} for name in names]
    tests: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for item in (item for part in sections.values() for item in part):
            item |= {"image": f"{item['name']}.nii.gz", "label": f"{item['name']}_label.nii.gz"}
            for key in ("image", "label"):
                Path(folder, item[key]).write_text(item[key])
        Path(folder, datalist.FILE).write_text(json.dumps(sections))
        for fold in range(k):
            parts = [[one["name"] for one in datalist.load(folder, part, fold)] for part in datalist.SPLIT]
            assert sorted(name for part in parts for name in part) == sorted(names)
            assert all(parts)
            tests += parts[2]
    assert sorted(tests) == sorted(names)


# Pixel size and affine


@settings(max_examples=30)
@given(
    pixels=npst.arrays(st.sampled_from([np.uint8, np.uint16]), st.tuples(st.just(2), SIDES, SIDES)),
    size=st.none() | SIZES_UM,
)
def test_a_prepared_image_comes_back_through_monai(pixels: Array, size: float | None) -> None:
    chain = Compose(
        [LoadImage(), EnsureChannelFirst(channel_dim=-1), SqueezeDim(dim=None, update_meta=False)]
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.nii.gz")
        write_nifti(np.moveaxis(pixels, 0, -1)[:, :, None, None, :], path, size)
        image = chain(path)
        plane, read = read_nifti(path)
    np.testing.assert_array_equal(image.numpy(), pixels)
    np.testing.assert_array_equal(np.moveaxis(plane, -1, 0), pixels)
    np.testing.assert_allclose(image.affine[IN_PLANE], pixel_affine(size)[IN_PLANE], rtol=1e-6)
    assert int(image.meta["xyzt_units"]) == (0 if size is None else 3)
    assert read == (None if size is None else pytest.approx(size, rel=1e-6))


@settings(max_examples=30)
@given(st.tuples(SIDES, SIDES), SIZES_UM.filter(lambda size: size > 1.01e-5), st.booleans())
def test_what_the_synthetic_microscope_says_is_read(
    shape: tuple[int, int], size: float, swapped: bool
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, *shape), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, name) for name in ("a_001.tif", "a_002.tif")]
        for path, signal, channel in zip(paths, SIGNALS, pixels, strict=True):
            write(path, channel, {CZ_SEM: sem_metadata(shape, size, signal, path.name)})
        image = LoadImage(SEMReader())(paths[::-1] if swapped else paths)
        said = read_micrograph(paths)
    assert isinstance(image, MetaTensor)
    np.testing.assert_array_equal(image.numpy(), np.moveaxis(pixels, 0, -1))
    assert said.detectors == SIGNALS and said.warnings == ()
    assert said.pixel_size_um == pytest.approx(size, rel=5e-4)  # SmartSEM writes four digits
    np.testing.assert_allclose(image.affine[IN_PLANE], pixel_affine(size)[IN_PLANE], rtol=5e-4)


@settings(max_examples=40)
@given(
    values=npst.arrays(
        st.sampled_from([np.uint8, np.uint16, np.uint32, np.float32]),
        st.tuples(SIDES, SIDES),
        fill=st.nothing(),
    ),
    size=st.none() | SIZES_UM,
)
def test_a_tiff_of_results_comes_back(values: Array, size: float | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.tif")
        write_tiff(values, path, size, (0, 1))
        read = read_file_metadata(path)
        back = tifffile.imread(path)
    np.testing.assert_array_equal(back, values)
    assert back.dtype == values.dtype
    assert read.pixel_size_um == (None if size is None else pytest.approx(size, rel=1e-6))
