# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

import logging
from typing import Any

from mmengine import dist
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import IterBasedTrainLoop, Runner

from ...datasets import SkipBrokenImages


@HOOKS.register_module()
class BrokenImagesHook(Hook):
    """Say after every epoch how many broken images were replaced.

    Counts what :class:`serkd_mm.datasets.SkipBrokenImages` replaced in the
    batches that were trained on, over all workers and ranks, and names every
    file once. The count goes to the log and, as ``replaced_images``, to the
    visualizer. Trainings in iterations have it after every pass over the
    data; an epoch in which a run was resumed has it of the batches since then.
    Does nothing for other datasets.

    Raises:
        ValueError: If validation would skip images: its metric would be that
            of another set.
    """

    def __init__(self) -> None:
        self._named: set[str] = set()
        self._count_anew()

    def _count_anew(self, part: str = '') -> None:
        self._images, self._part = 0, part
        self._replaced: list[tuple[str, str, str]] = []

    def before_train(self, runner: Runner) -> None:
        """Refuse a validation set that would not be the whole one."""
        if runner.val_loop is not None:
            _check_whole(runner.val_dataloader, 'val_dataloader')

    def before_test(self, runner: Runner) -> None:
        """Refuse a test set that would not be the whole one."""
        _check_whole(runner.test_dataloader, 'test_dataloader')

    def before_train_epoch(self, runner: Runner) -> None:
        """Start counting."""
        skips = _skips(runner.train_dataloader.dataset)
        resumed = skips and _rest(runner)
        self._count_anew(f' since iteration {runner.iter}' if resumed else '')

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict | None = None,
    ) -> None:
        """Count the replacements of a batch."""
        if not _skips(runner.train_dataloader.dataset):
            return
        samples = data_batch['data_samples']
        self._images += len(samples)
        self._replaced += [
            (sample.replaces, sample.fault, sample.img_path)
            for sample in samples
            if 'replaces' in sample
        ]
        if _by_iteration(runner) and not _rest(runner, runner.iter + 1):
            self._report(runner, runner.iter + 1)

    def after_train_epoch(self, runner: Runner) -> None:
        """Log the count over all ranks."""
        if not _skips(runner.train_dataloader.dataset):
            return
        if not _by_iteration(runner):
            self._report(runner, runner.epoch + 1)
        elif _rest(runner):
            self._report(runner, runner.iter)

    def _report(self, runner: Runner, step: int) -> None:
        name = 'Iter' if _by_iteration(runner) else 'Epoch'
        counts = dist.all_gather_object((self._images, self._replaced))
        images = sum(count for count, _ in counts)
        replaced = sorted(found for _, ranks in counts for found in ranks)
        # A rank or a wrapper may have shown an image several times.
        new = {
            path: f'{path} by {other} ({fault})'
            for path, fault, other in replaced
            if path not in self._named
        }
        self._named.update(new)
        runner.logger.log(
            logging.WARNING if replaced else logging.INFO,
            f'{name}(train) [{step}]: {len(replaced)} of {images} '
            f'images{self._part} were broken and replaced by the next of the '
            'dataset'
            + (f'; new ones: {", ".join(new.values())}' if new else ''),
        )
        runner.visualizer.add_scalar(
            'replaced_images', len(replaced), step=step
        )
        self._count_anew()


def _by_iteration(runner: Runner) -> bool:
    """Whether the whole training is one epoch to the hooks."""
    return isinstance(runner.train_loop, IterBasedTrainLoop)


def _rest(runner: Runner, done: int | None = None) -> int:
    """Batches of the last pass over the data if that is not complete.

    Args:
        runner: Runner of the training.
        done: Batches so far, those of the runner by default.
    """
    done = runner.iter if done is None else done
    return done % len(runner.train_dataloader)


def _skips(dataset: Any) -> bool:
    """Whether a dataset, or one that it wraps, replaces broken images."""
    if isinstance(dataset, SkipBrokenImages):
        return True
    parts = getattr(dataset, 'datasets', [getattr(dataset, 'dataset', None)])
    return any(_skips(part) for part in parts if part is not None)


def _check_whole(dataloader: Any, name: str) -> None:
    if _skips(dataloader.dataset):
        raise ValueError(
            f'{name}.dataset is a SkipBrokenImages, whose metric would be '
            'that of other images; take the broken ones out of the folder or '
            f'the annotation and set {name}.dataset to the dataset itself'
        )
