"""Synthetic steel laid out as the published data set unpacks, to test without it what is made for it.

Folders, names and kinds of file are those of Rodare record 4124 and of carde's notebooks; the pixels are
those of :mod:`carde_monai.synthetic`. carde cuts the info bar and saves with scikit-image, which loses all
metadata of the microscope; it cuts up to 22 rows of the image, too (published frames have 1382 to 1404).
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image
from tqdm import tqdm

from carde_monai.errors import InputError
from carde_monai.labels import RAW_COLOUR
from carde_monai.synthetic import STEELS, Synthetic, synthesize_micrograph
from carde_monai.synthetic_tiff import CZ_SEM, SIGNALS, info_bar, sem_metadata

Image8 = npt.NDArray[np.uint8]


class Series(NamedTuple):
    """A steel of the data set: form of its file names, its odd numbers, and the share of rows kept."""

    steel: str
    form: str
    numbers: tuple[int, ...]
    kept: float


JFL = Series("jfl", "WD_06mm_{:03d}", tuple(range(1, 17, 2)), 1382 / 1404)
ANP_10 = Series("anp", "WD6mm_{:02d}", (21, 23, 25, 27, 47), 1.0)
ANP_3 = Series("anp", "WD6mm_{:02d}", tuple(range(31, 41, 2)), 1403 / 1404)  # hold-out


def write_published(
    dest: str | Path,
    micrographs: int = 12,
    holdout: int = 2,
    size: tuple[int, int] = (1404, 2048),
    seed: int = 0,
    *,
    metadata: bool = False,
    both_labels: bool = False,
    whole: bool = False,
) -> Path:
    """Write ``dest/cloud/preprocessed`` and return it: up to 13 micrographs and 5 in hold-out, as published.

    Two of three micrographs are of one steel and microscope, the rest and the hold-out of others. ``size`` is
    rows, columns of the image above the info bar, before carde's cut.

    Args:
        metadata: leave the microscope's metadata in the cut images, which the published ones have lost.
        both_labels: write each label under the name of the even file, too, as carde's preparation does.
        whole: write beside it what else the archive holds: the microscope's own frames with their drawn
            labels (``cloud/01-02/Original SEM Images``), tiles and logs of the training.

    Raises:
        InputError: more micrographs than were published, or a size that is no size.
    """
    if not (1 <= micrographs <= 13 and 0 <= holdout <= 5):
        raise InputError(
            f"{micrographs} and {holdout} micrographs", "are not what was published", "give up to 13 and 5"
        )
    cloud = Path(dest) / "cloud"
    root = cloud / "preprocessed"
    jfl = min(len(JFL.numbers), round(2 * micrographs / 3))
    jobs = [(JFL, number, False) for number in JFL.numbers[:jfl]]
    jobs += [(ANP_10, number, False) for number in ANP_10.numbers[: micrographs - jfl]]
    jobs += [(ANP_3, number, True) for number in ANP_3.numbers[:holdout]]
    children = np.random.SeedSequence(seed).spawn(len(jobs))
    for (series, number, held), child in zip(
        tqdm(jobs, desc="published", unit="micrograph"), children, strict=True
    ):
        drawn = synthesize_micrograph(STEELS[series.steel], size, child)
        names = (series.form.format(number), series.form.format(number + 1))
        images, labels = (root / "hold-out",) * 2 if held else (root / "images", root / "labels")
        rows = round(size[0] * series.kept)
        _write_images(images, names, drawn, rows, metadata)
        _write_labels(labels, names[: 2 if both_labels else 1], drawn.label[:rows])
        if whole:
            folder = f"{number:02d}-{number + 1:02d}"
            _write_raw(cloud / "ANP_3" if held else cloud / folder / "Original SEM Images", names, drawn)
    if whole:
        _write_training(cloud, root / "labels")
    return root


def _write_images(folder: Path, names: tuple[str, str], drawn: Synthetic, rows: int, metadata: bool) -> None:
    """The two detectors' images without info bar, as ``skimage.io.imsave`` writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, image, signal in zip(names, (drawn.se2, drawn.inlens), SIGNALS, strict=True):
        tags = [_zeiss_tag(image, drawn.pixel_size_um, signal, name)] if metadata else []
        tifffile.imwrite(folder / f"{name}.tif", image[:rows], photometric="minisblack", extratags=tags)


def _write_labels(folder: Path, names: tuple[str, ...], label: Image8) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.fromarray(label * np.uint8(255)).save(folder / f"{name}_label.png")


def _write_raw(folder: Path, names: tuple[str, str], drawn: Synthetic) -> None:
    """The microscope's frames, info bar and metadata included, and beside their folder the label in cyan."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, image, signal in zip(names, (drawn.se2, drawn.inlens), SIGNALS, strict=True):
        frame = np.vstack([image, info_bar(image.shape, drawn.pixel_size_um, signal)])
        tag = _zeiss_tag(image, drawn.pixel_size_um, signal, name)
        tifffile.imwrite(
            folder / f"{name}.tif", frame, photometric="minisblack", metadata=None, extratags=[tag]
        )
    if folder.name != "ANP_3":
        colours = np.repeat(frame[..., None], 3, axis=2)
        colours[: len(drawn.label)][drawn.label > 0] = RAW_COLOUR
        Image.fromarray(colours).save(folder.parent / "05a_Particle_Image_Filtered.bmp")


def _zeiss_tag(
    image: Image8, pixel_size_um: float, signal: str, name: str
) -> tuple[int, str, int, bytes, bool]:
    bar = info_bar(image.shape, pixel_size_um, signal)
    frame = (image.shape[0] + bar.shape[0], image.shape[1])
    return CZ_SEM, "s", 0, sem_metadata(frame, pixel_size_um, signal, f"{name}.tif"), True


def _write_training(cloud: Path, labels: Path) -> None:
    """One of the tiles that carde trains on and a place for its logs: no micrographs, and named like none."""
    import torch

    label = torch.from_numpy(np.asarray(Image.open(next(labels.glob("*.png")))).copy())
    for kind, tile in (("image", torch.zeros(2, 128, 128)), ("label", label[None, :128, :128])):
        folder = cloud / "processed_tiles" / f"{kind}s"
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(tile.clone(), folder / f"{kind}_00000.pt")
    logs = cloud / "tb_logs" / "unet_model" / "version_0"
    logs.mkdir(parents=True, exist_ok=True)
    (logs / "hparams.yaml").write_text("{}\n", encoding="utf-8")
