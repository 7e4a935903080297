"""What a microscope writes into its files about an image: pixel size, detector, rows of the image proper.

Written after tifffile (``sem_metadata``, ``fei_metadata``), Gwyddion (``tescan.c``) and the ``.txt`` that
JEOL's PC-SEM stores beside an image.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tifffile

ZEISS, FEI, TESCAN = 34118, (34680, 34682), 50431
TOLERANCE = 0.02  # between two figures of one file; SmartSEM rounds to three or four digits
SMALLEST_UM, LARGEST_UM = 1e-5, 1000.0  # pixel sizes that an electron microscope can mean
# 2540 dpi. A pixel of more than this is a scanner's or a printer's: 300 dpi are 85 um.
LARGEST_RESOLUTION_UM = 10.0
SIDECAR_BYTES = 1 << 20
ZEISS_BYTES = 1 << 17  # SmartSEM writes some 30,000; tifffile's time grows with their square
UNITS_UM = {"pm": 1e-6, "nm": 1e-3, "um": 1.0, "µm": 1.0, "μm": 1.0, "micron": 1.0, "microns": 1.0}
UNITS_UM |= {"mm": 1e3, "cm": 1e4, "m": 1e6, "å": 1e-4, "inch": 25400.0}
# Chamber and in-column secondary-electron detectors of Zeiss, FEI/Thermo, Tescan, JEOL. JEOL's "SEI" is the
# one on some columns and the other on others, and is left to the file number.
CHAMBER = {"se", "se1", "se2", "sesi", "hese2", "vpse", "etd", "et", "everhartthornley", "lei", "led"}
IN_COLUMN = {"inlens", "inlensduo", "inlensse", "tld", "t2", "inbeam", "inbeamse", "uhrse", "ued", "usd"}


@dataclass(frozen=True)
class FileMetadata:
    """What one file says: micrometres, where that stands, detector, rows above the info bar, complaints."""

    pixel_size_um: float | None = None
    source: str = "unknown"
    detector: str | None = None
    image_rows: int | None = None
    warnings: tuple[str, ...] = ()


def detector_channel(detector: str | None) -> int | None:
    """Channel of a detector name: 0 for SE2 (Everhart-Thornley), 1 for InLens, None for any other name."""
    plain = re.sub(r"[^a-z0-9]", "", (detector or "").lower())
    if plain in CHAMBER:
        return 0
    return 1 if plain in IN_COLUMN else None


def read_metadata(path: Path, page: tifffile.TiffPage | None, shape: tuple[int, int]) -> FileMetadata:
    """Read what ``path`` says about its frame of (H, W) ``shape``; ``page`` is None where it is no TIFF.

    The first of these that names a pixel size or a detector counts, in this order: Zeiss, FEI/Thermo,
    Tescan, JEOL, TIFF resolution. Anything broken or implausible is absent and leaves a warning.
    """
    readers: list[Callable[[], FileMetadata | None]] = [lambda: _jeol(path, shape)]
    if page is not None:
        tags = (_zeiss, _fei, _tescan)
        readers = [*(_of_page(reader, page, shape) for reader in tags), *readers]
        readers.append(lambda: _resolution(page))
    found = [metadata for reader in readers if (metadata := reader()) is not None]
    sized = next((one for one in found if one.pixel_size_um is not None), FileMetadata())
    return FileMetadata(
        sized.pixel_size_um,
        sized.source,
        next((one.detector for one in found if one.detector), None),
        next((one.image_rows for one in found if one.image_rows), None),
        tuple(f"{path.name}: {warning}" for one in found for warning in one.warnings),
    )


def parse_length(text: str) -> float | None:
    """Micrometres of a length as microscopes write it, ``6.983 nm`` or ``1,5µm``; None if it is none.

    >>> parse_length("500 nm")
    0.5
    """
    match = re.fullmatch(
        r"([-+]?[\d.,]+(?:[eE][-+]?\d+)?|nan)\s*([^\W\d_]+)\.?", text.replace("Â", "").strip()
    )
    if not match or match[2].lower() not in UNITS_UM or (number := _number(match[1])) is None:
        return None
    return float(f"{number * UNITS_UM[match[2].lower()]:.12g}")  # 6.98e-3, not 6.980000000000001e-3


def plausible(pixel_size_um: float | None) -> bool:
    """Whether a number can be the pixel size of an electron micrograph, in micrometres."""
    return pixel_size_um is not None and SMALLEST_UM <= pixel_size_um <= LARGEST_UM


def differ(one: float, other: float, tolerance: float) -> bool:
    """Whether two positive numbers differ by more than a share of the larger."""
    return not math.isclose(one, other, rel_tol=tolerance)


def _of_page(
    reader: Callable[[Any, tuple[int, int]], FileMetadata | None],
    page: tifffile.TiffPage,
    shape: tuple[int, int],
) -> Callable[[], FileMetadata | None]:
    def read() -> FileMetadata | None:
        try:
            return reader(page.tags, shape)
        except (AttributeError, KeyError, LookupError, TypeError, ValueError) as error:
            return FileMetadata(warnings=(f"the microscope's metadata are broken and ignored ({error})",))

    return read


def _zeiss(tags: Any, shape: tuple[int, int]) -> FileMetadata | None:
    """Tag 34118: ``AP_IMAGE_PIXEL_SIZE``, which wins over a contradicting ``AP_WIDTH`` / frame width.

    AP_WIDTH alone counts only where ``DP_IMAGE_STORE`` says that the frame is as the microscope stored it:
    the width of a cut frame is not that of the field.
    """
    tag = tags.get(ZEISS)
    if tag is not None and tag.valuebytecount > ZEISS_BYTES:
        return FileMetadata(warnings=(f"the Zeiss tag of {tag.valuebytecount} bytes is ignored",))
    entries = tags.valueof(ZEISS)
    if not isinstance(entries, Mapping):
        return FileMetadata(warnings=("the Zeiss tag is broken and ignored",)) if entries else None
    size, warnings = _checked(_zeiss_length(entries, "ap_image_pixel_size"), "ap_image_pixel_size" in entries)
    source = "Zeiss AP_IMAGE_PIXEL_SIZE"
    width, height = (_zeiss_length(entries, key) for key in ("ap_width", "ap_height"))
    from_width = width / shape[1] if width is not None and plausible(width / shape[1]) else None
    if size is None and from_width is not None:
        stored = re.findall(r"\d+", _zeiss_text(entries, "dp_image_store"))
        if stored[:1] == [str(shape[1])]:
            size, source = from_width, "Zeiss AP_WIDTH"
    elif size is not None and from_width is not None and differ(size, from_width, TOLERANCE):
        warnings.append(
            f"AP_IMAGE_PIXEL_SIZE says {size:.4g} um but AP_WIDTH / {shape[1]} px is {from_width:.4g} um "
            "(cut or resized after the microscope?); the former is used, --pixel_size overrules it"
        )
    rows = height / size if size and height is not None else None
    detector = _zeiss_text(entries, "dp_detector_channel") or _zeiss_text(entries, "dp_detector_type")
    return FileMetadata(size, source, detector or None, _rows(rows, shape), tuple(warnings))


def _zeiss_text(entries: Mapping[str, Any], key: str) -> str:
    entry = entries.get(key, ())
    return " ".join(str(part) for part in entry[1:]).strip() if isinstance(entry, tuple) else ""


def _zeiss_length(entries: Mapping[str, Any], key: str) -> float | None:
    return parse_length(_zeiss_text(entries, key))


def _fei(tags: Any, shape: tuple[int, int]) -> FileMetadata | None:
    """Tags 34680 (SFEG) and 34682 (Helios): lengths in metres, rows of the image without the data bar."""
    sections: dict[str, Any] = {}
    for code in FEI:
        if isinstance(value := tags.valueof(code), Mapping):
            sections |= value
    if not sections:
        return None
    scan, image, detectors = (sections.get(name) or {} for name in ("Scan", "Image", "Detectors"))
    size, warnings = _metres(scan.get("PixelWidth"), scan.get("PixelHeight"))
    columns, rows = (_number(image.get(key)) for key in ("ResolutionX", "ResolutionY"))
    warnings += _resized(columns, shape)
    # the through-the-lens detector also takes backscattered electrons
    secondary = str(detectors.get("Mode", "SE")).upper() != "BSE"
    detector = str(detectors.get("Name") or "") + ("" if secondary else " BSE")
    return FileMetadata(
        size,
        "FEI PixelWidth",
        detector.strip() or None,
        _rows(rows if columns == shape[1] else None, shape),
        tuple(warnings),
    )


def _tescan(tags: Any, shape: tuple[int, int]) -> FileMetadata | None:
    """Tag 50431: an INI text after a few binary bytes; metres, and the rows of the strip below the image."""
    value = tags.valueof(TESCAN)
    if isinstance(value, tuple):  # of bytes, as some writers declare it
        value = bytes(value)
    text = value.decode("cp1252", "replace") if isinstance(value, bytes) else str(value or "")
    # \b keeps the time for a long word from growing with its square
    fields = dict(re.findall(r"\b(\w+)[ \t]*=[ \t]*([^\r\n\0]*)", text))
    if "PixelSizeX" not in fields and "Detector" not in fields:
        return None
    size, warnings = _metres(fields.get("PixelSizeX"), fields.get("PixelSizeY"))
    strip = _number(fields.get("ImageStripSize"))
    rows = shape[0] - strip if strip else None
    detector = fields.get("Detector", "").strip() or None
    return FileMetadata(size, "Tescan PixelSizeX", detector, _rows(rows, shape), tuple(warnings))


def _jeol(path: Path, shape: tuple[int, int]) -> FileMetadata | None:
    """``<stem>.txt`` beside the image: the scale bar's length in pixels and as its label says it."""
    beside = [path.with_suffix(suffix) for suffix in (".txt", ".TXT", ".Txt")]
    sidecar = next((file for file in beside if file.is_file()), None)
    if sidecar is None:
        return None
    with sidecar.open("rb") as file:
        text = file.read(SIDECAR_BYTES).decode("utf-8", "replace").replace("\ufffd", "µ")
    fields = {
        key: value.strip() for key, value in re.findall(r"^[ \t]*\$+(\w+)[ \t]+(.*)$", text, re.MULTILINE)
    }
    if not fields.keys() & {"SM_MICRON_BAR", "SM_MICRON_MARKER", "CM_FULL_SIZE", "CM_SIGNAL"}:
        return None
    bar, marker = _number(fields.get("SM_MICRON_BAR")), parse_length(fields.get("SM_MICRON_MARKER", ""))
    size = marker / bar if bar and marker is not None else None
    size, warnings = _checked(size, "SM_MICRON_BAR" in fields or "SM_MICRON_MARKER" in fields)
    full = [_number(part) for part in fields.get("CM_FULL_SIZE", "").split()[:2]]
    columns, rows = full if len(full) == 2 else (None, None)
    warnings += _resized(columns, shape)
    names = (fields.get(key) for key in ("CM_DETECTOR_NAME", "CM_SIGNAL_NAME", "CM_SIGNAL"))
    return FileMetadata(
        size,
        f"JEOL {sidecar.name}",
        next((name for name in names if name), None),
        _rows(rows if columns == shape[1] else None, shape),
        tuple(warnings),
    )


