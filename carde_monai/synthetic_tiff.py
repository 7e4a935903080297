"""Synthetic micrographs as a Zeiss SmartSEM microscope writes them: TIFF pairs, tag 34118, info bar."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
import tifffile
from PIL import Image, ImageDraw, ImageFont

from carde_monai.replacing import all_or_none

if TYPE_CHECKING:
    from carde_monai.synthetic import Synthetic

CZ_SEM = 34118
SIGNALS = ("SESI", "InLens")  # what SmartSEM calls the two detectors
POLAROID_UM = 114_300.0  # magnification is this width over the width of the field
DATE = "23 Oct 2020"
PAPER, INK, LOGO = 243, 20, 150


def write_raw(folder: Path, stem: str, number: int, micrograph: Synthetic) -> Path:
    """Write one micrograph as raw files with label and truth table, together; returns the SE2 path.

    ``number`` is odd: SE2 is ``<stem>_<number:03d>.tif``, InLens the next one. The label has the size of
    the image without its info bar. Raises ValueError if ``number`` is even.
    """
    if number % 2 == 0:
        raise ValueError(f"the SE2 file number is odd, not {number}")
    name = f"{stem}_{number:03d}"
    files = (f"{name}.tif", f"{stem}_{number + 1:03d}.tif")
    with all_or_none(folder) as part:
        for file, image, signal in zip(files, (micrograph.se2, micrograph.inlens), SIGNALS, strict=True):
            frame = np.vstack([image, info_bar(image.shape, micrograph.pixel_size_um, signal)])
            metadata = sem_metadata(frame.shape, micrograph.pixel_size_um, signal, file)
            tifffile.imwrite(
                part / file,
                frame,
                photometric="minisblack",
                metadata=None,  # no JSON description, which no microscope writes
                software="carde_monai synthetic",
                extratags=[(CZ_SEM, "s", 0, metadata, True)],
            )
        Image.fromarray(micrograph.label * np.uint8(255)).save(part / f"{name}_label.png")
        micrograph.instances.to_csv(part / f"{name}_carbides.csv", index=False, float_format="%.6g")
    return folder / files[0]


def sem_metadata(frame: tuple[int, int], pixel_size_um: float, signal: str, file_name: str) -> bytes:
    """Contents of the CZ_SEM tag: numbers, then pairs of lines, ``KEY`` and ``Name = value unit``; cp1252.

    The layout is the one that tifffile's ``read_cz_sem`` parses.
    """
    width_um = frame[1] * pixel_size_um
    pairs = [
        ("AP_WIDTH", f"Width = {width_um:.4g} µm"),
        ("AP_HEIGHT", f"Height = {frame[0] * pixel_size_um:.4g} µm"),
        ("AP_IMAGE_PIXEL_SIZE", f"Image Pixel Size = {pixel_size_um * 1000:.4g} nm"),
        ("AP_PIXEL_SIZE", f"Pixel Size = {pixel_size_um * 1000:.4g} nm"),
        ("AP_MAG", f"Mag = {_magnification(width_um)}"),
        ("AP_ACTUALKV", "EHT = 20.00 kV"),
        ("AP_WD", "WD =  5.5 mm"),
        ("AP_STAGE_AT_T", "Stage at T =    0.0 °"),
        ("AP_DATE", f"Date :{DATE}"),
        ("AP_TIME", "Time :12:00:00"),
        ("DP_DETECTOR_CHANNEL", f"Signal A = {signal}"),
        ("DP_DETECTOR_TYPE", f"Detector = {signal}"),
        ("DP_IMAGE_STORE", f"Store resolution = {frame[1]} * {frame[0]}"),
        ("SV_FILE_NAME", f"File Name = {file_name}"),
        ("SV_SERIAL_NUMBER", "Serial No. = synthetic"),
    ]
    numbers = [0, 0, 0, frame[1], frame[0], f"{pixel_size_um * 1e-6:.6e}", 20000, 0.0055]
    lines = [str(number) for number in numbers] + [line for pair in pairs for line in pair]
    return ("\r\n".join(lines) + "\r\n").encode("cp1252")


def info_bar(image: tuple[int, int], pixel_size_um: float, signal: str) -> np.ndarray:
    """Light strip below an (H, W) image with scale bar and settings; its height is 132 rows per 1404."""
    height, width = round(image[0] * 1536 / 1404) - image[0], image[1]
    bar = Image.new("L", (width, height), PAPER)
    draw = ImageDraw.Draw(bar)
    draw.line([(0, 0), (width, 0)], fill=INK, width=max(1, height // 66))
    # the font that matplotlib brings; Pillow's own has no micro sign
    ttf = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    font = ImageFont.truetype(ttf, max(4.0, min(0.25 * height, 0.0145 * width)))
    upper, lower = 0.30 * height, 0.68 * height
    columns = (
        (0.185, "EHT = 20.00 kV", "WD =  5.5 mm"),
        (0.352, "Stage at T =   0.0 °", "Tilt Angle =   0.0 °"),
        (0.54, f"Mag = {_magnification(width * pixel_size_um)}", f"Signal A = {signal}"),
        (0.73, "", DATE),
    )
    for left, first, second in columns:
        draw.text((left * width, upper), first, fill=INK, font=font, anchor="lm")
        draw.text((left * width, lower), second, fill=INK, font=font, anchor="lm")
    draw.text((0.985 * width, upper), "SYNTHETIC", fill=LOGO, font=font, anchor="rm")
    _scale_bar(draw, font, (height, width), pixel_size_um)
    return np.asarray(bar)


def _scale_bar(
    draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont, bar: tuple[int, int], pixel: float
) -> None:
    height, width = bar
    length_um = max(
        (n for n in (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5) if n / pixel < 0.11 * width), default=0.01
    )
    left, right, line = 0.02 * width, 0.02 * width + length_um / pixel, max(1, height // 50)
    middle, tick = 0.62 * height, 0.13 * height
    draw.line([(left, middle), (right, middle)], fill=INK, width=line)
    for end in (left, right):
        draw.line([(end, middle - tick), (end, middle + tick)], fill=INK, width=line)
    text = f"{length_um:g} µm" if length_um >= 1 else f"{1000 * length_um:g} nm"
    draw.text((left, 0.28 * height), text, fill=INK, font=font, anchor="lm")


def _magnification(width_um: float) -> str:
    return f"{POLAROID_UM / width_um / 1000:6.2f} K X"
