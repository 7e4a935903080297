"""Warms up a part of the loss over the first epochs of a training."""

from __future__ import annotations

from typing import Protocol

from ignite.engine import Engine, Events


class Weighted(Protocol):
    """A loss with a weight between 0 and 1, such as `carde_monai.mean_variance.MonteCarloDiceLoss`."""

    weight: float


class WarmUp:
    """Raise ``loss.weight`` linearly from 0 in the first epoch to 1 after ``epochs`` epochs.

    It follows the trainer's epoch, so that a resumed training goes on where it was. ValueError for a number
    of epochs below 1, TypeError for a loss without weight.
    """

    def __init__(self, loss: Weighted, epochs: int = 10) -> None:
        if epochs < 1:
            raise ValueError(f"a warm-up lasts at least one epoch, not {epochs}")
        if not hasattr(loss, "weight"):
            raise TypeError(f"{type(loss).__name__} has no weight to warm up")
        self.loss, self.epochs = loss, epochs

    def attach(self, engine: Engine) -> None:
        """Subscribe to the start of every epoch."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        # ignite counts epochs from 1: the first is plain, number ``epochs`` + 1 the first of full weight
        self.loss.weight = min(1.0, (engine.state.epoch - 1) / self.epochs)
