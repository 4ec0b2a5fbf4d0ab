# Copyright (c) The serkd_mm authors. All rights reserved.
"""Batches that are the same whichever process loads them, and when."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from torch.utils.data import DataLoader, IterableDataset

from .random_streams import enter_stream


class NamedBatch(NamedTuple):
    """What to load, and which random numbers to augment it with."""

    stream: tuple[int, ...]
    indices: Sequence[int]


class NamedBatches:
    """A batch sampler that names each batch's stream of random numbers.

    The name is made of the plan's, the pass over the data and the position in
    it, so that augmentations depend neither on the number of workers, nor on
    their lifetime, nor on the random numbers of the training process.

    Everything else is that of the batch sampler that it wraps.

    Args:
        batches: Batch sampler.
    """

    def __init__(self, batches: Any) -> None:
        self.batches = batches
        self.plan(stream=())

    def plan(
        self,
        stream: tuple[int, ...],
        epoch: int = 0,
        start: int = 0,
        sampler_epoch: int | None = None,
    ) -> None:
        """Say what the next passes over the data are.

        Args:
            stream: First part of the batches' names.
            epoch: Number of the next pass; further ones count on.
            start: Number of batches to leave out of the next pass. They are
                not loaded.
            sampler_epoch: Epoch to give to the sampler when the next pass
                begins, if it is not given by others.
        """
        self._stream = stream
        self._epoch = epoch
        self._start = start
        self._sampler_epoch = sampler_epoch

    def __iter__(self) -> Iterator[NamedBatch]:
        epoch, start = self._epoch, self._start
        self._epoch, self._start = epoch + 1, 0
        if self._sampler_epoch is not None:
            if hasattr(self.sampler, 'set_epoch'):
                self.sampler.set_epoch(self._sampler_epoch)
            self._sampler_epoch = None
        batches = enumerate(self.batches)
        for position, indices in itertools.islice(batches, start, None):
            yield NamedBatch((*self._stream, epoch, position), indices)

    def __len__(self) -> int:
        return len(self.batches)

    def __getattr__(self, name: str) -> Any:
        if name == 'batches':
            raise AttributeError(name)
        return getattr(self.batches, name)


class _Fetch:
    """Loads the samples of a batch with the random numbers that it names."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.own = getattr(dataset, '__getitems__', None)

    def __call__(self, batch: Any) -> Any:
        if isinstance(batch, NamedBatch):
            enter_stream(*batch.stream, devices=False)
            batch = batch.indices
        if self.own:
            return self.own(batch)
        return [self.dataset[index] for index in batch]


def name_batches(loader: DataLoader) -> NamedBatches:
    """Let a data loader draw the random numbers of its batches by name.

    Args:
        loader: Data loader that is not being iterated; changed in place.

    Returns:
        Its batch sampler.

    Raises:
        ValueError: If the loader has no batch sampler.
    """
    if isinstance(loader.batch_sampler, NamedBatches):
        return loader.batch_sampler
    if loader.batch_sampler is None or isinstance(
        loader.dataset, IterableDataset
    ):
        raise ValueError(
            'the train_dataloader has no batch sampler (an iterable dataset, '
            'or batch_size=None), so its position cannot be restored'
        )
    batches = NamedBatches(loader.batch_sampler)
    # PyTorch refuses the assignment, as there may be an iterator by now.
    vars(loader)['batch_sampler'] = batches
    # PyTorch loads a batch by this method where a dataset has it. Of the
    # dataset itself, so that whoever looks for it finds it unchanged.
    setattr(loader.dataset, '__getitems__', _Fetch(loader.dataset))  # noqa: B010
    return batches
