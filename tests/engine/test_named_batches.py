# Copyright (c) The serkd_mm authors. All rights reserved.
"""Data loaders whose batches draw random numbers by name."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from serkd_mm.engine.named_batches import NamedBatches, name_batches


class Noise(Dataset):
    """Ten items, each with a random number."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> float:
        return index + torch.rand(()).item()


class NoiseByBatch(Noise):
    """The same, loaded by the batch and marked."""

    def __getitems__(self, indices: Any) -> list[float]:
        return [self[index] + 100 for index in indices]


def batches(loader: DataLoader) -> list[list[float]]:
    return [batch.tolist() for batch in loader]


def test_a_loader_is_named_once() -> None:
    loader = DataLoader(Noise(), batch_size=4)

    first = name_batches(loader)

    assert name_batches(loader) is first
    assert not isinstance(first.batches, NamedBatches)


def test_a_dataset_that_loads_by_the_batch_goes_on_doing_so() -> None:
    loader = DataLoader(NoiseByBatch(), batch_size=4)
    name_batches(loader).plan((0,))

    assert all(item >= 100 for batch in batches(loader) for item in batch)


def test_batches_are_left_out_of_the_next_pass_alone() -> None:
    loader = DataLoader(Noise(), batch_size=4)
    named = name_batches(loader)
    named.plan((0,))
    passes = [batches(loader), batches(loader)]

    named.plan((0,), start=1)

    assert batches(loader) == passes[0][1:]
    assert batches(loader) == passes[1]


def test_copies_name_the_same() -> None:
    """As a process that is spawned gets them."""
    named = NamedBatches([[0, 1], [2]])
    named.plan((3,), epoch=1)

    assert list(copy.deepcopy(named)) == list(named)


def test_every_pass_has_numbers_of_its_own() -> None:
    loader = DataLoader(Noise(), batch_size=4)
    name_batches(loader).plan((0,))

    assert batches(loader) != batches(loader)


def test_a_sampler_needs_to_know_nothing_of_epochs() -> None:
    loader = DataLoader(Noise(), batch_size=4, shuffle=True)
    name_batches(loader).plan((0,), epoch=2, sampler_epoch=2)

    assert [len(batch) for batch in batches(loader)] == [4, 4, 2]
