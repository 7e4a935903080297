"""Archives from elsewhere, unpacked without trust: nothing lands outside the folder, nothing fills the disk.

MONAI's ``extractall`` takes a folder that is not empty for unpacked, and what zipfile does with a member that
wants to go elsewhere is to put it somewhere else; here such an archive is refused before a byte is written.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple

from tqdm import tqdm

from carde_monai.errors import InputError

LIMIT = 20 * 2**30  # bytes unpacked; a small archive can declare more than disks hold
CHUNK = 1 << 20


class Rule(NamedTuple):
    """Members whose whole name matches ``pattern`` are unpacked as ``target``, with groups as in `re.sub`."""

    pattern: str
    target: str


def unpack(
    archive: str | Path, dest: str | Path, rules: Sequence[Rule] = (), limit: int = LIMIT
) -> list[Path]:
    """Unpack a zip archive below ``dest`` and return its files; those that are there already are left alone.

    With ``rules`` only members that match one are unpacked. A file appears when it is whole.

    Raises:
        InputError: the archive is damaged, encrypted, wants to write outside ``dest`` or links, declares more
            than ``limit`` bytes, holds nothing that is wanted, or does not fit on the disk.
    """
    archive, dest = Path(archive), Path(dest)
    try:
        with zipfile.ZipFile(archive) as opened:
            for member in opened.infolist():
                _check(archive, member)
            wanted = _choose(archive, opened.infolist(), dest, rules, limit)
            for member, path in tqdm(wanted, desc=f"unpack {archive.name}", unit="file", disable=None):
                _extract(opened, member, path)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:  # RuntimeError: encrypted
        said = " ".join(str(error).split())
        raise InputError(
            archive, f"cannot be unpacked ({said})", "delete it and download it again"
        ) from error
    except OSError as error:
        wrong = f"cannot be written or read ({error.strerror or error})"
        raise InputError(error.filename or dest, wrong, "check the folder and the disk") from error
    return [path for _, path in wanted]


def _check(archive: Path, member: zipfile.ZipInfo) -> None:
    """Raise InputError for a member that is no plain file or folder with a plain name below the root.

    ``orig_filename`` is the name before zipfile has cut it at a zero byte and turned the separators.
    """
    name = member.orig_filename
    kind = stat.S_IFMT(member.external_attr >> 16)
    windows = PureWindowsPath(name)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        wrong = f"holds a link or device ({name!r})"
    elif windows.drive or windows.root or ".." in windows.parts or "\\" in name or "\0" in name:
        wrong = f"wants to write outside its folder ({name!r})"
    else:
        return
    raise InputError(archive, wrong, "it is not unpacked: fetch it from its publisher, and look at it")


def _choose(
    archive: Path, members: Sequence[zipfile.ZipInfo], dest: Path, rules: Sequence[Rule], limit: int
) -> list[tuple[zipfile.ZipInfo, Path]]:
    """The files to unpack and where to, after a look at their number of bytes."""
    wanted = []
    for member in members:
        name = member.filename if not rules else _renamed(member.filename, rules)
        if not name or member.is_dir():
            continue
        path = dest / PurePosixPath(name)
        if not path.resolve().is_relative_to(dest.resolve()):  # through a link that was there before
            raise InputError(path, f"is outside {dest}", "remove the link")
        wanted.append((member, path))
    if not wanted:
        raise InputError(archive, "holds nothing that is wanted", "its publisher may have rearranged it")
    size = sum(member.file_size for member, _ in wanted)
    if size > limit:
        wrong = f"would unpack to {size / 2**30:.1f} GiB, more than {limit / 2**30:.1f}"
        raise InputError(archive, wrong, "it is not unpacked: look at it")
    dest.mkdir(parents=True, exist_ok=True)
    missing = sum(member.file_size for member, path in wanted if not path.exists())
    if missing > (free := shutil.disk_usage(dest).free):
        wrong = f"{missing / 1e9:.1f} GB are to be unpacked but {free / 1e9:.1f} GB free"
        raise InputError(dest, wrong, "make room or choose another folder")
    return wanted


def _renamed(name: str, rules: Sequence[Rule]) -> str | None:
    found = ((re.fullmatch(rule.pattern, name), rule.target) for rule in rules)
    return next((match.expand(target) for match, target in found if match), None)


def _extract(opened: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> None:
    """Write one file, unless it is there with the same bytes. zipfile never gives more than was declared."""
    if path.is_file() and path.stat().st_size == member.file_size and _crc(path) == member.CRC:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    with opened.open(member) as source, part.open("wb") as target:
        shutil.copyfileobj(source, target, CHUNK)
    os.replace(part, path)


def _crc(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while block := file.read(CHUNK):
            crc = zlib.crc32(block, crc)
    return crc
