# Copyright (c) The serkd_mm authors. All rights reserved.
r"""Angle relation loss over cache-sized slabs of the cosines.

The cosines are symmetric in the outer tokens, so a slab holds outer tokens i
and the others k > i: half of the triples. It has as many i as fit the caches,
one at least: where images and tokens are few, calls cost more than what they
compute. Triples with i = k have cosine 1 on both sides, or 0 where the pair
coincides, and are counted apart. Nothing larger than a slab exists at any
time. The rest is in :mod:`serkd_mm.ops.relation_fused`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .pieces import pieces
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
    ``(B, K, K)`` matrix, and work space of up to 40 MiB on CPUs and 640 MiB
    elsewhere, or of about 20 matrices ``(K, K)`` where one image needs more.

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
    """Sums over the triples of some images, a few outer tokens at a time.

    Args:
        squared: Squared distances of student and teacher, ``(2, B, K, K)``.
        inverse: Inverse distances, 0 for coincident pairs, ``(2, B, K, K)``.
        wanted: Whether the gradient is wanted.

    Returns:
        Sum of the Huber values over all i, j, k, a scalar, and its gradient
        with respect to the student's ``squared``, ``(B, K, K)`` (None unless
        ``wanted``). 15 elementwise passes over ``B K^3 / 2`` elements where a
        slab has one outer token, a sum counted as half of one.
    """
    # Images between the tokens: slices of the first token are contiguous,
    # and all that depends on two tokens spreads over whole rows.
    half = squared.transpose(1, 2).contiguous().mul_(0.5)
    inverse = inverse.transpose(1, 2).contiguous()
    _, num, batch, _ = half.shape
    height = half * inverse
    sums = half.new_zeros(3 if wanted else 0, num, batch, num)
    values = half.new_zeros(num)
    size = num * batch * num * half.element_size()
    parts = list(pieces(num - 1, size, half.device))
    most = parts[0].stop if parts else 0
    slabs = half.new_empty(3, most, num - 1, batch, num)
    for rows in parts:
        slab = slabs[:, : rows.stop - rows.start, rows.start :]
        _cosines(half, height, inverse, rows, slab[:2])
        _huber(slab, out=values[rows.start])
        if wanted:
            _accumulate(slab, inverse[0], rows, sums)
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
    half: Tensor, height: Tensor, inverse: Tensor, rows: slice, out: Tensor
) -> None:
    """Write ``psi_ijk`` of some i and the k behind the first of them.

    As ``[side, i, k, b, j]``. Those of k <= i, which another i has, are 0 on
    both sides. Not clamped to [-1, 1]: what is beyond is rounding, no more
    than within.
    """
    later = slice(rows.start + 1, None)
    rest, near = inverse[:, None, later], inverse[:, rows, None]
    base = half[:, later, :, rows].permute(0, 3, 1, 2)[..., None]
    torch.addcmul(height[:, rows, None], base, near, value=-1, out=out)
    out.mul_(rest).addcmul_(height[:, None, later], near)
    count = out.shape[1]
    if count > 1:
        twice = out[:, :, : count - 1]
        once = twice.new_ones(twice.shape[1:3]).triu_()
        twice.mul_(once[..., None, None])


def _huber(slab: Tensor, out: Tensor) -> None:
    """Sum the Huber values of a slab to ``out`` and write their slopes.

    A slab is the cosines of student and teacher and the slopes. Both sides of
    the loss are one pass each in ATen.
    """
    aten = torch.ops.aten
    student, teacher, slope = slab.unbind()
    aten.smooth_l1_loss.out(student, teacher, 0, 1.0, out=slope)
    torch.sum(slope, (0, 1, 2, 3), out=out)
    aten.smooth_l1_loss_backward.grad_input(
        slab.new_ones(()), student, teacher, 0, 1.0, grad_input=slope
    )


def _accumulate(
    slab: Tensor, inverse: Tensor, rows: slice, sums: Tensor
) -> None:
    """Add one slab to the three sums over triples that the gradient needs.

    With the slopes W: ``direct[i]`` is the sum over k of ``W v_jk``,
    ``along[i]`` that of ``W psi``, and likewise for every k over i;
    ``across[k, i]`` is the sum over j of ``W v_ij v_jk``. Overwrites the
    slab.
    """
    cosine, _, slope = slab.unbind()
    later = slice(rows.start + 1, None)
    direct, along, across = sums[:, later].unbind()
    direct_i, along_i, _ = sums[:, rows].unbind()
    rest, near = inverse[later], inverse[rows, None]
    cosine.mul_(slope)
    along_i.add_(cosine.sum(1))
    if len(slope) < 4:  # two more passes would take longer than the calls
        for row in range(len(slope)):
            along.add_(cosine[row])
            direct.addcmul_(slope[row], near[row])
    else:
        along.add_(cosine.sum(0))
        direct.add_(torch.mul(slope, near, out=cosine).sum(0))
    slope.mul_(rest)
    direct_i.add_(slope.sum(1))
    torch.sum(slope.mul_(near), 3, out=across[..., rows].permute(2, 0, 1))
