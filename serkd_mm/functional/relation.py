# Copyright (c) The serkd_mm authors. All rights reserved.
"""Relations between the tokens of an image, compared with a teacher's.

Both losses compare functions of pairwise differences, so they do not see
translation, rotation or scaling of either side, and the two sides may have
different widths. Tokens of an image whose largest entry is below ``2 ** -66``
(1.4e-20) are resolved as if it were that, so that far smaller ones coincide.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import check_floating, check_tokens
from .distances import inverse_distances, positive_sqrt, squared_distances
from .scale import at_least_float32, unit_length


def distance_loss(
    student: Tensor,
    teacher: Tensor,
    normalize: str = 'image',
    impl: str = 'auto',
) -> Tensor:
    r"""Distance-wise relation loss between token sets (Eq. 10).

    With :math:`\psi_{ij} = \lVert s_i - s_j \rVert_2 / \mu` and :math:`\mu`
    the mean of the positive distances, each side its own,

    .. math::
        L = \frac{1}{B K^2} \sum_{b,i,j}
            \mathrm{huber}_1(\psi^S_{bij} - \psi^T_{bij}).

    Computed in float32 (float64 for float64 input) with autocast off, from
    squared distances that are formed in float64, or from differences of
    tokens by ``'triton'`` and on CPUs by ``'chunked'``. Coincident tokens
    (apart by less than the resolution of the input) have distance 0 and send
    no gradient. Identical inputs and K = 1 give exactly 0. Time O(B K^2 C).

    ========= =============== =====================================
    ``impl``  memory          limits
    ========= =============== =====================================
    reference O(B K (C + K))  none
    chunked   O(B K^2)        ``'image'``, differentiable once
    triton    O(B K^2)        these, and CUDA, float32, K <= 256
    ========= =============== =====================================

    ``'auto'`` takes for ``normalize='image'`` what it takes in
    :func:`angle_loss`, else ``'reference'``, which is the readable version
    and the one to differentiate twice. Their tolerances are those of
    :func:`angle_loss`.

    Args:
        student: Student tokens, ``(B, K, Cs)``.
        teacher: Teacher tokens, ``(B, K, Ct)``; detached here. ``Ct`` may
            differ from ``Cs``.
        normalize: ``'image'`` takes :math:`\mu` over the pairs of one image,
            ``'batch'`` over the pairs of all images of the batch.
        impl: ``'auto'``, ``'reference'``, ``'chunked'`` or ``'triton'``.

    Returns:
        Scalar loss, float32 (float64 where a side is float64).

    Raises:
        TypeError: If a side is not floating point, or is float64 with
            ``impl='triton'``.
        ValueError: If the sides differ in B, K or device, or ``normalize``
            or ``impl`` is unknown, or one does not take the other or this K.
        RuntimeError: If ``impl='triton'`` and Triton or a CUDA device is
            missing, or a fast path is asked for under ``torch.func``.

    Example:
        >>> import torch
        >>> tokens = torch.randn(2, 49, 192)
        >>> float(distance_loss(3 * tokens + 1, tokens)) < 1e-10
        True
    """
    from .. import ops  # which imports this module

    ops.check_distance_impl(impl, normalize)
    dtype = check_pair(student, teacher)
    if normalize == 'image':
        impl = ops.select_impl(impl, student, teacher)
    if impl == 'triton':
        return ops.distance_loss_triton(student, teacher)
    if impl == 'chunked':
        return ops.distance_loss_chunked(student, teacher)
    with torch.autocast(student.device.type, enabled=False):
        psi_s = _distance_relation(student, normalize, dtype)
        psi_t = _distance_relation(teacher.detach(), normalize, dtype)
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
    d_{jk})`, or from distances alone where those come from differences.
    Triples whose vertex :math:`s_j` coincides with an outer token
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
    version, the one to differentiate twice, and what ``'auto'`` takes under
    ``torch.func``. Value and gradient of all three lie within 5e-5 of those
    of float64, of the largest entry for the gradient; among tokens that are a
    thousand times closer together than to the others, within 1e-3. Two cases
    are ill-conditioned, and gradients differ by a few percent and more: tokens
    on a line up to a thousandth of the steps between them, whose cosines are
    those of 0 and pi, and a student that is its teacher up to a
    hundred-thousandth, whose loss is next to 0.

    Args:
        student: Student tokens, ``(B, K, Cs)``.
        teacher: Teacher tokens, ``(B, K, Ct)``; detached here. ``Ct`` may
            differ from ``Cs``.
        impl: ``'auto'``, ``'reference'``, ``'chunked'`` or ``'triton'``.

    Returns:
        Scalar loss, float32 (float64 where a side is float64).

    Raises:
        TypeError: If a side is not floating point, or is float64 with
            ``impl='triton'``.
        ValueError: If the sides differ in B, K or device, or ``impl`` is
            unknown or does not take this K.
        RuntimeError: If ``impl='triton'`` and Triton or a CUDA device is
            missing, or a fast path is asked for under ``torch.func``.

    Example:
        >>> import torch
        >>> tokens = torch.randn(2, 49, 192)
        >>> float(angle_loss(tokens, tokens))
        0.0
    """
    from .. import ops  # which imports this module

    dtype = check_pair(student, teacher)
    impl = ops.select_impl(impl, student, teacher)
    if impl == 'triton':
        return ops.angle_loss_triton(student, teacher)
    if impl == 'chunked':
        return ops.angle_loss_chunked(student, teacher)
    with torch.autocast(student.device.type, enabled=False):
        psi_s = _angle_relation(student, dtype)
        psi_t = _angle_relation(teacher.detach(), dtype)
        return F.smooth_l1_loss(psi_s, psi_t)


