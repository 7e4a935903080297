"""Whatever bytes a file holds: one line on what is wrong, or an image with a sane pixel size, and soon."""

from __future__ import annotations

import math
import signal
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sem_writer import fei, jeol, noise, tescan, write, zeiss

from carde_monai.errors import InputError
from carde_monai.sem_metadata import FEI, TESCAN, ZEISS, FileMetadata, parse_length, plausible
from carde_monai.sem_pixels import read_file, read_file_metadata

PIXELS = noise(8, 12)
PATIENCE = 60  # seconds of processor time for one test; all together take a few
TYPES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1, 12: 8}  # of TIFF, and bytes of a value
RESOLUTION, DESCRIPTION = (282, 283, 296), 270
LONG = 1 << 20
FOUND = {"pixel": "6.98 nm", "detector": "SE2", "width": "83.76 nm", "height": "48.86 nm", "stored": "12 * 8"}
GOOD = [zeiss(**FOUND), fei(size="ResolutionX=12\r\nResolutionY=7\r\n"), fei(tag=FEI[0]), tescan(strip=1)]
SIDECAR = jeol(rest="$CM_FULL_SIZE 12 7\r\n$CM_SIGNAL LEI\r\n").encode()

NUMBERS = [
    b"0",
    b"-1",
    b"nan",
    b"inf",
    b"-inf",
    b"1e999",
    b"1e-320",
    b"9" * 5000,
    b"6,98",
    b"6.98e-9",
    b"12",
    b"7",
]
NAMES = [name for text in (*GOOD, {0: SIDECAR}) for value in text.values() for name in value.split()]
PIECES = st.sampled_from(
    [*NUMBERS, *NAMES, b"=", b":", b"\r\n", b"\n", b" ", b"\0", b"[", b"]", b"$", b"\xb5m"]
)
TEXTS = st.lists(PIECES | st.binary(max_size=4), max_size=30).map(b"".join)


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    """Fail a test that takes long: processor time, as a busy machine is no fault of the program's."""

    def stop(*_: object) -> None:
        pytest.fail(f"no answer after {PATIENCE} s")  # derives from BaseException, which nobody catches

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, PATIENCE)
    yield
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    signal.signal(signal.SIGVTALRM, before)


def _tiff(tags: dict[int, tuple[int, bytes]]) -> bytes:
    """A TIFF of PIXELS with these tags, of a type and any bytes, where tifffile would write sane ones."""
    height, width = PIXELS.shape
    numbers = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: PIXELS.size}
    entries = {code: (4, struct.pack("<I", number)) for code, number in numbers.items()} | tags
    directory, data = b"", b""
    end = 8 + PIXELS.size + 2 + 12 * len(entries) + 4
    for code, (kind, value) in sorted(entries.items()):
        count = -(-len(value) // TYPES[kind])
        value = value.ljust(max(4, count * TYPES[kind]), b"\0")
        place = value if len(value) == 4 else struct.pack("<I", end + len(data))
        data += value if len(value) > 4 else b""
        directory += struct.pack("<HHI", code, kind, count) + place
    start = struct.pack("<2sHI", b"II", 42, 8 + PIXELS.size) + PIXELS.tobytes()
    return start + struct.pack("<H", len(entries)) + directory + bytes(4) + data


@st.composite
def changed(draw: st.DrawFn, texts: list[bytes]) -> bytes:
    """One of the texts with some bytes overwritten, some pieces put in or left out, or cut off."""
    data = bytearray(draw(st.sampled_from(texts)))
    for _ in range(draw(st.integers(1, 5))):
        place = draw(st.integers(0, max(len(data) - 1, 0)))
        piece = draw(PIECES | st.binary(min_size=1, max_size=4))
        how = draw(st.sampled_from(["over", "in", "out"]))
        data[place : place + (0 if how == "in" else len(piece))] = b"" if how == "out" else piece
    return bytes(data[: draw(st.sampled_from([len(data), draw(st.integers(0, len(data)))]))])


def _check(found: FileMetadata) -> None:
    size = found.pixel_size_um
    assert size is None or (isinstance(size, float) and math.isfinite(size) and plausible(size))
    assert (found.source == "unknown") == (size is None)
    assert found.image_rows is None or 0 < found.image_rows < 1 << 32
    assert found.detector is None or found.detector


def _read(path: Path) -> FileMetadata | None:
    """What both ways of reading a file have to say; None if its pixels cannot be read."""
    _check(read_file_metadata(path))
    try:
        pixels, found = read_file(path)
    except InputError as error:
        assert str(path) in str(error) and "\n" not in str(error)
        return None
    assert pixels.ndim == 2 and pixels.size and pixels.dtype in (np.uint8, np.uint16)
    _check(found)
    return found


HEADER = _tiff(
    {code: (2 if code != TESCAN else 7, value) for text in GOOD for code, value in text.items()}
    | {282: (5, struct.pack("<II", 10**6, 1)), 283: (5, struct.pack("<II", 10**6, 1)), 296: (3, b"\3\0")}
)


@settings(max_examples=60)
@given(st.binary(max_size=400) | st.binary(max_size=400).map((b"II*\0\x08\0\0\0").__add__))
def test_random_bytes(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a_1.tif")
        path.write_bytes(data)
        _read(path)


@settings(max_examples=150)
@given(changed([HEADER]))
@example(HEADER)
def test_changed_files(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a_1.tif")
        path.write_bytes(data)
        found = _read(path)
    assert data != HEADER or (found is not None and found.pixel_size_um == 0.00698)


@settings(max_examples=150)
@given(
    tags=st.dictionaries(
        st.sampled_from([ZEISS, *FEI, TESCAN, DESCRIPTION, *RESOLUTION]),
        TEXTS | changed([value for text in GOOD for value in text.values()]),
    ),
    kind=st.sampled_from(sorted(TYPES)),
    sidecar=st.none() | TEXTS | changed([SIDECAR]),
)
def test_metadata_never_cost_the_image(tags: dict[int, bytes], kind: int, sidecar: bytes | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a_1.tif")
        path.write_bytes(_tiff({code: (kind, value) for code, value in tags.items()}))
        if sidecar is not None:
            path.with_suffix(".txt").write_bytes(sidecar)
        assert _read(path) is not None


@given(st.text() | TEXTS.map(lambda text: text.decode("cp1252", "replace")))
def test_any_text_is_a_length_or_none(text: str) -> None:
    assert isinstance(parse_length(text), float | None)


@pytest.mark.parametrize(
    "filler", [b"a", b" ", b"\r\n", b"\n", b"a ", b"=", b"a=", b"$", b"$a ", b"\0", b"1", b"[a]\n"]
)
def test_a_megabyte_of_anything_is_no_hang(filler: bytes, tmp_path: Path) -> None:
    body = filler * (LONG // len(filler))
    for code, start in (
        (ZEISS, b"0\r\nAP_WIDTH\r\nWidth = "),
        (FEI[0], b"[Scan]\r\n"),
        (TESCAN, b""),
        (DESCRIPTION, b""),
    ):
        assert _read(write(tmp_path / f"a_{code}.tif", PIXELS, {code: start + body})) is not None
    path = write(tmp_path / "b_1.tif", PIXELS)
    path.with_suffix(".txt").write_bytes(b"$CM_SIGNAL " + body)
    assert _read(path) is not None
