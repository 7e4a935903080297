"""Writing files so that a crash leaves the old one whole."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` write beside ``path``, and put that in its place at once."""
    scratch = path.with_name(f".{path.name}.part")
    try:
        write(scratch)
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def replace_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8 in place of ``path``."""
    replace_file(path, lambda scratch: scratch.write_text(text, encoding="utf-8"))
