"""Which files of a folder are one micrograph: detector images paired by number and by what they say."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from carde_monai.errors import Failure, InputError
from carde_monai.sem_metadata import detector_channel
from carde_monai.sem_pixels import PNG, TIFF, read_file_metadata

# ends of names: what this project writes of a micrograph besides masks, and labels and masks
RESULTS = ("_probability", "_confidence", "_overlay", "_sigma", "_mutual_information")
DERIVED = ("_label", "_labels", "_mask", *RESULTS)
DERIVED_FOLDERS = {"label", "labels", "mask", "masks", "quicklook", "figures"}
NUMBERED = re.compile(r"(?P<stem>.*?)(?P<number>[0-9]{1,18})", re.DOTALL)
CHANNELS = ("SE2", "InLens")
OTHERS = (".png", ".jpg", ".jpeg", ".bmp")  # what microscopes and people save frames as besides TIFF
LONGEST = 255 - len("_mutual_information.tif")  # bytes of a name, so that those of its results fit a disk


@dataclass(frozen=True)
class Micrograph:
    """One field of view: ``paths`` is (SE2, InLens) or one file; ``name`` the odd or only file's stem."""

    name: str
    paths: tuple[Path, ...]


def find_micrographs(
    folder: str | Path, detectors: int = 2, recursive: bool = True, labels: Path | None = None
) -> tuple[list[Micrograph], list[Failure]]:
    """Find the micrographs below a folder, sorted by path, and the files that make none.

    With two detectors ``<stem><odd number>`` is SE2 and the next even number InLens, TIFF, extension in any
    case; with one detector every TIFF or PNG is a micrograph, and ``folder`` may be a single file. Labels,
    masks, overlays and hidden files are passed over, as is the folder ``labels``; folders behind symbolic
    links are not entered. A numbered picture of another format is a failure, unless it is called like one of
    the micrographs, as a label may be. Equal names in different folders are told apart by the folders that
    differ: ``01-02_<stem>``.

    Raises:
        InputError: if the folder does not exist, is a file, or holds no image at all.
    """
    folder = Path(folder)
    if detectors not in (1, 2):
        raise InputError(
            "--detectors", f"{detectors} is not possible", "write --detectors 1 or --detectors 2"
        )
    suffixes = TIFF if detectors == 2 else TIFF + PNG
    if folder.is_file() and detectors == 1 and folder.suffix.lower() in suffixes:
        return [Micrograph(folder.stem, (folder,))], []
    if not folder.is_dir():
        wrong = "is a file" if folder.exists() else "no such folder"
        remedy = "give the folder that holds it" if folder.exists() else "give the folder of the micrographs"
        raise InputError(folder, wrong, remedy)
    pictures = _pictures(folder, recursive)
    files = [path for path in pictures if path.suffix.lower() in suffixes]
    kinds = "TIFF" if detectors == 2 else "TIFF or PNG"
    if not files:
        other = f" but {len(pictures)} other pictures (first {pictures[0].name})" if pictures else ""
        remedy = "export the micrographs as TIFF" if pictures else "give the folder of the microscope's files"
        raise InputError(folder, f"holds no {kinds} files{other}", remedy)
    others = [path for path in pictures if path.suffix.lower() not in suffixes]
    failures = _other_formats(others, files, labels, kinds)
    single = detectors == 1
    found = [Micrograph(path.stem, (path,)) for path in files] if single else _pair(files, failures)
    return with_unique_names(folder, found, failures), failures


def order_pair(first: Path, second: Path, *detectors: str | None) -> tuple[Path, Path]:
    """Put two files in the order (SE2, InLens) by their ``detectors``, the names in their metadata.

    A name that is known wins over the given order, so a consistent swap is put right; where only one file
    names a known detector, the other is its partner.

    Raises:
        InputError: naming both files, if both say that they are of the same detector.
    """
    channels = [detector_channel(detector) for detector in detectors]
    if channels[0] is not None and channels[0] == channels[1]:
        raise InputError(
            f"{first} and {second.name}",
            f"both name the {CHANNELS[channels[0]]} detector ({detectors[0]}, {detectors[1]})",
            "give one file of each, or use --detectors 1",
        )
    return (second, first) if channels[0] == 1 or channels[1] == 0 else (first, second)


def _pictures(folder: Path, recursive: bool) -> list[Path]:
    files = []
    for root, folders, names in os.walk(folder):
        folders[:] = [
            name for name in folders if not name.startswith(".") and name.lower() not in DERIVED_FOLDERS
        ]
        if not recursive:
            folders.clear()
        paths = (Path(root, name) for name in names if not name.startswith("."))
        files += [path for path in paths if path.suffix.lower() in TIFF + OTHERS and not _is_derived(path)]
    return sorted(files)


