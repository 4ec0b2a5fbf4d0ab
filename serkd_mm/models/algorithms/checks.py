# Copyright (c) The serkd_mm authors. All rights reserved.
"""Mistakes in a config, found when the algorithm is built."""

from __future__ import annotations

import contextlib
import logging
import math
from typing import TYPE_CHECKING, Any

import torch
from mmengine.logging import print_log
from mmpretrain.models.classifiers import BaseClassifier
from mmpretrain.structures import DataSample
from torch import nn

from ...ops import without_kernels
from ..heads import DeiTDistillHead
from ..heads.check_head import head_widths_named
from ..modes import evaluating

if TYPE_CHECKING:
    from .frozen_teacher_distill import FrozenTeacherDistill

# As many as a loss over the images of a batch needs.
IMAGES = 2


def check_parts(**parts: Any) -> None:
    """Refuse networks and distillers that are neither configs nor modules.

    Args:
        parts: Arguments of the algorithm.

    Raises:
        TypeError: If one is something else.
    """
    for name, part in parts.items():
        if not isinstance(part, (dict, nn.Module)):
            raise TypeError(
                f'model.{name} must be a config or a built module, got '
                f'{type(part).__name__} {part!r}'
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
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(
                    f'{name}.{setting} must be a number, got {value!r}'
                )
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


@torch.no_grad()
def dry_run(
    algorithm: FrozenTeacherDistill,
    input_size: int | tuple[int, int] | None = None,
) -> None:
    """Compute all losses of two made-up images once.

    What does not fit together (a stride and a map, the grids of student and
    teacher, a backbone and its head) says so now and not after the datasets
    are read. Nothing is left behind: networks are in eval mode, no gradient
    is kept and no random number drawn.

    Args:
        algorithm: Built algorithm. A student that is no classifier of
            MMPretrain, and networks of several devices or dtypes, are left
            alone.
        input_size: Height and width of the images. None takes ``img_size``
            of the student's or else the teacher's backbone, and tries nothing
            where neither has one; 0 tries nothing.
    """
    networks = (algorithm.student, algorithm.teacher)
    if input_size is None:
        sizes = (getattr(n.backbone, 'img_size', None) for n in networks)
        input_size = next((size for size in sizes if size), 0)
    places = {(p.device, p.dtype) for n in networks for p in n.parameters()}
    classifier = isinstance(algorithm.student, BaseClassifier)
    if not input_size or not classifier or len(places) != 1:
        return
    device, dtype = places.pop()
    height, width = (
        (input_size, input_size) if isinstance(input_size, int) else input_size
    )
    convolutions = (
        m for m in algorithm.student.modules() if isinstance(m, nn.Conv2d)
    )
    channels = next((m.in_channels for m in convolutions), 3)
    # Other values everywhere, for losses that compare positions or images.
    pixels = torch.linspace(
        -1, 1, IMAGES * channels * height * width, device=device, dtype=dtype
    )
    images = pixels.reshape(IMAGES, channels, height, width)
    samples = [DataSample().set_gt_label(0) for _ in range(IMAGES)]
    preprocessor = algorithm.data_preprocessor
    classes = getattr(preprocessor, 'num_classes', None)
    if classes and preprocessor.to_onehot:  # as mixed images have
        score = torch.zeros(classes, device=device)
        score[0] = 1.0
        samples = [sample.set_gt_score(score) for sample in samples]
    with contextlib.ExitStack() as stack:
        stack.enter_context(evaluating(algorithm))
        if device.type != 'cuda' and torch.cuda.is_available():
            # The runner has yet to move the algorithm. Without a CUDA device
            # kernels stay, and say so.
            stack.enter_context(without_kernels())
        for name, network in zip(('architecture', 'teacher'), networks):
            stack.enter_context(head_widths_named(f'model.{name}', network))
        algorithm.loss(images, samples)
