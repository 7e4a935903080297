"""Writes microscope files for the tests of reading them: pixels, metadata of each maker, info bars."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image, ImageDraw, ImageFont

Array = npt.NDArray[Any]


def noise(
    height: int = 96, width: int = 128, seed: int = 0, dtype: type = np.uint8, mean: float = 110
) -> Array:
    """Grey image with grains of two levels and noise, as the matrix of a steel."""
    random = np.random.default_rng(seed)
    grains = 25 * np.sign(np.sin(np.arange(width) / 17 + seed) + np.cos(np.arange(height) / 11)[:, None])
    values = np.clip(mean + grains + random.normal(0, 12, (height, width)), 0, 255)
    return np.asarray(values * (np.iinfo(dtype).max // 255)).astype(dtype)


def zeiss(
    pixel: str | None = "6.98 nm",
    detector: str | None = None,
    width: str | None = None,
    height: str | None = None,
    stored: str | None = None,
) -> dict[int, bytes]:
    """Tag 34118 as SmartSEM writes it."""
    lines = ["0", "0", "0", "1.0e-08"]
    fields = (
        ("AP_WIDTH", "Width", width),
        ("AP_HEIGHT", "Height", height),
        ("AP_IMAGE_PIXEL_SIZE", "Image Pixel Size", pixel),
        ("AP_WD", "WD", "5.5 mm"),
        ("DP_IMAGE_STORE", "Store resolution", stored),
        ("DP_DETECTOR_CHANNEL", "Signal A", detector),
    )
    for key, name, value in fields:
        lines += [key, f"{name} = {value}"] if value is not None else []
    return {34118: ("\r\n".join(lines) + "\r\n").encode("cp1252")}


def fei(
    pixel: str = "6.98e-009", detector: str = "ETD", mode: str = "SE", size: str = "", tag: int = 34682
) -> dict[int, bytes]:
    """Tag 34682 or 34680 as FEI and Thermo Fisher write it; ``size`` is the lines of [Image]."""
    text = f"[User]\r\nDate=01/02/2020\r\n[Beam]\r\nHV=20000\r\n[Scan]\r\nPixelWidth={pixel}\r\n"
    text += f"PixelHeight={pixel}\r\n[Image]\r\n{size}"
    text += f"[Detectors]\r\nNumber=1\r\nName={detector}\r\nMode={mode}\r\n"
    return {tag: text.encode()}


def tescan(
    pixel: str = "6.98e-9", detector: str = "SE", strip: int = 0, height: str | None = None
) -> dict[int, bytes]:
    """Tag 50431 as Tescan writes it: binary bytes, then an INI text."""
    text = f"[MAIN]\r\nAccFrames=1\r\nDevice=MIRA3 LMH\r\nImageStripSize={strip}\r\nMagnification=20000\r\n"
    text += (
        f"PixelSizeX={pixel}\r\nPixelSizeY={height or pixel}\r\n[SEM]\r\nDetector={detector}\r\nHV=20000\r\n"
    )
    return {50431: b"\x01\x00\x02\x00" + text.encode()}


def jeol(bar: str = "143", marker: str = "1um", rest: str = "") -> str:
    """The text beside an image of a JEOL microscope."""
    text = "$SEM_DATA_VERSION 1\r\n$CM_FORMAT JEOL/SEM\r\n$CM_MAG 10000\r\n"
    return f"{text}{rest}$$SM_MICRON_BAR {bar}\r\n$$SM_MICRON_MARKER {marker}\r\n"


def write(path: Path, pixels: Array, tags: dict[int, bytes] | None = None, **options: Any) -> Path:
    """Write a TIFF without tifffile's own description."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"photometric": "minisblack", "metadata": None, **options}
    # Zeiss writes ASCII, FEI too, Tescan bytes
    extra = [
        (code, "B" if code == 50431 else "s", len(value) if code == 50431 else 0, value, True)
        for code, value in (tags or {}).items()
    ]
    tifffile.imwrite(path, pixels, extratags=extra, **options)
    return path


def pair(
    folder: Path,
    names: tuple[str, str] = ("a_001.tif", "a_002.tif"),
    tags: tuple[dict[int, bytes] | None, dict[int, bytes] | None] = (None, None),
    seed: int = 0,
) -> tuple[Path, Path]:
    """Write two detector images."""
    first = write(folder / names[0], noise(seed=2 * seed), tags[0])
    return first, write(folder / names[1], noise(seed=2 * seed + 1), tags[1])


def info_bar(height: int, width: int, paper: int = 243, ink: int = 20) -> Array:
    """Strip with two lines of text, without border."""
    bar = Image.new("L", (width, height), paper)
    draw = ImageDraw.Draw(bar)
    font = ImageFont.load_default(max(5, height // 4))
    for line, text in enumerate(
        ("1 um   EHT = 20.00 kV  Mag = 8.00 K X", "WD = 5.5 mm  Signal A = SE2  23 Oct 2020")
    ):
        draw.text((width // 50, (0.3 + 0.4 * line) * height), text, fill=ink, font=font, anchor="lm")
    return np.array(bar)


def framed_bar(height: int, width: int, paper: int = 0, ink: int = 255) -> Array:
    """Strip as FEI draws it: a table with lines around and between its cells, one line of text a cell."""
    bar = Image.new("L", (width, height), paper)
    draw = ImageDraw.Draw(bar)
    font = ImageFont.load_default(max(5, height // 3))
    for cell in range(6):
        left, right = cell * width // 6, (cell + 1) * width // 6 - 1
        draw.rectangle((left, 0, right, height - 1), outline=ink)
        draw.text(
            (left + 4, height // 2), ("HV", "mag", "WD", "det", "5 um", "ETD")[cell], ink, font, anchor="lm"
        )
    return np.array(bar)
