# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ...datasets.leaves import leaf_datasets
from ...models import FrozenTeacherDistill
from ...models.algorithms.shard import is_sharded
from ...visualization.sheet import (
    agreement_of,
    draw_sheet,
    drawable,
    read_image,
    superpixel_rows,
    superpixels_of_images,
    takes_rgb,
)
from ...visualization.superpixels import superpixel_records, warn_of_others
from ..runner_parts import unwrapped_model


@HOOKS.register_module()
class SuperpixelVisHook(Hook):
    """Draws superpixels of fixed images before, while and after training.

    A sheet holds the images, the superpixels of the teacher, of the student
    before training (in a resumed run: when it resumed) and of the student now.
    It goes to the backends of the visualizer as ``superpixels``, with the mean
    agreement of student and teacher as ``superpixels/nmi`` and
    ``superpixels/boundary_recall``.

    Args:
        images: Paths of images, or how many of the validation set to take,
            evenly spread.
        interval: Epochs between sheets; the last epoch always has one.
        input_size: Height and width of the networks' input for images given
            by path. None takes the size of the validation set's.

    Without a validation set to take images or their size from, or losses
    that take superpixels, the hook says so in the log and draws nothing.

    Raises:
        OSError: If the file of an image cannot be read.
        ValueError: If it holds no whole image, a number is below 1, there are
            no paths, or the teacher is divided between processes.
    """

    priority = 'LOW'

    def __init__(
        self,
        images: Sequence[str] | int = 6,
        interval: int = 10,
        input_size: tuple[int, int] | None = None,
    ) -> None:
        if (images if isinstance(images, int) else len(images)) < 1:
            raise ValueError(f'images must be >= 1 or paths, got {images}')
        if interval < 1:
            raise ValueError(
                f'interval must be >= 1 epochs, got {interval}; to draw '
                'nothing, leave SuperpixelVisHook out'
            )
        self._source = images
        self._interval = interval
        self._input_hw = input_size

    def before_train(self, runner: Runner) -> None:
        """Choose the images and draw the first sheet."""
        if is_sharded(getattr(unwrapped_model(runner), 'teacher', None)):
            raise ValueError(
                'SuperpixelVisHook runs the teacher in one process alone, '
                'which a teacher that is divided between processes '
                '(teacher_shard) cannot; leave one of them out'
            )
        self._begin(runner)

    @master_only
    def _begin(self, runner: Runner) -> None:
        self._images: list[np.ndarray] = []
        by_path = not isinstance(self._source, int) and self._input_hw
        if runner.val_loop is None and not by_path:
            runner.logger.warning(
                'SuperpixelVisHook draws nothing without a validation set; '
                'give it images=[paths] and input_size=(height, width)'
            )
            return
        model = unwrapped_model(runner)
        if not (
            isinstance(model, FrozenTeacherDistill)
            and superpixel_records(model.distiller)
        ):
            runner.logger.warning(
                'SuperpixelVisHook draws nothing: no loss of this config '
                'takes superpixels'
            )
            return
        warn_of_others(model.distiller)
        self._rgb = takes_rgb(
            model, _pipeline(runner.train_dataloader.dataset)
        )
        self._images = self._choose(runner)
        self._before: dict[str, list[np.ndarray]] = {}
        self._start = 'before training'
        if runner.iter:
            self._start = f'resumed after {runner.iter} iterations'
        self._draw(runner, epoch=runner.epoch)

    @master_only
    def after_train_epoch(self, runner: Runner) -> None:
        """Draw a sheet every ``interval`` epochs."""
        epoch = runner.epoch + 1
        if not self._images:
            return
        if epoch % self._interval == 0 or epoch == runner.max_epochs:
            self._draw(runner, epoch)

    def _choose(self, runner: Runner) -> list[np.ndarray]:
        if isinstance(self._source, int) or self._input_hw is None:
            dataset = runner.val_dataloader.dataset
            count = self._source if isinstance(self._source, int) else 1
            chosen = np.linspace(0, len(dataset) - 1, count).round()
            inputs = [dataset[int(index)]['inputs'] for index in chosen]
            self._input_hw = tuple(inputs[0].shape[-2:])
        if isinstance(self._source, int):
            images = [x.permute(1, 2, 0).numpy() for x in inputs]
            return [drawable(x[..., ::-1] if self._rgb else x) for x in images]
        return [drawable(read_image(path)) for path in self._source]

    def _draw(self, runner: Runner, epoch: int) -> None:
        model = unwrapped_model(runner)
        assert self._input_hw is not None
        labels = superpixels_of_images(
            model, self._images, self._input_hw, self._rgb
        )
        rows = superpixel_rows(self._images, labels)
        student = {k: v for k, v in rows.items() if k.startswith('student')}
        rows = {k: v for k, v in rows.items() if k not in student}
        if not self._before:
            self._before = student
        else:
            for name, pictures in self._before.items():
                rows[f'{self._start}, {name}'] = pictures
        rows.update(student)
        numbers = agreement_of(labels)
        sheet = draw_sheet(
            {'image': self._images, **rows},
            [f'NMI {n["nmi"]:.2f}' for n in numbers],
            f'epoch {epoch}',
        )
        runner.visualizer.add_image('superpixels', sheet, step=epoch)
        if numbers:
            scalars = {
                f'superpixels/{key.replace(" ", "_")}': float(
                    np.nanmean([n[key] for n in numbers])
                )
                for key in numbers[0]
            }
            runner.visualizer.add_scalars(scalars, step=epoch)


def _pipeline(dataset: Any) -> list[str]:
    """Type names of the transforms of a dataset, also of a wrapped one."""
    leaf = next(leaf_datasets(dataset))
    transforms = getattr(getattr(leaf, 'pipeline', None), 'transforms', [])
    return [type(transform).__name__ for transform in transforms]
