"""Writing files so that a crash leaves the old ones whole."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

LOCK = ".carde-monai.lock"  # in a folder that a run writes into
PART = ".part_"  # begins the names of what is being written
DEPTHS = ("", "*/", "*/*/")  # of the folders that a run writes into, below its own


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` write beside ``path``, and put that in its place at once."""
    # the end of the name stays, for many writers take the format from it
    scratch = path.with_name(f"{PART}{path.name}")
    try:
        write(scratch)
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def replace_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8 in place of ``path``, the ends of its lines as they are."""
    replace_file(path, lambda scratch: scratch.write_text(text, encoding="utf-8", newline=""))


@contextlib.contextmanager
def all_or_none(dest: Path) -> Iterator[Path]:
    """A hidden folder in ``dest``, which is made, for files that are put in place together at the end.

    Sub-folders keep their places. After an error nothing is put in place.
    """
    dest.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=PART, dir=dest) as name:
        folder = Path(name)
        yield folder
        move_files(folder, dest)


def move_files(folder: Path, dest: Path) -> None:
    """Move all files below ``folder`` to the same places below ``dest``, in the order of their names."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        target = dest / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed run was writing in a folder; only while no other run writes there.

    Folders below that have a lock of their own are left to whoever claims them.
    """
    for left in [path for depth in DEPTHS for path in folder.glob(f"{depth}{PART}*")]:
        between = left.relative_to(folder).parents
        if any((folder / parent / LOCK).exists() for parent in between if parent.parts):
            continue
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                left.unlink()
