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
                saved = _read(cfg['checkpoint'], cfg.get('prefix'))
                why = _why_nothing_fits(saved, module, cfg.get('prefix'))
                if why:
                    raise ValueError(
                        f'{name or type(module).__name__} takes no weight '
                        f'from {cfg["checkpoint"]!r}: {why}; name the '
                        'checkpoint of this network in init_cfg.checkpoint'
                    )


def check_load_from(path: str, model: nn.Module) -> None:
    """Refuse a ``load_from`` from which nothing would be taken.

    Args:
        path: Path or URL of the checkpoint.
        model: Model of the runner.

    Raises:
        ValueError: If no tensor of the checkpoint has the name and the shape
            of one of the model's.
    """
    model = getattr(model, 'module', model)  # of several processes
    saved = _read(path)
    why = _why_nothing_fits(saved, model)
    if not why:
        return
    cure = 'name a checkpoint of this config in load_from'
    student = getattr(model, 'architecture', None)
    if student is not None and not _why_nothing_fits(saved, student):
        cure = (
            'it holds a student by itself, so name it in '
            "model.architecture.init_cfg=dict(type='Pretrained', "
            'checkpoint=...) instead of load_from'
        )
    raise ValueError(f'load_from={path!r} gives no weight: {why}; {cure}')


def _read(path: str, prefix: str | None = None) -> dict:
    """State dict of a checkpoint, as MMEngine looks it up."""
    saved = CheckpointLoader.load_checkpoint(path, map_location='cpu')
    saved = saved.get('state_dict', saved)
    if prefix is None:  # MMEngine takes wrappers off then.
        saved = {k.removeprefix('module.'): v for k, v in saved.items()}
    return saved


def _why_nothing_fits(
    saved: dict, module: nn.Module, prefix: str | None = None
) -> str:
    """Why a module takes no tensor of a state dict, '' if it takes one."""
    start = '' if prefix is None else prefix.rstrip('.') + '.'
    own = module.state_dict()
    shapes = {
        key: (tuple(saved[start + key].shape), tuple(value.shape))
        for key, value in own.items()
        if start + key in saved
    }
    if any(found == wanted for found, wanted in shapes.values()):
        return ''
    if shapes:
        key, (found, wanted) = next(iter(shapes.items()))
        return f'{key} is {found} there and {wanted} here'
    behind = f' behind the prefix {start!r}' if start else ''
    return f'it has none of {", ".join(list(own)[:3])}, ...{behind}'