def _resolution(page: tifffile.TiffPage) -> FileMetadata | None:
    """TIFF resolution in inches, centimetres or ImageJ's own unit; a print resolution is no pixel size."""
    description = page.description if page.is_imagej else ""
    named = re.search(r"^unit=(\S+)", description or "", re.MULTILINE)
    unit = named[1].replace("\\u00B5", "µ").lower() if named else ""
    unit = unit or {2: "inch", 3: "cm"}.get(page.tags.valueof(296, default=2), "")
    across, down = (_per_unit(page.tags.valueof(code)) for code in (282, 283))
    if unit not in UNITS_UM or across is None or not plausible(UNITS_UM[unit] / across):
        return None
    size = UNITS_UM[unit] / across
    if size > LARGEST_RESOLUTION_UM:
        return None
    warnings = []
    if down is not None and differ(across, down, TOLERANCE):
        warnings.append("the TIFF resolution differs across and down; that across is used")
    return FileMetadata(size, "TIFF resolution", warnings=tuple(warnings))


def _per_unit(value: Any) -> float | None:
    """Pixels per unit of a TIFF resolution tag, a fraction."""
    try:
        number = value[0] / value[1] if isinstance(value, tuple) else float(value)
    except (TypeError, ValueError, ZeroDivisionError, IndexError):
        return None
    return number if math.isfinite(number) and number > 0 else None


