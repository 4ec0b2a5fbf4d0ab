# Copyright (c) The serkd_mm authors. All rights reserved.
"""Settings that the host would take, ignore or misunderstand in silence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmengine.config import Config
from mmengine.registry import OPTIMIZERS

from ..functional.checks import check_number
from ..near_names import did_you_mean
from .config_keys import check_keys, check_split, check_types
from .run_config import unscoped_type


def check_config(cfg: Config) -> None:
    """Refuse settings that need no model to be seen as mistakes.

    Args:
        cfg: Config of the runner.

    Raises:
        TypeError: If a setting has another type than it must have.
        ValueError: If a key or the optimizer's type is misspelt, the
            training has no proper length, no epoch to stop distilling at, or
            in iterations a schedule or checkpoints by epochs, or a part of
            the validation or the test is missing.
    """
    check_keys(cfg)
    check_types(cfg)
    for split in ('val', 'test'):
        check_split(cfg, split)
    check_length(cfg)
    check_iterations(cfg)
    check_stop_epoch(cfg)
    check_optimizer(cfg)


def check_length(cfg: Config) -> None:
    """Refuse training of no epochs or intervals, or within the warm-up.

    Args:
        cfg: Config of the runner.

    Raises:
        ValueError: If the length, or the interval of validations, in
            ``train_cfg`` is no positive integer, or a scheduler, whose end is
            that of the training, begins after it.
    """
    lengths = cfg.get('train_cfg') or {}
    for key in ('max_epochs', 'max_iters', 'val_interval'):
        length = lengths.get(key, 1)
        if type(length) is not int or length < 1:
            raise ValueError(
                f'train_cfg.{key} must be a positive integer, got {length!r}'
            )
    for key in {'max_epochs', 'max_iters'}.intersection(lengths):
        length = lengths[key]
        for path, scheduler in _schedulers(cfg.get('param_scheduler')):
            begin, unit = scheduler.get('begin', 0), key.removeprefix('max_')
            same_unit = scheduler.get('by_epoch', True) is (unit == 'epochs')
            if 'end' not in scheduler and same_unit and begin >= length:
                raise ValueError(
                    f'train_cfg.{key}={length} is too short for {path} '
                    f'({scheduler["type"]}), which begins after the {begin} '
                    f'{unit} of {path}.begin; raise train_cfg.{key}, or '
                    f'shorten what comes before by {path}.begin and the end '
                    'of the scheduler before it'
                )


def check_iterations(cfg: Config) -> None:
    """Refuse what waits for epochs in a training that has but one.

    Args:
        cfg: Config of the runner.

    Raises:
        ValueError: If a schedule would not move before the end, or no
            checkpoint be written.
    """
    if not _counts_iterations(cfg):
        return
    for path, scheduler in _schedulers(cfg.get('param_scheduler')):
        if scheduler.get('by_epoch', True) and not scheduler.get(
            'convert_to_iter_based'
        ):
            raise ValueError(
                f'{path} ({scheduler["type"]}) counts epochs, of which a '
                'training in iterations has one, so it would not move; set '
                f'{path}.by_epoch=False and its lengths in iterations'
            )
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    interval = hook.get('interval', -1)
    saves = isinstance(interval, int) and interval > 0
    if saves and hook.get('by_epoch', True):
        raise ValueError(
            'default_hooks.checkpoint counts epochs, of which a training in '
            'iterations has one, so nothing would be saved before its end; '
            'set default_hooks.checkpoint.by_epoch=False and its interval in '
            'iterations'
        )


def _counts_iterations(cfg: Config) -> bool:
    length = cfg.get('train_cfg') or {}
    by_iteration = unscoped_type(length) == 'IterBasedTrainLoop'
    return by_iteration or length.get('by_epoch') is False


def check_stop_epoch(cfg: Config) -> None:
    """Refuse to stop distilling at an epoch where there are none.

    Args:
        cfg: Config of the runner.

    Raises:
        ValueError: If MMRazor's hook would never be asked.
    """
    if not _counts_iterations(cfg):
        return
    path = hook_path(cfg, 'StopDistillHook')
    if path is not None:
        raise ValueError(
            f'{path} (StopDistillHook) counts epochs, of which a training in '
            'iterations has one, so distillation would never stop; train '
            'by_epoch=True, or leave the hook out'
        )


def hook_path(cfg: Config, kind: str) -> str | None:
    """Where a config has a hook, None where it has not.

    Args:
        cfg: Config of the runner.
        kind: Type of the hook without a scope.
    """
    hooks = {
        f'custom_hooks.{place}': hook
        for place, hook in enumerate(cfg.get('custom_hooks') or ())
    }
    for name, hook in (cfg.get('default_hooks') or {}).items():
        hooks[f'default_hooks.{name}'] = hook
    found = (p for p, hook in hooks.items() if unscoped_type(hook) == kind)
    return next(found, None)


def check_optimizer(cfg: Config) -> None:
    """Refuse an optimizer that there is not, and settings that are no numbers.

    MMEngine would go on without the class, or compute with a list.

    Args:
        cfg: Config of the runner.

    Raises:
        TypeError: If the learning rate or the like is no number.
        ValueError: If no optimizer has the name.
    """
    wrapper = cfg.get('optim_wrapper')
    settings = wrapper.get('optimizer') if isinstance(wrapper, dict) else None
    if not isinstance(settings, dict):
        return
    key, kind = 'optim_wrapper.optimizer', settings.get('type')
    scope = cfg.get('default_scope') or 'mmpretrain'
    with OPTIMIZERS.switch_scope_and_registry(scope) as registry:
        if isinstance(kind, str) and registry.get(kind) is None:
            names = [*registry.module_dict, *OPTIMIZERS.module_dict]
            known = {name.lower(): name for name in names}
            raise ValueError(
                f'{key}.type {kind!r} is not registered'
                f'{did_you_mean(kind.lower(), known)}'
            )
    for name in ('lr', 'weight_decay', 'momentum', 'eps'):
        if settings.get(name) is not None:
            check_number(f'{key}.{name}', settings[name])


def _schedulers(part: Any, path: str = 'param_scheduler') -> Iterator[tuple]:
    """Settings of all schedulers and their config keys."""
    if isinstance(part, dict) and 'type' in part:
        yield path, part
    elif isinstance(part, (dict, list)):
        items = part.items() if isinstance(part, dict) else enumerate(part)
        for key, value in items:
            yield from _schedulers(value, f'{path}.{key}')
