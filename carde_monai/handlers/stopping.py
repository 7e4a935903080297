"""Stops a training for a reason: a signal, or numbers that are no longer any."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import torch
from ignite.engine import Engine, Events

from carde_monai.errors import InputError

SIGNALS = signal.SIGINT, signal.SIGTERM


class StopOnSignal:
    """Raises KeyboardInterrupt at the end of the batch in which Ctrl-C was pressed or SIGTERM came.

    A second one stops at once. Attach it to the trainer; the batches of ``evaluator`` count as well.
    """

    def __init__(self, evaluator: Engine | None = None) -> None:
        self.evaluator = evaluator
        self._wanted = False

    def attach(self, engine: Engine) -> None:
        """Listen for signals while ``engine`` runs, and look for one after every batch."""
        for one in filter(None, (engine, self.evaluator)):
            one.add_event_handler(Events.ITERATION_COMPLETED, self)
        run = engine.run

        def interruptible(*args: Any, **kwargs: Any) -> Any:
            with self._listening():
                return run(*args, **kwargs)

        engine.run = interruptible  # type: ignore[method-assign]

    def __call__(self) -> None:
        if self._wanted:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        self._wanted, process = False, os.getpid()
        before = {one: signal.getsignal(one) for one in SIGNALS}

        def note(*_: object) -> None:
            if os.getpid() != process:  # a loader's worker: it ends with the training
                return
            self._wanted = True
            restore()

        def restore() -> None:
            for one, handler in before.items():
                signal.signal(one, handler)

        if threading.current_thread() is not threading.main_thread():  # signals are not for others
            before.clear()
        # an ignored signal stays so (nohup), and one that C code handles cannot be restored
        before = {one: handler for one, handler in before.items() if handler not in (signal.SIG_IGN, None)}
        for one in before:
            signal.signal(one, note)
        try:
            yield
        finally:
            restore()


class FiniteTraining:
    """Raises InputError for a loss that is NaN or infinite; attach it to the trainer before what saves.

    It looks at the weights themselves at the end of an epoch: the last step may have spoilt them.
    """

    def attach(self, engine: Engine) -> None:
        """Subscribe to every loss and to the end of every epoch."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)  # where others wait for the GPU, too
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._check_weights)

    def __call__(self, engine: Engine) -> None:
        output: Any = engine.state.output
        loss = torch.as_tensor((output[0] if isinstance(output, list) else output)["loss"]).item()
        if not math.isfinite(loss):
            raise diverged(engine, f"the loss is {loss}")

    def _check_weights(self, engine: Any) -> None:
        weights = (one for one in engine.network.state_dict().values() if one.is_floating_point())
        if not all(torch.isfinite(one).all() for one in weights):
            raise diverged(engine, "the weights are not finite")


class FiniteValidation:
    """Raises InputError for an output ``key`` that is not finite; attach it to the evaluator.

    MONAI's metrics leave NaN out, so that a network that is all NaN would have the lowest loss of all, 0.
    """

    def __init__(self, key: str = "logit") -> None:
        self.key = key

    def attach(self, engine: Engine) -> None:
        """Subscribe to every iteration."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        if not all(torch.isfinite(item[self.key]).all() for item in engine.state.output):
            raise diverged(engine, "the network's output in the validation is not finite")


def diverged(engine: Engine, wrong: str) -> InputError:
    """What to tell of an engine whose numbers are no longer any: epoch, iteration, files, remedy."""
    state = engine.state
    place = f"epoch {state.epoch}, iteration {state.iteration} ({batch_files(state.batch)})"
    remedy = "the last good weights are kept; look at these files, or train with a lower --learning_rate"
    return InputError(place, wrong, remedy)


def batch_files(batch: Any) -> str:
    """The images of a batch, collated or not, each once; by name where MONAI has lost the file."""
    found: dict[str, None] = {}
    for item in batch if isinstance(batch, list) else [batch]:
        names = getattr(item["image"], "meta", {}).get("filename_or_obj", item.get("name", "unknown files"))
        found.update(dict.fromkeys([names] if isinstance(names, str) else names))
    return ", ".join(found)
