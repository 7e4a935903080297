"""A data set in the making: hidden in the folder of the one that it replaces, until it is whole."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from carde_monai import datalist
from carde_monai.errors import InputError
from carde_monai.replacing import replace_text
from carde_monai.stamps import FOLDER, Stamps

HIDDEN = ".preparing"
FORMER = "former"  # folder in the hidden one with the list of the data set that is being replaced
FOLDERS = ("images", "labels", "quicklook")


class Draft:
    """The hidden folder of a data set ``dest``, which outlives a run that is killed, and what is in both.

    The list of the data set goes first and comes last, so that half a data set has none. With ``overwrite``
    nothing is taken from an earlier run. Raises InputError if ``dest`` holds another program's list.
    """

    def __init__(self, dest: Path, overwrite: bool = False) -> None:
        self.dest, self.folder = dest, dest / HIDDEN
        # of the data set, of one that a killed run was replacing, of the one that it was putting in place
        lists = (dest, self.folder / FORMER, self.folder)
        self._former = {path for one in lists for path in _listed(one, dest)}
        if overwrite:
            self.discard()
        self._stamps = Stamps(self.folder)
        self.kept = 0  # micrographs that were found
        self._found = () if overwrite else (self._stamps, Stamps(dest))

    def open(self) -> None:
        """Make the folders to write into."""
        for name in FOLDERS:
            (self.folder / name).mkdir(parents=True, exist_ok=True)

    def find(self, name: str, made_from: Mapping[str, Any]) -> dict[str, Any] | None:
        """The facts of a micrograph that an earlier run has prepared from just this, or None."""
        found = next(filter(None, (stamps.find(name, made_from) for stamps in self._found)), None)
        self.kept += found is not None
        return found

    def stamp(
        self, name: str, made_from: Mapping[str, Any], files: Iterable[str], facts: Mapping[str, Any]
    ) -> None:
        """Note that a micrograph is prepared: these are its files in the hidden folder."""
        self._stamps.write(name, made_from, [self.folder / file for file in files], facts)

    def publish(self, content: Mapping[str, Any]) -> None:
        """Put what ``content``, the new list, names in the place of the former data set."""
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        replace_text(self.folder / datalist.FILE, text)
        if (self.dest / datalist.FILE).exists():
            (self.folder / FORMER).mkdir(exist_ok=True)
            os.replace(self.dest / datalist.FILE, self.folder / FORMER / datalist.FILE)
        wanted = _files(item for section in datalist.SECTIONS for item in content[section])
        root = self.dest.resolve()
        for path in self._former - set(wanted):
            # Whatever a list may name, files outside the data set stay.
            if (root / path).resolve().is_relative_to(root):
                (root / path).unlink(missing_ok=True)
        for path in wanted:
            if (self.folder / path).exists():  # else it is in its place
                (self.dest / path).parent.mkdir(exist_ok=True)
                os.replace(self.folder / path, self.dest / path)
        os.replace(self.folder / datalist.FILE, self.dest / datalist.FILE)
        shutil.rmtree(self.folder, ignore_errors=True)

    def discard(self) -> None:
        """Delete the micrographs in the hidden folder, but not the lists of a killed run."""
        for name in (*FOLDERS, FOLDER):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()


def check_replaced(dataset_dir: Path) -> None:
    """Raise InputError for a data set whose replacing was cut short: its files are of two."""
    if (dataset_dir / HIDDEN / datalist.FILE).exists() and not (dataset_dir / datalist.FILE).exists():
        raise InputError(
            dataset_dir, "prepare was stopped while it replaced this data set", "prepare it again"
        )


def _listed(folder: Path, dest: Path) -> list[str]:
    if not (folder / datalist.FILE).exists():
        return []
    try:
        return _files(item for part in datalist.read(folder).values() for item in part)
    except InputError as error:
        raise InputError(dest, f"holds another program's {datalist.FILE}", "choose another folder") from error


def _files(items: Iterable[Mapping[str, Any]]) -> list[str]:
    """What a data set has of its micrographs, the stamps last."""
    items = list(items)
    paths = [item[key] for item in items for key in ("image", "label") if key in item]
    paths += [f"quicklook/{item['name']}.png" for item in items]
    return paths + [f"{FOLDER}/{item['name']}.json" for item in items]
