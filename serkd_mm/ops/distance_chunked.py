# Copyright (c) The serkd_mm authors. All rights reserved.
"""Distance relation loss whose gradient is found with its value.

The rest is in :mod:`serkd_mm.ops.relation_fused`.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .relation_fused import RELATIONS, Relation, fused_loss


def distance_loss_chunked(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Distance-wise relation loss (Eq. 10), normalised image by image.

    Value and gradient of :func:`serkd_mm.functional.distance_loss` with
    ``normalize='image'`` in plain PyTorch on any device; the gradient is
    computed together with the value, and only where the student needs one.
    Differentiable once. One operator to ``torch.compile``, without a graph
    break. Distances come from differences on CPUs and from Gram matrices in
    float64 elsewhere; the gradient is a product in full float32.

    Time O(B K^2 C). Memory beyond the inputs and their gradient: one
    ``(B, K, K)`` matrix, and about 15 of those images that are worked on at
    once: up to 20 MiB on CPUs and 480 MiB elsewhere, or those of one image.

    Args:
        student: Student tokens, ``(B, K, Cs)``.
        teacher: Teacher tokens, ``(B, K, Ct)``; detached here.

    Returns:
        Scalar loss, float32 (float64 where a side is float64).

    Raises:
        TypeError: If a side is not floating point.
        ValueError: If the sides differ in B or K.
        RuntimeError: On a second derivative; the reference has one.

    Example:
        >>> import torch
        >>> tokens = torch.randn(2, 49, 192)
        >>> float(distance_loss_chunked(tokens, tokens))
        0.0
    """
    return fused_loss(student, teacher, 'distance_chunked')


def pair_terms(
    squared: Tensor, inverse: Tensor, wanted: bool
) -> tuple[Tensor, Tensor | None]:
    """Sums over the pairs of some images.

    Args:
        squared: Squared distances of student and teacher, ``(2, B, K, K)``.
        inverse: Inverse distances, 0 for coincident pairs, ``(2, B, K, K)``.
        wanted: Whether the gradient is wanted.

    Returns:
        Sum of the Huber values over all i, j, a scalar, and its gradient
        with respect to the student's ``squared``, ``(B, K, K)`` (None unless
        ``wanted``).
    """
    pairs = (inverse > 0).sum(dim=(2, 3), keepdim=True).clamp(min=1)
    psi = squared * inverse
    mu = psi.sum(dim=(2, 3), keepdim=True) / pairs
    # Without any distance there is nothing to divide.
    mu = mu.where(pairs > 1, mu.new_ones(()))
    student, teacher = psi.div_(mu)
    total = F.smooth_l1_loss(student, teacher, reduction='sum')
    if not wanted:
        return total, None
    # psi = d / mu, and mu is the mean of the d: d L / d d_ij is (W_ij - mean
    # over the pairs of W psi) / mu, and d D = 2 d d d.
    weight = (student - teacher).clamp_(-1, 1)
    common = (weight * student).sum(dim=(1, 2), keepdim=True) / pairs[0]
    slope = (weight - common).div_(2 * mu[0]).mul_(inverse[0])
    return total, slope


RELATIONS['distance_chunked'] = Relation(pair_terms, members=2)
