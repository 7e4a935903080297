"""Writes masks, probabilities and pictures while an evaluator segments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from monai.data.utils import affine_to_spacing
from monai.utils import convert_to_numpy

from carde_monai.errors import Failure, InputError
from carde_monai.report import write_segmentation
from carde_monai.sem import MICRON


class SegmentationWriter:
    """Write the result files of each micrograph that an evaluator has segmented.

    Needs decollated items: ``engine.state.batch[i]`` with ``raw`` (2, H, W) and ``name`` (or the file name in
    the meta data), ``engine.state.output[i]`` with ``probability`` (1, H, W) and, if they are to be written,
    the ``maps`` (1, H, W). What cannot be written is collected in ``failures``, one entry a micrograph, and
    the rest goes on: a full disk, a name too long, two micrographs of one name (the first is kept).
    ``written`` lists the names that are on the disk. With ``overwrite=False`` results of an earlier run are
    kept, and the micrograph is a failure.
    """

    def __init__(
        self,
        output_dir: str | Path,
        overwrite: bool = True,
        maps: Sequence[str] = ("sigma", "mutual_information"),
    ) -> None:
        self.output_dir, self.maps = Path(output_dir), maps
        self.overwrite = overwrite
        self.failures: list[Failure] = []
        self._sources: dict[str, str | None] = {}

    @property
    def written(self) -> list[str]:
        """Names of the micrographs written in this run."""
        return list(self._sources)

    def attach(self, engine: Engine) -> None:
        """Subscribe to the start of a run, which forgets the run before, and to every iteration."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def _start(self, engine: Engine) -> None:
        self.failures.clear()  # the same list, which others may hold
        self._sources = {}

    def __call__(self, engine: Engine) -> None:
        state: Any = engine.state
        for item, output in zip(state.batch, state.output, strict=True):
            name = micrograph_name(item)
            try:
                self._write(name, item, output)
            except (InputError, OSError) as error:
                self.failures.append(Failure.of(name, error))

    def _write(self, name: str, item: Mapping[str, Any], output: Mapping[str, Any]) -> None:
        source = source_file(item)
        if name in self._sources:
            # The same file twice is no clash: samplers for several processes pad with repetitions.
            if source is None or source != self._sources[name]:
                raise InputError(source or name, "shares its name with another micrograph", "rename one")
        elif not self.overwrite and (self.output_dir / f"{name}_mask.png").exists():
            raise InputError(self.output_dir, "has results of this name", "choose another or overwrite")
        raw, probability = item["raw"], convert_to_numpy(output["probability"])[0]
        maps = {key: convert_to_numpy(output[key])[0] for key in self.maps if key in output}
        size = pixel_size_um(raw)
        write_segmentation(name, convert_to_numpy(raw), probability, self.output_dir, size, maps)
        self._sources[name] = source


def micrograph_name(item: Mapping[str, Any]) -> str:
    """The item's ``name``; without one, the file name of its image without folder and extension."""
    if item.get("name"):
        return str(item["name"])
    source = source_file(item)
    if source is None:
        raise KeyError("a micrograph needs the key 'name' or meta data with 'filename_or_obj'")
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
