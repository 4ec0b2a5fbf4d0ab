# Copyright (c) The serkd_mm authors. All rights reserved.
"""Relations between the tokens of an image, compared with a teacher's.

Both losses compare functions of pairwise differences, so they do not see
translation, rotation or scaling of either side, and the two sides may have
different widths.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

NORMALIZE = ('image', 'batch')


def distance_loss(
    student: Tensor, teacher: Tensor, normalize: str = 'image'
) -> Tensor:
    r"""Distance-wise relation loss between token sets (Eq. 10).

    With :math:`\psi_{ij} = \lVert s_i - s_j \rVert_2 / \mu` and :math:`\mu`
    the mean of the positive distances, each side its own,

    .. math::
        L = \frac{1}{B K^2} \sum_{b,i,j}
            \mathrm{huber}_1(\psi^S_{bij} - \psi^T_{bij}).

    Computed in float32 (float64 for float64 input) with autocast off.
    Coincident tokens (closer than the rounding error of the Gram matrix) have
    distance 0 and send no gradient. Identical inputs and K = 1 give exactly
    0. Time O(B K^2 C), memory O(B K (C + K)).

    Args:
        student: Student tokens, ``(B, K, Cs)``.
        teacher: Teacher tokens, ``(B, K, Ct)``; detached here. ``Ct`` may
            differ from ``Cs``.
        normalize: ``'image'`` takes :math:`\mu` over the pairs of one image,
            ``'batch'`` over the pairs of all images of the batch.

    Returns:
        Scalar loss, float32 (float64 where a side is float64).

    Raises:
        TypeError: If a side is not floating point.
        ValueError: If the sides differ in B or K, or ``normalize`` is
            unknown.

    Example:
        >>> import torch
        >>> tokens = torch.randn(2, 49, 192)
        >>> float(distance_loss(3 * tokens + 1, tokens)) < 1e-10
        True
    """
    if normalize not in NORMALIZE:
        raise ValueError(
            f'normalize must be one of {list(NORMALIZE)}, got {normalize!r}'
        )
    dtype = _check_pair(student, teacher)
    with torch.autocast(student.device.type, enabled=False):
        psi_s = _distance_relation(student.to(dtype), normalize)
        psi_t = _distance_relation(teacher.detach().to(dtype), normalize)
        return F.smooth_l1_loss(psi_s, psi_t)


def angle_loss(student: Tensor, teacher: Tensor, impl: str = 'auto') -> Tensor:
    r"""Angle-wise relation loss between token sets (Eq. 11).

    With :math:`\psi_{ijk}` the cosine of the angle at :math:`s_j` between
    :math:`s_i - s_j` and :math:`s_k - s_j`,

    .. math::
        L = \frac{1}{B K^3} \sum_{b,i,j,k}
            \mathrm{huber}_1(\psi^S_{bijk} - \psi^T_{bijk}).

    The cosines follow from the Gram matrix :math:`G = S S^\top` and the
    distances :math:`d` without forming any difference of tokens:
    :math:`\psi_{ijk} = (G_{ik} - G_{ij} - G_{jk} + G_{jj}) / (d_{ij}
    d_{jk})`. Triples whose vertex :math:`s_j` coincides with an outer token
    have value 0 and send no gradient. Precision and limits as in
    :func:`distance_loss`. Time O(B K^2 (C + K)).

    ========= ================= ===================================
    ``impl``  memory            limits
    ========= ================= ===================================
    reference O(B K (C + K^2))  none
    chunked   O(B K^2)          differentiable once
    triton    O(B K^2)          CUDA, float32, K <= 256, once
    ========= ================= ===================================

    ``'auto'`` takes ``'triton'`` for CUDA tensors where Triton is installed
    and its limits hold, else ``'chunked'``. ``'reference'`` is the readable
    version and the one to differentiate twice.

    Args:
        student: Student tokens, ``(B, K, Cs)``.
        teacher: Teacher tokens, ``(B, K, Ct)``; detached here. ``Ct`` may
            differ from ``Cs``.
        impl: ``'auto'``, ``'reference'``, ``'chunked'`` or ``'triton'``.

    Returns:
        Scalar loss, float32 (float64 where a side is float64).

    Raises:
        TypeError: If a side is not floating point.
        ValueError: If the sides differ in B or K, or ``impl`` is unknown or
            does not take this K.
        RuntimeError: If ``impl='triton'`` and Triton or a CUDA device is
            missing.

    Example:
        >>> import torch
        >>> tokens = torch.randn(2, 49, 192)
        >>> float(angle_loss(tokens, tokens))
        0.0
    """
    from .. import ops  # which imports this module

    dtype = _check_pair(student, teacher)
    impl = ops.select_impl(impl, student, teacher)
    if impl == 'triton':
        return ops.angle_loss_triton(student, teacher)
    if impl == 'chunked':
        return ops.angle_loss_chunked(student, teacher)
    with torch.autocast(student.device.type, enabled=False):
        psi_s = _angle_relation(student.to(dtype))
        psi_t = _angle_relation(teacher.detach().to(dtype))
        return F.smooth_l1_loss(psi_s, psi_t)


def _distance_relation(tokens: Tensor, normalize: str) -> Tensor:
    """Distances over their mean, ``(B, K, K)``."""
    dims = (1, 2) if normalize == 'image' else (0, 1, 2)
    _, distance, apart = _geometry(_unit_scale(tokens, dims))
    count = apart.sum(dim=dims, keepdim=True).clamp(min=1)
    mu = distance.sum(dim=dims, keepdim=True) / count
    return distance / torch.where(mu > 0, mu, torch.ones_like(mu))


def _angle_relation(tokens: Tensor) -> Tensor:
    """Cosines at the middle index, ``(B, K, K, K)`` as ``[b, j, i, k]``."""
    gram, distance, apart = _geometry(_unit_scale(tokens, (1, 2)))
    inverse = _inverse(distance, apart)
    # Rows are vertices j: shifted[j, i] = G_jj - G_ij.
    shifted = torch.diagonal(gram, dim1=1, dim2=2).unsqueeze(2) - gram
    cosine = gram.unsqueeze(1) + shifted.unsqueeze(3) - gram.unsqueeze(2)
    cosine = cosine * inverse.unsqueeze(3) * inverse.unsqueeze(2)
    return cosine.clamp(-1, 1)


def _unit_scale(tokens: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Tokens over their largest magnitude, which is taken as a constant.

    Relations do not depend on scale, so value and gradient stay what they
    are; what changes is that squares of huge or tiny tokens stay in range.
    """
    return tokens / _magnitude(tokens, dims)


