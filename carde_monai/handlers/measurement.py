"""Measures the carbides while an evaluator segments, and compares two such measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events
from monai.utils import convert_to_numpy
from tqdm import tqdm

from carde_monai.compare import compare
from carde_monai.errors import Failure, InputError
from carde_monai.gallery import picture_side
from carde_monai.handlers.baseline import decollated
from carde_monai.handlers.segmentation import micrograph_name, pixel_size_um, source_file
from carde_monai.measurement import (
    Field,
    Measured,
    Settings,
    check_group_by,
    measure,
    remove_results,
    sample_name,
    write_results,
)
from carde_monai.memory import give_back


class ParticleMeasurement:
    """Measure the masks of an evaluator; write tables, figures and ``report.html`` at the end of the run.

    Needs decollated items: ``raw`` (2, H, W) with meta data in ``engine.state.batch[i]``, the mask (1, H, W)
    in ``engine.state.output[i][mask]`` and, for the mask ``pred``, the ``probability`` (1, H, W). The sample
    of a micrograph is its ``section``, else its folder below ``root`` or what ``group_by`` finds
    (`measurement.sample_name`). Of several micrographs of one name the first is measured. What cannot be
    written is collected in ``failures``, and the rest goes on.

    Args:
        output_dir: folder for `measurement.write_results` and the ``<name>_labels.tif``.
        mask: key of the mask in the output items.
        settings: arguments of `measurement.Settings`.
        root: folder of the micrographs.
        group_by: regular expression that finds the sample in a micrograph's path.
        told: what the report tells besides: ``title``, ``facts`` (a mapping), ``warnings`` and ``failures``
            (lists of lists, read at the end).
        stored: further items, from an earlier run, measured at the end; in them are both the image's and the
            network's keys. One that cannot be read is its Failure (`carde_monai.reading.Readable`).
    """

    def __init__(
        self,
        output_dir: str | Path,
        mask: str = "pred",
        settings: Mapping[str, Any] | None = None,
        root: str | Path | None = None,
        group_by: str | None = None,
        told: Mapping[str, Any] | None = None,
        stored: Sequence[Mapping[str, Any] | Failure] = (),
    ) -> None:
        self.output_dir, self.mask = Path(output_dir), mask
        self.settings = Settings(**(settings or {}))
        check_group_by(group_by)
        self.root, self.group_by = Path(root) if root else None, group_by
        self.told, self.stored = dict(told or {}), stored
        self.failures: list[Failure] = []
        self.samples: list[str] = []  # their names, after a run
        self._measured: dict[str, Measured] = {}
        self._side = picture_side(1)

    def attach(self, engine: Engine) -> None:
        """Subscribe to the start, every iteration and the end of a run."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self._complete)

    def _start(self, engine: Engine) -> None:
        self.failures.clear()
        self._measured = {}
        if idist.get_rank() == 0:
            remove_results(self.output_dir)
        # of all processes; none of them goes on before the old results are gone
        new = int(idist.all_reduce(engine.state.epoch_length or 0))
        self._side = picture_side(new + len(self.stored))

    def __call__(self, engine: Engine) -> None:
        for item, output in decollated(engine):
            self._measure(item, output)

    def _measure(self, item: Mapping[str, Any], output: Mapping[str, Any]) -> None:
        name = micrograph_name(item)
        if name in self._measured:
            return
        try:
            field = self._field(name, item, output)
            self._measured[name] = measure(field, self.output_dir, self.settings, self._side)
        except (InputError, OSError) as error:
            self.failures.append(Failure.of(name, error))
        give_back()

    def _field(self, name: str, item: Mapping[str, Any], output: Mapping[str, Any]) -> Field:
        raw = item["raw"]
        probability = output.get("probability") if self.mask == "pred" else None
        mask = convert_to_numpy(output[self.mask])[0]
        source = source_file(item)
        sample = item.get("section")
        if sample is None:
            root = self.root or Path(source or ".").parent
            sample = sample_name(Path(source or name), root, self.group_by)
        size = pixel_size_um(raw)
        where = str(getattr(raw, "meta", {}).get("pixel_size_source") or "header of the image")
        return Field(
            name=name,
            sample=str(sample),
            particles=mask if mask.dtype == bool else mask > 0.5,
            pixel_size_um=size,
            pixel_size_source="unknown" if size is None else where,
            image=convert_to_numpy(raw),
            probability=None if probability is None else convert_to_numpy(probability)[0],
        )

    def _measure_stored(self) -> None:
        mine = range(idist.get_rank(), len(self.stored), idist.get_world_size())
        for index in tqdm(mine, desc="measure", unit="micrograph", disable=not mine or mine.start > 0):
            item = self.stored[index]
            if isinstance(item, Failure):
                self.failures.append(item)
            else:
                self._measure(item, item)

    def _complete(self, engine: Engine) -> None:
        self._measure_stored()
        told = _joined(self.told.get("failures", ()))
        parts: Any = idist.all_gather((self._measured, self.failures, told))
        measured = {name: one for part, _, _ in parts for name, one in part.items()}
        self.failures[:] = dict.fromkeys(one for _, part, _ in parts for one in part)
        told = list(dict.fromkeys(one for _, _, part in parts for one in part))
        if idist.get_rank() != 0 or not measured:
            return
        summaries = write_results(
            [measured[name] for name in sorted(measured)],
            self.output_dir,
            self.settings,
            title=self.told.get("title", "Carbides"),
            facts=self.told.get("facts", {}),
            warnings=_joined(self.told.get("warnings", ())),
            failures=[*told, *self.failures],
        )
        self.samples = [one["sample"] for one in summaries]


def _joined(lists: Sequence[Sequence[Any]]) -> list[Any]:
    return [one for each in lists for one in each]


class MeasurementComparison:
    """Compare what two `ParticleMeasurement` of one evaluator have written, sample by sample.

    Attach it after them. Files, below ``output_dir/<sample>``: `compare_report.FILES`. Micrographs whose
    carbides could not be matched are in ``failures``.
    """

    def __init__(
        self, reference: ParticleMeasurement, judged: ParticleMeasurement, output_dir: str | Path
    ) -> None:
        self.reference, self.judged, self.output_dir = reference, judged, Path(output_dir)
        self.failures: list[Failure] = []

    def attach(self, engine: Engine) -> None:
        """Subscribe to the end of a run."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        self.failures.clear()
        if idist.get_rank() != 0:
            return
        for sample in self.judged.samples:
            a, b = (f"{one.output_dir}::{sample}" for one in (self.reference, self.judged))
            dest = self.output_dir / sample
            _, failures = compare(a, b, dest, large_um=self.judged.settings.large)
            self.failures += failures
