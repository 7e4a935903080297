"""The figures of an epoch and their table, from real engines whose loss and learning rate are known."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from engines import CPU, loader, trainer
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator
from monai.handlers import CheckpointLoader, CheckpointSaver, LrScheduleHandler, ValidationHandler

from carde_monai import report
from carde_monai.handlers.history import EpochFigures, History, scalars


def evaluator() -> SupervisedEvaluator:
    """Its metrics in epoch n: val_dice = n / 10, and a vector that is no figure."""
    engine = SupervisedEvaluator(device=CPU, val_data_loader=loader([0.0]), network=torch.nn.Conv2d(1, 1, 1))

    @engine.on(Events.EPOCH_COMPLETED)
    def measure() -> None:
        engine.state.metrics = {"val_dice": torch.tensor(engine.state.epoch / 10), "vector": torch.ones(3)}

    return engine


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


class Collect:
    """A handler that keeps the figures of all epochs."""

    def __init__(self, evaluator: Engine | None = None) -> None:
        self.rows: list[dict[str, float]] = []
        self.figures = EpochFigures(lambda engine, figures: self.rows.append(figures), evaluator)

    def attach(self, engine: Engine) -> None:
        self.figures.attach(engine)


@pytest.mark.parametrize("decollate", [True, False])
def test_the_loss_is_the_mean_over_images_not_over_batches(decollate: bool) -> None:
    collect = Collect()
    trainer([collect], decollate=decollate).run()
    assert [row["epoch"] for row in collect.rows] == [1, 2]
    # batches 0 1 2 3 and 4 5: the mean of the batches' means would be 3.0
    assert [row["loss"] for row in collect.rows] == pytest.approx([2.5, 2.5])


def test_learning_rate_is_that_of_the_epoch_although_the_schedule_has_stepped() -> None:
    collect = Collect()
    engine = trainer([])
    schedule: Any = torch.optim.lr_scheduler.StepLR(engine.optimizer, step_size=1, gamma=0.5)
    LrScheduleHandler(schedule, print_lr=False).attach(engine)
    collect.attach(engine)
    engine.run()
    assert [row["learning_rate"] for row in collect.rows] == pytest.approx([0.1, 0.05])


def test_validation_is_read_after_it_ran_and_only_in_its_epochs() -> None:
    validator = evaluator()
    collect = Collect(validator)
    trainer([collect, ValidationHandler(2, validator)], epochs=4).run()  # stands before the validation
    assert [row.get("val_dice") for row in collect.rows] == [
        None,
        pytest.approx(0.2),
        None,
        pytest.approx(0.4),
    ]
    assert all("vector" not in row for row in collect.rows)


def test_images_per_second_excludes_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("ignite.engine.engine.time.time", lambda: clock[0])
    collect, engine = Collect(), trainer([], epochs=2)

    @engine.on(Events.ITERATION_COMPLETED)
    def compute() -> None:
        clock[0] += 1.5  # two iterations: 3 s for 6 images

    @engine.on(Events.EPOCH_COMPLETED)
    def validate() -> None:
        clock[0] += 100.0

    collect.attach(engine)
    engine.run()
    assert [row["images_per_second"] for row in collect.rows] == pytest.approx([2.0, 2.0])


def test_scalars() -> None:
    metrics = {"a": torch.tensor([2.0]), "b": 3, "c": "text", "d": [1.0], "e": torch.ones(2), "f": True}
    assert scalars(metrics) == {"a": 2.0, "b": 3.0, "f": 1.0}


def test_history_writes_and_draws(tmp_path: Path) -> None:
    validator, path = evaluator(), tmp_path / "models" / "training.csv"
    trainer([History(path, validator), ValidationHandler(1, validator)]).run()
    rows = read(path)
    assert list(rows[0]) == ["epoch", "loss", "learning_rate", "images_per_second", "val_dice"]
    assert [float(row["val_dice"]) for row in rows] == pytest.approx([0.1, 0.2])
    assert (path.parent / "training_curve.png").stat().st_size > 1000
    assert {file.name for file in path.parent.iterdir()} == {"training.csv", "training_curve.png"}


def test_a_new_training_starts_a_new_table_and_a_resumed_one_continues(tmp_path: Path) -> None:
    path, state = tmp_path / "training.csv", tmp_path / "last.pt"
    first = trainer([], epochs=3)
    History(path).attach(first)
    saver = CheckpointSaver(str(tmp_path), {"trainer": first}, save_final=True, final_filename=state.name)
    saver.attach(first)
    first.run()
    resumed = trainer([], epochs=5)
    CheckpointLoader(str(state), {"trainer": resumed}).attach(resumed)
    resumed.add_event_handler(Events.STARTED, lambda: setattr(resumed.state, "max_epochs", 5))
    History(path).attach(resumed)
    resumed.run()
    assert [row["epoch"] for row in read(path)] == ["1", "2", "3", "4", "5"]
    trainer([History(path)], epochs=1).run()
    assert [row["epoch"] for row in read(path)] == ["1"]


def test_an_interrupted_training_keeps_its_rows(tmp_path: Path) -> None:
    path, engine = tmp_path / "training.csv", trainer([], epochs=3)
    History(path).attach(engine)

    @engine.on(Events.ITERATION_COMPLETED(once=5))
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.run()
    assert [row["epoch"] for row in read(path)] == ["1", "2"]


def test_only_rank_0_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ignite.distributed.get_rank", lambda: 1)
    monkeypatch.setattr(report, "training_curve", lambda *_: pytest.fail("drawn by rank 1"))
    trainer([History(tmp_path / "training.csv")]).run()
    assert not list(tmp_path.iterdir())
