# Copyright (c) The serkd_mm authors. All rights reserved.
"""What a config of another package lacks of this one's runtime."""

from __future__ import annotations

from typing import Any

from mmengine import hub
from mmengine.config import Config

from ..engine.run_config import unscoped_type
from .python_text import Reference

_HOST = 'mmpretrain::_base_/default_runtime.py'
_OWN = 'serkd_mm::_base_/default_runtime.py'
# Scopes are what reading a config of a package adds.
_IGNORED = ('custom_imports', '_scope_')
_DATALOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
# Arguments that LoadCheckedImage shares with LoadImageFromFile.
_LOADING = ('to_float32', 'color_type', 'imdecode_backend', 'backend_args')


def missing_runtime(cfg: Config) -> dict[str, Any]:
    """Entries that give a config the package's hooks and logs.

    Where a config has values of its own, that are not MMPretrain's defaults,
    they stay.

    Args:
        cfg: Config that is to be the base of another.

    Returns:
        Entries for the config that builds on it, empty if it has them all.
    """
    host, own = (hub.get_config(path).to_dict() for path in (_HOST, _OWN))
    if not _judges_top1(cfg.get('val_evaluator')):
        own['default_hooks']['teacher_check']['min_top1'] = None
    return _missing(own, host, cfg.to_dict())


def _judges_top1(evaluator: Any) -> bool:
    """Whether a validation finds a top-1 that a teacher's can be held to."""
    if evaluator is None:  # nobody judges
        return True
    metrics = evaluator if isinstance(evaluator, list) else [evaluator]
    return any(unscoped_type(metric) == 'Accuracy' for metric in metrics)


def _missing(own: dict, host: dict, given: dict) -> dict:
    found = {}
    for key, value in own.items():
        if key in _IGNORED:
            continue
        there = given.get(key)
        usual = key not in given or (key in host and there == host[key])
        if isinstance(value, dict):
            part = None  # which turns a hook off, if that is given
            if key not in given:
                # As a whole: parts may need each other.
                part = _unscoped(value)
            elif isinstance(there, dict):
                part = _missing(value, host.get(key) or {}, there)
            if part:
                found[key] = part
        elif usual and there != value:
            found[key] = value
    return found


def _unscoped(part: dict) -> dict:
    return {
        key: _unscoped(value) if isinstance(value, dict) else value
        for key, value in part.items()
        if key not in _IGNORED
    }


def checked_loading(cfg: Config) -> dict[str, Any]:
    """Entries that let a config's data loaders name the image that is broken.

    :class:`LoadCheckedImage` takes the place of ``LoadImageFromFile`` where
    that begins a pipeline, of datasets in a list too.

    Args:
        cfg: Config that is to be the base of another.

    Returns:
        Entries for the config that builds on it.
    """
    entries = {
        name: _checked(cfg.get(name), f'_base_.{name}')
        for name in _DATALOADERS
    }
    return {name: entry for name, entry in entries.items() if entry}


def _changed(part: dict, changes: dict) -> dict:
    """A part as it reads with its changes."""
    whole = _unscoped(part)
    for key, value in changes.items():
        inner = isinstance(value, dict) and isinstance(part.get(key), dict)
        whole[key] = _changed(part[key], value) if inner else value
    return whole


def _checked(part: Any, source: str) -> dict[str, Any]:
    if not isinstance(part, dict):
        return {}
    inner = _checked(part.get('dataset'), f'{source}.dataset')
    if inner:
        return dict(dataset=inner)
    parts = part.get('datasets') or ()
    changes = [
        _checked(each, f'{source}.datasets[{place}]')
        for place, each in enumerate(parts)
    ]
    if any(changes):
        # A list of a base is taken or left as a whole.
        return dict(datasets=list(map(_changed, parts, changes)))
    first = (part.get('pipeline') or [{}])[0]
    settings = {k: v for k, v in first.items() if k not in ('type', '_scope_')}
    loads = unscoped_type(first) == 'LoadImageFromFile'
    if not loads or not set(settings).issubset(_LOADING):
        return {}
    load = dict(type='LoadCheckedImage', **settings)
    return dict(pipeline=[load, Reference(f'*{source}.pipeline[1:]')])
