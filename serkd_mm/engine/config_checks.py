# Copyright (c) The serkd_mm authors. All rights reserved.
"""Settings that the host would take, ignore or misunderstand in silence."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterable, Iterator, Sized
from typing import Any

from mmengine.config import Config
from mmengine.dist import get_world_size
from mmengine.registry import OPTIMIZERS
from mmengine.runner import FlexibleRunner, Runner
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..models.algorithms.class_checks import check_one_hot
from ..models.heads.check_head import check_head
from ..models.losses import InstanceAngleLoss, InstanceDistanceLoss
from .near_names import did_you_mean
from .run_config import unscoped_type

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
    'optim_wrapper.paramwise_cfg': (
        'bias_decay_mult',
        'bias_lr_mult',
        'bypass_duplicate',
        'custom_keys',
        'dwconv_decay_mult',
        'flat_decay_mult',
        'norm_decay_mult',
    ),
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


def check_config(cfg: Config) -> None:
    """Refuse settings that need no model to be seen as mistakes.

    Args:
        cfg: Config of the runner.

    Raises:
        TypeError: If a setting has another type than it must have.
        ValueError: If a key or the optimizer's type is misspelt, the
            training has no proper length or no epoch to stop distilling at,
            or a part of the validation or the test is missing.
    """
    check_keys(cfg)
    check_types(cfg)
    for split in ('val', 'test'):
        check_split(cfg, split)
    check_length(cfg)
    check_stop_epoch(cfg)
    check_optimizer(cfg)


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


def check_stop_epoch(cfg: Config) -> None:
    """Refuse to stop distilling at an epoch where there are none.

    Args:
        cfg: Config of the runner.

    Raises:
        ValueError: If MMRazor's hook would never be asked.
    """
    length = cfg.get('train_cfg') or {}
    by_iteration = unscoped_type(length) == 'IterBasedTrainLoop'
    if not by_iteration and length.get('by_epoch') is not False:
        return
    hooks = {
        f'custom_hooks.{place}': hook
        for place, hook in enumerate(cfg.get('custom_hooks') or ())
    }
    for name, hook in (cfg.get('default_hooks') or {}).items():
        hooks[f'default_hooks.{name}'] = hook
    for path, hook in hooks.items():
        if unscoped_type(hook) == 'StopDistillHook':
            raise ValueError(
                f'{path} (StopDistillHook) counts epochs, of which a training '
                'in iterations has one, so distillation would never stop; '
                'train by_epoch=True, or leave the hook out'
            )


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
        value = settings.get(name)
        number = isinstance(value, (int, float, type(None)))
        if isinstance(value, bool) or not number:
            raise TypeError(f'{key}.{name} must be a number, got {value!r}')


def _schedulers(part: Any, path: str = 'param_scheduler') -> Iterator[tuple]:
    """Settings of all schedulers and their config keys."""
    if isinstance(part, dict) and 'type' in part:
        yield path, part
    elif isinstance(part, (dict, list)):
        items = part.items() if isinstance(part, dict) else enumerate(part)
        for key, value in items:
            yield from _schedulers(value, f'{path}.{key}')


def _hints(runner: type) -> dict[str, Any]:
    hints = typing.get_type_hints(getattr(runner, '__init__'))  # noqa: B009
    return {key: hint for key, hint in hints.items() if key != 'return'}


def _types(hint: Any) -> set:
    """Classes of an annotation, its generics without their parameters."""
    origin = typing.get_origin(hint)
    if origin is typing.Union:
        return set().union(*map(_types, typing.get_args(hint)))
    return {origin or hint}


def check_batch_norm(cfg: Config, model: nn.Module) -> None:
    """Refuse batches of one image where batch statistics are trained.

    Args:
        cfg: Config of the runner.
        model: Model of the runner.

    Raises:
        ValueError: If each process normalises over a single image.
    """
    if _batch_size(cfg) != 1:
        return
    model.train()
    for name, module in model.named_modules():
        synced = isinstance(module, nn.SyncBatchNorm) and get_world_size() > 1
        norm = isinstance(module, _BatchNorm) and not synced
        if norm and module.training:
            raise ValueError(
                'train_dataloader.batch_size is 1, but the student has batch '
                f'norm ({name}), which would normalise every image by itself;'
                ' set train_dataloader.batch_size to 2 or more, or '
                "sync_bn='torch' with several processes"
            )


def check_batches(runner: Runner) -> None:
    """Refuse a training set that gives no batch, before an epoch of none.

    Builds the training loop, as training would. What does not know its length
    passes.

    Args:
        runner: Runner of the training.

    Raises:
        ValueError: If a process has no images, or fewer than a batch and
            drops the last one.
    """
    loader: Any = getattr(runner.train_loop, 'dataloader', None)
    size = getattr(loader, 'batch_size', None)
    if size is not None and isinstance(loader.sampler, Sized):
        check_batch_count(len(loader.sampler), size, loader.drop_last)


def check_batch_count(images: int, batch_size: int, drop_last: bool) -> None:
    """Refuse fewer images than make one training batch.

    Args:
        images: Images of an epoch of one process.
        batch_size: Images of a batch.
        drop_last: Whether a last batch that is smaller is left out.

    Raises:
        ValueError: If there is no batch.
    """
    if images >= (batch_size if drop_last else 1):
        return
    cure = 'the dataset is empty'
    if images:
        cure = (
            'lower train_dataloader.batch_size, or set '
            'train_dataloader.drop_last=False'
        )
    raise ValueError(
        f'train_dataloader gives 0 batches: {images} images per process, '
        f'batch_size={batch_size}, drop_last={drop_last}; {cure}'
    )


def check_instance_losses(cfg: Config, model: nn.Module) -> None:
    """Refuse batches whose images have no relations to learn.

    A last batch that is smaller trains nothing by these losses, and may.

    Args:
        cfg: Config of the runner.
        model: Model of the runner.

    Raises:
        ValueError: If each process compares fewer than three images.
    """
    size = _batch_size(cfg)
    if size not in (1, 2):
        return
    for name, module in model.named_modules():
        if isinstance(module, (InstanceAngleLoss, InstanceDistanceLoss)):
            raise ValueError(
                f'train_dataloader.batch_size is {size}, but {name} '
                f'({type(module).__name__}) compares the images of a batch '
                'and is always 0 below 3; set train_dataloader.batch_size to '
                '3 or more'
            )


def _batch_size(cfg: Config) -> Any:
    """Images of a training batch, None where the config does not say it."""
    dataloader = cfg.get('train_dataloader')
    return (
        dataloader.get('batch_size') if isinstance(dataloader, dict) else None
    )


def check_heads(model: nn.Module) -> None:
    """Refuse networks whose head is for other tokens or labels.

    Args:
        model: Model of the runner, a classifier or a distillation of one.

    Raises:
        TypeError: If one reads tokens that are not there, see
            :func:`check_head`.
        ValueError: If soft labels have other classes than a classifier.
    """
    model = getattr(model, 'module', model)  # of several processes
    for name, module in model.named_modules():
        check_head(f'model.{name}'.rstrip('.'), module)
    check_one_hot(getattr(model, 'data_preprocessor', None), model)
