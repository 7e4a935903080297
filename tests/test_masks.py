"""Masks from anywhere: ours, drawn, Fiji's, NIfTI; discs of known size come back from each."""

from __future__ import annotations

import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tifffile
from PIL import Image

from carde_monai.errors import InputError
from carde_monai.labels import LabelRule
from carde_monai.masks import Source, find_images, find_masks, measure_masks, read_field, read_nifti
from carde_monai.measurement import Settings
from carde_monai.nifti import write_nifti
from carde_monai.particles import label_particles, save_labels
from carde_monai.pixel_sizes import PixelSizes
from carde_monai.report import write_segmentation

SHAPE = (60, 80)
PIXEL = 0.01


def squares() -> np.ndarray:
    """Three squares of 4, 6 and 8 px, one of them at a place that no turned or mirrored frame has."""
    mask = np.zeros(SHAPE, bool)
    for top, left, side in ((5, 50, 4), (20, 10, 6), (40, 30, 8)):
        mask[top : top + side, left : left + side] = True
    return mask


def grey() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(80, 120, (2, *SHAPE)).astype(np.uint8)


def read(folder: Path, **options) -> list:
    source = Source(folder, **options)
    found, failures = find_masks(folder)
    assert failures == []
    images = find_images(source.images, 1) if source.images else {}
    return [read_field(one, source, images) for one in found]


def write_fiji(path: Path, mask: np.ndarray, inverting: bool) -> None:
    """As Fiji saves the outcome of Analyze Particles; with its inverting look-up table 0 is shown white."""
    description = "ImageJ=1.54f\nunit=micron\n"
    number = round(1 / PIXEL)
    tifffile.imwrite(
        path,
        mask.astype(np.uint8) * 255,
        photometric="miniswhite" if inverting else "minisblack",
        description=description,
        resolution=((number, 1), (number, 1)),
        resolutionunit="NONE",
        metadata=None,
    )


def write_png(path: Path, mask: np.ndarray) -> None:
    Image.fromarray(mask.astype(np.uint8) * 255).save(path)


@pytest.mark.parametrize("inverting", [False, True])
def test_a_mask_of_fiji_keeps_particles_and_pixel_size(tmp_path: Path, inverting: bool) -> None:
    write_fiji(tmp_path / "steel.tif", squares(), inverting)
    (field,) = read(tmp_path)
    assert field.name == "steel" and field.particles.dtype == bool
    np.testing.assert_array_equal(field.particles, squares())
    assert field.pixel_size_um == pytest.approx(PIXEL)
    assert field.pixel_size_source == "mask file steel.tif"


@pytest.mark.parametrize("turned", [False, True])
def test_nifti_stands_upright_whatever_the_order_of_its_axes(tmp_path: Path, turned: bool) -> None:
    path = tmp_path / "steel_mask.nii.gz"
    write_nifti(squares().astype(np.uint8)[..., None], path, PIXEL)
    if turned:  # the same picture in the order of ITK's pictures: columns first
        image = nib.load(path)
        target = nib.orientations.axcodes2ornt(("L", "P", "S"))
        turn = nib.orientations.ornt_transform(nib.io_orientation(image.affine), target)
        image = image.as_reoriented(turn)
        assert image.shape[:2] == SHAPE[::-1]
        image.header.set_xyzt_units("micron")
        nib.save(image, path)
    (field,) = read(tmp_path)
    np.testing.assert_array_equal(field.particles, squares())
    assert (field.name, field.pixel_size_um) == ("steel", pytest.approx(PIXEL))


def test_millimetres_are_not_believed(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros((4, 4, 1), np.uint8), np.diag([0.1, 0.1, 1, 1]))
    image.header.set_xyzt_units("mm")
    nib.save(image, tmp_path / "a.nii")
    assert read_nifti(tmp_path / "a.nii")[1] is None


def test_a_volume_is_refused(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 3), np.uint8), np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(InputError, match=r"shape \(4, 4, 3\); give single planes"):
        read_nifti(tmp_path / "a.nii")


def test_what_segment_wrote_is_read_with_probability_and_pixel_size(tmp_path: Path) -> None:
    probability = np.where(squares(), 0.9, 0.1).astype(np.float32)
    write_segmentation("steel_1", grey(), probability, tmp_path, PIXEL)
    labels = label_particles(squares())
    save_labels(labels, tmp_path / "steel_1_labels.tif", PIXEL)
    (field,) = read(tmp_path)  # the mask, not its numbers, nor the pictures
    assert (field.name, field.particles.dtype) == ("steel_1", bool)
    np.testing.assert_array_equal(field.probability, probability)
    assert field.pixel_size_um == pytest.approx(PIXEL)
    (tmp_path / "steel_1_mask.png").unlink()
    (field,) = read(tmp_path)
    np.testing.assert_array_equal(field.particles, labels)


