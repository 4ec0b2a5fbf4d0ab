# Copyright (c) The serkd_mm authors. All rights reserved.
"""What hooks ask a runner for."""

from __future__ import annotations

from typing import Any

from mmengine.logging import HistoryBuffer
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch.optim import Optimizer


def unwrapped_model(runner: Runner) -> Any:
    """The model without what distributes it."""
    model = runner.model
    return model.module if is_model_wrapper(model) else model


def optimizers(runner: Runner) -> list[Optimizer]:
    """The optimizers that are PyTorch's."""
    found = (
        getattr(wrapper, 'optimizer', None) for wrapper in _wrappers(runner)
    )
    return [o for o in found if isinstance(o, Optimizer)]


def update_was_due(runner: Runner) -> bool:
    """Whether this iteration ended a window of accumulated gradients."""
    return all(
        wrapper.should_update()
        for wrapper in _wrappers(runner)
        if isinstance(wrapper, OptimWrapper)
    )


def accumulative_counts(runner: Runner) -> list[int]:
    """Of how many iterations an update is, by optimizer."""
    return [
        wrapper._accumulative_counts
        for wrapper in _wrappers(runner)
        if isinstance(wrapper, OptimWrapper)
    ]


def norm_before_clipping(runner: Runner, optimizer: Optimizer) -> float:
    """Norm of the gradients that were clipped for the update under way.

    MMEngine logs it. 0 where they were not clipped by their norm.
    """
    scalars, name = _logged_norm(runner, optimizer)
    return float(scalars[name].current()) if name in scalars else 0.0


def forget_norm(runner: Runner, optimizer: Optimizer) -> None:
    """Take the norm of the update under way out of the logged means."""
    scalars, name = _logged_norm(runner, optimizer)
    if name not in scalars:
        return
    logged = scalars[name]
    logged._log_history = logged._log_history[:-1]
    logged._count_history = logged._count_history[:-1]
    if not len(logged._log_history):
        del scalars[name]  # which has no mean and no current value


def _logged_norm(
    runner: Runner, optimizer: Optimizer
) -> tuple[dict[str, HistoryBuffer], str]:
    """What MMEngine logs, and as what an optimizer's norms of gradients.

    The name is in there if they were clipped before.
    """
    for wrapper in _wrappers(runner):
        clips = getattr(wrapper, 'clip_grad_kwargs', None)
        if clips and wrapper.optimizer is optimizer:
            scalars = wrapper.message_hub.log_scalars
            return scalars, f'train/{wrapper.grad_name}'
    return {}, ''


def _wrappers(runner: Runner) -> list:
    wrapper = runner.optim_wrapper
    several = isinstance(wrapper, OptimWrapperDict)
    return list(wrapper.values()) if several else [wrapper]


def validation_is_due(runner: Runner) -> bool:
    """Whether the loop would have validated before it goes on."""
    loop = runner.train_loop
    if runner.val_loop is None:
        return False
    if isinstance(loop, IterBasedTrainLoop):
        done, last = loop.iter, loop.max_iters
    elif isinstance(loop, EpochBasedTrainLoop):
        if loop.iter != loop.epoch * len(loop.dataloader):
            return False
        done, last = loop.epoch, loop.max_epochs
    else:
        return False
    loop._decide_current_val_interval()
    at_interval = done % loop.val_interval == 0 or done == last
    return done >= max(loop.val_begin, 1) and at_interval


def length_reached(runner: Runner) -> str:
    """The setting by which the loop will not train, '' if it will."""
    loop = runner.train_loop
    if isinstance(loop, EpochBasedTrainLoop):
        key, done, last = 'max_epochs', loop.epoch, loop.max_epochs
    elif isinstance(loop, IterBasedTrainLoop):
        key, done, last = 'max_iters', loop.iter, loop.max_iters
    else:
        return ''
    return f'train_cfg.{key}={last}' if done >= last else ''
