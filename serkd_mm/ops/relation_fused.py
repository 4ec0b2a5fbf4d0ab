# Copyright (c) The serkd_mm authors. All rights reserved.
r"""What the fast paths of the relation losses share.

Both losses are functions of the :math:`K^2` squared distances :math:`D`
alone. With :math:`E = D / 2` and the inverse distances :math:`v` (0 for
coincident pairs), the distances are :math:`D_{ij} v_{ij}`, and by the law of
cosines

.. math::
    \psi_{ijk} = v_{ij} v_{jk} (E_{ij} + E_{jk} - E_{ik}).

The gradient :math:`P` with respect to the squared distances is found in the
same pass as the value, and
:math:`\partial L / \partial s_i = 2 \sum_j (P + P^\top)_{ij} (s_i - s_j)`
is one product with a Laplacian matrix. Backward keeps that matrix,
``(B, K, K)``, beside the student's tokens.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Callable, NamedTuple, Optional

import torch
from torch import Tensor

from .. import compat
from ..functional.distances import inverse_distances, squared_distances
from ..functional.relation import check_pair
from .pair_distances import distances_from_differences
from .pieces import pieces

# (squared distances, inverse distances, gradient wanted) -> (sum of Huber
# values, gradient P of that sum with respect to the student's squared
# distances). Inputs are (2, B, K, K), student first; P is (B, K, K).
Terms = Callable[[Tensor, Tensor, bool], tuple[Tensor, Optional[Tensor]]]

# (tokens, squared distances, inverse distances) -> unit of the distances,
# (B, 1, 1). The distances, (B, K, K), are written.
Measure = Callable[[Tensor, Tensor, Tensor], Tensor]


class Relation(NamedTuple):
    """A relation loss.

    Attributes:
        terms: Its sum over all relations of some images.
        members: Tokens that a relation is between.
        measure: How distances are found, None for the device's own way.
    """

    terms: Terms
    members: int
    measure: Measure | None = None


# The modules that have them enter them here.
RELATIONS: dict[str, Relation] = {}

# Operators of their own: torch.compile takes each as one node of its graph
# instead of unrolling the loops inside.
_OPERATORS = torch.library.Library('serkd_mm', 'DEF')
_OPERATORS.define(
    'relation_forward(Tensor student, Tensor teacher, str relation,'
    ' bool wanted) -> (Tensor, Tensor, Tensor)'
)
_OPERATORS.define(
    'relation_backward(Tensor student, Tensor laplacian, Tensor scale,'
    ' Tensor upstream) -> Tensor'
)


@compat.disable_old_dynamo
def fused_loss(student: Tensor, teacher: Tensor, relation: str) -> Tensor:
    """Mean over the relations of ``RELATIONS[relation]``."""
    check_pair(student, teacher)
    wanted = torch.is_grad_enabled() and student.requires_grad
    return _RelationLoss.apply(student, teacher.detach(), relation, wanted)


class _RelationLoss(torch.autograd.Function):
    """Loss as a function of the tokens, its gradient through a Laplacian."""

    @staticmethod
    def forward(
        ctx: Any,
        student: Tensor,
        teacher: Tensor,
        relation: str,
        wanted: bool,
    ) -> Tensor:
        loss, laplacian, scale = torch.ops.serkd_mm.relation_forward(
            student, teacher, relation, wanted
        )
        ctx.save_for_backward(student, laplacian, scale)
        return loss

    @staticmethod
    @compat.disable_old_dynamo
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        student, laplacian, scale = ctx.saved_tensors
        with torch.no_grad():
            grad = torch.ops.serkd_mm.relation_backward(
                student, laplacian, scale, upstream
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
            'the fast relation losses are differentiable once; use '
            "impl='reference' for second derivatives"
        )


@torch.library.impl(
    _OPERATORS, 'relation_forward', 'CompositeExplicitAutograd'
)
def relation_forward(
    student: Tensor, teacher: Tensor, relation: str, wanted: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, the Laplacian ``(B, K, K)`` and the student's unit ``(B, 1, 1)``.

    B is 0 in the last two unless ``wanted``.
    """
    dtype = check_pair(student, teacher)
    batch, num, _ = student.shape
    terms, members, measure = RELATIONS[relation]
    total, laplacian, scale = _outputs(student, teacher, relation, wanted)
    total.zero_()
    mean = 1 / (batch * num**members)
    size = num * num * dtype.itemsize
    with full_precision(student.device.type):
        for part in pieces(batch, size, student.device):
            squared, inverse, unit = distances(
                (student[part], teacher[part]), dtype, measure
            )
            value, slope = terms(squared, inverse, wanted)
            total += value
            if slope is not None:
                _write_laplacian(slope, mean, laplacian[part])
                scale[part] = unit
    return total.mul_(mean), laplacian, scale


