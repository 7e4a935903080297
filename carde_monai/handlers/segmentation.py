"""Writes masks, probabilities and pictures while an evaluator segments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ignite.engine import Engine, Events
from monai.data.utils import affine_to_spacing
from monai.utils import convert_to_numpy

from carde_monai.errors import Failure, InputError
from carde_monai.pictures import Array
from carde_monai.report import write_segmentation
from carde_monai.runs import MOSAIC
from carde_monai.sem import MICRON

if TYPE_CHECKING:
    from carde_monai.finished import FinishedMicrographs


class SegmentationWriter:
    """Write the result files of each micrograph that an evaluator has segmented.

    Needs decollated items: ``engine.state.batch[i]`` with ``raw`` (2, H, W) and ``name`` (or the file name in
    the meta data), ``engine.state.output[i]`` with ``probability`` (1, H, W) and, if they are to be written,
    the ``maps`` (1, H, W). What cannot be written is collected in ``failures``, one entry a micrograph, and
    the rest goes on: a full disk, a name too long, two micrographs of one name (the first is kept).
    ``written`` lists the names that are on the disk. With ``overwrite=False`` results of an earlier run are
    kept, and the micrograph is a failure. ``finished`` is told of each that is wholly written. One micrograph
    is written while the next is segmented; when the run is over, completed or terminated, all are written and
    all ``failures`` known.
    """

    def __init__(
        self,
        output_dir: str | Path,
        overwrite: bool = True,
        maps: Sequence[str] = ("sigma", "mutual_information"),
        finished: FinishedMicrographs | None = None,
    ) -> None:
        self.output_dir, self.maps = Path(output_dir), maps
        self.overwrite, self.finished = overwrite, finished
        self.failures: list[Failure] = []
        self._sources: dict[str, str | None] = {}
        self._thread = ThreadPoolExecutor(1)
        self._task: Future[None] | None = None

    @property
    def written(self) -> list[str]:
        """Names of the micrographs written in this run."""
        self._finish()
        return list(self._sources)

    def attach(self, engine: Engine) -> None:
        """Subscribe to the start of a run, which forgets the run before, every iteration and the end."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.TERMINATE, self._finish)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def _start(self, engine: Engine) -> None:
        self._finish()
        self.failures.clear()  # the same list, which others may hold
        self._sources = {}

    def __call__(self, engine: Engine) -> None:
        state: Any = engine.state
        for item, output in zip(state.batch, state.output, strict=True):
            probability = convert_to_numpy(output["probability"])[0]
            maps = {key: convert_to_numpy(output[key])[0] for key in self.maps if key in output}
            self._finish()  # one at a time: no more than two micrographs are in memory
            self._task = self._thread.submit(self._write, micrograph_name(item), item, probability, maps)
            if probability.size > MOSAIC:
                self._finish()

    def _finish(self) -> None:
        """Wait for the micrograph that is being written."""
        task, self._task = self._task, None
        if task is not None:
            task.result()

    def _write(
        self, name: str, item: Mapping[str, Any], probability: Array, maps: Mapping[str, Array]
    ) -> None:
        raw, source = item["raw"], source_file(item)
        try:
            self._check(name, source)
            image, size = convert_to_numpy(raw), pixel_size_um(raw)
            files = write_segmentation(name, image, probability, self.output_dir, size, maps)
            self._sources[name] = source
            if self.finished is not None:
                self.finished.mark(name, files)
        except (InputError, OSError) as error:
            self.failures.append(Failure.of(name, error))

    def _check(self, name: str, source: str | None) -> None:
        if name in self._sources:
            # The same file twice is no clash: samplers for several processes pad with repetitions.
            if source is None or source != self._sources[name]:
                raise InputError(source or name, "shares its name with another micrograph", "rename one")
        elif not self.overwrite and (self.output_dir / f"{name}_mask.png").exists():
            raise InputError(self.output_dir, "has results of this name", "choose another or overwrite")


def micrograph_name(item: Mapping[str, Any]) -> str:
    """The item's ``name``; without one, the file name of its image without folder and extension."""
    if item.get("name"):
        return str(item["name"])
    source = source_file(item)
    if source is None:
        raise KeyError("a micrograph needs the key 'name' or meta data with 'filename_or_obj'")
    return name_of_file(source)


def name_of_file(source: str) -> str:
    """What a micrograph is called after its file: no folder, no extension."""
    file = Path(source)
    return file.name[: -len(".nii.gz")] if file.name.lower().endswith(".nii.gz") else file.stem


def source_file(item: Mapping[str, Any]) -> str | None:
    """The file that the raw image was read from (the first of a pair), if its meta data says so."""
    source = getattr(item["raw"], "meta", {}).get("filename_or_obj")
    if isinstance(source, list | tuple):
        source = source[0] if source else None
    return str(source) if source is not None else None


def pixel_size_um(image: Any) -> float | None:
    """Pixel size in micrometres from the affine of an image whose meta data says micron; else None."""
    meta = getattr(image, "meta", {})
    if int(meta.get("xyzt_units", 0)) & 7 != MICRON:  # the lower three bits are the unit of space
        return None
    return float(affine_to_spacing(image.affine, r=2)[1])  # along the rows, where the scale bar lies