def _other_formats(
    pictures: Sequence[Path], files: Sequence[Path], labels: Path | None, kinds: str
) -> list[Failure]:
    """Failures of the pictures that are named like frames but are of no format that is read."""
    stems = {path.stem for path in files}
    return [
        _failure(path, f"is no {kinds} file", "export the micrograph as TIFF")
        for path in pictures
        if NUMBERED.fullmatch(path.stem) and path.stem not in stems and labels not in path.parents
    ]


def _is_derived(path: Path) -> bool:
    return path.stem.lower().endswith(DERIVED)


def _pair(files: Iterable[Path], failures: list[Failure]) -> list[Micrograph]:
    series: dict[tuple[Path, str], dict[int, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for path in files:
        match = NUMBERED.fullmatch(path.stem)
        if match is None:
            failures.append(
                _failure(path, "has no number at the end of its name", "rename it <stem>_<number>")
            )
            continue
        number = int(match["number"])
        series[path.parent, match["stem"]][number - 1 + number % 2].append(path)
    found = []
    for (_, stem), pairs in series.items():
        for odd, members in sorted(pairs.items()):
            try:
                found.append(_micrograph(stem, odd, members))
            except InputError as error:
                failures.append(Failure(members[0].stem, str(error)))
    return sorted(found, key=lambda one: (one.paths[0].parent, one.name))


def _micrograph(stem: str, odd: int, members: list[Path]) -> Micrograph:
    """The micrograph of the files whose numbers are ``odd`` and the next one."""
    numbers = [int(path.stem[len(stem) :]) for path in members]
    by_number = dict(zip(numbers, members, strict=True))
    if len(by_number) < len(members):
        names = " and ".join(path.name for path in members)
        raise InputError(members[0].parent, f"{names} share a number", "keep one file a number")
    if odd < 0:
        raise InputError(members[0], "is numbered 0 and has no odd partner", "number the files from 1")
    if len(members) < 2:
        missing = 2 * odd + 1 - numbers[0]
        digits = len(members[0].stem) - len(stem)
        name = f"{stem}{missing:0{digits}}{members[0].suffix}"
        detector = CHANNELS[numbers[0] % 2]
        remedy = "add it, or use --detectors 1"
        raise InputError(members[0], f"its {detector} partner {name} is missing", remedy)
    first, second = by_number[odd], by_number[odd + 1]
    paths = order_pair(first, second, *(read_file_metadata(path).detector for path in (first, second)))
    return Micrograph(first.stem, paths)


def with_unique_names(folder: Path, found: list[Micrograph], failures: list[Failure]) -> list[Micrograph]:
    """Tell equal names apart by the folders that differ.

    Micrographs that cannot be told apart, or whose name cannot name files, are added to the failures.
    """
    same = defaultdict(list)
    for one in found:
        same[one.name].append(one)
    renamed = [member for members in same.values() for member in _told_apart(folder, members)]
    times = Counter(one.name for one in renamed)
    unique = []
    for one in renamed:
        try:
            check_name(one.name, one.paths[0])
            if times[one.name] > 1:
                wrong = f"another file makes a micrograph {one.name}"
                raise InputError(one.paths[0], wrong, "rename one")
            unique.append(one)
        except InputError as error:
            failures.append(Failure(one.paths[0].stem, str(error)))
    order = {one.paths: index for index, one in enumerate(found)}
    return sorted(unique, key=lambda one: order[one.paths])


def check_name(name: str, path: Path) -> None:
    """Raise InputError if the micrograph's name cannot name its results; ``path`` is its file."""
    if (size := len(os.fsencode(name))) > LONGEST:
        wrong = f"the micrograph's name is too long ({size} bytes, the results' need {LONGEST} or less)"
        raise InputError(path, wrong, "rename it")
    # Python keeps bytes of a file's name that are no UTF-8 as lone surrogates
    if any(unicodedata.category(one) in ("Cc", "Cs") for one in name):
        raise InputError(path, "its name holds a character that is none", "rename it")


def _told_apart(folder: Path, members: list[Micrograph]) -> list[Micrograph]:
    """Prefix equal names with the parts of the folders' paths that are not common to all."""
    if len(members) == 1:
        return members
    places = [one.paths[0].relative_to(folder).parts[:-1] for one in members]
    common = set.intersection(*(set(place) for place in places))
    return [
        replace(one, name="_".join([*(part for part in place if part not in common), one.name]))
        for one, place in zip(members, places, strict=True)
    ]


def _failure(path: Path, wrong: str, remedy: str) -> Failure:
    return Failure(path.stem, str(InputError(path, wrong, remedy)))