def test_numbered_particles_keep_their_numbers(tmp_path: Path) -> None:
    numbers = np.where(squares(), 7, 0).astype(np.uint16)
    numbers[20:26, 10:16] = 300
    tifffile.imwrite(tmp_path / "steel.tif", numbers)
    (field,) = read(tmp_path)
    np.testing.assert_array_equal(field.particles, numbers)
    Image.fromarray(np.where(numbers == 300, 2, numbers).astype(np.uint8)).save(tmp_path / "steel.png")
    (tmp_path / "steel.tif").unlink()
    with pytest.raises(InputError, match=r"holds 3 values, not two; .* --instances if each value"):
        read(tmp_path)
    assert set(np.unique(read(tmp_path, instances=True)[0].particles)) == {0, 2, 7}
    assert read(tmp_path, rule=LabelRule((7,)))[0].particles.sum() == 4 * 4 + 8 * 8


def test_a_drawn_mask_may_be_called_labels(tmp_path: Path) -> None:
    write_png(tmp_path / "steel_labels.png", squares())
    (field,) = read(tmp_path)
    assert field.particles.dtype == bool and label_particles(field.particles).max() == 3


def test_greys_are_no_numbered_particles(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "steel.tif", np.random.default_rng(0).integers(0, 4000, SHAPE).astype(np.uint16)
    )
    with pytest.raises(InputError, match=r"grey values, scattered like a micrograph's; give masks"):
        read(tmp_path)


def test_numbers_and_a_value_exclude_each_other() -> None:
    with pytest.raises(InputError, match="--instances: given together with a value"):
        Source(Path("x"), rule=LabelRule((1,)), instances=True)


def test_results_inside_the_folder_are_not_measured_again(tmp_path: Path, caplog) -> None:
    write_png(tmp_path / "steel.png", squares())
    for _ in range(2):
        with caplog.at_level(logging.WARNING, "carde_monai"):
            assert measure_masks(Source(tmp_path), tmp_path / "out", Settings()) == []
        table = (tmp_path / "out" / "micrographs.csv").read_text().splitlines()
        assert len(table) == 2 and table[1].startswith(f"steel,{tmp_path.name},")
    assert "pixel size unknown for 1 of 1 masks" in caplog.text
    assert "pixel size unknown for 1 of 1 masks" in (tmp_path / "out" / "report.html").read_text()


def test_results_of_another_time_do_not_stay(tmp_path: Path) -> None:
    masks, out = tmp_path / "masks", tmp_path / "out"
    masks.mkdir()
    write_png(masks / "old.png", squares())
    assert measure_masks(Source(masks), out, Settings()) == []
    (masks / "old.png").rename(masks / "new.png")
    (masks / "new.png").write_bytes(b"broken")
    (failure,) = measure_masks(Source(masks), out, Settings())
    assert failure.name == "new"
    assert {path.name for path in out.iterdir()} <= {"figures"}
    with pytest.raises(InputError, match="is the folder of the masks itself"):
        measure_masks(Source(masks), masks, Settings())


def test_a_stack_is_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "steel.tif", np.stack([squares(), squares()]).astype(np.uint8))
    with pytest.raises(InputError, match="is a stack of 2 images; save one image a file"):
        read(tmp_path)


def test_a_table_of_pixel_sizes_that_fits_nothing_is_told(tmp_path: Path, caplog) -> None:
    for folder in ("A", "B"):
        (tmp_path / "masks" / folder).mkdir(parents=True)
        write_png(tmp_path / "masks" / folder / "steel.png", squares())
    table = tmp_path / "sizes.csv"
    table.write_text("name,pixel_size_um\nsteel,0.01\niron,0.02\n")
    with caplog.at_level(logging.WARNING, "carde_monai"):
        source = Source(tmp_path / "masks", sizes=PixelSizes(table))
        assert measure_masks(source, tmp_path / "out", Settings()) == []
    assert "--pixel_size: no micrograph is called iron" in caplog.text and "unknown" not in caplog.text


