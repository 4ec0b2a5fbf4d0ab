# Copyright (c) The serkd_mm authors. All rights reserved.
"""Resumed runs that end as the uninterrupted one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

from mmengine.dataset import InfiniteSampler
from mmengine.hooks import EarlyStoppingHook, EMAHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import (
    BaseLoop,
    EpochBasedTrainLoop,
    IterBasedTrainLoop,
    Runner,
)
from torch import Tensor

from ... import compat
from ..checkpoints import ResumeError
from ..data_position import describe_data, find_position
from ..named_batches import NamedBatches, name_batches
from ..random_streams import enter_stream
from ..runner_parts import (
    accumulative_counts,
    unwrapped_model,
    update_was_due,
)
from ..schedule import follow_rates, replan

_KEY = 'exact_resume'
_GRADIENTS, _WINDOW = 'accumulated_gradients', 'accumulative_counts'
_RATES, _STOPPING = 'configured_rates', 'early_stopping'
# What random numbers are for; the second part of a stream's name.
_EPOCH, _ITERATION, _DATA, _EPOCH_END = range(4)


@HOOKS.register_module()
class ExactResumeHook(Hook):
    """Lets a resumed run end bit for bit as one that was not interrupted.

    MMEngine restores weights, averaged weights, optimizer, gradient scaler,
    schedulers and logs. This hook takes care of the rest:

    - *Random numbers.* Generators are not saved but named: every iteration,
      and every batch that is loaded, draws from a stream that is a function
      of the run's seed and of its place in training (and, for batches, of the
      rank). No checkpoint has to hold the generators of all processes, and
      what happens beside training (validation, pictures, the number of
      workers and whether they persist) cannot shift the numbers.
    - *Data.* The sampler gets its seed back, also where the config has none.
      In the middle of an epoch the indices of the batches that were trained
      on are passed over; no image of theirs is loaded.
    - *Schedules.* They follow the config, as MMEngine would go on with the
      old one and, after a change of ``max_epochs``, leave the learning rate
      where that ended. A schedule that does not fit the new length is an
      error. Without one the rates follow the config where it has others.
    - *Early stopping* counts on where MMEngine's hook stood. A checkpoint
      beside a new best one is written before that hook has seen the score,
      which is counted when training goes on.
    - *Accumulated gradients* of ``accumulative_counts``, in one process and
      where as many make an update.
    - *Averaged weights* that the config averages no more: the trained ones go
      on, and not their averages.
    - *Logs.* Checkpoints keep as much of the log history as the log shows,
      an epoch at least, and do not grow with the run.

    With another batch size or number of processes training goes on at the
    same image and says what is not exact.

    Equal results need equal software and, on GPUs,
    ``randomness=dict(deterministic=True)``.
    """

    # The random numbers of an iteration begin before other hooks draw any.
    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self._batches: NamedBatches | None = None
        self._start = 0
        self._gradients: dict[str, Tensor] = {}
        # Iteration and accumulative_counts that they were saved with.
        self._window: tuple[int, list[int] | None] = 0, None
        self._rates: list[float] | None = None
        self._uncounted = False

    def before_run(self, runner: Runner) -> None:
        """Take over the random numbers of the data loader."""
        if not isinstance(runner._train_loop, BaseLoop):
            return
        try:
            self._batches = name_batches(runner.train_dataloader)
        except ValueError as error:
            runner.logger.warning(f'Resuming will not be exact: {error}')
        if not isinstance(runner, Runner):
            runner.logger.warning(
                f'Resuming will not be exact: {type(runner).__name__} loads '
                'checkpoints before hooks can find the place in the data'
            )

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add what resuming needs to know, and leave out old logs."""
        if self._batches is None:
            return
        meta = checkpoint['meta']
        meta[_KEY] = describe_data(runner)
        meta[_RATES] = self._rates
        meta[_STOPPING] = [
            dict(wait_count=hook.wait_count, best_score=float(hook.best_score))
            for hook in _early_stopping(runner)
        ]
        _trim_logs(runner, checkpoint['message_hub']['log_scalars'])
        gradients = _accumulated_gradients(runner)
        if gradients:
            checkpoint[_GRADIENTS] = gradients
            meta[_WINDOW] = accumulative_counts(runner)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Find the place in the data and in the schedule."""
        if not runner._resume:
            return
        _take_trained_weights(runner, checkpoint)
        if self._batches is None:
            return
        _check_optimizer(runner, checkpoint)
        meta = checkpoint['meta']
        self._window = meta['iter'], meta.get(_WINDOW)
        self._start = find_position(runner, meta, meta.get(_KEY))
        replan(runner, checkpoint, len(runner.train_dataloader))
        self._rates = _configured_rates(runner)
        follow_rates(runner, checkpoint, meta.get(_RATES), self._rates)
        for hook, seen in zip(
            _early_stopping(runner), meta.get(_STOPPING, ())
        ):
            vars(hook).update(seen)
            # Written with a best score, before the hook's turn.
            self._uncounted = meta.get('validated') is True
        self._gradients = checkpoint.pop(_GRADIENTS, {})

    def before_train(self, runner: Runner) -> None:
        """Restore the gradients of an unfinished accumulation.

        Early stopping counts the validation that wrote the checkpoint.
        """
        if self._uncounted:
            _count_last_scores(runner)
            self._uncounted = False
        if self._rates is None:
            self._rates = _configured_rates(runner)
        same = self._window == (runner.iter, accumulative_counts(runner))
        if self._gradients and not same:
            runner.logger.warning(
                'The checkpoint lies within an accumulation of gradients, of '
                'which an update now needs other ones: a part is left out'
            )
            self._gradients = {}
        for name, parameter in unwrapped_model(runner).named_parameters():
            if name in self._gradients:
                parameter.grad = self._gradients[name].to(parameter.device)
        self._gradients = {}

    def before_train_epoch(self, runner: Runner) -> None:
        """Begin where the checkpoint was written."""
        enter_stream(runner.seed, _EPOCH, runner.epoch)
        if self._batches is None:
            return
        loop, start = runner.train_loop, self._start
        self._start = 0
        stream = (runner.seed, _DATA, runner.rank)
        if isinstance(loop, IterBasedTrainLoop):
            self._restart(loop, stream, start)
            return
        self._batches.plan(stream, epoch=runner.epoch, start=start)
        if start and isinstance(loop, EpochBasedTrainLoop):
            # The loop counts the batches from the first one that it gets.
            loop.run_iter = functools.partial(_later, loop.run_iter, start)

    def _restart(
        self, loop: IterBasedTrainLoop, stream: tuple, start: int
    ) -> None:
        """Exchange the iterator that the loop was built with.

        It has loaded the first batches already.
        """
        assert self._batches is not None
        loader, sampler = loop.dataloader, self._batches.sampler
        endless = type(loop.dataloader_iterator)
        loop.dataloader_iterator = loader._iterator = None
        if isinstance(sampler, InfiniteSampler):
            # One stream of indices without epochs, begun when it was built.
            sampler.indices = sampler._indices_of_rank()
            self._batches.plan(stream, start=start)
            loop.dataloader_iterator = _in_place(endless(loader), loop.iter)
            return
        epoch, first = divmod(start, len(loader))
        self._batches.plan(stream, epoch, first, sampler_epoch=epoch)
        iterator = endless(loader)
        iterator._epoch = epoch
        loop.dataloader_iterator = _in_place(iterator, loop.iter)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Begin the random numbers of an iteration."""
        enter_stream(runner.seed, _ITERATION, runner.iter)

    def after_train_epoch(self, runner: Runner) -> None:
        """Begin the random numbers of what follows an epoch."""
        enter_stream(runner.seed, _EPOCH_END, runner.epoch)
        vars(runner.train_loop).pop('run_iter', None)


