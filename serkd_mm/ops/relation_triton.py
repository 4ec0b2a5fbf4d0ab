# Copyright (c) The serkd_mm authors. All rights reserved.
r"""Angle relation loss as one Triton kernel, without ``K^3`` memory.

The mathematics is that of :mod:`serkd_mm.ops.relation_fused`; only the sums
over triples differ. A program owns a few outer tokens i of one image and all
vertices j, and walks over the outer tokens k. All that it sums over k stays in
registers, what it sums over j is complete within one step, and nobody else
writes there: no atomics, so the same input gives the same bits. Both orders of
i and k are visited, since halving the triples would need atomics or partial
sums in memory.

Cost, computed and not measured. Built ahead of time for sm_90 with the
gradient, a triple (i, k, j) is 36 instructions for K from 33 to 64, 33 up to
128 and 28 above, 20 to 22 of them float32 arithmetic; smaller K take more. j
is padded to a power of two. A step reads 4 floats per (k, j) for its 4 or 2
tokens i, so 4 or 8 bytes per triple from L2 or L1; device memory sees 6
matrices, 24 B K^2 bytes. At B = 128, K = 196 (963 million triples, 1.26
billion with padding) that is 35 G instructions, 7.7 GB from cache and 118 MB
from memory. A GPU with 30 T instructions/s, 5 TB/s of L2 and 3.4 TB/s of
memory (H100; L2 an estimate) takes 1.2, 1.5 and 0.04 ms. At K = 49 it is 0.71
G instructions and 60 MB from cache, 24 and 12 microseconds. No tile has been
tuned on a device.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..functional.relation import check_pair
from . import triton_build
from .distance_chunked import pair_terms
from .distances_triton import distances_by_kernel
from .relation_fused import RELATIONS, Relation, fused_loss

MAX_TOKENS = 256
# A tile is one warp's, see :func:`tile`.
NUM_WARPS = 1

# triton.language, set when the kernel is first asked for.
tl: Any = None

_kernels = True


@contextlib.contextmanager
def without_kernels() -> Iterator[None]:
    """Check for the kernels what does not depend on a device, run none.

    Values are then those of ``impl='chunked'``. For tensors that will be on
    a CUDA device and are not yet.
    """
    global _kernels
    _kernels = False
    try:
        yield
    finally:
        _kernels = True


def angle_loss_triton(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Angle-wise relation loss (Eq. 11) fused for CUDA.

    Value and gradient of :func:`serkd_mm.functional.angle_loss`. One kernel
    forms the distances of a side and another the sums over triples, in
    float32; PyTorch forms the gradient as a product in full float32 (never
    TF32). Deterministic, differentiable once, one operator to
    ``torch.compile``. With
    ``TRITON_INTERPRET=1`` set before Triton is imported it runs on CPU
    tensors, slowly, for tests.

    Time O(B K^2 (C + K)). Memory beyond the inputs and their gradient: about
    10 ``(B, K, K)`` matrices, of which backward keeps one, and a copy of
    tokens whose channels lie apart.

    Args:
        student: Student tokens, ``(B, K, Cs)``, K up to 256.
        teacher: Teacher tokens, ``(B, K, Ct)``; detached here.

    Returns:
        Scalar loss, float32.

    Raises:
        TypeError: If a side is not floating point, or is float64.
        ValueError: If the sides differ in B or K, or K is over 256.
        RuntimeError: If Triton or a CUDA device is missing, or on a second
            derivative.
    """
    return _checked_loss(student, teacher, 'angle')


