"""The published data sets and where they are; ``scripts/download_data`` is its command line.

The addresses are from what others have published about these places; nothing here was tried on them, as
there is no network where this was written. What is done with an address is tested on a server of the tests.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from carde_monai.errors import INTERRUPTED, WRONG_USAGE, InputError
from carde_monai.replacing import replace_file
from carde_monai.transfer import TIMEOUT, Interrupted, check_address, fetch, open_url
from carde_monai.unpacking import Rule, unpack

logger = logging.getLogger("carde_monai")

SUPER = r"[^/]+/benchmark_segmentation_data/(Super\d/\w+)"
GITHUB = "https://github.com/{}/archive/{}.zip"  # of a commit: what it holds does not change


@dataclass(frozen=True)
class Dataset:
    """A published archive: ``page`` is for people, ``record`` its JSON in an Invenio repository.

    ``rules`` choose and rename the members of the archive; without them all of it is unpacked as it is.
    """

    about: str
    page: str
    url: str
    file: str
    record: str | None = None
    rules: tuple[Rule, ...] = ()
    next_step: str = "carde-monai prepare {folder} prepared"


DATASETS = {
    "carde": Dataset(
        "reactor-pressure-vessel steels, SE2 and InLens, labelled, and carde's weights (Gerçek et al. 2025)",
        "https://rodare.hzdr.de/record/4124",
        "https://rodare.hzdr.de/record/4124/files/data.zip?download=1",
        "data.zip",
        record="https://rodare.hzdr.de/api/records/4124",
        next_step="carde-monai prepare {folder}/cloud/preprocessed prepared",
    ),
    # NIST's server of hdl 11256/964 was reported gone in 2026; MatSeg's copy has the published split, too.
    "uhcs": Dataset(
        "ultrahigh-carbon steel, labels 0 to 3 (DeCost et al. 2019, CC BY-SA), as arranged by MatSeg",
        "https://github.com/lei-bo/MatSeg",
        GITHUB.format("lei-bo/MatSeg", "230101ef029689a88341e4b57dae8e0d5cd5d5c9"),
        "uhcs.zip",
        rules=(Rule(r"[^/]+/data/uhcs/(images/[^/]+\.tif|labels/[^/]+\.npy|splits/[^/]+)", r"\1"),),
        next_step="carde-monai prepare {folder} prepared --detectors 1 --label_value 1,3",
    ),
    "ni-superalloy": Dataset(
        "Ni-base superalloy, labels in colours (Stuckner et al. 2022, MIT), NASA's Super1 to Super4",
        "https://github.com/nasa/pretrained-microscopy-models",
        GITHUB.format("nasa/pretrained-microscopy-models", "63ef39f50220db4c4baad8777fbf1f80d6689442"),
        "ni-superalloy.zip",
        rules=(
            Rule(rf"{SUPER}_annot/([^/]+)_mask\.tif", r"\1/labels/\2.tif"),
            Rule(rf"{SUPER}/([^/]+\.tif)", r"\1/images/\2"),
        ),
        next_step="carde-monai prepare {folder}/Super1 prepared --detectors 1 --label_color 255,0,0",
    ),
}


def download(name: str, dest: str | Path, timeout: float = TIMEOUT) -> Path:
    """Fetch and unpack one of `DATASETS` into ``dest/<name>`` and return that folder; a second call verifies.

    Raises InputError for an unknown name, and for what network, server, archive or disk did.
    """
    if name not in DATASETS:
        raise InputError(name, "is no data set that is known here", f"choose from {', '.join(DATASETS)}")
    dataset, folder = DATASETS[name], Path(dest) / name
    archive = folder / dataset.file
    url, checksum = dataset.url, None
    if dataset.record and not archive.exists():
        url, checksum = look_up(dataset.record, dataset.file, timeout) or (url, None)
    try:
        fetch(url, archive, checksum, timeout)
    except InputError as error:
        if archive.exists():
            raise
        raise InputError(
            name, str(error), f"or take it from {dataset.page} and put it at {archive}"
        ) from error
    unpack(archive, folder, dataset.rules)
    arrays_to_pictures(folder / "labels")
    return folder


def look_up(record: str, file: str, timeout: float = TIMEOUT) -> tuple[str, str | None] | None:
    """Address and checksum (``md5:...``) of a file by the JSON of an Invenio record, or None with a warning.

    Invenio's two generations differ: ``files`` is a list with ``links.self``, or holds ``entries`` with
    ``links.content``.
    """
    try:
        with open_url(record, {"Accept": "application/json"}, timeout) as response:
            files = json.load(response)["files"]
        entries = files if isinstance(files, list) else list(files["entries"].values())
        one = next(entry for entry in entries if entry["key"] == file)
        url = one["links"].get("content") or one["links"]["self"]
        check_address(url)
        checksum = one.get("checksum") or ""
        return url, checksum if checksum.startswith(("md5:", "sha256:")) else None
    except (Interrupted, OSError, ValueError, LookupError, TypeError, AttributeError, StopIteration) as error:
        said = " ".join(str(error).split()) or "it does not list it"
        logger.warning(
            "%s: no checksum of %s to be had (%s); it is recorded, not checked", record, file, said
        )
        return None


def arrays_to_pictures(folder: Path) -> None:
    """Write each NumPy array of class indices below 256 in a folder as a PNG beside it.

    Raises InputError for another array, and for one of Python objects, which could run what it holds.
    """
    for path in sorted(folder.glob("*.npy")):
        try:
            array = np.load(path, allow_pickle=False)
            indices = array.astype(np.uint8)
            fits = array.ndim == 2 and bool((indices == array).all())
        except (ValueError, OSError, EOFError) as error:
            raise InputError(
                path, f"cannot be read as an array ({error})", "delete it and call again"
            ) from error
        if not fits:
            raise InputError(
                path, f"holds {array.dtype} {array.shape}, no class indices", "see the publisher's page"
            )
        replace_file(path.with_suffix(".png"), Image.fromarray(indices).save)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line of ``scripts/download_data``; returns the exit status."""
    lines = [f"  {name:15}{one.about}\n{'':17}{one.page}" for name, one in DATASETS.items()]
    parser = argparse.ArgumentParser(
        prog="download_data",
        description="Fetch published data sets. After an interruption call it again: it goes on.",
        epilog="data sets:\n" + "\n".join(lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="DATASET", help="which ones (default carde)")
    parser.add_argument("--dest", default="data", help="folder to write to (default data)")
    parser.add_argument("--timeout", type=float, default=TIMEOUT, help="seconds that a server may be silent")
    given = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        for name in given.names or ["carde"]:
            folder = download(name, given.dest, given.timeout)
            print(f"{name} is in {folder}; next: {DATASETS[name].next_step.format(folder=folder)}")
    except InputError as error:
        print(error, file=sys.stderr)
        return WRONG_USAGE
    except KeyboardInterrupt:
        print("interrupted; call again, it goes on", file=sys.stderr)
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