@torch.library.impl(_OPERATORS, 'relation_forward', 'Meta')
def _outputs(
    student: Tensor, teacher: Tensor, relation: str, wanted: bool
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = check_pair(student, teacher)
    batch, num, _ = student.shape
    kept = batch if wanted else 0
    return (
        student.new_empty((), dtype=dtype),
        student.new_empty((kept, num, num), dtype=dtype),
        student.new_empty((kept, 1, 1), dtype=dtype),
    )


@torch.library.impl(
    _OPERATORS, 'relation_backward', 'CompositeExplicitAutograd'
)
def relation_backward(
    student: Tensor, laplacian: Tensor, scale: Tensor, upstream: Tensor
) -> Tensor:
    """Laplacian times the centred tokens, in the student's dtype."""
    batch, num, width = student.shape
    grad = torch.empty_like(student)
    size = num * width * laplacian.dtype.itemsize
    with full_precision(student.device.type):
        for part in pieces(batch, size, student.device):
            tokens = student[part].to(laplacian.dtype) / scale[part]
            tokens -= tokens.mean(dim=1, keepdim=True)
            tokens = torch.bmm(laplacian[part], tokens)
            grad[part] = tokens.mul_(upstream).div_(scale[part])
    return grad


@torch.library.impl(_OPERATORS, 'relation_backward', 'Meta')
def _gradient(
    student: Tensor, laplacian: Tensor, scale: Tensor, upstream: Tensor
) -> Tensor:
    return torch.empty_like(student)


def _write_laplacian(slope: Tensor, mean: float, out: Tensor) -> None:
    """Laplacian ``2 (diag(M 1) - M)`` of ``M = P + P^T``, times ``mean``.

    With ``P = slope``. Times the tokens it is the gradient with respect to
    the tokens.
    """
    torch.add(slope, slope.transpose(1, 2), out=out)
    diagonal = torch.diagonal(out, dim1=1, dim2=2)
    diagonal.zero_()
    degree = out.sum(dim=2)
    diagonal.sub_(degree)
    out.mul_(-2 * mean)


def distances(
    pair: tuple[Tensor, Tensor],
    dtype: torch.dtype,
    measure: Measure | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Squared and inverse distances of both sides, and the student's unit.

    Args:
        pair: Tokens of student and teacher, ``(B, K, C)``.
        dtype: Precision of the distances.
        measure: How they are found; None is from differences on CPUs and
            from Gram matrices elsewhere.

    Returns:
        Two of ``(2, B, K, K)`` and one of ``(B, 1, 1)``.
    """
    batch, num, _ = pair[0].shape
    squared = pair[0].new_empty((2, batch, num, num), dtype=dtype)
    inverse = torch.empty_like(squared)
    if measure is None:
        cpu = squared.device.type == 'cpu'
        measure = _measure_differences if cpu else _measure_gram
    unit, _ = map(measure, pair, squared, inverse)
    return squared, inverse, unit


def _measure_differences(
    tokens: Tensor, squared: Tensor, inverse: Tensor
) -> Tensor:
    found = distances_from_differences(tokens, squared.dtype)
    squared[:], inverse[:], unit = found
    return unit


def _measure_gram(tokens: Tensor, squared: Tensor, inverse: Tensor) -> Tensor:
    batch, num, width = tokens.shape
    dtype = squared.dtype
    size = num * width * dtype.itemsize
    units = []
    for part in pieces(batch, size, tokens.device):
        found, apart, unit = squared_distances(tokens[part], (1, 2), dtype)
        squared[part] = found
        inverse[part] = inverse_distances(squared[part], apart)
        units.append(unit)
    return torch.cat(units)


@contextlib.contextmanager
def full_precision(device_type: str) -> Iterator[None]:
    """Autocast off, and neither TF32 nor bfloat16 inside float32 products.

    The gradient is a product with a Laplacian matrix, differences of tokens
    in effect, of which 10 bits leave nothing where tokens are close together.
    """
    with compat.ieee_matmul(), torch.autocast(device_type, enabled=False):
        yield