def _later(run_iter: Callable, start: int, idx: int, data_batch: Any) -> None:
    run_iter(idx + start, data_batch)


def _in_place(iterator: Iterator, taken: int) -> Iterator:
    """Let the loop go on with this iterator's first batch."""
    if compat.stay_in_place(iterator):
        return iterator
    return _Counted(iterator, taken)


class _Counted(Iterator):
    """An iterator whose first items were taken in an earlier run.

    MMEngine's loop draws, and throws away, as many batches as iterations were
    done.
    """

    def __init__(self, iterator: Iterator, taken: int) -> None:
        self._iterator = iterator
        self._taken = taken

    def __next__(self) -> Any:
        if self._taken:
            self._taken -= 1
            return None
        return next(self._iterator)


def _early_stopping(runner: Runner) -> list[EarlyStoppingHook]:
    return [h for h in runner.hooks if isinstance(h, EarlyStoppingHook)]


def _count_last_scores(runner: Runner) -> None:
    """Let early stopping see the scores of the last validation."""
    scores = runner.message_hub.log_scalars
    for hook in _early_stopping(runner):
        name = f'val/{hook.monitor}'
        if name in scores:
            hook.after_val_epoch(
                runner, {hook.monitor: scores[name].current()}
            )


def _configured_rates(runner: Runner) -> list[float] | None:
    """Learning rates of an optimizer that has not trained yet."""
    optimizer = getattr(runner.optim_wrapper, 'optimizer', None)
    if optimizer is None:  # several ones
        return None
    return [group['lr'] for group in optimizer.param_groups]


