"""What the sections share: where to write, how large and how often, synthetic frames, the networks."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import has_amx
from benchmarks.table import Target
from benchmarks.timing import progress

SECTIONS = (
    *("startup", "preparation", "baseline", "measurement", "inference", "training", "folders", "mosaic"),
    "gpu",
)
DEFAULT, LARGE, CARDE = "default network", "31 M network", "carde's 30.7 M network"
LARGE_FEATURES = (64, 128, 256, 512, 1024, 64)
NO_SLOWER = 1.0


@dataclass(frozen=True)
class Job:
    """A run of the benchmark; ``folder`` is removed after it."""

    folder: Path
    repeats: int
    quick: bool
    machine: dict[str, Any]

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of a frame above its info bar."""
        return (352, 512) if self.quick else (1404, 2048)

    @property
    def long_s(self) -> float:
        """Seconds; a frame for which a network takes longer is measured in part, and scaled."""
        return 1.0 if self.quick else 12.0

    def ratio_target(self, bound: float) -> Target:
        """``bound`` times the reference where the hardware multiplies matrices in bf16, else no slower."""
        if has_amx(self.machine) or self.machine["GPU"] != "none":
            return Target("ratio", bound)
        return Target("ratio", NO_SLOWER, f"{bound:g} with AMX")

    def value_target(self, bound: float, note: str = "") -> Target:
        """At most ``bound``, whatever the machine."""
        return Target("value", bound, note)

    def frames(self, count: int) -> Path:
        """Folder of the first ``count`` raw frames as a microscope has them: pairs of TIFF files; labels."""
        every = _synthesized(self.folder / "raw", self.size, 4)
        folder = self.folder / f"raw_{count}"
        if not folder.exists():
            folder.mkdir()
            for file in sorted(every.glob("*")):
                if int(file.stem.split("_")[1]) <= 2 * count:
                    link(file, folder / file.name)
        return folder

    def pair(self, number: int = 0) -> list[Path]:
        """The two files of a frame: SE2, InLens."""
        stem = self.frames(4) / f"jfl_{2 * number + 1:03d}.tif"
        return [stem, stem.with_name(f"jfl_{2 * number + 2:03d}.tif")]

    def scratch(self, name: str) -> Path:
        """A new, empty folder."""
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder


@functools.cache
def _synthesized(folder: Path, size: tuple[int, int], count: int) -> Path:
    from carde_monai.synthetic import synthesize

    progress(f"making {count} frames of {size[1]} x {size[0]} px")
    synthesize(folder, count, size, seed=5)
    return folder


def small_frame(job: Job) -> Path:
    """Folder of one frame of 512 x 352 px."""
    return _synthesized(job.folder / "small", (352, 512), 1)


def link(file: Path, name: Path) -> None:
    """Give a file a second name, or copy it where the file system cannot."""
    try:
        os.link(file, name)
    except OSError:
        shutil.copy(file, name)


def repository() -> Path:
    """Root of the checkout."""
    return Path(__file__).resolve().parents[2]


def bundle() -> Path:
    """The bundle with its weights."""
    return repository() / "bundle"


@functools.cache
def weights(folder: Path, name: str) -> Path:
    """Weights of a network: the bundle's own, random ones of the larger two."""
    import torch

    if name == DEFAULT:
        return bundle() / "models" / "model.pt"
    torch.manual_seed(0)
    file = folder / f"{'large' if name == LARGE else 'carde'}.pt"
    torch.save(plain_network(name).state_dict(), file)
    return file


def plain_network(name: str, file: str | Path | None = None) -> Any:
    """The network as its makers wrote it: fp32, channels first."""
    from benchmarks import reference

    if name == CARDE:
        from carde_monai.carde_unet import carde_unet

        return carde_unet(file).to(reference.DEVICE).eval()
    return reference.network(LARGE_FEATURES if name == LARGE else reference.FEATURES, file)


def overlays(name: str) -> Sequence[str]:
    """Configs of a network besides inference, sem and segment."""
    return ("carde_unet",) if name == CARDE else ()


def overrides(folder: Path, name: str) -> dict[str, Any]:
    """Settings of a network."""
    settings: dict[str, Any] = {"weights": str(weights(folder, name))}
    return settings | ({"network_def#features": list(LARGE_FEATURES)} if name == LARGE else {})