def distance_loss_triton(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Distance-wise relation loss (Eq. 10) with a kernel for the distances.

    What :func:`.distance_chunked.distance_loss_chunked` is, with distances
    from differences, in fewer launches. Arguments, return value and errors
    are those of :func:`angle_loss_triton`.
    """
    return _checked_loss(student, teacher, 'distance')


def _checked_loss(student: Tensor, teacher: Tensor, relation: str) -> Tensor:
    if check_pair(student, teacher) == torch.float64:
        raise TypeError(
            "impl='triton' computes in float32 and got float64; use "
            "impl='chunked'"
        )
    if student.shape[1] > MAX_TOKENS:
        raise ValueError(
            f"impl='triton' takes up to {MAX_TOKENS} tokens per image, got "
            f"K = {student.shape[1]}; use impl='chunked'"
        )
    if not triton_build.triton_installed():
        raise RuntimeError(
            "impl='triton' needs the package triton, 3.0 or newer, which is "
            "not installed; use impl='chunked'"
        )
    impl = 'triton' if _kernels else 'chunked'
    return fused_loss(student, teacher, f'{relation}_{impl}')


def kernel_terms(
    squared: Tensor, inverse: Tensor, wanted: bool
) -> tuple[Tensor, Tensor | None]:
    """Sums over triples, as :func:`.relation_chunked.slab_terms`."""
    _, batch, num, _ = squared.shape
    # Here and not before the operator: torch.compile cannot trace an import.
    kernel, interpreted = _compiled()
    rows, steps, columns = tile(num, interpreted)
    blocks = -(-num // rows)
    # The blocks of an image run side by side, so that the caches hold it.
    values = squared.new_empty(batch, blocks)
    slope = torch.empty_like(squared[0]) if wanted else values
    across = torch.empty_like(squared[0]) if wanted else values
    # Launches go to the current device, which need not be the tensors'.
    with torch.cuda.device_of(squared):
        kernel[(batch * blocks,)](
            squared,
            inverse,
            values,
            slope,
            across,
            squared[0].numel(),
            num,
            WANTED=wanted,
            ROWS=rows,
            STEPS=steps,
            COLUMNS=columns,
            num_warps=NUM_WARPS,
            enable_fp_fusion=True,
        )
    if not wanted:
        return values.sum(), None
    # P + P^T adds up both orders of i and k, and so does `across`; the other
    # sums have their factor 2 from the two orders.
    return values.sum(), slope.sub_(across, alpha=0.5)


RELATIONS['angle_triton'] = Relation(
    kernel_terms, members=3, measure=distances_by_kernel
)
RELATIONS['distance_triton'] = Relation(
    pair_terms, members=2, measure=distances_by_kernel
)


def tile(num: int, interpreted: bool) -> tuple[int, int, int]:
    """Powers of two: tokens i, tokens k of one step, vertices j.

    A tile is one warp's: all j of a token i lie in it, so that sums over j
    are shuffles. The interpreter pays per operation and takes many k at once.
    """
    columns = max(16, 1 << (num - 1).bit_length())
    if interpreted:
        return 4, min(columns, (1 << 15) // columns), columns
    return (4 if columns <= 64 else 2), 1, columns


@functools.cache
def _compiled() -> tuple[Any, bool]:
    """The kernel, and whether Triton's interpreter runs it."""
    # One build per tile. Where K is a multiple of 16, Triton 3.6 would look
    # for wider loads and not come to an end.
    return triton_build.jit(_angle_kernel, ['side', 'num'])


def _angle_kernel(  # type: ignore[no-untyped-def]
    squared,
    inverse,
    values,
    slopes,
    acrosses,
    side,
    num,
    WANTED: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    STEPS: tl.constexpr,  # noqa: N803
    COLUMNS: tl.constexpr,  # noqa: N803
):
    """Triples of ROWS outer tokens i of one image; s student, t teacher."""
    blocks = tl.cdiv(num, ROWS)
    image = (tl.program_id(0) // blocks).to(tl.int64) * num * num
    i = tl.program_id(0) % blocks * ROWS + tl.arange(0, ROWS)
    j = tl.arange(0, COLUMNS)
    ij = image + i[:, None] * num + j[None, :]
    ij_in = (i[:, None] < num) & (j[None, :] < num)
    # Outside K the inverse distances are 0, and with them the cosines.
    es_ij = 0.5 * tl.load(squared + ij, mask=ij_in, other=0.0)
    et_ij = 0.5 * tl.load(squared + side + ij, mask=ij_in, other=0.0)
    vs_ij = tl.load(inverse + ij, mask=ij_in, other=0.0)
    vt_ij = tl.load(inverse + side + ij, mask=ij_in, other=0.0)
    value = tl.zeros((ROWS, COLUMNS), tl.float32)
    direct = tl.zeros((ROWS, COLUMNS), tl.float32)
    along = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, num, STEPS):
        k = start + tl.arange(0, STEPS)
        kj = image + k[:, None] * num + j[None, :]
        kj_in = (k[:, None] < num) & (j[None, :] < num)
        es_kj = 0.5 * tl.load(squared + kj, mask=kj_in, other=0.0)
        et_kj = 0.5 * tl.load(squared + side + kj, mask=kj_in, other=0.0)
        vs_kj = tl.load(inverse + kj, mask=kj_in, other=0.0)
        vt_kj = tl.load(inverse + side + kj, mask=kj_in, other=0.0)
        ik = image + i[:, None] * num + k[None, :]
        ik_in = (i[:, None] < num) & (k[None, :] < num)
        es_ik = 0.5 * tl.load(squared + ik, mask=ik_in, other=0.0)
        et_ik = 0.5 * tl.load(squared + side + ik, mask=ik_in, other=0.0)
        # (i, k, j) tiles.
        vs = vs_ij[:, None, :] * vs_kj[None, :, :]
        vt = vt_ij[:, None, :] * vt_kj[None, :, :]
        cs = es_ij[:, None, :] + es_kj[None, :, :] - es_ik[:, :, None]
        ct = et_ij[:, None, :] + et_kj[None, :, :] - et_ik[:, :, None]
        cs *= vs
        ct *= vt
        clamped = tl.abs(cs) >= 1.0
        cs = tl.clamp(cs, -1.0, 1.0, propagate_nan=tl.PropagateNan.ALL)
        ct = tl.clamp(ct, -1.0, 1.0, propagate_nan=tl.PropagateNan.ALL)
        gap = cs - ct
        bent = tl.clamp(gap, -1.0, 1.0, propagate_nan=tl.PropagateNan.ALL)
        value += tl.sum(bent * (gap - 0.5 * bent), axis=1)
        if WANTED:
            weight = tl.where(clamped, 0.0, bent)
            along += tl.sum(weight * cs, axis=1)
            direct += tl.sum(weight * vs_kj[None, :, :], axis=1)
            across = tl.sum(weight * vs, axis=2)
            tl.store(acrosses + ik, across, mask=ik_in)
    total = tl.sum(tl.sum(value, axis=1), axis=0)
    tl.store(values + tl.program_id(0), total)
    if WANTED:
        slope = vs_ij * (direct - vs_ij * along)
        tl.store(slopes + ij, slope, mask=ij_in)
