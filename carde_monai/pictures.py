"""Pictures of micrographs: grey stretch, scale bar, confidence map, overlay.

Pixels are drawn with Pillow, not matplotlib: one for one, and in a fraction of the time.
Text and scale bar stand in a strip below the image, so that they cover no part of it.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from carde_monai.runs import STRIP, strips

Array = npt.NDArray[Any]
Colour = tuple[int, int, int]

# Okabe and Ito's colours, which people with any common colour blindness can tell apart.
ORANGE, SKY_BLUE, GREEN, YELLOW = (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66)
BLUE, VERMILLION, PURPLE = (0, 114, 178), (213, 94, 0), (204, 121, 167)
BLACK, WHITE = (0, 0, 0), (255, 255, 255)

# Cold is matrix, warm is carbide, and brightness rises with the probability, so that a grey print reads too.
LEVEL_COLOURS: tuple[Colour, ...] = ((24, 24, 32), BLUE, ORANGE, (255, 246, 190))
LEVEL_NAMES = ("below 2.5 %", "2.5–50 %", "50–97.5 %", "above 97.5 %")
LARGEST_SIDE = 8192  # pixels: programs refuse much larger pictures, for fear of bombs
PNG_LEVEL = 1  # zlib: several times faster than the default 6, and the files are little larger


def rgb(colour: Colour) -> tuple[float, float, float]:
    """A colour as matplotlib takes it, parts from 0 to 1."""
    red, green, blue = colour
    return red / 255, green / 255, blue / 255


class Key(NamedTuple):
    """One entry of a legend: a colour and what it means; without a colour it is a remark."""

    text: str
    colour: Colour | None = None


def grey_limits(image: Array, low: float = 0.5, high: float = 99.8) -> tuple[float, float] | None:
    """Percentiles of the finite pixels (H, W), to be shown black and white; None if none is finite."""
    step = max(1, math.isqrt(image.size // 250_000))  # that many pixels fix a percentile well enough
    sample = image[::step, ::step]
    sample = sample[np.isfinite(sample)]
    if sample.size == 0:
        return None
    bottom, top = (float(value) for value in np.percentile(sample, (low, high)))
    return bottom, top


def to_grey8(image: Array, low: float = 0.5, high: float = 99.8) -> npt.NDArray[np.uint8]:
    """Stretch an image of any number type between two percentiles to 0..255 for looking at.

    ``image`` is (H, W); values that are not finite are drawn black; a constant image becomes mid-grey.
    """
    image = np.asarray(image)
    limits = grey_limits(image, low, high)
    if limits is None:
        return np.zeros(image.shape, np.uint8)
    bottom, top = limits
    if top <= bottom:  # nearly all pixels alike: the few others decide
        finite = image[np.isfinite(image)]
        bottom, top = float(finite.min()), float(finite.max())
    if top <= bottom:
        return np.where(np.isfinite(image), 127, 0).astype(np.uint8)
    table = None
    if image.dtype in (np.uint8, np.uint16):  # a table of all greys is faster than arithmetic on all pixels
        table = _stretch(np.arange(np.iinfo(image.dtype).max + 1), bottom, top)
    result = np.empty(image.shape, np.uint8)
    for strip in strips(image.shape):
        pixels = image[strip]
        if table is None:
            finite = np.where(np.isfinite(pixels), pixels, bottom).astype(np.float32)
            result[strip] = _stretch(finite, bottom, top)
        else:
            result[strip] = table[pixels]
    return result


def _stretch(values: Array, bottom: float, top: float) -> npt.NDArray[np.uint8]:
    return np.rint(np.clip((values - bottom) * (255.0 / (top - bottom)), 0, 255)).astype(np.uint8)


def scale_bar_length(width: float, pixel_size_um: float | None) -> tuple[float, str]:
    """Choose a round length (1, 2 or 5 times a power of ten) nearest to a fifth of ``width`` pixels.

    Returns the length in pixels and its name, in nm, µm or mm, or in px where the pixel size is unknown.
    """
    if pixel_size_um is not None and not (math.isfinite(pixel_size_um) and pixel_size_um > 0):
        raise ValueError(f"pixel size must be a positive number of micrometres, not {pixel_size_um}")
    target = width / 5 * (pixel_size_um or 1.0)
    decade = 10.0 ** math.floor(math.log10(target))
    length = min((step * decade for step in (1, 2, 5, 10)), key=lambda value: abs(math.log(value / target)))
    if pixel_size_um is None:
        length = max(length, 1.0)
        return length, f"{length:g} px"
    unit, factor = ("mm", 1e-3) if length >= 999 else ("µm", 1.0) if length >= 0.999 else ("nm", 1e3)
    return length / pixel_size_um, f"{float(f'{length * factor:.3g}'):g} {unit}"


def draw_scale_bar(
    picture: Image.Image, pixel_size_um: float | None, legend: Sequence[Key] = (), **options: Any
) -> Image.Image:
    """Return the picture in RGB with a white strip below it that holds a scale bar and a legend.

    ``options`` are those of `scale_bar`. The picture keeps its place at the top left; a narrow one gets a
    white margin.
    """
    strip = scale_bar(picture.width, pixel_size_um, legend, **options)
    result = Image.new("RGB", (strip.width, picture.height + strip.height), WHITE)
    result.paste(picture, (0, 0))
    result.paste(strip, (0, picture.height))
    return result


def scale_bar(
    width: int,
    pixel_size_um: float | None,
    legend: Sequence[Key] = (),
    *,
    zoom: float = 1.0,
    bar_width: int | None = None,
    text_size: int | None = None,
) -> Image.Image:
    """A white strip with a scale bar and a legend, to stand below a picture of ``width``; 320 px or wider.

    ``zoom`` is picture pixels a micrograph pixel; the bar is about a fifth of ``bar_width`` picture pixels
    (default: the picture's width). An unknown pixel size gives a bar in micrograph pixels that says so.
    ``text_size`` is in pixels.
    """
    length, name = scale_bar_length((bar_width or width) / zoom, pixel_size_um)
    width = max(width, 320)  # narrower, and the text would not fit
    bar = round(length * zoom)
    font = font_of(text_size or max(13, min(30, width // 88)))
    remark = " (pixel size unknown)" if pixel_size_um is None else ""
    entries = [Key(name + remark, BLACK), *legend]
    swatches = [bar, *(_size(font) if key.colour else 0 for key in legend)]
    places, height = _flow(entries, swatches, font, width)
    result = Image.new("RGB", (width, height), WHITE)
    draw = ImageDraw.Draw(result)
    half = _size(font) // 2
    for number, (key, swatch, (x, middle)) in enumerate(zip(entries, swatches, places, strict=True)):
        rise = half // 2 if number == 0 else half  # the bar is half as high as the colours of the legend
        if swatch:
            box = (x, middle - rise, x + swatch - 1, middle + rise - 1)
            draw.rectangle(box, fill=key.colour, outline=BLACK)
        draw.text((x + swatch + (half if swatch else 0), middle), key.text, BLACK, font, anchor="lm")
    return result


def _flow(
    entries: Sequence[Key], swatches: Sequence[int], font: ImageFont.FreeTypeFont, width: int
) -> tuple[list[tuple[int, int]], int]:
    """Lay entries out like words of a text; returns x and middle y of each, and the strip's height."""
    size = _size(font)
    line, x, y = round(size * 1.7), size // 2, round(size * 1.1)
    places: list[tuple[int, int]] = []
    for key, swatch in zip(entries, swatches, strict=True):
        length = swatch + (size // 2 if swatch else 0) + math.ceil(font.getlength(key.text))
        if places and x + length > width:
            x, y = size // 2, y + line
        places.append((x, y))
        x += length + round(size * 1.3)
    return places, y + round(size * 1.1)


@lru_cache(maxsize=8)
def font_of(size: int) -> ImageFont.FreeTypeFont:
    """The font of all pictures, ``size`` pixels high."""
    # Pillow's own font has neither the micro sign nor accented letters; the one in matplotlib's wheel has.
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)


def _size(font: ImageFont.FreeTypeFont) -> int:
    return round(font.size)


def confidence_levels(probability: Array) -> npt.NDArray[np.uint8]:
    """Sort probabilities into four levels: 0 below 2.5 %, 1 up to 50 %, 2 up to 97.5 %, 3 above 97.5 %.

    Levels 2 and 3 together are the mask (probability > 0.5).
    """
    levels = (probability >= 0.025).astype(np.uint8)
    levels += probability > 0.5
    levels += probability > 0.975
    return levels


def confidence_picture(probability: Array, path: Path, pixel_size_um: float | None = None) -> None:
    """Write the four-level confidence map of an (H, W) probability as PNG, with scale bar and area shares.

    A longer side than `LARGEST_SIDE` is reduced to it; the level then is that of the mean probability.
    """
    counts = np.zeros(4, int)
    for strip in strips(probability.shape):
        counts += Image.fromarray(confidence_levels(probability[strip])).histogram()[:4]
    legend = [Key("probability of carbide (share of area):")]
    for name, count, colour in zip(LEVEL_NAMES, counts, LEVEL_COLOURS, strict=True):
        legend.append(Key(f"{name} ({percent(count / probability.size)})", colour))
    shape = reduced(probability.shape[::-1], LARGEST_SIDE, LARGEST_SIDE)
    levels = confidence_levels(resized(probability, shape))
    greys = np.linspace(0, 255, 256 - len(LEVEL_COLOURS)).round().astype(np.uint8)  # for the text
    palette = np.concatenate((np.asarray(LEVEL_COLOURS, np.uint8), np.repeat(greys[:, None], 3, 1)))
    zoom = shape[0] / probability.shape[1]
    save_png(_captioned(levels, palette, scale_bar(shape[0], pixel_size_um, legend, zoom=zoom)), path)


def overlay_picture(image: Array, mask: Array, path: Path, pixel_size_um: float | None = None) -> None:
    """Write the first channel (SE2) of a raw (2, H, W) image with the outline of an (H, W) mask as PNG.

    The outline runs around the mask, not on it: carbides stay visible, even those of a few pixels. A longer
    side than `LARGEST_SIDE` is reduced to it. The PNG has a palette, where the outline takes the place of the
    rarest grey.
    """
    mask = np.asarray(mask)
    mask = mask if mask.dtype == bool else mask > 0
    grey = grey_picture(image[0])
    shape = grey.size
    rarest = int(np.argmin(grey.histogram()[:255]))
    indices = np.array(grey)
    indices[indices == rarest] += 1
    thickness = 2 if max(shape) > 1024 else 1  # a screen shows large frames reduced
    indices[outline(shrunk(mask, shape), thickness)] = rarest
    palette = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, 1)
    palette[rarest] = VERMILLION
    share = np.count_nonzero(mask) / mask.size
    legend = [Key(f"outline of the carbides ({percent(share)} of area)", VERMILLION)]
    strip = scale_bar(shape[0], pixel_size_um, legend, zoom=shape[0] / mask.shape[1])
    save_png(_captioned(indices, palette, strip), path)


