"""Stamps of finished micrographs: what each was made from, and the files that were written."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from carde_monai.provenance import file_digest
from carde_monai.replacing import replace_text

FOLDER = ".finished"  # in the folder of the results; a stamp a micrograph


class Stamps:
    """The stamps in a folder of results.

    A stamp is written after the files that it names, and counts only while these are as they were then.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: str) -> Path:
        """Where the stamp of a micrograph lies, if there is one."""
        return self.folder / FOLDER / f"{name}.json"

    def find(self, name: str, made_from: Mapping[str, Any]) -> dict[str, Any] | None:
        """The facts of a micrograph that was finished from just this; None if it was not, or not wholly."""
        try:
            stamp = json.loads(self.path(name).read_text(encoding="utf-8"))
            files, facts = dict(stamp["files"]), dict(stamp["facts"])
            # through JSON, which makes lists of tuples
            same = stamp["made_from"] == json.loads(json.dumps(made_from))
            if same and all(file_digest(self.folder / file) == digest for file, digest in files.items()):
                return facts
        except (OSError, ValueError, KeyError, TypeError):
            pass  # no stamp, not of ours, or a file is missing
        return None

    def write(
        self, name: str, made_from: Mapping[str, Any], files: Iterable[Path], facts: Mapping[str, Any]
    ) -> None:
        """Stamp a micrograph whose ``files``, in this folder, are all written."""
        digests = {file.relative_to(self.folder).as_posix(): file_digest(file) for file in files}
        stamp = {"made_from": made_from, "files": digests, "facts": facts}
        self.path(name).parent.mkdir(exist_ok=True)
        replace_text(self.path(name), json.dumps(stamp, indent=1) + "\n")


def digests(files: Iterable[Path]) -> list[list[str]]:
    """Name and SHA-256 of each file, in this order, each file once; "" for one that cannot be read."""
    return [[file.name, _digest(file)] for file in dict.fromkeys(files)]


def _digest(file: Path) -> str:
    with contextlib.suppress(OSError):
        if file.is_file():
            return file_digest(file)
    return ""
