"""The figures of every epoch: computed once here, written to a table and drawn (``History``)."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events

from carde_monai import report
from carde_monai.replacing import replace_text


def scalars(metrics: dict[str, Any]) -> dict[str, float]:
    """Those of the metrics that are a single number, as floats."""
    found = {}
    for name, value in metrics.items():
        value = value.item() if getattr(value, "numel", lambda: 0)() == 1 else value
        if isinstance(value, (int, float)):
            found[name] = float(value)
    return found


class EpochFigures:
    """Calls ``use(engine, figures)`` at the end of every epoch of a trainer, after the other handlers.

    Figures: ``epoch``; ``loss``, mean over the images; ``learning_rate``, in force in the last iteration;
    ``images_per_second``, loading and training without validation; the scalars of ``evaluator.state.metrics``
    if the evaluator ran in this epoch. They cover all ranks: attach it on all ranks or on none.
    """

    def __init__(
        self, use: Callable[[Engine, dict[str, float]], None], evaluator: Engine | None = None
    ) -> None:
        self.use, self.evaluator = use, evaluator
        self._loss, self._images, self._rate = 0.0, 0.0, float("nan")

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self._reset)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        engine.add_event_handler(Events.STARTED, self._come_last)

    def _come_last(self, engine: Engine) -> None:
        # Handlers act in the order of attaching. At STARTED all others are attached, so that the validation
        # and the schedules have run before this one, wherever it stands in the config's list.
        if not engine.has_event_handler(self, Events.EPOCH_COMPLETED):
            engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def _reset(self) -> None:
        self._loss, self._images = 0.0, 0.0

    def _add(self, engine: Any) -> None:
        output: Any = engine.state.output
        decollated = isinstance(output, list)
        images = len(output) if decollated else len(output["image"])
        loss = (output[0] if decollated else output)["loss"]
        self._loss += images * torch.as_tensor(loss).item()
        self._images += images
        self._rate = engine.optimizer.param_groups[0]["lr"]

    def __call__(self, engine: Engine) -> None:
        loss, images = (float(idist.all_reduce(value)) for value in (self._loss, self._images))
        seconds = engine.state.times[Events.EPOCH_COMPLETED.name] or float("nan")
        figures = {
            "epoch": engine.state.epoch,
            "loss": loss / images if images else float("nan"),
            "learning_rate": self._rate,
            # ignite times the epoch without the handlers of EPOCH_COMPLETED, hence without the validation
            "images_per_second": images / seconds,
        }
        if self.evaluator is not None and self.evaluator.state.epoch == engine.state.epoch:
            figures |= scalars(self.evaluator.state.metrics)
        self.use(engine, figures)


class History:
    """Writes ``path`` (CSV, one row an epoch) while a training runs, then ``<stem>_curve.png`` beside it.

    Columns: `EpochFigures`. The file is whole at any time. Rows of this and later epochs are replaced, so
    that a new training starts a new table and a resumed one continues the old. Only rank 0 writes.
    """

    def __init__(self, path: str | Path, evaluator: Engine | None = None) -> None:
        self.path, self.evaluator = Path(path), evaluator

    def attach(self, engine: Engine) -> None:
        EpochFigures(self, self.evaluator).attach(engine)
        engine.add_event_handler(Events.COMPLETED, self.draw)

    def __call__(self, engine: Engine, figures: dict[str, float]) -> None:
        if idist.get_rank() != 0:
            return
        rows: list[dict[str, Any]] = []
        if figures["epoch"] > 1 and self.path.exists():
            with self.path.open(newline="") as file:
                rows = [row for row in csv.DictReader(file) if int(row["epoch"]) < figures["epoch"]]
        rows.append(figures)
        columns = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO()
        table = csv.DictWriter(text, columns, restval="")
        table.writeheader()
        table.writerows(rows)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(self.path, text.getvalue())

    def draw(self) -> None:
        if idist.get_rank() == 0 and self.path.exists():
            report.training_curve(self.path, self.path.with_name(f"{self.path.stem}_curve.png"))
