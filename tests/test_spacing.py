"""Images whose pixels are larger or smaller than the network's: there, segmented, and back."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from conftest import REPOSITORY, SMALL
from monai.bundle import ConfigParser
from monai.data import MetaTensor, list_data_collate
from PIL import Image
from torch import Tensor

import carde_monai
from carde_monai import bundles
from carde_monai.errors import InputError
from carde_monai.sem import pixel_affine
from carde_monai.spacing import AbsurdSize
from carde_monai.transforms import scaled_later
from carde_monai.verbs import inference_overlays

CONFIGS = REPOSITORY / "bundle" / "configs"
WINDOW = {"window_size": SMALL["window_size"]}
BASES = (("inference",), ("train",), ("train", "evaluate"), ("inference", "sem", "segment"))
Inferer = Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor]


def inferer(*base: str, **settings: object) -> Inferer:
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / f"{name}.json") for name in (*base, "spacing")])
    parser.update({**WINDOW, "pixel_sizes": [0.005, 0.01], **settings})
    return parser.get_parsed_content("inferer")


def batch(image: Tensor, pixel_size: float | None) -> MetaTensor:
    """One image as the readers, and MONAI's collation after them, give it."""
    meta = {**getattr(image, "meta", {}), "xyzt_units": 3 if pixel_size else 0}
    meta |= {"filename_or_obj": "frame.tif", "affine": torch.as_tensor(pixel_affine(pixel_size))}
    return list_data_collate([{"image": MetaTensor(torch.as_tensor(image), meta=meta)}])["image"]


class Seen:
    """A network whose logit is the first channel; it notes what it has seen."""

    def __init__(self) -> None:
        self.images: list[Tensor] = []

    def __call__(self, image: Tensor) -> Tensor:
        self.images.append(image.clone())
        return image[:, :1].clone()  # the inferers write to it


@pytest.mark.parametrize("base", BASES, ids="+".join)
@pytest.mark.parametrize("pixel_size", [0.005, 0.007, 0.01, None])
def test_a_pixel_size_that_the_network_knows_or_nobody_does_changes_nothing(base, pixel_size) -> None:
    image, seen = torch.rand(2, 40, 56), Seen()
    found = inferer(*base)(batch(image, pixel_size), seen)
    torch.testing.assert_close(found[0], image[:1], rtol=0, atol=1e-6)
    windows = Seen()  # those of the window alone, of an image without a pixel size
    inferer(*base, pixel_sizes=[1.0, 1.0])(batch(image, None), windows)
    assert len(seen.images) == len(windows.images) == 1
    assert torch.equal(seen.images[0], windows.images[0])


@pytest.mark.parametrize("base", BASES, ids="+".join)
def test_coarse_pixels_are_enlarged_and_the_logits_brought_back(base) -> None:
    # 0.025 um a pixel in 0.01: two and a half times as many; a smooth image comes back as it was
    ramp = torch.linspace(-3, 3, 81)[:, None] + torch.linspace(0, 1, 60)
    seen = Seen()
    found = inferer(*base, window_size=[512, 512])(batch(torch.stack([ramp, -ramp]), 0.025), seen)
    assert found.shape == (1, 1, 81, 60)
    assert torch.allclose(found[0, 0, 1:-1, 1:-1], ramp[1:-1, 1:-1], atol=1e-3)
    # 202 x 150 px (banker's rounding of 202.5) in the middle of the window, its edges replicated
    (image,) = seen.images
    inside = image[0, 0, 155:357, 181:331]
    assert inside[0].equal(image[0, 0, 0, 181:331]) and inside[-1].equal(image[0, 0, -1, 181:331])
    assert (inside.diff(dim=0)[3:-3] > 0).all()


def test_fine_pixels_are_averaged_not_picked() -> None:
    # stripes of one pixel, three to a pixel of the network, alias if every third is picked
    stripes = (torch.arange(240) % 2).float().expand(2, 210, 240)
    seen = Seen()
    found = inferer("inference", window_size=[70, 80])(batch(stripes, 0.005 / 3), seen)
    assert found.shape == (1, 1, 210, 240) and seen.images[0].shape == (1, 2, 70, 80)
    assert (seen.images[0][..., 2:-2] - 0.5).abs().max() < 0.06


def test_integers_are_scaled_before_they_are_resampled() -> None:
    greys = torch.randint(0, 256, (2, 64, 80), dtype=torch.uint8)
    offset, factor = [100.0, 120.0], [0.05, 0.02]
    later = batch(scaled_later(greys, offset, factor), 0.02)
    now = (greys - torch.tensor(offset)[:, None, None]) * torch.tensor(factor)[:, None, None]
    found = inferer("inference", "sem", "segment")(later, Seen())
    torch.testing.assert_close(found, inferer("inference")(batch(now.float(), 0.02), Seen()))
    assert found.shape == (1, 1, 64, 80) and found.meta["filename_or_obj"] == ["frame.tif"]


@pytest.mark.parametrize(("pixel_size", "size"), [(0.001, "24 x 20"), (2.0, "24000 x 20000")])
def test_absurd_sizes_are_refused_in_one_line(pixel_size, size) -> None:
    image = torch.zeros(2, 100, 120)
    with pytest.raises(AbsurdSize) as error:
        inferer("inference")(batch(image, pixel_size), Seen())
    assert str(error.value) == (
        f"frame.tif: of {pixel_size:g} um a pixel would be resampled to {size} px; "
        "check its pixel size, or give the network's own with --pixel_sizes"
    )


