# Copyright (c) The serkd_mm authors. All rights reserved.
"""Class scores at every position, a student's against a teacher's.

Cumulative spatial knowledge distillation (CSKD), arXiv 2307.08500.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import (
    check_floating,
    check_logits,
    check_share,
    check_tau,
    check_tokens,
)
from .hard import hard_distill_loss
from .scale import at_least_float32

TARGETS = ('hard', 'soft')
SCHEDULES = ('linear', 'square', 'cos')


def dense_logits(
    tokens: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    r"""Logits of a linear classifier at every position.

    :math:`z_{bn} = W x_{bn} + b`. Their mean over the positions is what the
    classifier says of the mean of the tokens, a CNN's own logits.

    Args:
        tokens: What the classifier takes, at every position, ``(B, N, C)``.
        weight: Its weight, ``(classes, C)``.
        bias: Its bias, ``(classes,)``, if it has one.

    Returns:
        Logits, ``(B, N, classes)``.

    Raises:
        TypeError: If something is not floating point.
        ValueError: If ``tokens`` are no ``(B, N, C)`` of the classifier's
            width, or weight and bias are none of a classifier.
    """
    check_floating('tokens', tokens)
    check_floating('weight', weight)
    if weight.dim() != 2:
        raise ValueError(
            f'weight must be (classes, C), got shape {tuple(weight.shape)}'
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(
            f'bias must be ({len(weight)},), one for each row of the weight, '
            f'got shape {tuple(bias.shape)}'
        )
    if tokens.dim() != 3 or tokens.shape[-1] != weight.shape[-1]:
        raise ValueError(
            f'the classifier takes (B, N, {weight.shape[-1]}) tokens, got '
            f'shape {tuple(tokens.shape)}; record the tokens that this '
            'classifier reads'
        )
    # Half precision ends at 65504, tokens and logits need not.
    with torch.autocast(tokens.device.type, enabled=False):
        return F.linear(tokens.to(weight.dtype), weight, bias)


def local_weight(progress: float, schedule: str = 'linear') -> float:
    r"""Weight of the teacher's local logits, :math:`\alpha` of CSKD.

    Falls from 1 at the start of training to 0 at its end: with progress
    :math:`t`, :math:`1 - t` (``'linear'``), :math:`(1 - t)^2` (``'square'``)
    or :math:`\cos(\pi t / 2)` (``'cos'``).

    Args:
        progress: Share of the training that is done, in [0, 1].
        schedule: ``'linear'``, ``'square'`` or ``'cos'``.

    Returns:
        Weight in [0, 1].

    Raises:
        TypeError: If ``progress`` is no number.
        ValueError: If ``progress`` or ``schedule`` is none of these.

    Example:
        >>> [local_weight(0.25 * i) for i in range(5)]
        [1.0, 0.75, 0.5, 0.25, 0.0]
    """
    check_share('progress', progress)
    if schedule == 'linear':
        return 1.0 - progress
    if schedule == 'square':
        return (1.0 - progress) ** 2
    if schedule == 'cos':
        return math.cos(math.pi / 2 * progress)
    raise ValueError(
        f'schedule must be one of {list(SCHEDULES)}, got {schedule!r}'
    )


def spatial_distill_loss(
    student: Tensor,
    teacher: Tensor,
    alpha: float = 1.0,
    target: str = 'hard',
    tau: float = 1.0,
) -> Tensor:
    r"""Distillation of the class scores of every position.

    The teacher's local logits :math:`z^T_{bn}` are blended with its global
    ones, their mean over the positions :math:`\bar z^T_b`:
    :math:`y_{bn} = \alpha z^T_{bn} + (1 - \alpha) \bar z^T_b`. Then

    .. math::
        L = \frac{1}{BN} \sum_{b,n} \begin{cases}
            -\log \mathrm{softmax}(z^S_{bn})_{\arg\max_c y_{bnc}}
                & \text{'hard'} \\
            \tau^2 \, \mathrm{KL}(\mathrm{softmax}(y_{bn} / \tau) \,\|\,
                \mathrm{softmax}(z^S_{bn} / \tau)) & \text{'soft'}
        \end{cases}

    ``alpha=0`` and one position make DeiT's hard and soft distillation of it.

    Args:
        student: Student logits, ``(B, N, classes)``.
        teacher: Teacher logits of the same positions, same shape; detached
            here.
        alpha: Weight of the local logits, in [0, 1].
        target: ``'hard'`` for the decision of the blend, the first of equal
            ones, ``'soft'`` for its distribution.
        tau: Temperature of the soft target.

    Returns:
        Scalar loss, float32 (float64 for float64 input) under autocast too.

    Raises:
        TypeError: If a side is not floating point, or ``alpha`` or ``tau`` no
            number.
        ValueError: If the shapes differ, are no ``(B, N, classes)`` or
            empty, ``target`` is unknown, ``alpha`` is no share or ``tau`` not
            positive.

    Example:
        >>> import torch
        >>> logits = torch.randn(2, 49, 10)
        >>> float(spatial_distill_loss(logits, logits, target='soft'))
        0.0
    """
    if target not in TARGETS:
        raise ValueError(
            f'target must be one of {list(TARGETS)}, got {target!r}'
        )
    check_share('alpha', alpha)
    check_tau(tau)
    check_logits(student, teacher)
    if student.dim() != 3 or student.shape != teacher.shape:
        raise ValueError(
            'student and teacher logits must both be (B, N, classes), got '
            f'shapes {tuple(student.shape)} and {tuple(teacher.shape)}; pool '
            "the student's tokens to the teacher's positions with "
            "FeatureMapTokenizer(mode='avg', stride=...), and use a teacher "
            'of the same classes'
        )
    check_tokens('student logits', student, '(B, N, classes)')
    with torch.autocast(student.device.type, enabled=False):
        student = at_least_float32(student)
        teacher = at_least_float32(teacher.detach())
        blend = _blend(teacher, alpha)
        if target == 'hard':
            positions = (x.flatten(0, 1) for x in (student, blend))
            return hard_distill_loss(*positions)
        divergence = F.kl_div(
            (student / tau).log_softmax(dim=-1).flatten(0, 1),
            (blend / tau).log_softmax(dim=-1).flatten(0, 1),
            reduction='batchmean',
            log_target=True,
        )
        return tau**2 * divergence


def _blend(logits: Tensor, alpha: float) -> Tensor:
    """Local logits with weight ``alpha``, the rest their mean."""
    if alpha == 1:
        return logits  # one of -inf, of a class that is ruled out, stays so
    mean = logits.mean(dim=1, keepdim=True)
    if alpha == 0:
        return mean.expand_as(logits)
    return alpha * logits + (1 - alpha) * mean
