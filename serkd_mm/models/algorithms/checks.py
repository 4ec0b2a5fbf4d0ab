# Copyright (c) The serkd_mm authors. All rights reserved.
"""Mistakes in a config, found when the algorithm is built."""

from __future__ import annotations

import inspect
import logging
import math
from typing import TYPE_CHECKING, Any

from mmengine.logging import print_log
from mmpretrain.models.classifiers import ImageClassifier
from mmrazor.registry import MODELS
from torch import nn

from ...functional.checks import check_number
from ..heads import DeiTDistillHead
from ..heads.check_head import check_head
from .class_checks import check_classes

if TYPE_CHECKING:
    from .frozen_teacher_distill import FrozenTeacherDistill

# What a classifier has, and the algorithm around it has not.
_OF_STUDENT = {'backbone', 'head', 'neck', 'pretrained', 'train_cfg'}


def check_arguments(
    *,
    architecture: Any,
    distiller: Any,
    teacher: Any,
    teacher_compile: Any,
    teacher_shard: Any,
    others: dict[str, Any],
) -> None:
    """Refuse arguments of the algorithm before anything is built of them.

    Args:
        architecture: Student.
        distiller: Distiller.
        teacher: Teacher.
        teacher_compile: Whether, or with which options, it is compiled.
        teacher_shard: Names of its modules that are divided.
        others: All that was given beside them.

    Raises:
        TypeError: If a network or the distiller is neither a config nor a
            module, ``teacher_compile`` or ``teacher_shard`` has a wrong type,
            or a setting belongs to the student.
        ValueError: If the teacher is to be trained, is the student, or is to
            be divided and compiled.
    """
    if others.get('teacher_trainable'):
        raise ValueError(
            'teacher_trainable=True contradicts FrozenTeacherDistill; use '
            'mmrazor.SingleTeacherDistill to train a teacher'
        )
    if teacher is architecture and not isinstance(teacher, dict):
        raise ValueError(
            'teacher and architecture (the student) are one object; build '
            'two models'
        )
    if teacher_shard and teacher_compile is not False:
        raise ValueError(
            'teacher_shard and teacher_compile exclude each other; leave '
            'one of them out'
        )
    if not isinstance(teacher_compile, (bool, dict)):
        raise TypeError(
            'teacher_compile must be True, False or a dict of options of '
            f'torch.compile, got {teacher_compile!r}'
        )
    if isinstance(teacher_shard, str):
        raise TypeError(
            'teacher_shard must be a list of names, got '
            f'{teacher_shard!r}; write [{teacher_shard!r}]'
        )
    misplaced = sorted(_OF_STUDENT.intersection(others))
    if misplaced:
        raise TypeError(
            f'model.{misplaced[0]} belongs to the student; write '
            f'model.architecture.{misplaced[0]}'
        )
    parts = dict(
        architecture=architecture, teacher=teacher, distiller=distiller
    )
    for name, part in parts.items():
        if not isinstance(part, (dict, nn.Module)):
            raise TypeError(
                f'model.{name} must be a config or a built module, got '
                f'{type(part).__name__} {part!r}'
            )


def check_algorithm(algorithm: FrozenTeacherDistill) -> None:
    """Refuse what is built and does not belong together.

    Raises:
        TypeError: If a head reads other tokens than its backbone puts out, or
            a setting has a wrong type.
        ValueError: If a weight, classes that are compared, or the lack of
            anything that learns would make training pointless.
    """
    check_head('model.architecture', algorithm.student)
    check_head('model.teacher', algorithm.teacher)
    warn_of_idle_dist_head(algorithm)
    check_weights(algorithm)
    check_batch_augments(algorithm)
    check_learner(algorithm)
    check_classes(algorithm)


