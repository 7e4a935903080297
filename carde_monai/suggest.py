"""Suggests fields to annotate while an evaluator segments unlabelled micrographs."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from monai.utils import convert_to_numpy

from carde_monai.errors import Failure, InputError
from carde_monai.handlers.segmentation import micrograph_name
from carde_monai.labels import LabelRule
from carde_monai.sources import find_all
from carde_monai.suggest_files import FOLDS, TABLE, PackedMask, read_places, write_suggestions
from carde_monai.suggest_ranking import Candidate, candidates, choose

logger = logging.getLogger("carde_monai")

SMALLEST = 32  # pixels: a smaller field shows no carbide in its surroundings


class Suggestions:
    """Rank fields of the micrographs that an evaluator segments, and write the best at the end of the run.

    Needs decollated items: ``raw`` (2, H, W), uint8 or uint16, and ``name`` in ``engine.state.batch[i]``,
    ``probability`` (1, H, W) and, if there is one, ``mutual_information`` (1, H, W) in
    ``engine.state.output[i]``. How they are ranked stands in `suggest_ranking`, what is written in
    `suggest_files.write_suggestions`. ``failures`` are micrographs whose fields could not be written.
    InputError for a side or a number that is none, and for a folder that may hold corrected suggestions.

    Args:
        output_dir: folder to write to.
        items: mappings with ``name`` and ``image``, the micrograph's files.
        n: how many fields to suggest.
        field: their side in pixels; 0 for whole micrographs.
        known: folders of earlier suggestions, several with commas; what is in them is not suggested again.
        pixel_size: in micrometres; wins over the files' own.
    """

    def __init__(
        self,
        output_dir: str | Path,
        items: Sequence[Mapping[str, Any]],
        n: int = 5,
        field: int = 512,
        known: str | None = None,
        pixel_size: float | None = None,
    ) -> None:
        if type(field) is not int or (field != 0 and field < SMALLEST):
            raise InputError(
                f"--field {field}", f"is no whole number from {SMALLEST}", "write --field 512, or 0 for all"
            )
        if n < 1:
            raise InputError(f"-n {n}", "suggests nothing", "write -n 5")
        self.output_dir, self.n, self.side, self.pixel_size = Path(output_dir), n, field or None, pixel_size
        _check_unused(self.output_dir)
        self.known = read_places(known)
        self.failures: list[Failure] = []
        self._files = {str(item["name"]): [str(path) for path in item["image"]] for item in items}
        self._pool: list[Candidate] = []
        self._masks: dict[str, PackedMask] = {}

    def attach(self, engine: Engine) -> None:
        """Subscribe to the start, every iteration and the end of a run."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self._complete)

    def _start(self) -> None:
        self.failures.clear()  # the same list, which others may hold
        self._pool, self._masks = [], {}

    def __call__(self, engine: Engine) -> None:
        state: Any = engine.state
        for item, output in zip(state.batch, state.output, strict=True):
            name, shared = micrograph_name(item), output.get("mutual_information")
            greys, probability = convert_to_numpy(item["raw"]), convert_to_numpy(output["probability"])[0]
            disagreement = None if shared is None else convert_to_numpy(shared)[0]
            self._pool += candidates(name, greys, probability, disagreement, self.side)
            self._masks[name] = PackedMask.of(probability > 0.5)

    def _complete(self) -> None:
        choices = choose(self._pool, self.n, self.known)
        self.failures += write_suggestions(
            choices, self._masks, self._files, self.output_dir, self.pixel_size
        )
        if not (self.output_dir / TABLE).is_file():
            logger.warning("%s: there is no field to suggest", self.output_dir)
            return
        folds = self.output_dir / FOLDS
        options = f" --folds {folds}" if folds.is_file() else ""
        if all(len(set(files)) == 1 for files in self._files.values()):
            options += " --detectors 1"
        told = "%s: %d of %d fields; correct each *_label.png, then: carde-monai prepare %s DATA%s"
        logger.info(told, self.output_dir, len(choices), len(self._pool), self.output_dir, options)


def unlabelled(
    items: Sequence[Mapping[str, Any]], folder: str | Path, detectors: int = 2
) -> list[dict[str, Any]]:
    """The items of `sem.scan` for which `prepare` would find no label in ``folder``.

    Raises:
        InputError: there is none.
    """
    if not Path(folder).is_dir():
        return [dict(item) for item in items]
    found, _ = find_all(Path(folder), detectors, None, LabelRule())
    labelled = {path for one in found if one.label for path in one.micrograph.paths}
    left = [dict(item) for item in items if not labelled & set(map(Path, item["image"]))]
    if not left:
        remedy = "give a folder with others, or put the labels elsewhere"
        raise InputError(folder, f"each of its {len(items)} micrographs has a label already", remedy)
    if len(left) < len(items):
        logger.info("%s: %d micrographs have a label and are left out", folder, len(items) - len(left))
    return left


def _check_unused(folder: Path) -> None:
    """Raise InputError if a folder holds micrographs, or labels, which a person may have corrected."""
    if any(next(folder.glob(kind), None) for kind in (TABLE, "*_label.*", "*.tif", "*.tiff")):
        raise InputError(
            folder, "holds micrographs or labels, perhaps corrected ones", "choose another folder"
        )
