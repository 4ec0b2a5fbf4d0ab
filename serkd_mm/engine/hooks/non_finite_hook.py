# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_gather_object, all_reduce
from mmengine.hooks import Hook
from mmengine.optim import AmpOptimWrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.optim import Optimizer

from ... import compat
from ..iteration_record import IterationRecord, gradients_finite
from ..optimizers import Bfloat16OptimWrapper
from ..runner_parts import (
    accumulative_counts,
    forget_norm,
    norm_before_clipping,
    optimizers,
    unwrapped_model,
    update_was_due,
)

ACTIONS = ('stop', 'skip')
COUNT = 'train/skipped_updates'
_IN_A_ROW = 'skipped_in_a_row'
# Each one halves a dynamic loss scale.
MAX_OVERFLOWS = 50


@HOOKS.register_module()
class NonFiniteHook(Hook):
    """No update from a loss or a gradient that is NaN or infinite.

    Right before every optimizer update the sum of the losses and all
    gradients are checked; in iterations without an update (of accumulated
    gradients, or where a loss scaler skips it) the losses are. All ranks
    decide together, after one reduction of two numbers.

    ``action='stop'`` ends training before the update with one error that
    names iteration, losses and images, and a dump from which
    :func:`serkd_mm.engine.replay` computes the losses again.

    ``action='skip'`` leaves the update out: parameters and optimizer stay as
    they are, the model's buffers (running statistics, say) go back to before
    the iteration, its losses stay out of the log's means, and
    ``skipped_updates`` counts in the log. Of accumulated gradients all are
    left out. Learning rates and averaged models go on. Every skip is a
    warning; the first one of a rank writes a dump.

    A loss scaler that skips an update because gradients overflow while the
    losses are finite is at its normal work; only more than 50 times in a row
    stop training.

    Works with every optimizer wrapper of MMEngine that steps a
    :class:`torch.optim.Optimizer`. Costs one pass over the gradients per
    update, and per iteration one transfer of two numbers to the host and
    copies of the buffers and of the states of the random generators.

    Args:
        action: ``'stop'`` or ``'skip'``.
        max_consecutive: How many updates in a row may be skipped; one more
            stops training.

    Raises:
        ValueError: If a setting is out of range.
        TypeError: When training starts, if updates are to be skipped and the
            optimizer is none of PyTorch's.
        FloatingPointError: While training, see above.
    """

    priority = 'HIGHEST'  # before losses are logged and models averaged

    def __init__(
        self, action: str = 'stop', max_consecutive: int = 10
    ) -> None:
        if action not in ACTIONS:
            raise ValueError(
                f'action must be one of {list(ACTIONS)}, got {action!r}'
            )
        if max_consecutive < 0:
            raise ValueError(
                f'max_consecutive must be >= 0, got {max_consecutive}'
            )
        self.action = action
        self.max_consecutive = max_consecutive
        self._in_a_row = self._overflows = 0
        self._dumped = self._spoiled = False

    def before_train(self, runner: Runner) -> None:
        """Attach to the model and its optimizers."""
        model = unwrapped_model(runner)
        preprocessor = model.data_preprocessor
        found = optimizers(runner)
        if self.action == 'skip' and not found:
            raise TypeError(
                "NonFiniteHook(action='skip') needs an optimizer of PyTorch, "
                f"got {type(runner.optim_wrapper).__name__}; set action='stop'"
            )

        # Functions: a deep copy of the model would copy bound methods.
        # A step begins here, after what other hooks do before it.
        def begin(
            module: nn.Module, args: tuple, kwargs: dict[str, Any]
        ) -> None:
            data, training, *_ = *args, *kwargs.values(), False
            if module is preprocessor and training:
                self._record = IterationRecord(model, data)

        def keep(
            module: nn.Module, args: tuple, kwargs: dict, output: Any
        ) -> None:
            if module is model and kwargs.get('mode') == 'loss':
                self._record.losses.append(output)

        def check(optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
            self._before_update(runner, optimizer)

        def restore(optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
            for group, before in zip(optimizer.param_groups, self._groups):
                group.update(before)

        self._handles = [
            preprocessor.register_forward_pre_hook(begin, with_kwargs=True),
            model.register_forward_hook(keep, with_kwargs=True),
        ]
        for optimizer in found:
            compat.keep_step_hooks(optimizer)
            self._handles += [
                optimizer.register_step_pre_hook(check),
                optimizer.register_step_post_hook(restore),
            ]

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Note how many updates were left out at last."""
        checkpoint['meta'][_IN_A_ROW] = self._in_a_row

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Count on from there."""
        if runner._resume:
            self._in_a_row = checkpoint['meta'].get(_IN_A_ROW, 0)

    def after_train(self, runner: Runner) -> None:
        """Detach."""
        for handle in self._handles:
            handle.remove()

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Begin: nothing is checked or updated."""
        self._checked = self._updated = False
        self._norm = 0.0

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict | None = None,
    ) -> None:
        """Check an iteration without update; count what did not happen."""
        if not self._checked:
            self._check(runner, None)
        if self._spoiled and outputs is not None:
            outputs.clear()
        if not update_was_due(runner):
            return
        if self._spoiled:
            self._count_skip(runner)
        elif not self._updated and hasattr(
            runner.optim_wrapper, 'loss_scaler'
        ):
            self._count_overflow(runner)
        else:
            self._in_a_row = self._overflows = 0
        self._spoiled = False

    def _before_update(self, runner: Runner, optimizer: Optimizer) -> None:
        groups = optimizer.param_groups
        parameters = [p for group in groups for p in group['params']]
        # A fused optimizer skips by itself what a loss scaler wants skipped.
        overflow = getattr(optimizer, 'found_inf', None)
        if overflow is None:
            device = next(unwrapped_model(runner).parameters()).device
            # Divided by an infinite norm, all gradients are 0 by now.
            self._norm = norm_before_clipping(runner, optimizer)
            finite = gradients_finite(parameters, device)
            self._check(runner, finite & math.isfinite(self._norm))
        else:
            self._check(runner, overflow == 0, scaled=True)
        self._groups: list[dict] = []
        if self._spoiled:
            forget_norm(runner, optimizer)
            # What has no gradient is not updated, decayed or counted, but
            # some optimizers count in their groups.
            for parameter in parameters:
                parameter.grad = None
            self._groups = [dict(group) for group in groups]

    def _check(
        self, runner: Runner, gradients: Tensor | None, scaled: bool = False
    ) -> None:
        """Ask all ranks; the one transfer to the host.

        Args:
            runner: Runner of the training.
            gradients: Whether the gradients of an update are finite; None
                without update.
            scaled: Whether gradients that are not are a loss scaler's task.
        """
        fine = self._record.losses_finite()
        own = torch.stack([fine, fine if gradients is None else gradients])
        everyone = own.float()
        all_reduce(everyone, 'min')
        losses_fine, gradients_fine = everyone.bool().tolist()
        self._checked = True
        self._updated = gradients is not None and gradients_fine
        if not losses_fine:
            self._refuse(runner, suspect=not bool(own[0]))
        elif not (gradients_fine or scaled or self._spoiled):
            counts = max(accumulative_counts(runner), default=1)
            self._refuse(runner, earlier=runner.iter % counts)

    def _refuse(
        self,
        runner: Runner,
        suspect: bool = True,
        stop: bool = False,
        earlier: int = 0,
    ) -> None:
        """Stop with all that is known, or warn and spoil the update.

        Args:
            runner: Runner of the training.
            suspect: Whether it may be due to the batch of this rank.
            stop: Whether to stop whatever the action is.
            earlier: Iterations before this one whose gradients are in the
                update too.
        """
        self._record.restore_buffers()
        texts = all_gather_object(self._describe(runner) if suspect else '')
        last = runner.iter + 1
        where = f'iteration {last} (epoch {runner.epoch + 1})'
        if earlier:
            where += (
                f' or in {earlier} before it, whose gradients are added up '
                'and whose images are not named'
            )
        text = (
            f'losses or gradients are not finite in {where}: '
            f'{" | ".join(filter(None, texts))}'
        )
        if stop:
            raise FloatingPointError(text)
        if self.action == 'stop':
            raise FloatingPointError(
                f"{text}; default_hooks.non_finite.action='skip' would leave "
                'such updates out'
            )
        self._spoiled = True
        runner.logger.warning(f'No update, as {text}')

    def _describe(self, runner: Runner) -> str:
        """What this rank knows; its first time also writes the dump."""
        parts = [f'rank {runner.rank}: {self._record.describe()}']
        if not math.isfinite(self._norm):
            parts.append(f'norm of the gradients before clipping {self._norm}')
        if not self._dumped:
            name = f'iter_{runner.iter + 1}_rank_{runner.rank}.pth'
            amp: dict[str, Any] = dict(enabled=False)
            wrapper = runner.optim_wrapper
            if isinstance(wrapper, (AmpOptimWrapper, Bfloat16OptimWrapper)):
                amp = dict(dtype=wrapper.cast_dtype)
            if isinstance(wrapper, Bfloat16OptimWrapper):
                amp.update(fused_attention=wrapper.fused_attention)
            path = Path(runner.work_dir, 'non_finite', name)
            parts.append(self._record.save(path, runner.cfg, amp))
            self._dumped = True
        return '; '.join(parts)

    def _count_skip(self, runner: Runner) -> None:
        hub = runner.message_hub
        total = 1
        if COUNT in hub.log_scalars:  # of this run or the one it resumes
            total += int(hub.get_scalar(COUNT).current())
        hub.update_scalar(COUNT, total)
        self._in_a_row += 1
        if self._in_a_row > self.max_consecutive:
            raise FloatingPointError(
                f'{self._in_a_row} updates in a row had losses or gradients '
                f'that are not finite, more than max_consecutive='
                f'{self.max_consecutive}; the warnings above name the images'
            )

    def _count_overflow(self, runner: Runner) -> None:
        self._overflows += 1
        if self._overflows > MAX_OVERFLOWS:
            scale = runner.optim_wrapper.loss_scaler.get_scale()
            runner.logger.error(
                f'Gradients overflowed {self._overflows} times in a row, at '
                f'last at a loss scale of {scale:.3g}.'
            )
            self._refuse(runner, stop=True)
