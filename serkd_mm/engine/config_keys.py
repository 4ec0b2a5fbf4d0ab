# Copyright (c) The serkd_mm authors. All rights reserved.
"""Names and types of settings that the host would ignore or misread."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterable
from typing import Any

from mmengine.config import Config
from mmengine.runner import FlexibleRunner, Runner

from ..near_names import did_you_mean
from .optimizers import PARAMWISE_KEYS

# What MMEngine reads of a config beside the arguments of its runners.
_TOP = (
    'activation_checkpointing',
    'compile',
    'custom_imports',
    'efficient_conv_bn_eval',
    'find_unused_parameters',
    'model_wrapper_cfg',
    'runner_type',
    'sync_bn',
)
# Default hooks of MMEngine, which leaves them out itself where they are None.
HOST_HOOKS = (
    'checkpoint',
    'logger',
    'param_scheduler',
    'runtime_info',
    'sampler_seed',
    'timer',
)
# Dicts of which the host reads the keys that it knows and no others.
_NESTED = {
    'auto_scale_lr': ('base_batch_size', 'enable'),
    'default_hooks': (*HOST_HOOKS, 'visualization'),
    'env_cfg': ('cudnn_benchmark', 'dist_cfg', 'mp_cfg', 'resource_limit'),
    'model.architecture.train_cfg': ('augments', 'probs'),
    'optim_wrapper.paramwise_cfg': PARAMWISE_KEYS,
    'randomness': ('deterministic', 'diff_rank_seed', 'seed'),
}
# What belongs together: a runner takes all three or none.
_SPLITS = {
    'train': ('train_dataloader', 'train_cfg', 'optim_wrapper'),
    'val': ('val_dataloader', 'val_cfg', 'val_evaluator'),
    'test': ('test_dataloader', 'test_cfg', 'test_evaluator'),
}
# Scopes may be unset, which the annotation does not say.
_MAY_BE_NONE = ('default_scope',)


def check_keys(cfg: Config) -> None:
    """Refuse misspelt names where the host ignores unknown ones.

    MMEngine takes what it does not know for variables of the config, so that
    a ``param_schedulers`` would have no effect.

    Args:
        cfg: Config of the runner.

    Raises:
        TypeError: If a dict of such names is none.
        ValueError: If an unknown key is nearly a known one, or a default hook
            has no type.
    """
    known = {*_TOP, *_hints(Runner), *_hints(FlexibleRunner)}
    _check_near('', cfg, known)
    for path, names in _NESTED.items():
        block: Any = cfg
        for part in path.split('.'):
            block = block.get(part) if hasattr(block, 'get') else None
        if isinstance(block, dict):
            _check_near(f'{path}.', block, names)
        elif block is not None:
            raise TypeError(f'config key {path} must be a dict, got {block!r}')
    hooks = cfg.get('default_hooks') or {}
    for name, hook in hooks.items():
        if isinstance(hook, dict) and 'type' not in hook:
            others = {other: other for other in hooks if other != name}
            raise ValueError(
                f'config key default_hooks.{name} has no type, so it is no '
                f'hook{did_you_mean(name, others)}'
            )


def _check_near(prefix: str, keys: Iterable, known: Iterable[str]) -> None:
    for key in keys:
        if not isinstance(key, str) or key in known:
            continue
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.8)
        if near:
            raise ValueError(
                f'config key {prefix}{key} is not known and would have no '
                f'effect; did you mean {prefix}{near[0]}? A name of your own '
                'has to differ more'
            )


def check_types(cfg: Config) -> None:
    """Refuse settings of the runner whose type its signature excludes.

    Args:
        cfg: Config of the runner.

    Raises:
        TypeError: If a setting has another type.
    """
    hints = {**_hints(FlexibleRunner), **_hints(Runner)}
    for key, hint in hints.items():
        if key not in cfg or key == 'cfg':
            continue
        value, types = cfg[key], _types(hint)
        if key in _MAY_BE_NONE:
            types |= {type(None)}
        if typing.Any not in types and not isinstance(value, tuple(types)):
            names = sorted(
                t.__name__.replace('NoneType', 'None') for t in types
            )
            raise TypeError(
                f'config key {key} must be of type {" or ".join(names)}, got '
                f'{type(value).__name__} {value!r}'
            )


def check_split(cfg: Config, split: str, needed: bool = False) -> None:
    """Refuse a training, validation or test of which a part is missing.

    Args:
        cfg: Config of the runner.
        split: ``'train'``, ``'val'`` or ``'test'``.
        needed: Whether all of it may not be missing either.

    Raises:
        ValueError: If some of its keys, or all where it is needed, are not
            there or None.
    """
    keys = _SPLITS[split]
    missing = [key for key in keys if cfg.get(key) is None]
    if not missing or (len(missing) == len(keys) and not needed):
        return
    there = [key for key in keys if key not in missing]
    beside = f' beside {" and ".join(there)}' if there else ''
    cure = 'add what is missing'
    if there and not needed:
        cure += f', or set {" and ".join(there)} to None'
    raise ValueError(
        f'the config has no {" and no ".join(missing)}{beside}; {cure}'
    )


def _hints(runner: type) -> dict[str, Any]:
    hints = typing.get_type_hints(getattr(runner, '__init__'))  # noqa: B009
    return {key: hint for key, hint in hints.items() if key != 'return'}


def _types(hint: Any) -> set:
    """Classes of an annotation, its generics without their parameters."""
    origin = typing.get_origin(hint)
    if origin is typing.Union:
        return set().union(*map(_types, typing.get_args(hint)))
    return {origin or hint}
