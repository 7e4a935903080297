"""Micrographs that an earlier run has segmented in just the same way need not be segmented again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tifffile
import torch
from monai.utils import ensure_tuple
from torch import Tensor

from carde_monai.errors import InputError
from carde_monai.provenance import file_digest, program, weight_files
from carde_monai.reading import item_name
from carde_monai.sem_files import RESULTS
from carde_monai.stamps import Stamps, digests
from carde_monai.tracking_facts import running_config

logger = logging.getLogger("carde_monai")

ENGINES = ("torch", "openvino", "monai")

# Settings that do not change masks and probabilities: where things lie, how they are loaded and measured.
FREE = {"imports", "bundle_root", "dataset_dir", "output_dir", "data_root_dir", "weights", "overwrite"}
FREE |= {"split_touching", "min_area", "large", "saltykov", "group_by", "scan", "failures", "warnings"}
FREE |= {"dataset", "dataloader", "finished", "todo", "stored", "writer", "measurement", "progress"}
FREE |= {"passing_over", "handlers", "initialize", "run", "finalize", "device", "backend", "quiet"}


class FinishedMicrographs:
    """Parts the items of a segmentation into ``done``, finished by an earlier run, and ``todo``.

    Done is what was made from the same bytes of the micrograph's files and of all weights, with the same
    settings of the bundle being built, by the same code and engines, if its files are as they were written.
    An item that is done has the file of its probability under ``pred``.

    Args:
        items: mappings with ``image`` (a path or several) and, unless it is called like the first, ``name``.
        output_dir: folder of the results.
        weights: as for `provenance.weight_files`.
        resolved: settings of which the config does not tell the value, such as the device.
        overwrite: whether nothing counts as done.
    """

    def __init__(
        self,
        items: Sequence[Mapping[str, Any]],
        output_dir: str | Path,
        weights: str | Path,
        resolved: Mapping[str, Any] | None = None,
        overwrite: bool = False,
    ) -> None:
        self.output_dir = Path(output_dir)
        self._stamps = Stamps(self.output_dir)
        settings = {name: value for name, value in running_config().items() if name not in FREE}
        text = json.dumps([settings, dict(resolved or {})], sort_keys=True, default=str)
        self._common = {
            "program": program(*ENGINES),
            "weights": [file_digest(file) for file in weight_files(weights)],
            "settings": hashlib.sha256(text.encode()).hexdigest(),
        }
        self._sources = {
            item_name(item): [Path(path) for path in ensure_tuple(item["image"])] for item in items
        }
        self._states = {name: _states(files) for name, files in self._sources.items()}
        self.done: list[dict[str, Any]] = []
        self.todo: list[dict[str, Any]] = []
        for item in items:
            name = item_name(item)
            if not overwrite and self._is_done(name):
                probability = str(self.output_dir / f"{name}_probability.tif")
                self.done.append({**item, "pred": probability})
            else:
                self.todo.append(dict(item))
        if self.done:
            logger.info(
                "%s: %d of %d micrographs are segmented already; --overwrite segments them again",
                self.output_dir,
                len(self.done),
                len(items),
            )

    def _is_done(self, name: str) -> bool:
        if not self._stamps.path(name).is_file():  # then its files need not be read
            return False
        return self._stamps.find(name, self._made_from(name)) is not None

    def _made_from(self, name: str) -> dict[str, Any]:
        return {**self._common, "sources": digests(self._sources[name])}

    def mark(self, name: str, files: Sequence[Path]) -> None:
        """Stamp a micrograph as finished: these are all of its files.

        One whose own files have changed since this run began gets no stamp.
        """
        if name in self._sources and self._states[name] == _states(self._sources[name]):
            self._stamps.write(name, self._made_from(name), files, {})

    def discard(self, name: str) -> None:
        """Remove what an earlier run has written of a micrograph that this one could not segment."""
        kinds = [f"{kind}{suffix}" for kind in ("_mask", *RESULTS) for suffix in (".png", ".tif")]
        for file in (*(self.output_dir / f"{name}{kind}" for kind in kinds), self._stamps.path(name)):
            with contextlib.suppress(OSError):
                file.unlink()


def _states(files: Sequence[Path]) -> list[tuple[int, int]]:
    """Size and time of each file that there is."""
    return [(one.st_size, one.st_mtime_ns) for one in (file.stat() for file in files if file.is_file())]


def read_probability(path: str) -> Tensor:
    """The (1, H, W) probability that `report.write_segmentation` wrote; InputError if it is damaged."""
    try:
        return torch.from_numpy(tifffile.imread(path))[None]
    except Exception as error:  # decoders raise whatever a broken file makes them stumble over
        raise InputError(path, f"cannot be read ({error})", "the same command again makes it anew") from error
