"""Checkpoints that are whole at any moment, whatever kills the program."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import ignite.distributed as idist
import torch
from ignite.handlers.checkpoint import BaseSaveHandler
from monai.handlers import CheckpointSaver

from carde_monai.errors import InputError
from carde_monai.replacing import replace_file


class Replace(BaseSaveHandler):
    """Saves every checkpoint into ``path``, on rank 0.

    ignite's ``DiskSaver`` cannot: its caller removes the file of this name before the new one is written.
    InputError if the disk does not take it; the file is as it was then.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __call__(
        self, checkpoint: Mapping[str, Any], filename: str, metadata: Mapping[str, Any] | None = None
    ) -> None:
        if idist.get_rank() != 0:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(self.path, lambda scratch: _write(checkpoint, scratch))
        except (OSError, RuntimeError) as error:  # torch raises the latter when the disk is full
            said = getattr(error, "strerror", None) or "is the disk full?"
            remedy = "make room on the disk, and go on with --resume"
            raise InputError(self.path, f"cannot be written ({said})", remedy) from error

    def remove(self, filename: str) -> None:
        """Keep the file until the next one takes its place."""


def _write(checkpoint: Mapping[str, Any], path: Path) -> None:
    with path.open("wb") as file:
        torch.save(checkpoint, file)
        file.flush()
        os.fsync(file.fileno())  # or the name might survive a power failure, and the content not


class BestModel(CheckpointSaver):
    """MONAI's saver of the checkpoint with the highest key metric, in one file that is whole at any moment.

    It can be saved and loaded itself, so that a resumed training knows the score to beat.
    """

    def __init__(self, save_dir: str | Path, save_dict: dict[str, Any], filename: str = "model.pt") -> None:
        super().__init__(str(save_dir), save_dict, save_key_metric=True, key_metric_filename=filename)
        self._best = cast(Any, self._key_metric_checkpoint)
        self._best.save_handler = Replace(Path(save_dir) / filename)

    def state_dict(self) -> dict[str, Any]:
        """The score of the saved checkpoint."""
        return self._best.state_dict()


class LastModel(BestModel):
    """Saves the checkpoint of every validation in the place of the one before, whatever its metric.

    For trainings of a fixed length whose validation micrographs may not choose the weights.
    """

    def __init__(self, save_dir: str | Path, save_dict: dict[str, Any], filename: str = "model.pt") -> None:
        super().__init__(save_dir, save_dict, filename)
        self._best.score_function = lambda engine: engine.state.epoch
        self._best.greater_or_equal = True