def grey_picture(image: Array) -> Image.Image:
    """An (H, W) image as `to_grey8` stretches it, no longer than `LARGEST_SIDE`."""
    shape = reduced(image.shape[::-1], LARGEST_SIDE, LARGEST_SIDE)
    return Image.fromarray(to_grey8(image if shape == image.shape[::-1] else resized(image, shape)))


def _captioned(
    indices: npt.NDArray[np.uint8], palette: npt.NDArray[np.uint8], strip: Image.Image
) -> Image.Image:
    """A picture of a (256, 3) palette with a white strip of text below, in the palette's nearest colours."""
    height, width = indices.shape
    packed, which = np.unique(np.asarray(strip) @ (65536, 256, 1), return_inverse=True)
    colours = packed[:, None] // (65536, 256, 1) % 256
    distances = ((colours[:, None] - palette) ** 2).sum(-1)
    text = distances.argmin(1).astype(np.uint8)[which]
    result = np.full((height + strip.height, strip.width), text[0, 0])  # white
    result[:height, :width] = indices
    result[height:] = text
    picture = Image.fromarray(result)
    picture.putpalette(palette.tobytes())
    return picture


def reduced(size: tuple[int, int], width: int, height: int) -> tuple[int, int]:
    """(width, height) of a picture made to fit; none is magnified."""
    zoom = min(1.0, width / size[0], height / size[1])
    return max(1, round(size[0] * zoom)), max(1, round(size[1] * zoom))


