# Copyright (c) The serkd_mm authors. All rights reserved.
"""Where a teacher and its weights come from, and that all of them arrive."""

from __future__ import annotations

import os.path as osp
import re
from collections import OrderedDict
from collections.abc import Sequence

from mmengine import hub
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.model import BaseModel
from mmengine.runner import CheckpointLoader
from mmrazor.registry import MODELS
from torch import Tensor, nn

from ...paths import is_missing
from ..from_config import build_model


class TeacherWeightsError(ValueError):
    """A teacher without weights, or with those of another network."""


def build_teacher(
    teacher: BaseModel | dict, teacher_ckpt: str | None = None
) -> BaseModel:
    """Build a teacher from what a config says about it.

    Args:
        teacher: A model config, ``dict(cfg_path='package::config.py')`` for
            the model of a config of an installed package (MMRazor's form),
            ``dict(cfg_path='path/config.py')`` for the model of a config
            file of one's own, or a built model.
        teacher_ckpt: The checkpoint that it will get, which makes MMRazor's
            ``pretrained=True`` beside ``cfg_path`` idle.

    Returns:
        The model, with random weights unless it came built.

    Raises:
        FileNotFoundError: If the config file does not exist.
        ValueError: If ``cfg_path`` comes with other keys, or with
            ``pretrained=True`` and no checkpoint, or names no folder of its
            package.
    """
    if not isinstance(teacher, dict):
        return teacher
    path = teacher.get('cfg_path')
    if path is None:
        return MODELS.build(teacher)
    unknown = set(teacher) - {'cfg_path', 'pretrained'}
    if unknown:
        raise ValueError(
            f'teacher=dict(cfg_path={path!r}) takes nothing else, got '
            f'{sorted(unknown)}; changes to the model come from a config of '
            'your own'
        )
    if teacher.get('pretrained') and teacher_ckpt is None:
        raise ValueError(
            f'teacher=dict(cfg_path={path!r}, pretrained=True) leaves open '
            'which weights; name their file or URL in model.teacher_ckpt'
        )
    if '::' not in path and not osp.isfile(path):
        raise FileNotFoundError(
            f'teacher.cfg_path {path!r} is not a file; write the path of the '
            "teacher's config, or 'package::config.py' for one of an "
            'installed package'
        )
    return build_model(
        hub.get_config(path) if '::' in path else Config.fromfile(path)
    )


def check_teacher_source(
    teacher_ckpt: str | None, allow_random_teacher: bool
) -> None:
    """Refuse a teacher without weights before anything is built.

    Args:
        teacher_ckpt: Path, or URL with a scheme that MMEngine loads.
        allow_random_teacher: Whether no checkpoint is accepted.

    Raises:
        FileNotFoundError: If the path does not exist.
        TypeError: If an argument has a wrong type.
        ValueError: If there is no checkpoint and none may be missing.
    """
    # A string such as 'False' would count as permission.
    if not isinstance(allow_random_teacher, bool):
        raise TypeError(
            'model.allow_random_teacher must be True or False, got '
            f'{allow_random_teacher!r}'
        )
    if not isinstance(teacher_ckpt, (str, type(None))):
        raise TypeError(
            'model.teacher_ckpt must be the path or URL of a checkpoint, got '
            f'{type(teacher_ckpt).__name__} {teacher_ckpt!r}'
        )
    if teacher_ckpt is None:
        if not allow_random_teacher:
            raise TeacherWeightsError(
                'teacher_ckpt is not set, so the teacher would be random; '
                'set model.teacher_ckpt to the path or URL of its checkpoint, '
                'or model.allow_random_teacher=True for a dry run'
            )
    elif is_missing(teacher_ckpt):
        raise FileNotFoundError(
            f'teacher_ckpt {teacher_ckpt!r} is not a file; set '
            'model.teacher_ckpt to the path or URL of the teacher checkpoint'
        )