def check_preprocessor(network: dict) -> None:
    """Refuse a preprocessor that MMPretrain's classifiers cannot build.

    Args:
        network: Config of a student.

    Raises:
        TypeError: If its preprocessor takes no batch augmentations.
    """
    given, scope = network.get('data_preprocessor'), network.get('_scope_')
    if not (isinstance(given, dict) and given.get('type')):
        return
    if not isinstance(scope, (str, type(None))):
        return  # whoever builds it says so
    kinds = (network.get('type'), given['type'])
    with MODELS.switch_scope_and_registry(scope) as registry:
        classifier, kind = (
            registry.get(k) if isinstance(k, str) else k for k in kinds
        )
    if not (isinstance(classifier, type) and isinstance(kind, type)):
        return  # of unknown types too
    arguments = inspect.signature(kind).parameters.values()
    if issubclass(classifier, ImageClassifier) and not any(
        a.name == 'batch_augments' or a.kind is a.VAR_KEYWORD
        for a in arguments
    ):
        raise TypeError(
            f'data_preprocessor.type={kind.__name__!r} takes no '
            f'batch_augments, which {classifier.__name__} hands to it; write '
            "type='ClsDataPreprocessor' with the same mean and std, and "
            'to_rgb in the place of bgr_to_rgb'
        )


def warn_of_idle_dist_head(algorithm: FrozenTeacherDistill) -> None:
    """A head that nothing trains counts half in every prediction."""
    head = getattr(algorithm.student, 'head', None)
    if not isinstance(head, DeiTDistillHead) or head.label_dist_head:
        return
    distiller = algorithm.distiller
    compared = {
        record['recorder']
        for mapping in distiller.loss_forward_mappings.values()
        for record in mapping.values()
        if record['from_student']
    }
    recorders = distiller.student_recorders.recorders
    if not any(recorders[n].source.endswith('head_dist') for n in compared):
        print_log(
            'The student predicts with its distillation head too, but no '
            "loss takes a student recorder of source 'head.layers.head_dist', "
            'so nothing trains it; map one to a loss, or set '
            'head.label_dist_head=True',
            logger='current',
            level=logging.WARNING,
        )


def check_weights(algorithm: FrozenTeacherDistill) -> None:
    """Refuse losses that would be maximised, or weighted by no number.

    Raises:
        TypeError: If a ``loss_weight`` of the student or the distiller, or a
            ``tau`` of the distiller, is no number.
        ValueError: If one is negative, infinite or no number, or ``tau`` is 0.
    """
    for name, module in algorithm.named_modules():
        for setting in ('loss_weight', 'tau'):
            value = getattr(module, setting, None)
            distils = name.startswith('distiller.')
            if value is None or (setting == 'tau' and not distils):
                continue
            check_number(f'{name}.{setting}', value)
            positive = value > 0 or (value == 0 and setting != 'tau')
            if not (positive and math.isfinite(value)):
                wanted = '> 0' if setting == 'tau' else '>= 0'
                raise ValueError(
                    f'{name}.{setting} must be finite and {wanted}, got '
                    f'{value!r}'
                )


def check_batch_augments(algorithm: FrozenTeacherDistill) -> None:
    """Refuse batch augmentations that could not be called.

    Raises:
        TypeError: If one is neither a config nor callable.
    """
    preprocessor = algorithm.student.data_preprocessor
    augments = getattr(preprocessor, 'batch_augments', None)
    for augment in getattr(augments, 'augments', ()):
        # None leaves the batch as it is; MMPretrain adds one to ``probs``.
        if augment is not None and not callable(augment):
            raise TypeError(
                'architecture.train_cfg.augments must hold configs of batch '
                f'augmentations, got {augment!r}'
            )


def check_learner(algorithm: FrozenTeacherDistill) -> None:
    """Refuse an algorithm in which nothing is trained.

    Raises:
        ValueError: If neither the student nor the distiller learns.
    """
    learners = [algorithm.distiller]
    if algorithm.student_trainable:
        learners.append(algorithm.student)
    if any(p.requires_grad for m in learners for p in m.parameters()):
        return
    cause = 'student_trainable=False'
    if algorithm.student_trainable:
        cause = 'all parameters of the student are frozen'
    raise ValueError(
        f'nothing would be trained: {cause}, and no loss or connector of '
        'student records has parameters; connectors of teacher records alone '
        "stay as they are here, so train those, such as MMRazor's "
        "Paraphraser, with model.type='mmrazor.SingleTeacherDistill' and "
        "model.distiller.type='ConfigurableDistiller'"
    )