def _magnitude(tokens: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Largest absolute entry over ``dims``, kept positive and detached."""
    largest = tokens.detach().abs().amax(dim=dims, keepdim=True)
    return largest.clamp(min=1e-20)


def _inverse(distance: Tensor, apart: Tensor) -> Tensor:
    """One over the distance, 0 for pairs that are not apart."""
    return apart / torch.where(apart, distance, torch.ones_like(distance))


def _geometry(tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gram matrix of the centred tokens, distances and who is apart.

    Centring keeps the subtraction in ``G_ii + G_jj - 2 G_ij`` from
    cancelling when tokens share a large mean. A squared distance below the
    rounding error of that subtraction, or below the resolution of the input
    itself, counts as coincident: distance 0, gradient 0.

    Returns:
        Gram matrix, distances and the boolean mask of pairs that are apart,
        each ``(B, K, K)``.
    """
    centred = tokens - tokens.mean(dim=1, keepdim=True)
    gram = centred @ centred.transpose(1, 2)
    diagonal = torch.diagonal(gram, dim1=1, dim2=2)
    norms = diagonal.unsqueeze(1) + diagonal.unsqueeze(2)
    squared = norms - 2 * gram
    eps = torch.finfo(tokens.dtype).eps
    rounding = (8 * eps * norms.detach()).clamp(min=(4 * eps) ** 2)
    apart = squared.detach() > rounding
    distance = torch.where(apart, squared, torch.ones_like(squared)).sqrt()
    return gram, distance * apart, apart


def _check_pair(student: Tensor, teacher: Tensor) -> torch.dtype:
    """Validate both sides and return the dtype to compute in."""
    for name, side in (('student', student), ('teacher', teacher)):
        if not side.is_floating_point():
            raise TypeError(f'{name} must be floating point, got {side.dtype}')
        if side.dim() != 3 or 0 in side.shape:
            raise ValueError(
                f'{name} must be a non-empty (B, K, C) tensor, got shape '
                f'{tuple(side.shape)}'
            )
    if student.shape[:2] != teacher.shape[:2]:
        raise ValueError(
            'student and teacher must have the same number of images and '
            f'tokens, got (B, K) = {tuple(student.shape[:2])} and '
            f'{tuple(teacher.shape[:2])}; choose connectors (grid_size, '
            'num_prefix_tokens) that give both sides the same token count'
        )
    wide = torch.float64 in (student.dtype, teacher.dtype)
    return torch.float64 if wide else torch.float32
