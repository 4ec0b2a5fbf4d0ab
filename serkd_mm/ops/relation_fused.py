# Copyright (c) The serkd_mm authors. All rights reserved.
r"""What the fast paths of the angle loss share.

With the squared distances :math:`D`, :math:`E = D / 2` and the inverse
distances :math:`v` (0 for coincident pairs), the law of cosines reads

.. math::
    \psi_{ijk} = v_{ij} v_{jk} (E_{ij} + E_{jk} - E_{ik}),

so the loss is a function of the :math:`K^2` squared distances alone. Its
gradient :math:`P` with respect to them is found in the same pass as the value,
and :math:`\partial L / \partial s_i = 2 \sum_j (P + P^\top)_{ij} (s_i - s_j)`
is one product with a Laplacian matrix. Backward keeps that matrix,
``(B, K, K)``, beside the student's tokens.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Callable, Optional

import torch
from torch import Tensor

from .. import compat
from ..functional.relation import (
    check_pair,
    inverse_distances,
    squared_distances,
)
from ..functional.scale import power_of_two_scale
from .pair_distances import distances_from_differences

# (squared distances, inverse distances, gradient wanted) -> (sum of Huber
# values over i, j, k, gradient P of that sum with respect to the student's
# squared distances). Inputs are (2, B, K, K), student first; P is (B, K, K).
Terms = Callable[[Tensor, Tensor, bool], tuple[Tensor, Optional[Tensor]]]

# By implementation; the modules that have them enter them here.
TERMS: dict[str, Terms] = {}

# Bytes of one (K, K) matrix over the images that are worked on together, and
# of a piece of the tokens. On a CPU a handful of them stay in the caches;
# elsewhere launches cost more than memory.
_CPU_BYTES = 5 << 18
_DEVICE_BYTES = 1 << 25

# Operators of their own: torch.compile takes each as one node of its graph
# instead of unrolling the loops inside.
_OPERATORS = torch.library.Library('serkd_mm', 'DEF')
_OPERATORS.define(
    'angle_forward(Tensor student, Tensor teacher, str impl, bool wanted)'
    ' -> (Tensor, Tensor)'
)
_OPERATORS.define(
    'angle_backward(Tensor student, Tensor laplacian, Tensor upstream)'
    ' -> Tensor'
)


@compat.disable_old_dynamo
def fused_angle_loss(student: Tensor, teacher: Tensor, impl: str) -> Tensor:
    """Angle loss whose sums over triples are left to ``TERMS[impl]``."""
    check_pair(student, teacher)
    wanted = torch.is_grad_enabled() and student.requires_grad
    return _AngleLoss.apply(student, teacher.detach(), impl, wanted)


class _AngleLoss(torch.autograd.Function):
    """Loss as a function of the tokens, its gradient through a Laplacian."""

    @staticmethod
    def forward(
        ctx: Any, student: Tensor, teacher: Tensor, impl: str, wanted: bool
    ) -> Tensor:
        loss, laplacian = torch.ops.serkd_mm.angle_forward(
            student, teacher, impl, wanted
        )
        ctx.save_for_backward(student, laplacian)
        return loss

    @staticmethod
    @compat.disable_old_dynamo
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        student, laplacian = ctx.saved_tensors
        with torch.no_grad():
            grad = torch.ops.serkd_mm.angle_backward(
                student, laplacian, upstream
            )
        if torch.is_grad_enabled():  # create_graph
            grad = _Once.apply(student, upstream, grad)
        return grad, None, None, None


class _Once(torch.autograd.Function):
    """Gradient whose own derivative raises instead of going missing.

    PyTorch's ``once_differentiable`` raises only if the upstream gradient
    needs a gradient, not if the tokens do.
    """

    @staticmethod
    def forward(
        ctx: Any, student: Tensor, upstream: Tensor, grad: Tensor
    ) -> Tensor:
        return grad.view_as(grad)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        raise RuntimeError(
            'the fast angle losses are differentiable once; use '
            "impl='reference' for second derivatives"
        )


@torch.library.impl(_OPERATORS, 'angle_forward', 'CompositeExplicitAutograd')
def angle_forward(
    student: Tensor, teacher: Tensor, impl: str, wanted: bool
) -> tuple[Tensor, Tensor]:
    """Loss, and the Laplacian ``(B, K, K)`` (B = 0 unless ``wanted``)."""
    dtype = check_pair(student, teacher)
    batch, num, _ = student.shape
    total, laplacian = _outputs(student, teacher, impl, wanted)
    total.zero_()
    size = num * num * dtype.itemsize
    with full_precision(student.device.type):
        for part in _pieces(batch, size, student.device):
            squared, inverse = distances((student[part], teacher[part]), dtype)
            value, slope = TERMS[impl](squared, inverse, wanted)
            total += value
            if slope is not None:
                _write_laplacian(slope, laplacian[part])
    mean = 1 / (batch * num**3)
    return total.mul_(mean), laplacian.mul_(mean)


@torch.library.impl(_OPERATORS, 'angle_forward', 'Meta')
def _outputs(
    student: Tensor, teacher: Tensor, impl: str, wanted: bool
) -> tuple[Tensor, Tensor]:
    dtype = check_pair(student, teacher)
    batch, num, _ = student.shape
    laplacian = student.new_empty(
        (batch if wanted else 0, num, num), dtype=dtype
    )
    return student.new_empty((), dtype=dtype), laplacian


@torch.library.impl(_OPERATORS, 'angle_backward', 'CompositeExplicitAutograd')
def angle_backward(
    student: Tensor, laplacian: Tensor, upstream: Tensor
) -> Tensor:
    """Laplacian times the centred tokens, in the student's dtype."""
    batch, num, width = student.shape
    grad = torch.empty_like(student)
    size = num * width * laplacian.dtype.itemsize
    with full_precision(student.device.type):
        for part in _pieces(batch, size, student.device):
            tokens = student[part].to(laplacian.dtype)
            scale = power_of_two_scale(tokens)
            tokens = tokens / scale
            tokens -= tokens.mean(dim=1, keepdim=True)
            tokens = torch.bmm(laplacian[part], tokens)
            grad[part] = tokens.mul_(upstream).div_(scale)
    return grad


