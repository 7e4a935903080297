"""What a training draws depends on seed, epoch and place, and on nothing else."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from engines import trainer
from ignite.engine import Events
from monai.data import CacheDataset, DataLoader
from monai.transforms import Compose, EnsureTyped, RandFlipd, RandGaussianNoised

from carde_monai import seeding
from carde_monai.handlers.seeding import Reseed
from carde_monai.seeding import SeededDataset, SeededSampler, mixed


def test_a_mixed_seed_depends_on_every_number_and_their_order() -> None:
    seeds = [mixed(a, b) for a in range(8) for b in range(8)]
    assert len(set(seeds)) == len(seeds)
    assert mixed(1, 2) == seeds[10] and all(0 <= seed < 2**32 for seed in seeds)


def test_an_epoch_draws_everything_before_anything_twice() -> None:
    sampler = SeededSampler(range(5), num_samples=12, seed=3)
    drawn = [index for index, _ in sampler]
    assert len(sampler) == len(drawn) == 12
    assert sorted(drawn[:5]) == sorted(drawn[5:10]) == [0, 1, 2, 3, 4]
    assert len({seed for _, seed in sampler}) == 12


def test_an_epoch_draws_the_same_whatever_was_drawn_before() -> None:
    first, second = (SeededSampler(range(50), 50, seed=3) for _ in range(2))
    one, two = (list(first) for first.epoch in (1, 2))
    assert one != two
    torch.rand(9)
    second.set_epoch(2)
    assert list(second) == two
    assert list(SeededSampler(range(50), 50, seed=4)) != one


def test_processes_share_what_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = list(SeededSampler(range(7), 10, seed=0))
    monkeypatch.setattr(seeding.idist, "get_world_size", lambda: 2)
    shares = []
    for rank in range(2):
        monkeypatch.setattr(seeding.idist, "get_rank", lambda rank=rank: rank)
        shares.append(list(SeededSampler(range(7), 5, seed=0)))
    assert [one for pair in zip(*shares, strict=True) for one in pair] == whole


def test_items_are_the_same_for_any_number_of_workers() -> None:
    items = [{"image": torch.full((1, 4, 4), float(number))} for number in range(4)]
    random_ones = [RandFlipd("image", prob=0.5), RandGaussianNoised("image", prob=0.9)]
    dataset = CacheDataset(items, Compose([EnsureTyped("image"), *random_ones]), progress=False)

    def epoch(workers: int, number: int = 1) -> torch.Tensor:
        sampler = SeededSampler(dataset, 10, seed=1)
        sampler.set_epoch(number)
        loader = DataLoader(SeededDataset(dataset), batch_size=3, sampler=sampler, num_workers=workers)
        return torch.cat([batch["image"].as_tensor() for batch in loader])

    whole = epoch(0)
    assert len(whole) == 10 and len(SeededDataset(dataset)) == 4
    assert len({float(one.std()) for one in whole}) > 5, "each draw of an item has noise of its own"
    assert torch.equal(epoch(2), whole) and torch.equal(epoch(0), whole)
    assert not torch.equal(epoch(0, 2), whole)


def test_iterations_start_from_their_own_random_state() -> None:
    def drawn(epochs: int, first: int = 0) -> list[tuple[float, ...]]:
        sampler = SeededSampler(range(4), 4, seed=5)
        engine = trainer([Reseed(5, sampler)], epochs)
        found = []

        @engine.on(Events.ITERATION_STARTED)
        def draw() -> None:
            found.append((sampler.epoch, float(torch.rand(1)), random.random(), float(np.random.rand())))

        if first:
            engine.load_state_dict({"epoch": first, "max_epochs": epochs, "epoch_length": 2})
            torch.rand(7)
        engine.run()
        return found

    whole = drawn(3)
    assert [one[0] for one in whole] == [1, 1, 2, 2, 3, 3] and len(set(whole)) == 6
    assert drawn(3, first=2) == whole[4:]
