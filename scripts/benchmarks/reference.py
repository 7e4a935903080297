"""What a straightforward user writes, for comparison: torch in fp32, channels first, no cache.

Tiles of 128 px without overlap in batches of 8; files of tiles loaded one by one in training; tables by
scikit-image; the classical pipeline by SimpleITK. ``python -m benchmarks.reference FOLDER OUT --weights W
--rows 1404`` segments a folder of pairs of micrographs; imports stand at the top, as one writes them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import SimpleITK as sitk
import tifffile
import torch
from monai import transforms
from monai.losses import DiceLoss
from monai.networks.nets import BasicUNet
from PIL import Image
from skimage.measure import label, regionprops_table
from torch.utils.data import DataLoader, Dataset

TILE, BATCH = 128, 8
FEATURES = (32, 32, 64, 128, 256, 32)
PROPERTIES = (
    *("label", "area", "equivalent_diameter_area", "axis_major_length", "axis_minor_length", "orientation"),
    *("perimeter_crofton", "solidity", "feret_diameter_max", "centroid", "bbox", "mean_intensity"),
)
MIN_AREA = 5
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def network(features: Sequence[int] = FEATURES, weights: str | Path | None = None) -> torch.nn.Module:
    """MONAI's BasicUNet, ready to infer."""
    net = BasicUNet(2, 2, 1, features=features, norm="batch")
    if weights is not None:
        net.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return net.to(DEVICE).eval()


def read(pair: Sequence[str | Path], rows: int) -> np.ndarray:
    """(2, rows, W) greys of two files, without the info bar below."""
    return np.stack([tifffile.imread(path)[:rows] for path in pair])


def normalise(image: np.ndarray) -> np.ndarray:
    """Each channel minus the middle of its quartiles, over their distance."""
    lower, upper = np.percentile(image, (25, 75), axis=(1, 2), keepdims=True)
    return ((image - lower) / (upper - lower) - 0.5).astype(np.float32)


