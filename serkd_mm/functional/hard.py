# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from .checks import check_logits
from .scale import at_least_float32


def hard_distill_loss(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Cross-entropy on the teacher's decisions: DeiT's hard distillation.

    :math:`L = -\frac{1}{B} \sum_b \log \mathrm{softmax}(z^S_b)_{y_b}` with
    :math:`y_b = \arg\max_c z^T_{bc}`, the first of equal ones ("hard-label
    distillation" of arXiv 2012.12877).

    Args:
        student: Student logits, ``(B, classes)``.
        teacher: Teacher logits, same shape; no gradient reaches them.

    Returns:
        Scalar loss, float32 (float64 for float64 input). It is nan where the
        teacher's logits are, which have no largest one.

    Raises:
        TypeError: If a side is not floating point.
        ValueError: If the shapes differ, are not those of logits or are of no
            image.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[0.0, 0.0]])
        >>> print(f'{float(hard_distill_loss(logits, logits)):.4f}')
        0.6931
    """
    check_logits(student, teacher)
    if student.dim() != 2 or student.shape != teacher.shape:
        raise ValueError(
            'student and teacher logits must both be (B, classes), got shapes '
            f'{tuple(student.shape)} and {tuple(teacher.shape)}; record '
            'logits over the same classes on both sides'
        )
    if len(student) == 0:
        raise ValueError(
            'hard distillation needs one image at least, got logits of shape '
            f'{tuple(student.shape)}'
        )
    loss = F.cross_entropy(at_least_float32(student), teacher.argmax(dim=1))
    return loss.masked_fill(teacher.isnan().any(), math.nan)
