# Copyright (c) The serkd_mm authors. All rights reserved.
"""Where in the data a checkpoint was written."""

from __future__ import annotations

import logging
from typing import Any

from mmengine.dataset import InfiniteSampler
from mmengine.logging import print_log
from mmengine.runner import EpochBasedTrainLoop, Runner


def describe_data(runner: Runner) -> dict[str, Any]:
    """What a position in the training data depends on."""
    loader = runner.train_dataloader
    batches = loader.batch_sampler
    return dict(
        images=len(loader.dataset),
        epoch_length=len(loader),
        batch_size=getattr(batches, 'batch_size', None),
        world_size=runner.world_size,
        sampler_seed=getattr(_sampler(runner), 'seed', None),
    )


def find_position(runner: Runner, meta: dict, past: dict | None) -> int:
    """Put a runner's data loader where a checkpoint was written.

    The sampler gets the seed that it had. With another batch size or number
    of processes the position is that of the same number of images, rounded
    down to whole batches, and ``meta['iter']`` counts in the present epochs.

    Args:
        runner: Runner that resumes.
        meta: ``meta`` of the checkpoint; changed in place.
        past: What :func:`describe_data` returned then, None if unknown.

    Returns:
        Number of batches to leave out: of the first epoch, or of all, if
        training is not in epochs.
    """
    now = describe_data(runner)
    if past is None:
        _warn(
            'The checkpoint was written without ExactResumeHook. Training '
            'goes on, but not as it would have without the interruption: '
            'batches have other augmentations, and, if the config has no '
            'randomness.seed, another order'
        )
        past = now
    if past['sampler_seed'] is not None:
        _sampler(runner).seed = past['sampler_seed']
    if past['images'] != now['images']:
        _warn(
            f'The dataset has {now["images"]} images, at the checkpoint it '
            f'had {past["images"]}: they come in another order, and the '
            'resumed run cannot be that of either dataset'
        )
    if any(past[key] != now[key] for key in ('batch_size', 'world_size')):
        _warn(
            f'Resuming with {_size(now)} instead of {_size(past)}. The order '
            'of the images is kept, but batches and augmentations, and with '
            'them the result, are not those of the run that was interrupted. '
            'The learning rate is that of the config; --auto-scale-lr fits '
            'it to the batch size'
        )
    if isinstance(runner.train_loop, EpochBasedTrainLoop):
        return _in_epochs(meta, past, now)
    if isinstance(_sampler(runner), InfiniteSampler):
        return _convert(meta['iter'], past, now)
    epoch, done = divmod(meta['iter'], past['epoch_length'])
    return epoch * now['epoch_length'] + _convert_in_epoch(done, past, now)


def _in_epochs(meta: dict, past: dict, now: dict) -> int:
    old, new = past['epoch_length'], now['epoch_length']
    done = meta['iter'] - meta['epoch'] * old
    if not 0 <= done <= old:
        _warn(
            f'The checkpoint says epoch {meta["epoch"]} and iteration '
            f'{meta["iter"]}, which epochs of {old} iterations do not have; '
            'the iteration counts'
        )
        meta['epoch'], done = divmod(meta['iter'], old)
    start = _convert_in_epoch(done, past, now)
    meta['iter'] = meta['epoch'] * new + start
    return start


def _convert(batches: int, past: dict, now: dict) -> int:
    """Number of the present batches with as many images as the past ones."""
    if None in (past['batch_size'], now['batch_size']):
        return batches
    old = past['batch_size'] * past['world_size']
    new = now['batch_size'] * now['world_size']
    return batches * old // new


def _convert_in_epoch(batches: int, past: dict, now: dict) -> int:
    """The same within an epoch, whose last batch may be a smaller one."""
    length = now['epoch_length']
    # At the end of an epoch, what comes after its last batch is still to do.
    ended = batches == past['epoch_length']
    return length if ended else min(_convert(batches, past, now), length)


def _size(data: dict) -> str:
    return f'batches of {data["world_size"]} x {data["batch_size"]} images'


def _sampler(runner: Runner) -> Any:
    return getattr(runner.train_dataloader.batch_sampler, 'sampler', None)


def _warn(message: str) -> None:
    print_log(message, 'current', logging.WARNING)
