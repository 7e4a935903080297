"""Unlabelled micrographs help a training: the average of its networks labels them (mean teacher)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn
from torch.utils.data import DataLoader

from carde_monai.batch_augmentation import BatchAugmentation


class MeanTeacher:
    """``prepare_batch`` of a trainer: the augmented batch, and behind it unlabelled crops with soft labels.

    The labels are the probabilities that the teacher, the exponential moving average of the trained network,
    gives crops as they are; the network gets them moved and varied (Tarvainen and Valpola, *Mean teachers are
    better role models*, NeurIPS 2017, with the supervised loss in the place of the squared difference).
    Attach it to the trainer.

    Args:
        augmentation: of labelled and unlabelled crops.
        loader: batches of {"image": (B, C, H, W)} drawn by a `carde_monai.seeding.SeededSampler`, one for
            each iteration of an epoch.
        teacher: gives logits (B, K, H, W); in evaluation mode.
        start: iterations without unlabelled crops at the beginning, until the teacher knows something.
    """

    def __init__(
        self, augmentation: BatchAugmentation, loader: DataLoader[Any], teacher: nn.Module, start: int = 0
    ) -> None:
        self.augmentation, self.loader, self.teacher, self.start = augmentation, loader, teacher, start
        self._engine: Engine | None = None
        self._batches: Iterator[Any] = iter(())

    def attach(self, engine: Engine) -> None:
        """Subscribe to the start of every epoch, to draw anew."""
        self._engine = engine
        engine.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)

    def _start_epoch(self, engine: Engine) -> None:
        sampler: Any = self.loader.sampler
        sampler.set_epoch(engine.state.epoch)
        self._batches = iter(self.loader)

    def __call__(
        self, batchdata: Any, device: Any = None, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        image, label = self.augmentation(batchdata, device, non_blocking, **kwargs)
        if self._engine is None or self._engine.state.iteration <= self.start:
            return image, label
        crops = next(self._batches)["image"].to(image)
        with torch.no_grad():
            believed = torch.sigmoid(self.teacher(crops.contiguous(memory_format=torch.channels_last)))
        crops, believed = self.augmentation.move(crops, believed.to(label))
        both = torch.cat([image, self.augmentation.vary(crops)])
        return both.contiguous(memory_format=torch.channels_last), torch.cat([label, believed])
