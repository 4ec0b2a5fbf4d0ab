# Copyright (c) The serkd_mm authors. All rights reserved.
"""Checkpoint files that a run reads, looked for before it is built."""

from __future__ import annotations

import os.path as osp
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..models.algorithms.teacher import (
    TeacherWeightsError,
    check_teacher_source,
)
from ..paths import is_missing
from .checkpoints import ResumeError
from .downloads import DownloadError
from .pretrained_checks import pretrained_inits
from .safe_load import UnsafeCheckpointError
from .whole_checkpoint import OtherModelError

# What files that a run needs may end it with, each in one line.
START_ERRORS = (
    DownloadError,
    OtherModelError,
    ResumeError,
    TeacherWeightsError,
    UnsafeCheckpointError,
)


def check_start(cfg: Config, option: str = 'load_from') -> None:
    """Refuse checkpoints that are not there, of a network or to start from.

    URLs are left to what downloads them.

    Args:
        cfg: Config of the runner.
        option: What the user knows ``load_from`` as.

    Raises:
        FileNotFoundError: If ``model.teacher_ckpt``, the checkpoint of an
            ``init_cfg`` or ``load_from`` is the path of no file.
    """
    model = cfg.get('model')
    teacher = model.get('teacher_ckpt') if isinstance(model, dict) else None
    if isinstance(teacher, str):
        check_teacher_source(teacher, allow_random_teacher=False)
    if not isinstance(cfg.get('load_from'), str):  # all that a test reads
        _check_initial_weights(model)
    path = cfg.get('load_from')
    if not isinstance(path, str) or '://' in path:
        return
    local = Path(osp.expanduser(path))
    # Sharded checkpoints, which other runners read, are folders.
    if local.is_file() or (local.is_dir() and 'runner_type' in cfg):
        return
    newest = max(local.glob('*.pth'), key=osp.getmtime, default=None)
    if newest is not None:
        hint = f'name one checkpoint of it, such as {str(newest)!r}'
    else:
        hint = 'name the path or URL of a checkpoint'
    if option == '--resume':
        hint += ', or none for the latest one of the work dir'
    kind = 'a folder' if local.is_dir() else 'not a file'
    raise FileNotFoundError(f'{option} {path!r} is {kind}; {hint}')


def _check_initial_weights(model: Any) -> None:
    for key, initial in pretrained_inits(model, 'model'):
        weights = initial.get('checkpoint')
        # The teacher's are those of teacher_ckpt.
        if not isinstance(weights, str) or key.startswith('model.teacher.'):
            continue
        if is_missing(weights):
            raise FileNotFoundError(
                f'{key}.checkpoint {weights!r} is not a file; name the path '
                'or URL of a checkpoint, such as that of a student that '
                'tools/export_student.py wrote'
            )
