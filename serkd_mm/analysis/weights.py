# Copyright (c) The serkd_mm authors. All rights reserved.
"""Weights that a pair is tried with; nothing is downloaded."""

from __future__ import annotations

from mmengine.config import Config
from mmengine.model import BaseModel

from ..engine.pretrained_checks import pretrained_inits
from ..models.algorithms.teacher import load_teacher_weights
from ..paths import is_missing
from .findings import PairReport


def initialise(student: BaseModel, cfg: Config, report: PairReport) -> str:
    """Start the student as training does, without reading checkpoints."""
    key = 'model.architecture'
    initials = list(pretrained_inits(cfg.model.architecture, key))
    for path, initial in initials:
        weights = initial.get('checkpoint')
        if not weights:
            report.problem(
                f'{path}.checkpoint',
                'names no weights to start from, so that training stops; '
                'write their path or URL',
            )
        elif is_missing(weights):
            report.problem(
                f'{path}.checkpoint',
                f'{weights!r} is not a file, so that training stops',
            )
        report.notes.append(
            f'The weights of {path} were not read; the student was tried '
            'with random ones.'
        )
    if initials:
        return 'random (see notes)'
    student.init_weights()
    return 'as training starts'


def load_teacher(
    teacher: BaseModel, cfg: Config, random_teacher: bool, report: PairReport
) -> str:
    """Load the teacher's checkpoint where that needs no download."""
    path, key = cfg.model.get('teacher_ckpt'), 'model.teacher_ckpt'
    if random_teacher:
        return 'RANDOM (as asked for)'
    if path is None:
        if not cfg.model.get('allow_random_teacher'):
            report.problem(key, 'is not set, so that training stops')
        return 'RANDOM (no checkpoint)'
    if is_missing(path):
        report.problem(key, f'{path!r} is not a file, so that training stops')
        return 'RANDOM (no such file)'
    if '://' in path:
        return 'RANDOM (not downloaded)'
    revise = cfg.model.get('teacher_revise_keys', ())
    try:
        load_teacher_weights(teacher, path, revise)
    except Exception as error:
        report.problem(key, error)
        return 'RANDOM (does not fit)'
    return path
