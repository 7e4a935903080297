"""Goes on with a training that was stopped or killed, as if it never had been."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint

from carde_monai.errors import InputError
from carde_monai.handlers.saving import Replace
from carde_monai.tracking import flatten_config, running_config
from carde_monai.tracking_facts import content_mark

logger = logging.getLogger("carde_monai")

# Settings that may differ when a training goes on: where things lie, how it runs, how long, its records
FREE = {"bundle_root", "dataset_dir", "ckpt_dir", "output_dir", "state_file", "run_file", "tracking_uri"}
FREE |= {"device", "num_workers", "quiet", "resume", "max_epochs", "early_stop_patience", "weights"}
FREE |= {"experiment_name", "run_name", "run_tags", "run_artifacts", "backend"}


Data = Mapping[str, Mapping[str, str]]


def read_state(path: str | Path, data: Data) -> dict[str, Any]:
    """What `LastState` wrote of a training that has the settings of the bundle being built, and this data.

    Raises:
        InputError: there is no such file, it cannot be read, or it is of a training with other settings or
            other data (`data_marks`).
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(path, "there is no training to resume", "train without --resume")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        settings, former = state["training"]["settings"], state["training"]["data"]
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
        wrong = f"cannot be read as the state of a training ({type(error).__name__})"
        raise InputError(path, wrong, "train anew, without --resume") from error
    now = _settings()
    other = [f"--{name} {settings[name]}" for name in settings if settings[name] != now.get(name)]
    other += [f"no --{name}" for name in now if name not in settings]
    if other:
        told = ", ".join(other[:3]) + (", …" if len(other) > 3 else "")
        remedy = "give the options and overlays of that training again, or train anew, without --resume"
        raise InputError(path, f"this training began with other settings ({told})", remedy)
    if told := _difference(former, data):
        remedy = "train anew, without --resume, or restore the data set"
        raise InputError(path, f"this training began with other data ({told})", remedy)
    return state


def data_marks(**sections: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """What tells the content of image and label of each micrograph, by section and name, in their order.

    Where the files lie does not count, nor do micrographs of other sections, nor how a file is compressed.
    """
    return {section: {str(one["name"]): _mark(one) for one in items} for section, items in sections.items()}


def _mark(item: Mapping[str, Any]) -> str:
    try:
        return " ".join(content_mark(Path(item[key])).hex() for key in ("image", "label"))
    except OSError:
        return ""  # whoever reads the file tells what is wrong with it


def _difference(former: Data, data: Data) -> str:
    """How two `data_marks` differ, by the first section and micrograph; nothing if they do not."""
    for section, now in data.items():
        then = former.get(section, {})
        if others := sorted(then.keys() ^ now.keys()):
            return f"{others[0]} was {'not ' if others[0] in now else ''}in {section}"
        if changed := [name for name in now if now[name] != then[name]]:
            return f"image or label of {changed[0]} in {section} were others"
        if list(now) != list(then):
            return f"the {section} micrographs were in another order"
    return ""


def _settings() -> dict[str, str]:
    config = {name: value for name, value in running_config().items() if name not in FREE}
    return {name.replace("::", "#"): value for name, value in flatten_config(config).items()}


class LastState:
    """Keeps in ``path`` what a training needs to go on after its last finished epoch, whole at any moment.

    Args:
        path: file to write, on rank 0.
        objects: what changes in a training and has ``state_dict`` and ``load_state_dict``, by name. The
            random state is not among it, for `carde_monai.handlers.seeding.Reseed` derives it.
        evaluator: whose best metric and its epoch are kept, too.
        data: `data_marks` of what it learns from.
        saved: what `read_state` read, to go on from there; None for a new training.
    """

    def __init__(
        self,
        path: str | Path,
        objects: Mapping[str, Any],
        evaluator: Engine,
        data: Data,
        saved: dict[str, Any] | None = None,
    ) -> None:
        self.path, self.objects, self.saved = Path(path), dict(objects), saved
        self.evaluator: Any = evaluator
        self.trainer: Any = None
        self._settings, self._data = _settings(), {name: dict(one) for name, one in data.items()}
        self._epoch = None if saved is None else int(saved["training"]["epoch"])  # of what ``path`` holds
        self._checkpoint = Checkpoint(
            {**self.objects, "training": self},
            Replace(self.path),
            score_function=lambda engine: engine.state.epoch,
            greater_or_equal=True,
        )

    def attach(self, engine: Engine) -> None:
        """Subscribe to the start of a run, to come after all others at the end of every epoch."""
        self.trainer = engine
        engine.add_event_handler(Events.STARTED, self._start)

    def _start(self, engine: Engine) -> None:
        if self.saved is None:
            self._save(engine)  # killed in the first epoch, it goes on, too
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        # A training is finished when all that follows its last epoch is done as well
        if engine.state.epoch < engine.state.max_epochs and not engine.should_terminate:
            self._save(engine)

    def run(self, trainer: Engine) -> None:
        """Run the trainer, from the saved state if there is one; do nothing if that training has finished.

        Raises:
            KeyboardInterrupt: it was stopped; the message tells how to go on.
            InputError: the saved state does not fit.
        """
        if self.saved is not None:
            if self._has_finished(self.saved["training"], trainer):
                return
            self._load(trainer, self.saved)
        try:
            trainer.run()
        except KeyboardInterrupt as stop:
            if self._epoch is None:
                raise
            hint = f"the same command with --resume goes on after epoch {self._epoch} ({self.path})"
            raise KeyboardInterrupt(f"stopped in epoch {trainer.state.epoch}; {hint}") from stop
        except Exception:
            if not self._epoch:  # a mistake in the settings, mostly, and nothing to go on from
                self.path.unlink(missing_ok=True)
            raise
        self._save(trainer)

    def _save(self, engine: Engine) -> None:
        self._checkpoint(engine)
        self._epoch = engine.state.epoch

    def _has_finished(self, told: Mapping[str, Any], trainer: Any) -> bool:
        if told["epoch"] < trainer.state.max_epochs and not told["stopped"]:
            return False
        best = f"best {told['best_metric']:.4f} in epoch {told['best_metric_epoch']}"
        logger.info("%s: this training has finished after epoch %d (%s)", self.path, told["epoch"], best)
        return True

    def _load(self, trainer: Engine, saved: dict[str, Any]) -> None:
        try:
            Checkpoint.load_objects({**self.objects, "training": self}, saved)
        except (RuntimeError, ValueError, KeyError) as error:
            wrong = f"does not fit ({type(error).__name__}: {error})"[:300]
            raise InputError(self.path, wrong, "train anew, without --resume") from error
        logger.info("going on after epoch %d of %d", trainer.state.epoch, trainer.state.max_epochs)

    def state_dict(self) -> dict[str, Any]:
        """How far the training is, whether it has ended early, its settings, data and best metric."""
        trainer, best = self.trainer.state, self.evaluator.state
        return {
            "epoch": trainer.epoch,
            "stopped": bool(self.trainer.should_terminate),
            "settings": self._settings,
            "data": self._data,
            "best_metric": float(best.best_metric),
            "best_metric_epoch": best.best_metric_epoch,
        }

    def load_state_dict(self, told: Mapping[str, Any]) -> None:
        """Put trainer and evaluator at the end of that epoch."""
        length, epochs = self.trainer.state.epoch_length, self.trainer.state.max_epochs
        self.trainer.load_state_dict({"epoch": told["epoch"], "max_epochs": epochs, "epoch_length": length})
        self.evaluator.state.best_metric = told["best_metric"]
        self.evaluator.state.best_metric_epoch = told["best_metric_epoch"]