def resized(values: Array, shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Mean of (H, W) ``values`` over each pixel of a picture of ``shape`` (width, height)."""
    if values.shape == shape[::-1]:
        return np.asarray(values, np.float32)
    result = np.empty(shape[::-1], np.float32)
    pitch = values.shape[0] / shape[1]
    for rows in strips(shape[::-1], max(1, math.ceil(STRIP / (pitch * values.shape[1] / shape[0])))):
        top, bottom = rows.start * pitch, min(rows.stop * pitch, values.shape[0])
        first = math.floor(top)
        part = Image.fromarray(np.asarray(values[first : math.ceil(bottom)], np.float32))
        size, box = (shape[0], rows.stop - rows.start), (0, top - first, values.shape[1], bottom - first)
        result[rows] = np.asarray(part.resize(size, Image.Resampling.BOX, box=box))
    return result


def shrunk(mask: Array, shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """An (H, W) mask (bool) as a picture of ``shape`` (width, height)."""
    if mask.shape == shape[::-1]:
        return mask
    # A third of a pixel is enough: the smallest carbides must not vanish from a reduced picture.
    return resized(mask, shape) > 1 / 3


def outline(mask: Array, thickness: int = 1) -> npt.NDArray[np.bool_]:
    """The pixels outside an (H, W) mask that at most ``thickness`` steps along rows and columns away."""
    inside = np.asarray(mask, bool)
    grown = inside
    for _ in range(thickness):  # several times faster than SciPy's binary_dilation
        before, grown = grown, grown.copy()
        grown[1:] |= before[:-1]
        grown[:-1] |= before[1:]
        grown[:, 1:] |= before[:, :-1]
        grown[:, :-1] |= before[:, 1:]
    return grown & ~inside


def percent(share: float) -> str:
    """A share as text: 0.052 is ``5.2 %``; little is told from nothing."""
    if 0 < share < 0.0005:
        return "< 0.1 %"
    return f"{100 * share:.1f} %"


def save_png(picture: Image.Image, path: Path) -> None:
    """Write a PNG fast; the folder must exist."""
    # with one byte a pixel the search for longer matches than runs finds little
    kind = zlib.Z_DEFAULT_STRATEGY if picture.mode == "RGB" else zlib.Z_RLE
    picture.save(path, format="PNG", compress_level=PNG_LEVEL, compress_type=kind)


def grey_to_rgb(grey: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """(H, W) to (H, W, 3)."""
    return np.repeat(grey[..., None], 3, axis=-1)
