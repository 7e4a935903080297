"""Tiny real trainers for the tests of handlers."""

from __future__ import annotations

from typing import Any

import torch
from monai.data import DataLoader
from monai.engines import SupervisedTrainer

CPU = torch.device("cpu")


def loader(labels: list[float]) -> DataLoader:
    """Images of 8 x 8 px with constant labels, in batches of 4."""
    items: Any = [{"image": torch.rand(1, 8, 8), "label": torch.full((1, 8, 8), value)} for value in labels]
    return DataLoader(items, batch_size=4)


def trainer(handlers: list[Any], epochs: int = 2, **options: Any) -> SupervisedTrainer:
    """The loss of a batch is the mean of its labels; learning rate 0.1."""
    network = torch.nn.Conv2d(1, 1, 1)
    return SupervisedTrainer(
        device=CPU,
        max_epochs=epochs,
        train_data_loader=loader([0.0, 1.0, 2.0, 3.0, 4.0, 5.0]),
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.1),
        loss_function=lambda prediction, label: label.mean() + 0 * prediction.mean(),
        train_handlers=handlers,
        **options,
    )