def batch_as_tokens(embeddings: Tensor) -> Tensor:
    """The images of a batch in the place of the tokens of one image.

    The losses of this module then compare relations between images, as RKD
    does on embeddings of unit length.

    Args:
        embeddings: ``(B, ...)``, floating point; what is behind the first
            dimension is one embedding.

    Returns:
        Embeddings of length 1, ``(1, B, C)``, float32 (float64 for float64
        input); of no larger entry than ``2 ** -66``, up to 0 as in
        :func:`~serkd_mm.functional.unit_length`.

    Raises:
        TypeError: If ``embeddings`` are not floating point.
        ValueError: If they are empty or have no second dimension.

    Example:
        >>> batch_as_tokens(torch.tensor([[3.0, 4.0], [0.0, 2.0]]))
        tensor([[[0.6000, 0.8000],
                 [0.0000, 1.0000]]])
    """
    check_floating('embeddings', embeddings)
    if embeddings.dim() < 2 or embeddings.numel() == 0:
        raise ValueError(
            'embeddings must be a non-empty (B, ...) tensor of at least two '
            f'dimensions, got shape {tuple(embeddings.shape)}'
        )
    images = embeddings.flatten(1).unsqueeze(1)
    return unit_length(at_least_float32(images)).transpose(0, 1)


def _distance_relation(
    tokens: Tensor, normalize: str, dtype: torch.dtype
) -> Tensor:
    """Distances over their mean, ``(B, K, K)``."""
    dims = (1, 2) if normalize == 'image' else (0, 1, 2)
    squared, apart, _ = squared_distances(tokens, dims, dtype)
    distance = positive_sqrt(squared, apart)
    count = apart.sum(dim=dims, keepdim=True).clamp(min=1)
    mu = distance.sum(dim=dims, keepdim=True) / count
    psi = distance / torch.where(mu > 0, mu, torch.ones_like(mu))
    return psi.to(dtype)


def _angle_relation(tokens: Tensor, dtype: torch.dtype) -> Tensor:
    """Cosines at the middle index, ``(B, K, K, K)`` as ``[b, i, j, k]``."""
    squared, apart, _ = squared_distances(tokens, (1, 2), dtype)
    squared = squared.to(dtype)
    inverse = inverse_distances(squared, apart)
    # G_ik - G_ij - G_jk + G_jj = (D_ij + D_jk - D_ik) / 2
    opposite = squared.unsqueeze(2)
    cosine = (squared.unsqueeze(3) + squared.unsqueeze(1) - opposite) / 2
    cosine = cosine * inverse.unsqueeze(3) * inverse.unsqueeze(1)
    return cosine.clamp(-1, 1)


def check_pair(student: Tensor, teacher: Tensor) -> torch.dtype:
    """Validate both sides and return the dtype to compute in."""
    for name, side in (('student', student), ('teacher', teacher)):
        check_tokens(name, side, '(B, K, C)')
    if student.device != teacher.device:
        raise ValueError(
            'student and teacher must be on one device, got '
            f'{student.device} and {teacher.device}'
        )
    if student.shape[:2] != teacher.shape[:2]:
        raise ValueError(
            'student and teacher must have the same number of images and '
            f'tokens, got (B, K) = {tuple(student.shape[:2])} and '
            f'{tuple(teacher.shape[:2])}; choose connectors (grid_size, '
            'num_prefix_tokens), or img_size and patch_size of the backbones, '
            'that give both sides the same token count'
        )
    wide = torch.float64 in (student.dtype, teacher.dtype)
    return torch.float64 if wide else torch.float32
