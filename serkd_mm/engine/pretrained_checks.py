# Copyright (c) The serkd_mm authors. All rights reserved.
"""Checkpoints that networks start from, looked into before training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn


def pretrained_inits(part: Any, key: str) -> Iterator[tuple[str, dict]]:
    """All ``init_cfg`` of a config that read a checkpoint, with their keys.

    Args:
        part: Config of a model or of a part of it.
        key: Its own key.
    """
    if isinstance(part, (list, tuple)):
        part = dict(enumerate(part))
    if not isinstance(part, dict):
        return
    if part.get('type') == 'Pretrained':
        yield key, part
    for name, value in part.items():
        yield from pretrained_inits(value, f'{key}.{name}')


def check_pretrained(model: nn.Module) -> None:
    """Refuse a checkpoint of ``init_cfg`` from which nothing would be taken.

    MMEngine takes what fits and logs the rest, so that the weights of another
    network leave a random one behind. Partial ones are its affair.

    Args:
        model: Built model, its weights not initialised yet.

    Raises:
        ValueError: If no tensor of the checkpoint has the name and the shape
            of one of the module's.
    """
    for name, module in model.named_modules():
        settings = getattr(module, 'init_cfg', None)
        for cfg in settings if isinstance(settings, list) else [settings]:
            if isinstance(cfg, dict) and cfg.get('type') == 'Pretrained':
                _check_file(module, name, cfg)


def _check_file(module: nn.Module, name: str, cfg: dict) -> None:
    path, prefix = cfg['checkpoint'], cfg.get('prefix')
    saved = CheckpointLoader.load_checkpoint(path, map_location='cpu')
    saved = saved.get('state_dict', saved)
    if prefix is None:  # MMEngine takes wrappers off then.
        saved = {k.removeprefix('module.'): v for k, v in saved.items()}
    start = '' if prefix is None else prefix.rstrip('.') + '.'
    own = module.state_dict()
    shapes = {
        key: (tuple(saved[start + key].shape), tuple(value.shape))
        for key, value in own.items()
        if start + key in saved
    }
    if any(found == wanted for found, wanted in shapes.values()):
        return
    if shapes:
        key, (found, wanted) = next(iter(shapes.items()))
        why = f'{key} is {found} there and {wanted} here'
    else:
        first = ', '.join(list(own)[:3])
        why = f'it has none of {first}, ... behind the prefix {start!r}'
    raise ValueError(
        f'{name or type(module).__name__} takes no weight from {path!r}: '
        f'{why}; name the checkpoint of this network in init_cfg.checkpoint'
    )
