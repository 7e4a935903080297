"""From greys of a random scene to an image: light, focus, the scan and its faults, detectors and noise."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import fft, ndimage, signal, special

from carde_monai.synthetic_random import Look, RandomSteel

MARGIN = 16  # pixels on each side that focus and scan may look at, cut off in the end
FAULTS = 8  # scratches, and stains, at most
NARROWEST = np.float32(6.0)


def focus(rng: np.random.Generator, frames: np.ndarray, steel: RandomSteel, look: Look) -> np.ndarray:
    """The frames (C, H, W) blurred by a Gaussian, wider along one direction if there is astigmatism."""
    width = rng.uniform(*steel.blur_px)
    rows = 2 * np.pi * fft.fftfreq(frames.shape[1]).astype(np.float32)[:, None]
    columns = 2 * np.pi * fft.rfftfreq(frames.shape[2]).astype(np.float32)
    cos, sin = np.float32(np.cos(look.astigmatism_angle)), np.float32(np.sin(look.astigmatism_angle))
    along, across = (rows * sin + columns * cos), (rows * cos - columns * sin)
    wide = np.float32(width * np.sqrt(look.astigmatism)), np.float32(width / np.sqrt(look.astigmatism))
    transfer = np.exp(-0.5 * ((wide[0] * along) ** 2 + (wide[1] * across) ** 2))
    return fft.irfft2(fft.rfft2(frames) * transfer, s=frames.shape[1:])


def charge(rng: np.random.Generator, frames: np.ndarray, inside: np.ndarray, look: Look) -> None:
    """Streaks along the scan beside the bodies (H, W), line by line as strong as it happens."""
    if not look.charging:
        return
    decay = float(np.exp(-1 / look.charging_px))
    bright = np.where(inside, frames, 0).clip(0)
    behind, before = (
        signal.lfilter([1 - decay], [1, -decay], bright[:, :, ::way], axis=2)[:, :, ::way] for way in (1, -1)
    )
    lines = rng.exponential(1.0, (frames.shape[1], 1)).clip(0, 3)
    streaks = look.charging * 2 * lines * (behind + rng.uniform(0, 0.6) * before)
    frames += np.where(inside, 0, streaks).astype(np.float32)


def row_shifts(rng: np.random.Generator, rows: int, look: Look) -> np.ndarray | None:
    """How many pixels each row is displaced: jitter from row to row and slow drift; None if not at all."""
    if not look.jitter_px and not look.drift_px:
        return None
    shift = rng.normal(0, look.jitter_px, rows)
    slow = ndimage.gaussian_filter1d(rng.normal(size=rows), rows / 8, mode="wrap")
    shift += look.drift_px * slow / (np.abs(slow).max() + 1e-9)
    return shift.clip(1 - MARGIN, MARGIN - 1)


def shift_rows(frame: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """The frame (H, W) with every row displaced, linear between pixels; nearest if it holds whole numbers."""
    whole = (np.rint if frame.dtype.kind == "i" else np.floor)(shift).astype(int)
    place, last = np.arange(frame.shape[1]) + whole[:, None], frame.shape[1] - 1
    here = np.take_along_axis(frame, place.clip(0, last), 1)
    if frame.dtype.kind == "i":
        return here
    part = (shift - whole).astype(np.float32)[:, None]
    return here + part * (np.take_along_axis(frame, (place + 1).clip(0, last), 1) - here)


def inner(frame: np.ndarray) -> np.ndarray:
    """The frame without its margin."""
    return frame[..., MARGIN:-MARGIN, MARGIN:-MARGIN]


def spoil(rng: np.random.Generator, frames: np.ndarray, look: Look) -> None:
    """Scratches, stains and the dark rectangle of an earlier scan: on the surface, so in all frames."""
    size = frames.shape[1:]
    y, x = np.arange(size[0], dtype=np.float32)[:, None], np.arange(size[1], dtype=np.float32)
    habit = rng.uniform(0, np.pi)
    for _ in range(min(int(rng.poisson(look.scratches)), FAULTS)):
        angle = habit + rng.normal(0, 0.1 if rng.random() < 0.7 else 1.5)
        row, column = rng.uniform(0, size)
        away = (x - column) * np.sin(angle) - (y - row) * np.cos(angle)
        frames += _scratch(rng, away.astype(np.float32), look.scratch_grey)
    for _ in range(min(int(rng.poisson(look.stains)), FAULTS)):
        wide, (row, column) = np.exp(rng.uniform(1, 3)), rng.uniform(0, size)
        cloud = np.exp(-(((y - row) / wide) ** 2) / 2) * np.exp(-(((x - column) / wide) ** 2) / 2)
        frames -= (rng.uniform(8, 60) * cloud).astype(np.float32)
    if look.dark_frame:
        low, high = np.sort(rng.uniform(-0.3, 1.3, (2, 2)) * size, axis=0)
        soft = rng.uniform(0.7, 4)
        rows, columns = (
            special.expit((at - low[axis]) / soft) * special.expit((high[axis] - at) / soft)
            for axis, at in enumerate((y, x))
        )
        frames -= (look.dark_frame * rows * columns).astype(np.float32)


def _scratch(rng: np.random.Generator, away: np.ndarray, grey: float) -> np.ndarray:
    """A line by the distance (H, W) from it: dark or bright, some with a bright edge."""
    wide = np.float32(rng.uniform(0.6, 2.5))
    line = rng.choice([-1, 1]) * np.exp(-((away / wide) ** 2))
    if rng.random() < 0.4:
        line -= np.sign(line.flat[0]) * 0.7 * np.exp(-(((away - 2 * wide) / wide) ** 2))
    return (grey * rng.uniform(0.3, 1.2) * line).astype(np.float32)


def detect(
    rng: np.random.Generator, frame: np.ndarray, detector: int, steel: RandomSteel, look: Look, glow: bool
) -> np.ndarray:
    """What a detector makes of a frame (H, W) of greys: shading, noise, gamma, offset, 8 bits as float32."""
    y, x = (np.linspace(-1, 1, side, dtype=np.float32) for side in frame.shape)
    y = y[:, None]
    terms = rng.normal(0, steel.shading, 5).astype(np.float32)
    shading = 1 + terms[0] * x + terms[3] * (x**2 - 0.5) + (terms[1] * y + terms[4] * (y**2 - 0.5))
    shading += terms[2] * x * y
    mean = max(float(frame.mean()), 1.0)
    grey = frame * shading
    if glow:
        top = np.exp(-np.arange(len(frame), dtype=np.float32) / 30)[:, None]
        grey += np.float32(rng.exponential(steel.glow_grey)) * top
    grey += _noise(rng, grey, steel.noise_grey[detector], mean, steel, look)
    if look.gamma[detector] != 1:
        grey = 255 * (grey.clip(0, 255) / 255) ** np.float32(look.gamma[detector])
    return np.rint(_knobs(grey, np.float32(look.offset[detector]))).clip(0, 255).astype(np.float32)


def _knobs(grey: np.ndarray, offset: np.float32) -> np.ndarray:
    """Contrast and brightness as whoever looks at the screen turns them: something is to be seen.

    The middle half of the pixels spans ``NARROWEST`` greys at least, and none of it saturates.
    """
    low, high = np.percentile(grey[::2, ::2], [25, 75]).astype(np.float32)
    gain = max(np.float32(1), NARROWEST / max(high - low, np.float32(0.1)))
    offset = np.clip(offset, 2 - low, max(2 - low, 253 - (low + gain * (high - low))))
    return (grey - low) * gain + low + offset


def _noise(
    rng: np.random.Generator, grey: np.ndarray, noise_grey: float, mean: float, steel: RandomSteel, look: Look
) -> np.ndarray:
    """Shot noise, stronger where it is brighter, correlated over ``noise_px``; and lines of the scan."""
    width = rng.uniform(*steel.noise_px)
    noise = rng.standard_normal(grey.shape, np.float32)
    along = float(np.hypot(width, look.scan_width_px))
    noise = ndimage.gaussian_filter(noise, (width, along), truncate=3)
    noise *= np.float32(noise_grey) / noise.std()
    lines = rng.standard_normal((len(grey), 1), np.float32) * np.float32(steel.line_noise_grey)
    return noise * np.sqrt((grey / np.float32(mean)).clip(0.1, 3)) + lines


def burn_in(rng: np.random.Generator, images: list[np.ndarray], look: Look) -> None:
    """Write a scale bar with its text into one of the images (H, W) or all, as some microscopes do."""
    if not look.legend_px:
        return
    font = ImageFont.load_default(look.legend_px)
    text = f"{rng.choice([1, 2, 3, 5, 10, 100, 200, 300, 500])} {rng.choice(['nm', 'um'])}"
    height, width = images[0].shape
    row, column = rng.uniform(0, height), rng.uniform(-0.2, 0.9) * width
    bar = row, column, row + max(1.0, look.legend_px / 4), column + look.legend_px * rng.uniform(1, 8)
    ink = 255 if rng.random() < 0.8 else 0
    for image in images if rng.random() < 0.7 else images[:1]:
        legend = Image.new("L", (width, height))
        draw = ImageDraw.Draw(legend)
        draw.rectangle((bar[1], bar[0], bar[3], bar[2]), fill=255)
        draw.text((column, bar[2]), text, fill=255, font=font)
        cover = np.asarray(legend, np.float32) / 255
        image[:] = np.rint(image + cover * (ink - image))
