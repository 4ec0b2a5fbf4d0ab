# Copyright (c) The serkd_mm authors. All rights reserved.
"""Schedules of learning rates and the like, from the present config."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

from mmengine.optim import OptimWrapper, _ParamScheduler
from mmengine.runner import EpochBasedTrainLoop, Runner

# What changes while a scheduler steps; the rest is its plan.
_STEPPED = ('last_step', '_global_step', '_last_value', 'verbose')
_BY_METRIC = ('best', 'num_bad_epochs', 'cooldown_counter')


def changes_of_plan(
    schedulers: list[_ParamScheduler], states: list[dict]
) -> list[str]:
    """What the schedulers of a config plan otherwise than their past states.

    Args:
        schedulers: Schedulers as built from the config.
        states: Their ``state_dict`` in a checkpoint.

    Returns:
        A description of each difference.
    """
    if len(schedulers) != len(states):
        return [f'{len(states)} -> {len(schedulers)} schedulers']
    changes = []
    for scheduler, state in zip(schedulers, states):
        new, old = _plan(scheduler.state_dict()), _plan(state)
        changes += [
            f'{type(scheduler).__name__}.{key} '
            f'{old.get(key)} -> {new.get(key)}'
            for key in sorted(set(new) | set(old))
            if new.get(key) != old.get(key)
        ]
    return changes


def _plan(state: dict) -> dict:
    left_out = _STEPPED + _BY_METRIC
    return {key: state[key] for key in state if key not in left_out}


def fast_forward(
    schedulers: list[_ParamScheduler], epochs: int, length: int, steps: int
) -> None:
    """Step fresh schedulers to where training is.

    Afterwards they, and the parameter groups of their optimizer, are as after
    an uninterrupted run by the present config.

    Args:
        schedulers: Schedulers of one optimizer, as built from the config.
        epochs: Number of whole epochs.
        length: Iterations per epoch.
        steps: Further iterations.

    Raises:
        ValueError: If a scheduler follows a metric, as its past is unknown.
    """
    for scheduler in schedulers:
        if _follows_metric(scheduler):
            raise ValueError(
                f'{type(scheduler).__name__} follows a metric of the past '
                'epochs, so it cannot be re-planned; resume with the same '
                'param_scheduler and max_epochs'
            )
    by_iter = [s for s in schedulers if not s.by_epoch]
    by_epoch = [s for s in schedulers if s.by_epoch]
    with warnings.catch_warnings():
        # The optimizer has not stepped, and need not.
        warnings.simplefilter('ignore')
        for _ in range(epochs):
            _step(by_iter, length)
            _step(by_epoch, 1)
        _step(by_iter, steps)


def _step(schedulers: list[_ParamScheduler], times: int) -> None:
    if schedulers:
        for _ in range(times):
            for scheduler in schedulers:
                scheduler.step()


def check_ends(
    schedulers: list[_ParamScheduler],
    states: list[dict],
    old: dict[bool, int],
    new: dict[bool, int],
) -> None:
    """Refuse a longer run in which the learning rate would get stuck.

    Args:
        schedulers: Schedulers as built from the config.
        states: Their ``state_dict`` in the checkpoint.
        old: Length of the run that wrote it, in epochs (True) and in
            iterations (False), as a scheduler's ``by_epoch`` has it.
        new: Length of the present run.

    Raises:
        ValueError: If the schedule lasted to the end of the old run and does
            not last to the end of the new one, or a cosine would turn round,
            as the config spells out an ``end`` or ``T_max`` of the old one.
    """
    if new[False] <= old[False]:
        return
    lengthen = (
        f'the run is now {new[False]} iterations long, it was {old[False]}: '
        'change {what} of param_scheduler to the new length, or leave it out'
    )
    lasted = any(s['end'] >= old[s['by_epoch']] for s in states)
    if lasted and all(s.end < new[s.by_epoch] for s in schedulers):
        ends = {type(s).__name__: s.end for s in schedulers}
        raise ValueError(
            f'no schedule lasts to the end of training ({ends}), so the '
            f'learning rate would get stuck; {lengthen.format(what="end")}'
        )
    for scheduler, state in zip(schedulers, states):
        fitted = state.get('T_max') == state['end'] - state['begin']
        span = scheduler.end - scheduler.begin
        if fitted and getattr(scheduler, 'T_max', span) != span:
            raise ValueError(
                f'{type(scheduler).__name__} would rise again after '
                f'T_max={scheduler.T_max}; {lengthen.format(what="T_max")}'
            )


def replan(runner: Runner, checkpoint: dict, length: int) -> None:
    """Let a resumed run follow the schedule of its config.

    MMEngine restores a scheduler's plan with its state: resumed with other
    ``max_epochs``, a run follows the old schedule and its learning rate stays
    where that ends. Here, where config and checkpoint differ, the schedulers
    go anew through the past iterations, and the checkpoint gets their states.

    Args:
        runner: Runner with schedulers and optimizer as built from the config.
        checkpoint: What it is about to resume from; changed in place. Its
            ``meta`` says how far training is.
        length: Iterations per epoch.

    Raises:
        ValueError: If the schedule cannot be planned anew.
    """
    schedulers = runner.param_schedulers
    states = checkpoint.get('param_schedulers')
    if not schedulers or isinstance(schedulers, dict):
        _refuse_changes(schedulers or {}, states)
        return
    old = checkpoint['message_hub']['runtime_info']
    if states and {'max_epochs', 'max_iters'} <= set(old):
        check_ends(
            schedulers,
            states,
            old={True: old['max_epochs'], False: old['max_iters']},
            new={True: runner.max_epochs, False: runner.max_iters},
        )
    by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
    iteration = checkpoint['meta']['iter']
    epochs = checkpoint['meta']['epoch'] if by_epoch else 0
    changes = changes_of_plan(schedulers, states or [])
    changes += _other_counts(schedulers, states or [], epochs, iteration)
    if changes:
        fast_forward(schedulers, epochs, length, iteration - epochs * length)
        _keep(schedulers, runner.optim_wrapper, checkpoint)
        runner.logger.warning(
            f'Learning rates follow the config: {"; ".join(changes)}'
        )


def follow_rates(
    runner: Runner,
    checkpoint: dict,
    past: list[float] | None,
    now: list[float] | None,
) -> None:
    """Let learning rates that no scheduler sets be those of the config.

    MMEngine restores them with the optimizer. Where the config has not
    changed they stay as restored, as a hook may have set them.

    Args:
        runner: Runner that resumes.
        checkpoint: What it resumes from; its rates are changed in place.
        past: Rates per parameter group of the config that it was written
            with, None where that is not known.
        now: Those of the present config.
    """
    schedulers = runner.param_schedulers or []
    if not past or not now or past == now or isinstance(schedulers, dict):
        return
    if any(scheduler.param_name == 'lr' for scheduler in schedulers):
        return
    _keep_values(('lr',), runner.optim_wrapper, checkpoint)
    runner.logger.warning(
        'Learning rates follow the config: '
        f'{sorted(set(past))} -> {sorted(set(now))}'
    )


def _refuse_changes(schedulers: dict, states: Any) -> None:
    """Of several optimizers; MMEngine keeps their schedulers in a dict."""
    for name, own in schedulers.items():
        changes = changes_of_plan(own, (states or {}).get(name, []))
        if changes:
            raise ValueError(
                f'param_scheduler of {name!r} differs from the checkpoint '
                f'({"; ".join(changes)}), and schedules of several '
                'optimizers are not re-planned; resume with the same '
                'param_scheduler and length of training'
            )


def _other_counts(
    schedulers: list[_ParamScheduler],
    states: list[dict],
    epochs: int,
    iteration: int,
) -> list[str]:
    """Steps of the checkpoint's schedulers that are not where training is."""
    found = []
    for scheduler, state in zip(schedulers, states):
        steps = epochs if scheduler.by_epoch else iteration
        if state['_global_step'] != steps and not _follows_metric(scheduler):
            found.append(
                f'{type(scheduler).__name__} at step '
                f'{state["_global_step"]} -> {steps}'
            )
    return found


def _follows_metric(scheduler: _ParamScheduler) -> bool:
    return getattr(scheduler, 'need_val_args', False)


def _keep(
    schedulers: list[_ParamScheduler], wrapper: OptimWrapper, checkpoint: dict
) -> None:
    """Let the checkpoint hold the schedulers and their values."""
    checkpoint['param_schedulers'] = [s.state_dict() for s in schedulers]
    names = {scheduler.param_name for scheduler in schedulers}
    initial = {f'initial_{name}' for name in names}
    _keep_values(names | initial, wrapper, checkpoint)


def _keep_values(
    keys: Iterable[str], wrapper: OptimWrapper, checkpoint: dict
) -> None:
    """Let the checkpoint hold an optimizer's present settings."""
    saved = checkpoint.get('optimizer')
    if saved is None:
        return
    groups = saved['param_groups'] + [saved.get('base_param_settings', {})]
    for key in keys:
        for group, past in zip(wrapper.param_groups, groups):
            past[key] = group[key]
