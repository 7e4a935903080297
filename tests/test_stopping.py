"""Signals and numbers that are no longer any, on tiny real trainers."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from engines import CPU, loader, trainer
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.engines import SupervisedEvaluator

from carde_monai.errors import InputError
from carde_monai.handlers.stopping import FiniteTraining, FiniteValidation, StopOnSignal, batch_files


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as carde_monai.bundles.run has it
    yield
    for one, handler in before.items():
        signal.signal(one, handler)


class At:
    """Does something in the middle of an iteration of a trainer, and counts those that are completed."""

    def __init__(self, iteration: int, act: Callable[[Engine], object]) -> None:
        self.iteration, self.act, self.completed = iteration, act, 0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_STARTED, self)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._count)

    def __call__(self, engine: Engine) -> None:
        if engine.state.iteration == self.iteration:
            self.act(engine)

    def _count(self) -> None:
        self.completed += 1


def send(*signals: int) -> Callable[[Engine], None]:
    def act(engine: Engine) -> None:
        for one in signals:
            os.kill(os.getpid(), one)

    return act


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_after_the_batch(sent: int) -> None:
    at = At(3, send(sent))
    engine = trainer([at, StopOnSignal()], epochs=3)
    with pytest.raises(KeyboardInterrupt):
        engine.run()
    assert (at.completed, engine.state.iteration, engine.state.epoch) == (3, 3, 2)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_stops_at_once(second: int) -> None:
    at = At(3, send(signal.SIGINT, second))
    with pytest.raises(KeyboardInterrupt):
        trainer([at, StopOnSignal()], epochs=3).run()
    assert at.completed == 2


def test_an_ignored_signal_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # nohup, and what a script starts with &
    at = At(1, send(signal.SIGINT))
    trainer([at, StopOnSignal()]).run()
    assert at.completed == 4 and signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def evaluator(handlers: list[Any], logit: float = 0.0) -> SupervisedEvaluator:
    """Its output has ``logit`` in every pixel."""
    network = torch.nn.Conv2d(1, 1, 1)
    torch.nn.init.zeros_(network.weight)
    torch.nn.init.constant_(network.bias, logit)
    data = loader([0.0, 1.0, 2.0, 3.0, 4.0])
    return SupervisedEvaluator(device=CPU, val_data_loader=data, network=network, val_handlers=handlers)


def test_a_signal_stops_the_validation_after_its_batch() -> None:
    at = At(1, send(signal.SIGINT))
    validator = evaluator([at])
    engine = trainer([StopOnSignal(validator)])
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: validator.run())
    with pytest.raises(KeyboardInterrupt):
        engine.run()
    assert (at.completed, engine.state.epoch) == (1, 1)


@pytest.mark.parametrize("decollate", [True, False])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_ends_the_training(value: float, decollate: bool) -> None:
    engine = trainer([FiniteTraining()], epochs=3, decollate=decollate)
    engine.loss_function = lambda prediction, label: (
        prediction.mean() * (value if engine.state.iteration == 3 else 1)
    )
    saved = []
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: saved.append(engine.state.epoch))
    with pytest.raises(InputError) as error:
        engine.run()
    assert "epoch 2, iteration 3 (unknown files): the loss is " in str(error.value)
    assert saved == [1]


def test_weights_that_are_no_numbers_do_not_end_an_epoch() -> None:
    """The last step of an epoch spoils them: no loss has told yet."""
    engine = trainer([FiniteTraining()])
    saved = []
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: saved.append(engine.state.epoch))

    @engine.on(Events.ITERATION_COMPLETED(once=4))
    def spoil() -> None:
        torch.nn.init.constant_(engine.network.bias, float("nan"))

    with pytest.raises(InputError, match=r"epoch 2, iteration 4 .*the weights are not finite"):
        engine.run()
    assert saved == [1]


def test_an_output_that_is_no_number_ends_the_validation() -> None:
    evaluator([FiniteValidation("pred")]).run(1)
    with pytest.raises(InputError, match=r"epoch 7, iteration 1 .*output in the validation is not finite"):
        evaluator([FiniteValidation("pred")], float("inf")).run(7)


def test_the_files_of_a_batch() -> None:
    image = MetaTensor(
        torch.zeros(3, 1, 2, 2), meta={"filename_or_obj": ["a.nii.gz", "a.nii.gz", "b.nii.gz"]}
    )
    assert batch_files({"image": image}) == ["a.nii.gz", "b.nii.gz"]
    items = [{"image": MetaTensor(torch.zeros(1), meta={"filename_or_obj": name})} for name in "cdc"]
    assert batch_files(items) == ["c", "d"]
    assert batch_files({"image": torch.zeros(2), "name": ["e", "f"]}) == ["e", "f"]
    assert batch_files([{"image": torch.zeros(1), "name": "g"}]) == ["g"]
    files = {"e": "/data/images/e.nii.gz", "f": "f.nii.gz"}
    assert batch_files({"image": torch.zeros(2), "name": ["e", "f"]}, files, "/data") == [
        "images/e.nii.gz",
        "f.nii.gz",
    ]