def _check_optimizer(runner: Runner, checkpoint: dict) -> None:
    """Refuse the optimizer state of other parameters."""
    saved = checkpoint.get('optimizer', {}).get('param_groups')
    groups = getattr(runner.optim_wrapper, 'optimizer', None)
    if saved is None or groups is None:
        return
    theirs, own = (
        [len(group['params']) for group in some]
        for some in (saved, groups.param_groups)
    )
    if theirs != own:
        held = 'teacher.' in ''.join(checkpoint['state_dict'])
        raise ResumeError(
            'cannot resume: the optimizer of the checkpoint has groups of '
            f'{theirs} parameters, that of the config {own}'
            + (' (the checkpoint holds a teacher)' if held else '')
            + '. To start a new run from its weights, give it as load_from '
            'and leave resume off'
        )


def _take_trained_weights(runner: Runner, checkpoint: dict) -> None:
    """Go on with those and not with their averages, which nothing averages.

    Where a run averages, MMEngine saves the averages in the place of the
    weights, and only the hook that averages puts them back.
    """
    averaged = any(isinstance(hook, EMAHook) for hook in runner.hooks)
    trained = checkpoint.pop('ema_state_dict', None) if not averaged else None
    if trained is None:
        return
    weights = checkpoint['state_dict']
    for name in weights:
        weights[name] = trained.get(f'module.{name}', weights[name])
    runner.logger.warning(
        'The checkpoint holds averaged weights, and this run has no EMAHook: '
        'it goes on with the trained ones, and the averages end here'
    )


def _accumulated_gradients(runner: Runner) -> dict[str, Tensor]:
    """Gradients of an accumulation that has not come to its step."""
    if update_was_due(runner):
        return {}
    if runner.world_size > 1:
        runner.logger.warning(
            'This checkpoint lies within an accumulation of gradients and '
            'does not hold those of the other processes: a run that resumes '
            'from it leaves out the part. Choose an interval of checkpoints '
            'that is a multiple of accumulative_counts'
        )
        return {}
    return {
        name: parameter.grad.to('cpu', copy=True)
        for name, parameter in unwrapped_model(runner).named_parameters()
        if parameter.grad is not None
    }


def _trim_logs(runner: Runner, scalars: dict) -> None:
    """Leave out the log history that no later line of the log shows."""
    processor = runner.log_processor
    windows = [cfg.get('window_size') for cfg in processor.custom_cfg]
    if 'global' in windows:
        return
    lengths = [window for window in windows if isinstance(window, int)]
    keep = max(processor.window_size, len(runner.train_dataloader), *lengths)
    for buffer in scalars.values():
        buffer._log_history = buffer._log_history[-keep:]
        buffer._count_history = buffer._count_history[-keep:]
