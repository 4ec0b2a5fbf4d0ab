# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

import functools
from itertools import islice

import torch
from mmengine.device import get_device
from mmengine.dist import all_reduce, is_distributed
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, Runner, autocast

from ...models import FrozenTeacherDistill
from ...models.algorithms.class_checks import class_count
from ..random_state import kept_random_state
from ..runner_parts import unwrapped_model

TEACHER_TOP1 = 'teacher/top1'


@HOOKS.register_module()
class TeacherCheckHook(Hook):
    """Evaluates the teacher before the first epoch.

    The teacher predicts the validation set, in its own normalisation, and the
    config's own ``val_evaluator`` judges it. Its top-1 is logged and goes to
    the visualizer as ``teacher/top1``. Several processes share the images;
    none counts twice. A resumed run checks again: the checkpoint behind
    ``teacher_ckpt`` may be another one by then. Training itself is the same
    with and without the hook, random numbers included.

    What cannot be checked is left out with one line in the log: a run without
    validation, a teacher that cannot predict or of other classes. Other
    models than :class:`FrozenTeacherDistill` are left alone.

    Args:
        min_top1: Least top-1 in percent; None for any. A teacher that
            ``allow_random_teacher`` let in without checkpoint only causes a
            warning.
        num_batches: How many batches of the validation set every process
            looks at, the first ones; None for all.

    Raises:
        ValueError: If a setting is out of range; when training starts, if the
            teacher does not reach ``min_top1`` or the evaluator finds no
            top-1 to compare with it.
    """

    priority = 'LOW'  # when all else is ready

    def __init__(
        self, min_top1: float | None = None, num_batches: int | None = None
    ) -> None:
        if min_top1 is not None and not 0 <= min_top1 <= 100:
            raise ValueError(
                f'min_top1 is a percentage from 0 to 100, got {min_top1}'
            )
        if num_batches is not None and num_batches < 1:
            raise ValueError(f'num_batches must be >= 1, got {num_batches}')
        self.min_top1 = min_top1
        self.num_batches = num_batches

    def before_train(self, runner: Runner) -> None:
        """Evaluate, log, and refuse."""
        model = unwrapped_model(runner)
        if not isinstance(model, FrozenTeacherDistill):
            return
        obstacle = _obstacle(runner, model)
        if obstacle:
            runner.logger.warning(f'The teacher is not checked: {obstacle}.')
            return
        metrics, images = self._evaluate(runner, model)
        numbers = (int, float)
        scalars = {k: v for k, v in metrics.items() if isinstance(v, numbers)}
        found = ', '.join(f'{k} {v:.4g}' for k, v in scalars.items())
        total = len(runner.val_dataloader.dataset)
        part = 'all' if images == total else f'the first {images} of'
        text = f'The teacher on {part} {total} validation images: {found}'
        runner.logger.info(text)
        names = [name for name in scalars if name.split('/')[-1] == 'top1']
        top1 = scalars[names[0]] if names else None
        if top1 is not None:
            runner.visualizer.add_scalars(
                {TEACHER_TOP1: top1}, step=runner.iter
            )
        if self.min_top1 is None or (top1 or 0) >= self.min_top1:
            return
        text += (
            f', but min_top1={self.min_top1}; check model.teacher_ckpt, the '
            'normalisation and the order of the classes, or set '
            'default_hooks.teacher_check.min_top1'
            if names
            else f'; none of these is the top1 that min_top1={self.min_top1} '
            "is for: add dict(type='Accuracy') to val_evaluator, or set "
            'default_hooks.teacher_check.min_top1=None'
        )
        if model.teacher_ckpt is not None:
            raise ValueError(text)
        runner.logger.warning(text)

    @torch.no_grad()
    def _evaluate(
        self, runner: Runner, model: FrozenTeacherDistill
    ) -> tuple[dict[str, float], int]:
        """Metrics of the teacher and the number of images they are of."""
        loop, count, teacher = runner.val_loop, 0, model.teacher
        predict = functools.partial(teacher, mode='predict')
        if getattr(teacher, '_compiled_call_impl', None) is not None:
            # The call is compiled for what training does with it.
            predict = teacher.predict
        with kept_random_state(), autocast(enabled=loop.fp16):
            for batch in islice(loop.dataloader, self._batches(loop)):
                data = model.data_preprocessor(batch, False)
                inputs = model.teacher_inputs(data['inputs'])
                predicted = predict(inputs, data['data_samples'])
                loop.evaluator.process(
                    data_samples=predicted, data_batch=batch
                )
                count += len(predicted)
        # Persistent workers would not draw their seed in the first validation.
        loop.dataloader._iterator = None
        # The samplers of several processes repeat images to have as many.
        images = min(len(loop.dataloader.dataset), count * runner.world_size)
        return loop.evaluator.evaluate(images), images

    def _batches(self, loop: BaseLoop) -> int | None:
        """As many for every process, which may share out a teacher."""
        if not is_distributed():
            return self.num_batches
        own = torch.tensor(len(loop.dataloader), device=get_device())
        all_reduce(own, op='min')
        most = self.num_batches
        return int(own) if most is None else min(int(own), most)


def _obstacle(runner: Runner, model: FrozenTeacherDistill) -> str | None:
    """Why the teacher cannot be evaluated."""
    if runner.val_loop is None:
        return 'the run has no validation set'
    if not hasattr(model.teacher, 'predict'):
        return f'{type(model.teacher).__name__} has no predict()'
    theirs, own = (
        class_count(network) for network in (model.teacher, model.student)
    )
    if None not in (theirs, own) and theirs != own:
        return f'it has {theirs} classes, the student {own}'
    return None