def _metres(width: Any, height: Any) -> tuple[float | None, list[str]]:
    across, down = _number(width), _number(height)
    size, warnings = _checked(None if across is None else float(f"{across * 1e6:.12g}"), width is not None)
    if size is not None and down is not None and differ(size, down * 1e6, TOLERANCE):
        warnings.append(f"pixels are {size:.4g} um wide but {down * 1e6:.4g} um high; the width is used")
    return size, warnings


def _checked(size: float | None, stated: bool) -> tuple[float | None, list[str]]:
    """A pixel size in micrometres and no warning, or None and a warning if one is stated but impossible."""
    if plausible(size):
        return size, []
    shown = "is unreadable" if size is None else f"of {size:g} um is impossible"
    return None, [f"the pixel size in the metadata {shown} and ignored"] if stated else []


def _resized(columns: float | None, shape: tuple[int, int]) -> list[str]:
    if columns is None or columns == shape[1]:
        return []
    return [
        f"the metadata are of an image {columns:g} px wide but this one has {shape[1]} (cut or resized after "
        "the microscope?); its pixel size is used, --pixel_size overrules it"
    ]


def _rows(rows: float | None, shape: tuple[int, int]) -> int | None:
    """Rows of the image proper by the metadata, where they leave some of the frame's rows for a bar."""
    return round(rows) if rows is not None and 0 < rows < shape[0] - 0.5 else None


def _number(value: Any) -> float | None:
    """A number as microscopes write it, decimal comma and all; NaN stays NaN."""
    try:
        return float(str(value).strip().replace(",", "."))
    except ValueError:
        return None