def tiles(image: np.ndarray) -> torch.Tensor:
    """(N, C, 128, 128) tiles of a (C, H, W) image, row by row, the frame filled up with zeros."""
    channels, height, width = image.shape
    padded = np.pad(image, ((0, 0), (0, -height % TILE), (0, -width % TILE)))
    parts = padded.reshape(channels, padded.shape[1] // TILE, TILE, padded.shape[2] // TILE, TILE)
    return torch.from_numpy(
        np.ascontiguousarray(parts.transpose(1, 3, 0, 2, 4)).reshape(-1, channels, TILE, TILE)
    )


def infer(net: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
    """(N, 1, 128, 128) probabilities of tiles."""
    with torch.no_grad():
        return torch.cat([torch.sigmoid(net(one.to(DEVICE))).cpu() for one in batch.split(BATCH)])


def predict(net: torch.nn.Module, image: np.ndarray) -> np.ndarray:
    """(H, W) probability of a normalised (2, H, W) image."""
    height, width = image.shape[1:]
    rows, columns = -(-height // TILE), -(-width // TILE)
    parts = infer(net, tiles(image)).numpy().reshape(rows, columns, TILE, TILE)
    return parts.transpose(0, 2, 1, 3).reshape(rows * TILE, columns * TILE)[:height, :width]


def measure(mask: np.ndarray, image: np.ndarray) -> pd.DataFrame:
    """A row a particle of an (H, W) mask with the greys of a (2, H, W) image."""
    labels = label(mask, connectivity=2)
    table = pd.DataFrame(regionprops_table(labels, np.moveaxis(image, 0, -1), properties=PROPERTIES))
    return table[table["area"] >= MIN_AREA]


def segment_pair(net: torch.nn.Module, pair: Sequence[Path], dest: Path, rows: int) -> None:
    """Files in; ``<name>_mask.png``, ``<name>_probability.tif`` and ``<name>.csv`` out."""
    image = read(pair, rows)
    probability = predict(net, normalise(image))
    mask = probability > 0.5
    Image.fromarray(mask.astype(np.uint8) * 255).save(dest / f"{pair[0].stem}_mask.png")
    tifffile.imwrite(dest / f"{pair[0].stem}_probability.tif", probability)
    measure(mask, image).to_csv(dest / f"{pair[0].stem}.csv", index=False)


def pairs(folder: Path) -> list[tuple[Path, Path]]:
    """The micrographs of a folder, odd and even numbers in turn."""
    files = sorted(folder.glob("*_[0-9][0-9][0-9].tif"))
    return list(zip(files[::2], files[1::2], strict=True))


def top_hat(
    se2: np.ndarray, inlens: np.ndarray, sigma: float = 1.0, radius: int = 30, least: int = 3
) -> np.ndarray:
    """The classical mask: mean, Gaussian, white top-hat with a disc, Otsu, holes filled, no specks."""
    image = sitk.GetImageFromArray(0.5 * se2.astype(np.float32) + 0.5 * inlens.astype(np.float32))
    image = sitk.DiscreteGaussian(image, variance=[sigma**2] * 2)
    image = sitk.Cast(sitk.Round(sitk.RescaleIntensity(image, 0, 255)), sitk.sitkUInt8)
    image = sitk.WhiteTopHat(image, [radius] * 2, sitk.sitkBall)
    mask = sitk.BinaryFillhole(sitk.OtsuThreshold(image, 0, 1))
    kept = sitk.RelabelComponent(sitk.ConnectedComponent(mask), minimumObjectSize=least)
    return (sitk.GetArrayFromImage(kept) > 0).astype(np.uint8)


def prepare(folder: Path, dest: Path, rows: int) -> None:
    """Read, stack and save the pairs and the labels of a folder as NIfTI."""
    dest.mkdir(parents=True, exist_ok=True)
    for pair in pairs(folder):
        image = read(pair, rows)
        truth = np.asarray(Image.open(pair[0].with_name(f"{pair[0].stem}_label.png"))) > 0
        for array, kind in ((np.moveaxis(image, 0, -1)[:, :, None], "image"), (truth[..., None], "label")):
            nib.save(
                nib.Nifti1Image(array.astype(np.uint8), np.eye(4)), dest / f"{pair[0].stem}_{kind}.nii.gz"
            )


class Tiles(Dataset):
    """Files of tiles, loaded one by one, with the augmentations of train.json."""

    def __init__(self, folder: Path) -> None:
        self.files = sorted(folder.glob("*_image.npy"))
        both = ["image", "label"]
        self.transform = transforms.Compose(
            [
                transforms.RandZoomd(
                    both, 0.3, 0.8, 1.25, mode=["bilinear", "nearest"], padding_mode="reflect"
                ),
                transforms.RandRotate90d(both, prob=0.75),
                transforms.RandFlipd(both, prob=0.5, spatial_axis=0),
                transforms.RandFlipd(both, prob=0.5, spatial_axis=1),
                transforms.RandScaleIntensityd("image", factors=0.2, prob=0.5, channel_wise=True),
                transforms.RandShiftIntensityd("image", offsets=0.1, prob=0.5, channel_wise=True),
                transforms.RandGaussianNoised("image", prob=0.3, std=0.05),
                transforms.RandGaussianSmoothd("image", (0.25, 1.0), (0.25, 1.0), prob=0.2),
            ]
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        file = self.files[index]
        truth = file.with_name(file.name.replace("_image", "_label"))
        return self.transform({"image": np.load(file), "label": np.load(truth)})


def write_tiles(image: np.ndarray, truth: np.ndarray, folder: Path, name: str) -> None:
    """Two files a tile of a (2, H, W) frame and its (H, W) label."""
    folder.mkdir(parents=True, exist_ok=True)
    both = zip(tiles(normalise(image)), tiles(truth[None].astype(np.float32)), strict=True)
    for number, (part, mask) in enumerate(both):
        np.save(folder / f"{name}_{number:03d}_image.npy", part.numpy())
        np.save(folder / f"{name}_{number:03d}_label.npy", mask.numpy())


def trainer(
    net: torch.nn.Module, folder: Path, batch_size: int, learning_rate: float
) -> Callable[[int], None]:
    """A function that trains so many batches."""
    loader = DataLoader(Tiles(folder), batch_size=batch_size, shuffle=True, drop_last=True)
    optimizer = torch.optim.Adam(net.parameters(), lr=learning_rate)
    loss_function = DiceLoss(sigmoid=True)
    batches = _endless(loader)

    def train(count: int) -> None:
        net.train()
        for _ in range(count):
            batch = next(batches)
            optimizer.zero_grad()
            loss = loss_function(net(batch["image"].to(DEVICE)), batch["label"].to(DEVICE))
            loss.backward()
            optimizer.step()
            loss.item()  # the user looks at it

    return train


def _endless(loader: DataLoader) -> Iterator[dict[str, Any]]:
    while True:
        yield from loader


def dice(mask: np.ndarray, truth: np.ndarray) -> float:
    """2 TP / (2 TP + FP + FN) of two masks."""
    return float(2 * np.logical_and(mask, truth).sum() / max(mask.sum() + truth.sum(), 1))


def main() -> None:
    """Segment a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--rows", type=int, required=True, help="of the image above the info bar")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    net = network(weights=options.weights)
    for pair in pairs(options.folder):
        segment_pair(net, pair, options.out, options.rows)


if __name__ == "__main__":
    main()
