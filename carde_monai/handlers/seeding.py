"""Seeds every epoch and iteration of a training."""

from __future__ import annotations

import ignite.distributed as idist
from ignite.engine import Engine, Events
from monai.utils import set_determinism

from carde_monai.seeding import SeededSampler, mixed


class Reseed:
    """Make what an iteration draws depend on seed, process and iteration alone (`carde_monai.seeding`).

    Losses and layers draw from the generators of torch, numpy and Python, which start anew with every
    iteration; ``sampler`` is told the epoch. Attach it to the trainer.
    """

    def __init__(self, seed: int, sampler: SeededSampler) -> None:
        self.seed, self.sampler = seed, sampler

    def attach(self, engine: Engine) -> None:
        """Subscribe to the start of every epoch, before the loader draws, and of every iteration."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        engine.add_event_handler(Events.ITERATION_STARTED, self)

    def _start_epoch(self, engine: Engine) -> None:
        self.sampler.set_epoch(engine.state.epoch)

    def __call__(self, engine: Engine) -> None:
        set_determinism(mixed(self.seed, engine.state.iteration, idist.get_rank()))