def load_teacher_weights(
    teacher: nn.Module,
    teacher_ckpt: str,
    revise_keys: Sequence[tuple[str, str]] = (),
) -> None:
    """Load a checkpoint into the teacher, all keys and all shapes.

    Args:
        teacher: Model to load into, on any device.
        teacher_ckpt: Path or URL. The file holds a state dict, bare or under
            ``state_dict``, ``model`` or ``model_state_dict``, with or without
            the ``module.`` prefix of wrappers.
        revise_keys: Pairs of a pattern and its replacement, applied to every
            key one after the other as :func:`mmengine.runner.load_checkpoint`
            does.

    Raises:
        TeacherWeightsError: If keys are missing or unexpected or shapes
            differ; the message lists the first few of each kind.
    """
    weights = _read_weights(teacher_ckpt, revise_keys)
    differences = _load_strictly(teacher, weights)
    if differences:
        cure = (
            'use the model.teacher config that this checkpoint was trained '
            'with, or rename its keys with model.teacher_revise_keys'
        )
        unexpected = differences.get('unexpected keys', [])
        if any(key.startswith('architecture.') for key in unexpected):
            cure = (
                'it is of a distillation or another algorithm of MMRazor; '
                'write its student alone with tools/export_student.py, and '
                'name that file'
            )
        found = '; '.join(_first(*item) for item in differences.items())
        raise TeacherWeightsError(
            f'teacher_ckpt {teacher_ckpt!r} does not fit the teacher '
            f'({type(teacher).__name__} with '
            f'{type(getattr(teacher, "backbone", teacher)).__name__}): '
            f'{found}; {cure}'
        )
    print_log(f'Teacher weights loaded from {teacher_ckpt}', logger='current')


def _read_weights(
    path: str, revise_keys: Sequence[tuple[str, str]]
) -> dict[str, Tensor]:
    """State dict of a file, its keys as the teacher names them."""
    saved = _weights_of(
        CheckpointLoader.load_checkpoint(path, map_location='cpu')
    )
    weights = OrderedDict()
    for key, value in saved.items():
        key = key.removeprefix('module.')
        for pattern, replacement in revise_keys:
            key = re.sub(pattern, replacement, key)
        weights[key] = value
    # Versions of the modules, by which they convert older files.
    weights._metadata = getattr(saved, '_metadata', None)  # type: ignore
    return weights


def _load_strictly(
    teacher: nn.Module, weights: dict[str, Tensor]
) -> dict[str, list[str]]:
    """Load weights, and return what does not fit by its kind."""
    expected = teacher.state_dict()
    # Before loading: a ViT would resize position embeddings of another size.
    shapes = [
        f'{key} {tuple(weights[key].shape)} instead of {tuple(value.shape)}'
        for key, value in expected.items()
        if key in weights and weights[key].shape != value.shape
    ]
    missing = [key for key in expected if key not in weights]
    unexpected = [key for key in weights if key not in expected]
    if not shapes:
        # Modules may rename keys and drop buffers that they compute.
        result = teacher.load_state_dict(weights, strict=False)
        missing = [
            key
            for key in result.missing_keys
            if key not in weights and not key.endswith('num_batches_tracked')
        ]
        unexpected = list(result.unexpected_keys)
    differences = {
        'missing keys': missing,
        'unexpected keys': unexpected,
        'other shapes': shapes,
    }
    return {kind: names for kind, names in differences.items() if names}


def _weights_of(checkpoint: dict) -> dict:
    """State dict of a file, whichever library wrote it."""
    for name in ('state_dict', 'model', 'model_state_dict'):
        found = checkpoint.get(name)
        # A network may have a part of such a name.
        if isinstance(found, dict):
            return found
    return checkpoint


def _first(kind: str, names: list[str], count: int = 4) -> str:
    more = f', ... ({len(names)} in all)' if len(names) > count else ''
    return f'{kind}: {", ".join(names[:count])}{more}'