def test_limits_are_above_nothing() -> None:
    configs = bundles.config_files(bundles.packaged_bundle(), ["inference", "spacing"])
    bundles.check_overrides(configs, {"pixel_sizes": [0.0001, 1]})
    with pytest.raises(InputError, match=r"pixel_sizes \[0, 1\]: should be 2 numbers above 0"):
        bundles.check_overrides(configs, {"pixel_sizes": [0, 1]})


def test_a_batch_of_several_pixel_sizes_is_no_batch() -> None:
    items = [batch(torch.rand(2, 40, 56), size)[0] for size in (0.01, 0.02)]
    with pytest.raises(TypeError, match="argument"):
        inferer("inference")(list_data_collate(items), Seen())


def test_symmetries_are_taken_of_the_resampled_image() -> None:
    image = batch(torch.rand(2, 40, 56), 0.02)
    plain = inferer("inference")(image, Seen())
    turned = inferer("inference", "tta")(image, Seen())  # a network without a sense of direction
    assert turned.shape == (1, 8, 40, 56)
    torch.testing.assert_close(turned.as_tensor(), plain.as_tensor().expand_as(turned), atol=1e-4, rtol=0)


def test_the_packaged_weights_resample_arrays_of_a_known_pixel_size() -> None:
    greys = np.random.default_rng(0).normal(100, 20, (64, 80))
    plain, known, coarse = (carde_monai.segment(greys, pixel_size=size) for size in (None, 0.01, 0.05))
    np.testing.assert_array_equal(plain.probability, known.probability)
    assert coarse.mask.shape == greys.shape and coarse.pixel_size_um == 0.05
    assert abs(coarse.probability - plain.probability).max() > 0.01


@pytest.mark.parametrize(
    ("overlay", "bundle", "overrides", "expected"),
    [
        (None, None, {}, ["spacing"]),
        ("tta,spacing", None, {"min_area": 9}, ["spacing", "tta"]),
        ("tta", "mine", {}, ["tta"]),
        (None, None, {"weights": "mine.pt"}, []),
        ("tta", None, {"weights": "a.pt,b.pt"}, ["ensemble", "tta"]),
    ],
)
def test_other_weights_see_the_pixels_of_their_training(overlay, bundle, overrides, expected) -> None:
    assert inference_overlays(overlay, bundle, overrides) == expected


@pytest.fixture(scope="module")
def two_steels(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pair of 0.00698 um a pixel and one of 0.0056."""
    folder = tmp_path_factory.mktemp("two_steels")
    for file in (*raw.glob("jfl_00[12].tif"), *raw.glob("hold-out/anp_00[12].tif")):
        shutil.copy(file, folder)
    return folder


def probability(file: Path) -> np.ndarray:
    with tifffile.TiffFile(file) as tiff:
        return tiff.asarray()


def test_segmented_frames_keep_their_size_and_bad_ones_are_passed_over(trained, two_steels, tmp_path) -> None:
    def segment(name: str, *overlay: str, **settings: object) -> Path:
        settings |= {"dataset_dir": str(two_steels), "output_dir": str(tmp_path / name), **WINDOW}
        bundles.run(trained, ["inference", "sem", "segment", *overlay], settings, training=False)
        return tmp_path / name

    plain, same = segment("plain"), segment("same", "spacing", pixel_sizes=[0.0055, 0.025])
    assert len(list(plain.glob("*_probability.tif"))) == 2
    for file in plain.glob("*_probability.tif"):
        np.testing.assert_array_equal(probability(file), probability(same / file.name))
    with pytest.raises(SystemExit) as end:
        segment("coarse", "spacing", pixel_sizes=[0.03, 0.03])  # 160 px are 37 of the one, 30 of the other
    assert end.value.code == 3
    failures = pd.read_csv(tmp_path / "coarse" / "failures.csv")
    assert list(failures["name"]) == ["anp_001"]
    assert "anp_001.tif: of 0.0056 um a pixel would be resampled to 39 x 30 px;" in failures["reason"][0]
    with Image.open(tmp_path / "coarse" / "jfl_001_mask.png") as mask:
        assert mask.size == (208, 160)
    fields = pd.read_csv(tmp_path / "coarse" / "micrographs.csv").set_index("micrograph")
    assert fields.loc["jfl_001", "pixel_size_um"] == pytest.approx(0.00698)
    before, after = (probability(one / "jfl_001_probability.tif") for one in (plain, tmp_path / "coarse"))
    assert before.shape == after.shape and abs(before - after).max() > 0.1


def test_spacing_needs_monai_alone_and_keeps_the_geometry(trained, dataset, tmp_path) -> None:
    settings = {"dataset_dir": str(dataset), "pixel_sizes": [0.0035, 0.0035], "amp": False, **WINDOW}
    settings["dataset#data"] = [{"image": str(dataset / "images" / "jfl_001.nii.gz")}]
    bundles.run(trained, ["inference", "spacing"], settings | {"output_dir": str(tmp_path / "a")}, False)
    told = settings | {"output_dir": str(tmp_path / "b"), "bundle_root": str(trained)}
    told["config_file"] = [str(CONFIGS / f"{name}.json") for name in ("inference", "spacing")]
    code = f"import sys; sys.modules['carde_monai'] = None\nfrom monai.bundle import run\nrun(**{told!r})"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=tmp_path)
    ours, theirs = (nibabel.load(tmp_path / one / "jfl_001_mask.nii.gz") for one in "ab")
    image = nibabel.load(dataset / "images" / "jfl_001.nii.gz")
    assert ours.shape == theirs.shape == image.shape[:2]
    np.testing.assert_allclose(ours.affine[:2, :2], image.affine[:2, :2])
    np.testing.assert_array_equal(np.asarray(ours.dataobj), np.asarray(theirs.dataobj))
