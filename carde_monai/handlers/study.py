"""What a study records of an evaluation besides its scores: calibration of all pixels together, and masks."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
from ignite.engine import Engine, Events
from monai.utils import convert_to_numpy
from PIL import Image

from carde_monai.calibration import LogitHistogram, reliability
from carde_monai.handlers.baseline import decollated
from carde_monai.handlers.segmentation import micrograph_name
from carde_monai.handlers.temperature import total_temperature
from carde_monai.pictures import save_png
from carde_monai.replacing import replace_file, replace_text

logger = logging.getLogger("carde_monai")


class PooledReliability:
    """Reliability points, ECE, NLL and Brier score of all pixels of a section, before and after calibration.

    Needs decollated items with ``section`` in the batch, ``logit`` and ``label`` in the output. Writes
    ``path``: ``bins``, ``temperature`` (that is folded into ``checkpoint``, 1 if none) and for each section
    ``scaled``, the network as it is evaluated, and ``raw``, with its logits times that temperature. Puts
    ``<section>_ece_<raw or scaled>`` and ``..._nll_...`` into ``engine.state.metrics``. A section whose
    pixels are all of one class is left out, with a warning.
    """

    def __init__(self, path: str | Path, checkpoint: str | Path, bins: int = 30) -> None:
        if bins < 1:
            raise ValueError(f"a reliability curve needs at least one bin, not {bins}")
        self.path, self.checkpoint, self.bins = Path(path), Path(checkpoint), bins
        self._histograms: dict[str, LogitHistogram] = {}

    def attach(self, engine: Engine) -> None:
        """Subscribe to the start, every iteration and the end of a run."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self._complete)

    def _start(self) -> None:
        self._histograms = {}

    def __call__(self, engine: Engine) -> None:
        for item, output in decollated(engine):
            histogram = self._histograms.setdefault(str(item["section"]), LogitHistogram())
            histogram.update(output["logit"], output["label"])

    def _complete(self, engine: Engine) -> None:
        parts: Any = idist.all_gather(sorted(self._histograms))
        temperature = total_temperature(self.checkpoint)
        found: dict[str, Any] = {}
        for section in sorted({name for part in parts for name in part}):
            histogram = self._histograms.get(section, LogitHistogram()).all_reduce()
            try:
                found[section] = {
                    "scaled": asdict(reliability(histogram, 1.0, self.bins)),
                    "raw": asdict(reliability(histogram, 1 / temperature, self.bins)),
                }
            except ValueError as error:
                logger.warning("%s: no calibration figures of the section %s (%s)", self.path, section, error)
                continue
            for kind, figures in found[section].items():
                engine.state.metrics |= {f"{section}_{key}_{kind}": figures[key] for key in ("ece", "nll")}
        if idist.get_rank() == 0:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            content = {"bins": self.bins, "temperature": temperature, "sections": found}
            replace_text(self.path, json.dumps(content, indent=2, allow_nan=False) + "\n")


class MaskWriter:
    """Write the masks of an evaluation as ``<name>_<kind>.png`` (0/255), size of the micrograph.

    ``kinds`` are pairs (kind, key in the output items); those without are passed over.
    """

    def __init__(
        self,
        output_dir: str | Path,
        kinds: Sequence[Sequence[str]] = (("network", "pred"), ("baseline", "baseline")),
    ) -> None:
        self.output_dir, self.kinds = Path(output_dir), kinds

    def attach(self, engine: Engine) -> None:
        """Subscribe to every iteration."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        self.output_dir.mkdir(parents=True, exist_ok=True)
        for item, output in decollated(engine):
            for kind, key in self.kinds:
                if key in output:
                    mask = (convert_to_numpy(output[key])[0] > 0.5).astype(np.uint8) * 255
                    path = self.output_dir / f"{micrograph_name(item)}_{kind}.png"
                    replace_file(path, partial(save_png, Image.fromarray(mask)))