def test_a_colour_nifti_does_not_stop_the_others(tmp_path: Path) -> None:
    masks, images = tmp_path / "masks", tmp_path / "images"
    masks.mkdir()
    images.mkdir()
    for name in ("a", "b"):
        write_png(masks / f"{name}.png", squares())
        channels = 3 if name == "a" else 2
        write_nifti(np.zeros((*SHAPE, 1, 1, channels), np.uint8), images / f"{name}.nii.gz", PIXEL)
    (failure,) = measure_masks(Source(masks, images), tmp_path / "out", Settings())
    assert failure.name == "a" and "has 3 channels; give one or two" in failure.reason


def test_a_mask_of_the_full_frame_is_cut_like_its_micrograph(raw: Path, tmp_path: Path) -> None:
    (found, *_), _ = find_masks(raw)
    assert found.name == "jfl_001" and found.paths[0].name == "jfl_001_label.png"
    images = find_images(raw, 2)
    label = np.asarray(Image.open(found.paths[0]))
    frame = tifffile.imread(images["jfl_001"].paths[0]).shape
    assert frame[0] > label.shape[0]
    full = np.zeros(frame, np.uint8)
    full[: len(label)] = label
    full[len(label) + 2 :, ::3] = 77  # text in the info bar is no third value
    Image.fromarray(full).save(tmp_path / "jfl_001_mask.png")
    (mask,), _ = find_masks(tmp_path)
    field = read_field(mask, Source(tmp_path), images)
    np.testing.assert_array_equal(field.particles, label > 0)
    assert field.image.shape == (2, *label.shape)
    assert field.pixel_size_um == pytest.approx(0.00698) and "Zeiss" in field.pixel_size_source


def test_the_pixel_size_given_wins(tmp_path: Path) -> None:
    write_fiji(tmp_path / "steel.tif", squares(), False)
    (field,) = read(tmp_path, sizes=PixelSizes(0.02))
    assert (field.pixel_size_um, field.pixel_size_source) == (0.02, "pixel_size")


def test_equal_names_in_sub_folders_are_told_apart_and_are_samples(tmp_path: Path) -> None:
    for folder in ("A", "B"):
        (tmp_path / folder / "masks").mkdir(parents=True)
        write_png(tmp_path / folder / "masks" / "steel.png", squares())
    fields = read(tmp_path)
    assert [(one.name, one.sample) for one in fields] == [("A_steel", "A"), ("B_steel", "B")]
    fields = read(tmp_path, group_by="(?:A|B)/masks/(st)")
    assert {one.sample for one in fields} == {"st"}


def test_errors_name_the_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none: no such folder"):
        find_masks(tmp_path / "none")
    with pytest.raises(InputError, match=r"holds no masks"):
        find_masks(tmp_path)
    write_png(tmp_path / "a_mask.png", squares())
    tifffile.imwrite(tmp_path / "a_mask.tif", squares().astype(np.uint8))
    found, failures = find_masks(tmp_path)
    assert found == []  # which of the two is right is not for a program to choose
    assert "a_mask.png is a mask of the same name; keep one" in failures[0].reason


def test_a_bad_mask_does_not_stop_the_others(tmp_path: Path) -> None:
    masks, images = tmp_path / "masks", tmp_path / "images"
    masks.mkdir()
    images.mkdir()
    for name in ("good", "small", "alone"):
        write_png(masks / f"{name}.png", squares()[: 30 if name == "small" else None])
    (masks / "broken.png").write_bytes(b"no picture")
    for name in ("good", "small", "broken"):
        Image.fromarray(grey()[0]).save(images / f"{name}.png")
    failures = measure_masks(Source(masks, images), tmp_path / "out", Settings(), detectors=1)
    assert sorted(one.name for one in failures) == ["broken", "small"]
    reasons = {one.name: one.reason for one in failures}
    assert "80 x 30 px but its micrograph has 80 x 60" in reasons["small"]
    table = (tmp_path / "out" / "micrographs.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in table] == ["micrograph", "alone", "good"]
    report = (tmp_path / "out" / "report.html").read_text()
    assert "holds no micrograph of 1 of 2 masks (first alone)" in report and "broken" in report


def test_a_prepared_data_set_is_measured_with_its_images(dataset: Path, tmp_path: Path) -> None:
    assert measure_masks(Source(dataset), tmp_path, Settings()) == []
    report = (tmp_path / "report.html").read_text()
    assert "Carbides in prepared" in report
    assert len(list(tmp_path.glob("*_labels.tif"))) == 7
