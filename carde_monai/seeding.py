"""Random numbers of a training that depend on its seed and on where it stands, not on what came before.

So the loaders' workers, their number and a restart change nothing. MONAI's ``DataLoader`` seeds workers, not
items; ignite's ``DeterministicEngine`` is no base of MONAI's trainers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from torch.utils.data import Dataset, RandomSampler, Sampler


def mixed(*numbers: int) -> int:
    """A seed of 32 bits from whole numbers from 0, another for others (as many of them)."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


class SeededSampler(Sampler[tuple[int, int]]):
    """Draws without replacement until all have been drawn, and again, and gives each item a seed of its own.

    What it draws depends on ``seed`` and the epoch (``set_epoch``). Of several processes each gets its share.

    Args:
        data_source: what to draw from.
        num_samples: pairs (index, seed) that an epoch of each process has.
        seed: of the training.
    """

    def __init__(self, data_source: Sized, num_samples: int, seed: int) -> None:
        self.data_source, self.num_samples, self.seed = data_source, num_samples, seed
        self.epoch = 1

    def set_epoch(self, epoch: int) -> None:
        """Draw those of this epoch, counted from 1, from the next iteration on."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_samples

    def __iter__(self) -> Iterator[tuple[int, int]]:
        processes, rank = idist.get_world_size(), idist.get_rank()
        generator = torch.Generator().manual_seed(mixed(self.seed, self.epoch))
        drawn = RandomSampler(self.data_source, num_samples=self.num_samples * processes, generator=generator)
        for place, index in enumerate(drawn):
            if place % processes == rank:
                yield index, mixed(self.seed, self.epoch, place + 1)


class SeededDataset(Dataset[Any]):
    """The items of a MONAI ``dataset`` by pairs (index, seed), as `SeededSampler` draws them.

    The random transforms start from the seed, whichever process runs them and whatever it ran before.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, drawn: tuple[int, int]) -> Any:
        index, seed = drawn
        self.dataset.transform.set_random_state(seed=seed)
        return self.dataset[index]
