"""Stops a training for a reason: a signal, or numbers that are no longer any."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
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

    It looks at the weights themselves at the end of an epoch: the last step may have spoilt them. The message
    names the batch's images; ``data`` are the items of the data set with their files, which batches of crops
    do not have, and ``root`` its folder.
    """

    def __init__(self, data: Sequence[Mapping[str, Any]] = (), root: str | Path | None = None) -> None:
        self._files = {str(one["name"]): str(one["image"]) for one in data}
        self._root = root

    def attach(self, engine: Engine) -> None:
        """Subscribe to every loss and to the end of every epoch."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)  # where others wait for the GPU, too
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._check_weights)

    def __call__(self, engine: Engine) -> None:
        output: Any = engine.state.output
        loss = torch.as_tensor((output[0] if isinstance(output, list) else output)["loss"]).item()
        if not math.isfinite(loss):
            raise self._diverged(engine, f"the loss is {loss}")

    def _check_weights(self, engine: Any) -> None:
        weights = (one for one in engine.network.state_dict().values() if one.is_floating_point())
        if not all(torch.isfinite(one).all() for one in weights):
            raise self._diverged(engine, "the weights are not finite")

    def _diverged(self, engine: Engine, wrong: str) -> InputError:
        return diverged(engine, wrong, self._files, self._root)


class FiniteValidation:
    """Raises InputError for an output ``key`` that is not finite; attach it to the evaluator.

    MONAI's metrics leave NaN out, so that a network that is all NaN would have the lowest loss of all, 0. The
    message names the batch's images, relative to ``root``, the data set's folder.
    """

    def __init__(self, key: str = "logit", root: str | Path | None = None) -> None:
        self.key, self._root = key, root

    def attach(self, engine: Engine) -> None:
        """Subscribe to every iteration."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        if not all(torch.isfinite(item[self.key]).all() for item in engine.state.output):
            raise diverged(engine, "the network's output in the validation is not finite", root=self._root)


def diverged(
    engine: Engine, wrong: str, files: Mapping[str, str] | None = None, root: str | Path | None = None
) -> InputError:
    """What to tell of an engine whose numbers are no longer any: epoch, iteration, files, remedy."""
    state = engine.state
    names = ", ".join(batch_files(state.batch, files, root))
    place = f"epoch {state.epoch}, iteration {state.iteration} ({names})"
    remedy = "the last good weights are kept; look at these files, or train with a lower --learning_rate"
    return InputError(place, wrong, remedy)


def batch_files(
    batch: Any, files: Mapping[str, str] | None = None, root: str | Path | None = None
) -> list[str]:
    """The images of a batch, collated or not, each once, relative to ``root``.

    Where MONAI has lost the file it is that of ``files``, by the micrograph's name, else the name itself.
    """
    found: dict[str, None] = {}
    for item in batch if isinstance(batch, list) else [batch]:
        names = getattr(item["image"], "meta", {}).get("filename_or_obj", item.get("name", "unknown files"))
        found.update(dict.fromkeys([names] if isinstance(names, str) else names))
    paths = (files.get(name, name) if files else name for name in map(str, found))
    return [os.path.relpath(path, root) if root and os.path.isabs(path) else path for path in paths]