@torch.library.impl(_OPERATORS, 'angle_backward', 'Meta')
def _gradient(student: Tensor, laplacian: Tensor, upstream: Tensor) -> Tensor:
    return torch.empty_like(student)


def _write_laplacian(slope: Tensor, out: Tensor) -> None:
    """Laplacian ``2 (diag(M 1) - M)`` of ``M = P + P^T`` with ``P = slope``.

    Times the tokens it is the gradient with respect to the tokens.
    """
    torch.add(slope, slope.transpose(1, 2), out=out)
    diagonal = torch.diagonal(out, dim1=1, dim2=2)
    diagonal.zero_()
    degree = out.sum(dim=2)
    diagonal.sub_(degree)
    out.mul_(-2)


def distances(
    pair: tuple[Tensor, Tensor], dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Squared and inverse distances of both sides, each ``(2, B, K, K)``.

    On CPUs from differences, elsewhere from Gram matrices.
    """
    batch, num, _ = pair[0].shape
    squared = pair[0].new_empty((2, batch, num, num), dtype=dtype)
    inverse = torch.empty_like(squared)
    for side, tokens in enumerate(pair):
        size = num * tokens.shape[2] * dtype.itemsize
        measure = (
            distances_from_differences
            if tokens.device.type == 'cpu'
            else _distances_from_gram
        )
        for part in _pieces(batch, size, tokens.device):
            found = measure(tokens[part], dtype)
            squared[side, part], inverse[side, part] = found
    return squared, inverse


def _distances_from_gram(
    tokens: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    squared, apart = squared_distances(tokens, (1, 2), dtype)
    squared = squared.to(dtype)
    return squared, inverse_distances(squared, apart)


def _pieces(batch: int, size: int, device: torch.device) -> Iterator[slice]:
    """Slices of the batch whose images, ``size`` bytes each, fit a piece."""
    limit = _CPU_BYTES if device.type == 'cpu' else _DEVICE_BYTES
    step = max(1, limit // size)
    for start in range(0, batch, step):
        yield slice(start, start + step)


@contextlib.contextmanager
def full_precision(device_type: str) -> Iterator[None]:
    """Autocast off, and neither TF32 nor bfloat16 inside float32 products.

    The gradient is a product with a Laplacian matrix, differences of tokens
    in effect, of which 10 bits leave nothing where tokens are close together.
    """
    with compat.ieee_matmul(), torch.autocast(device_type, enabled=False):
        yield
