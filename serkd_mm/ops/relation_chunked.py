# Copyright (c) The serkd_mm authors. All rights reserved.
r"""Angle relation loss over cache-sized slabs of the cosines.

The cosines are symmetric in the outer tokens, so a slab holds one outer token
i and the others k > i: half of the triples. Those with i = k have cosine 1 on
both sides, or 0 where the pair coincides, and are counted apart. Nothing of
size ``K^3`` exists at any time. The rest is in
:mod:`serkd_mm.ops.relation_fused`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .relation_fused import RELATIONS, Relation, fused_loss


def angle_loss_chunked(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Angle-wise relation loss (Eq. 11) without ``K^3`` memory.

    Value and gradient of :func:`serkd_mm.functional.angle_loss` in plain
    PyTorch on any device; the gradient is computed together with the value,
    and only where the student needs one. Differentiable once. One operator to
    ``torch.compile``, without a graph break. Distances come from differences
    on CPUs and from Gram matrices in float64 elsewhere; the gradient is a
    product in full float32.

    Time O(B K^2 (C + K)). Memory beyond the inputs and their gradient: one
    ``(B, K, K)`` matrix, and about 20 of those images that are worked on at
    once: up to 40 MiB on CPUs and 640 MiB elsewhere, or those of one image.

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
        >>> float(angle_loss_chunked(tokens, tokens))
        0.0
    """
    return fused_loss(student, teacher, 'angle_chunked')


def slab_terms(
    squared: Tensor, inverse: Tensor, wanted: bool
) -> tuple[Tensor, Tensor | None]:
    """Sums over the triples of some images, one outer token at a time.

    Args:
        squared: Squared distances of student and teacher, ``(2, B, K, K)``.
        inverse: Inverse distances, 0 for coincident pairs, ``(2, B, K, K)``.
        wanted: Whether the gradient is wanted.

    Returns:
        Sum of the Huber values over all i, j, k, a scalar, and its gradient
        with respect to the student's ``squared``, ``(B, K, K)`` (None unless
        ``wanted``). 15 elementwise passes over ``B K^3 / 2`` elements, a sum
        counted as half of one.
    """
    # Images between the tokens: slices of the first token are contiguous,
    # and all that depends on two tokens spreads over whole rows.
    half = squared.transpose(1, 2).contiguous().mul_(0.5)
    inverse = inverse.transpose(1, 2).contiguous()
    _, num, batch, _ = half.shape
    height = half * inverse
    sums = half.new_zeros(3 if wanted else 0, num, batch, num)
    values = half.new_zeros(num)
    slabs = half.new_empty(3, max(num - 1, 0), batch, num)
    for i in range(num - 1):
        slab = slabs[:, i:]
        _cosines(half, height, inverse, i, slab[:2])
        _huber(slab, out=values[i])
        if wanted:
            _accumulate(slab, inverse[0], i, sums)
    alone = (inverse[0] > 0) != (inverse[1] > 0)
    total = 2 * values.sum() + 0.5 * alone.sum()
    if not wanted:
        return total, None
    # d psi / d d_ij = v_jk - v_ij psi, and d D = 2 d d d; the pairs (i, k)
    # and (k, i) are one triple here, hence no halves.
    direct, along, across = sums
    slope = direct.addcmul_(inverse[0], along, value=-1).mul_(inverse[0])
    return total, slope.sub_(across).transpose(0, 1)


RELATIONS['angle_chunked'] = Relation(slab_terms, members=3)


def _cosines(
    half: Tensor, height: Tensor, inverse: Tensor, i: int, out: Tensor
) -> None:
    """Write ``psi_ijk`` of one i and all k > i, as ``[side, k, b, j]``.

    Not clamped to [-1, 1]: what is beyond is rounding, no more than within.
    """
    rest, near = inverse[:, i + 1 :], inverse[:, i, None]
    base = half[..., i, None][:, i + 1 :]
    torch.addcmul(height[:, i, None], base, near, value=-1, out=out)
    out.mul_(rest).addcmul_(height[:, i + 1 :], near)


def _huber(slab: Tensor, out: Tensor) -> None:
    """Sum the Huber values of a slab to ``out`` and write their slopes.

    A slab is the cosines of student and teacher and the slopes. Both sides of
    the loss are one pass each in ATen.
    """
    aten = torch.ops.aten
    student, teacher, slope = slab.unbind()
    aten.smooth_l1_loss.out(student, teacher, 0, 1.0, out=slope)
    torch.sum(slope, (0, 1, 2), out=out)
    aten.smooth_l1_loss_backward.grad_input(
        slab.new_ones(()), student, teacher, 0, 1.0, grad_input=slope
    )


def _accumulate(slab: Tensor, inverse: Tensor, i: int, sums: Tensor) -> None:
    """Add one slab to the three sums over triples that the gradient needs.

    With the slopes W: ``direct[i]`` is the sum over k of ``W v_jk``,
    ``along[i]`` that of ``W psi``, and likewise for every k over i;
    ``across[k, i]`` is the sum over j of ``W v_ij v_jk``. Overwrites the
    slab.
    """
    cosine, _, slope = slab.unbind()
    direct, along, across = sums[:, i + 1 :].unbind()
    direct_i, along_i, _ = sums[:, i].unbind()
    rest, near = inverse[i + 1 :], inverse[i]
    cosine.mul_(slope)
    along.add_(cosine)
    along_i.add_(cosine.sum(0))
    direct.addcmul_(slope, near)
    slope.mul_(rest)
    direct_i.add_(slope.sum(0))
    torch.sum(slope.mul_(near), 2, out=across[..., i])
