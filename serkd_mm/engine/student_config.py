# Copyright (c) The serkd_mm authors. All rights reserved.
"""The config of a student without the distillation that it learned in."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.hooks import Hook
from mmrazor.registry import HOOKS

from .. import compat
from ..models.from_config import student_network
from .pipeline_size import pipeline_of, pipeline_size
from .run_config import (
    check_registered,
    registered_classes,
    type_names,
    unscoped,
    unscoped_type,
)

_PACKAGE = 'serkd_mm'
_HOSTS = {
    'LoadCheckedImage': 'LoadImageFromFile',
    'TolerantVisBackend': 'LocalVisBackend',
}


def student_config(cfg: Config) -> Config:
    """The run's config with the student as its model.

    What this package registers is left out as far as MMPretrain alone can do
    without; if nothing of it remains, the package is not imported either,
    unless MMPretrain alone would compute something else with the weights.

    Args:
        cfg: Config of a distillation.
    """
    exported = copy.deepcopy(dict(cfg))
    for name in ('work_dir', 'load_from', 'resume', 'launcher'):
        exported.pop(name, None)
    compat.forget_cpu_distributed(exported)
    exported['default_scope'] = 'mmpretrain'
    wrapper = exported.get('optim_wrapper') or {}
    if unscoped(wrapper.get('constructor')) == 'MergedOptimWrapperConstructor':
        # MMEngine's default makes other groups of the same settings.
        wrapper.pop('constructor')
    if unscoped_type(wrapper) == 'Bfloat16OptimWrapper':
        # MMEngine's own for bfloat16 would refuse CPUs.
        wrapper.pop('type')
        wrapper.pop('fused_attention', None)
    _name_parts_of_student(exported)
    model = student_architecture(cfg)
    model.pop('_scope_', None)
    head = model.get('head')
    if unscoped_type(head) == 'DeiTDistillHead':
        head['type'] = 'DeiTClsHead'
        head.pop('label_dist_head', None)
    exported['model'] = model
    _use_host_hooks(exported)
    exported = _use_host_classes(exported)
    student = Config(exported)
    own = _own_names() | compat.CURED_NETWORKS
    if not any(unscoped(name) in own for name in type_names(exported)):
        _drop_own_import(student)
    return student


def _name_parts_of_student(cfg: dict) -> None:
    """Name modules and parameters as the student by itself calls them."""
    settings = (cfg.get('optim_wrapper') or {}).get('paramwise_cfg') or {}
    keys = settings.get('custom_keys')
    if keys:
        renamed = _names_in_student(keys)
        settings['custom_keys'] = {new: keys[old] for old, new in renamed}
    names = cfg.get('activation_checkpointing')
    if names:
        renamed = _names_in_student(
            [names] if isinstance(names, str) else names
        )
        cfg['activation_checkpointing'] = [new for _, new in renamed]


def _names_in_student(names: Iterable[str]) -> list[tuple[str, str]]:
    """Names in the algorithm and in the student, the distiller's left out."""
    return [
        (name, name.removeprefix('architecture').removeprefix('.'))
        for name in names
        if name.split('.')[0] != 'distiller'
    ]


def student_architecture(cfg: Config) -> ConfigDict:
    """The student's config with the preprocessing that it was trained with.

    In the order of precedence that training has: the student's own, the
    algorithm's, the config's.
    """
    model = copy.deepcopy(cfg.model)
    return student_network(
        model.architecture,
        model.get('data_preprocessor'),
        copy.deepcopy(cfg.get('data_preprocessor')),
    )


def image_size(model: Any, run: Config) -> tuple[int, int] | None:
    """Height and width that a student sees in tests.

    Args:
        model: The student.
        run: Config of its distillation.

    Returns:
        What the backbone says, or else what the test pipeline puts out, or
        else the ``input_size`` of the distillation; None where nothing does.
    """
    backbone = getattr(model, 'backbone', None)
    size = getattr(backbone, 'img_size', None) or _test_size(run)
    size = size or run.model.get('input_size')
    if not size:  # 0 leaves out the dry run before training
        return None
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def _test_size(run: Config) -> tuple[int, int] | None:
    pipeline = pipeline_of((run.get('test_dataloader') or {}).get('dataset'))
    if not pipeline:
        return None
    try:
        # The config may be that of a checkpoint that somebody else wrote.
        check_registered(pipeline, 'test_dataloader')
        return pipeline_size(pipeline)
    except ValueError:
        return None


def _use_host_classes(value: Any) -> Any:
    """A config whose data and logs go through the host's own classes."""
    if isinstance(value, (list, tuple)):
        return type(value)(_use_host_classes(item) for item in value)
    if not isinstance(value, dict):
        return value
    if unscoped_type(value) == 'SkipBrokenImages':
        return _use_host_classes(value['dataset'])
    items = {key: _use_host_classes(item) for key, item in value.items()}
    host = _HOSTS.get(unscoped_type(items))
    return {**items, 'type': host} if host else items


def _use_host_hooks(cfg: dict) -> None:
    """Leave out the hooks of a distillation; others become the host's."""
    default = cfg.get('default_hooks') or {}
    for name, hook in list(default.items()):
        default[name] = _host_hook(hook)
        if hook and not default[name]:
            del default[name]
    custom = [_host_hook(h) for h in cfg.pop('custom_hooks', None) or ()]
    if any(custom):
        cfg['custom_hooks'] = [hook for hook in custom if hook]


def _host_hook(hook: Any) -> Any:
    """The hook that one of this package extends; None if there is none."""
    if not isinstance(hook, dict):
        return hook
    name = unscoped_type(hook)
    if name not in registered_classes():
        # MMRazor registers its hooks when one is first asked for. To ask for
        # this one might import whatever has its name.
        HOOKS.import_from_location()
    for cls in registered_classes().get(name, ()):
        host = next(base for base in cls.__mro__ if not _distills(base))
        if host is not cls:
            return None if host is Hook else {**hook, 'type': host.__name__}
    return hook


def _distills(cls: type) -> bool:
    return _package_of(cls) in (_PACKAGE, 'mmrazor')


def _own_names() -> set[str]:
    """Names that this package registers."""
    return {
        name
        for name, classes in registered_classes().items()
        if any(_package_of(cls) == _PACKAGE for cls in classes)
    }


def _package_of(registered: Any) -> str:
    """Of a class or function; partials of Python 3.9 do not know theirs."""
    return getattr(registered, '__module__', '').split('.')[0]


def _drop_own_import(cfg: Config) -> None:
    imports = cfg.get('custom_imports')
    if not imports:
        return
    names = imports['imports']
    names = [names] if isinstance(names, str) else list(names)
    imports['imports'] = [n for n in names if n.split('.')[0] != _PACKAGE]
    if not imports['imports']:
        cfg.pop('custom_imports')
