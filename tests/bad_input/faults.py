"""What a case of bad input is, and what writes damaged files."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile
from sem_writer import noise, write, zeiss

Array = npt.NDArray[Any]
Writer = Callable[[Path], object]

HEIGHT, WIDTH = 96, 112
SIZED = zeiss()  # 6.98 nm

FAILED, DONE, WARNED = "failed", "done", "done with a warning"
# options of the shortest training
SHORT = [*("--max_epochs", 1, "--epoch_length", 1, "--batch_size", 2), "--crops_per_micrograph", 2]
SHORT += ["--roi_size", "32,32"]


@dataclass(frozen=True)
class Case:
    """A fault: ``build`` writes its files into a folder; ``told`` is a pattern that the message matches.

    ``micrograph`` is the name under which results and failures.csv list it, ``<name>_001`` if empty.
    ``outcomes`` says where a verb's outcome is another than ``outcome``.
    """

    kind: str
    name: str
    build: Callable[[Path], object]
    outcome: str
    told: str = ""
    micrograph: str = ""
    outcomes: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return f"{self.kind}-{self.name}".replace(" ", "-")

    def of(self, verb: str) -> str:
        """The outcome with this verb."""
        return dict(self.outcomes).get(verb, self.outcome)


def grey(seed: int = 0, dtype: type = np.uint8, shape: tuple[int, int] = (HEIGHT, WIDTH)) -> Array:
    """A small frame."""
    return noise(*shape, seed=seed, dtype=dtype)


def tiff(pixels: Array | None = None, tags: dict[int, bytes] | None = SIZED, **options: Any) -> Writer:
    """Writes a TIFF of these pixels, those of a good frame if not given."""
    return lambda path: write(path, grey() if pixels is None else pixels, tags, **options)


def changed(change: Callable[[bytes], bytes], writer: Writer | None = None) -> Writer:
    """Writes a file, then changes its bytes."""

    def build(path: Path) -> None:
        (writer or tiff())(path)
        path.write_bytes(change(path.read_bytes()))

    return build


def content(data: bytes) -> Writer:
    """Writes these bytes."""
    return lambda path: path.write_bytes(data)


def retagged(writer: Writer | None = None, **values: Any) -> Writer:
    """Writes a TIFF, then other values into tags that it has."""

    def build(path: Path) -> None:
        (writer or tiff())(path)
        with tifffile.TiffFile(path, mode="r+b") as file:
            tags = file.pages.first.tags
            for name, value in values.items():
                tags[name].overwrite(value)

    return build


def sparse(size: tuple[int, int], *, compression: int = 1, strips: int = 1) -> bytes:
    """A TIFF of one IFD that declares (width, height) 8-bit pixels in strips of which none has data."""
    width, height = size
    each = -(-height // strips)
    entries = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 1, 8),
        (259, 3, 1, compression),
        (262, 3, 1, 1),
        (277, 3, 1, 1),
        (278, 4, 1, each),
    ]
    start = 8 + 2 + 12 * (len(entries) + 2) + 4
    zeros = zlib.compress(bytes(1000))
    places = struct.pack(f"<{2 * strips}I", *[start + 8 * strips] * strips, *[len(zeros)] * strips)
    one = strips == 1
    entries += [
        (273, 4, strips, start + 8 * strips if one else start),
        (279, 4, strips, len(zeros) if one else start + 4 * strips),
    ]
    body = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + bytes(4) + places + zeros


def png_header(width: int, height: int) -> bytes:
    """A PNG that declares a size and holds hundreds of bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100_000)))
    return b"\x89PNG\r\n\x1a\n" + data + chunk(b"IEND", b"")
