"""What a data list must not do: lead out of its folder, hold a micrograph twice, pair what does not fit."""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

import nibabel

from carde_monai.errors import InputError
from carde_monai.provenance import file_digest

AGAIN = "prepare the data set again"


def check_inside(datalist: Path, listed: str) -> None:
    """Raise InputError for a path that leads out of the data set; into another prepared one it may.

    Links are followed: whoever has made them may read what they point to.
    """
    path = PureWindowsPath(listed)  # which splits at both kinds of slash
    if path.drive or path.root:
        raise InputError(datalist, f"lists the absolute path {listed}", AGAIN)
    root = Path(os.path.normpath(datalist.parent))
    place = Path(os.path.normpath(root / listed))
    if place.is_relative_to(root):
        return
    home = place.parents[1] if len(place.parents) > 1 else place
    if not (home / datalist.name).is_file():
        raise InputError(datalist, f"lists {listed}, which is outside the data set", AGAIN)


def check_copies(datalist: Path, sections: Mapping[str, Iterable[Mapping[str, Any]]]) -> None:
    """Raise InputError if two sections or folds hold the same image under two names."""
    sizes = defaultdict(list)  # files of different sizes need not be read
    for section, items in sections.items():
        for item in items:
            side = f"fold {item['fold']}" if "fold" in item else section
            path = datalist.parent / item["image"]
            with contextlib.suppress(OSError):  # that a file is missing is said elsewhere
                sizes[path.stat().st_size].append((side, item["name"], path))
    for same in sizes.values():
        if len({side for side, *_ in same}) < 2:
            continue
        seen: dict[str, tuple[str, str]] = {}
        for side, name, path in same:
            other, first = seen.setdefault(file_digest(path), (side, name))
            if other != side:
                wrong = f"{name} in {side} is a copy of {first} in {other}"
                raise InputError(datalist, wrong, "remove one from the source and prepare again")


def check_shapes(item: Mapping[str, str]) -> None:
    """Raise InputError for an image or label of another shape than `prepare` writes, by the files' headers.

    Training would cut windows where the two do not fit, in silence. A file that cannot be read is told of
    where its pixels are read.
    """
    shapes = {}
    for key in ("image", "label"):
        with contextlib.suppress(Exception):  # decoders raise whatever a broken file makes them stumble over
            shapes[key] = tuple(nibabel.load(item[key]).shape)
    if len(shapes) < 2:
        return
    (height, width, *rest), label = shapes["image"], shapes["label"]
    if rest != [1, 1, 2]:
        wrong = f"has the shape {shapes['image']}, not (height, width, 1, 1, 2)"
        raise InputError(item["image"], wrong, AGAIN)
    if label != (height, width, 1):
        raise InputError(item["label"], f"has the shape {label} but its image {shapes['image']}", AGAIN)
