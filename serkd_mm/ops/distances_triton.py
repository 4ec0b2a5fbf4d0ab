# Copyright (c) The serkd_mm authors. All rights reserved.
"""Distances between the tokens of an image as one Triton kernel.

From differences, as on CPUs: exact where tokens are close together, without
the float64 of a Gram matrix, and without a copy of the tokens unless their
channels lie apart. A program owns a square of pairs; those below the diagonal
are written by their mirror image.

Cost, computed and not measured. Built ahead of time for sm_90, a pair takes
3.0 instructions per channel, 2 of them float32 arithmetic, and reads half a
byte from L2 or L1. At B = 128, K = 49 and 384 + 768 channels, 2,560 pairs to
an image, that is 1.1 G instructions and 0.19 GB, 37 and 38 microseconds at the
rates in :mod:`serkd_mm.ops.relation_triton`.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor

from ..functional.distances import image_resolution
from . import triton_build

# With squares of 16 tokens, 64 sums over channels in each lane.
NUM_WARPS = 4
UNSPECIALIZED = ['num', 'width']

# triton.language, set when the kernel is first asked for.
tl: Any = None


def distances_by_kernel(
    tokens: Tensor, squared: Tensor, inverse: Tensor
) -> Tensor:
    """Squared and inverse distances between the tokens of an image.

    They mean what those of
    :func:`.pair_distances.distances_from_differences` do. No gradient.

    Args:
        tokens: ``(B, K, C)``, floating point, not float64.
        squared: Where to write squared distances, ``(B, K, K)``, float32 and
            contiguous.
        inverse: Where to write one over the distances, likewise.

    Returns:
        Their unit, the :func:`~serkd_mm.functional.scale.\
power_of_two_scale` of every finite image, ``(B, 1, 1)``.
    """
    batch, num, width = tokens.shape
    kernel, interpreted = _compiled()
    triton_build.check_device(tokens, interpreted)
    if tokens.stride(2) != 1:
        tokens = tokens.contiguous()
    largest = torch.linalg.vector_norm(tokens, math.inf, dim=(1, 2))
    scale = squared.new_empty(batch, 1, 1)
    side, channels = square(interpreted)
    # Launches go to the current device, which need not be the tensors'.
    with torch.cuda.device_of(tokens):
        kernel[(batch * (-(-num // side)) ** 2,)](
            tokens,
            largest,
            squared,
            inverse,
            scale,
            tokens.stride(0),
            tokens.stride(1),
            num,
            width,
            image_resolution(squared.dtype) ** 2,
            torch.finfo(tokens.dtype).eps,
            SIDE=side,
            CHANNELS=channels,
            num_warps=NUM_WARPS,
            enable_fp_fusion=True,
        )
    return scale


def square(interpreted: bool) -> tuple[int, int]:
    """Tokens along a square of pairs, and channels of one step.

    The interpreter pays per operation and takes many pairs at once.
    """
    return (64 if interpreted else 16), 32


@functools.cache
def _compiled() -> tuple[Any, bool]:
    """The kernel, and whether Triton's interpreter runs it."""
    return triton_build.jit(_distance_kernel, UNSPECIALIZED)


def _distance_kernel(  # type: ignore[no-untyped-def]
    tokens,
    largest,
    squared,
    inverse,
    scales,
    image_stride,
    token_stride,
    num,
    width,
    limit,
    rounding,
    SIDE: tl.constexpr,  # noqa: N803
    CHANNELS: tl.constexpr,  # noqa: N803
):
    """Pairs of SIDE tokens i and SIDE tokens j of one image."""
    blocks = tl.cdiv(num, SIDE)
    pairs = tl.program_id(0) % (blocks * blocks)
    image = (tl.program_id(0) // (blocks * blocks)).to(tl.int64)
    row = pairs // blocks
    column = pairs % blocks
    # The bits of a float32 are its exponent's, and those of a power of two
    # nothing else.
    top = tl.load(largest + image).to(tl.float32)
    exponent = (top.to(tl.int32, bitcast=True) >> 23) - 126
    exponent = tl.minimum(tl.maximum(exponent, -66), 126)
    exponent = tl.where(top == 0.0, 0, exponent)
    shrink = ((127 - exponent) << 23).to(tl.float32, bitcast=True)
    if pairs == 0:
        unit = ((127 + exponent) << 23).to(tl.float32, bitcast=True)
        tl.store(scales + image, unit)
    if row <= column:
        i = row * SIDE + tl.arange(0, SIDE)
        j = column * SIDE + tl.arange(0, SIDE)
        of_image = tokens + image * image_stride
        at_i = of_image + i[:, None].to(tl.int64) * token_stride
        at_j = of_image + j[:, None].to(tl.int64) * token_stride
        sums = tl.zeros((SIDE, SIDE, CHANNELS), tl.float32)
        top_x = tl.zeros((SIDE, CHANNELS), tl.float32)
        top_y = tl.zeros((SIDE, CHANNELS), tl.float32)
        for start in range(0, width, CHANNELS):
            c = start + tl.arange(0, CHANNELS)[None, :]
            x = tl.load(at_i + c, (i[:, None] < num) & (c < width), other=0.0)
            y = tl.load(at_j + c, (j[:, None] < num) & (c < width), other=0.0)
            x = x.to(tl.float32) * shrink
            y = y.to(tl.float32) * shrink
            top_x = tl.maximum(top_x, tl.abs(x))
            top_y = tl.maximum(top_y, tl.abs(y))
            gap = x[:, None, :] - y[None, :, :]
            sums += gap * gap
        total = tl.sum(sums, axis=2)
        of_i = tl.max(top_x, axis=1)[:, None]
        of_j = tl.max(top_y, axis=1)[None, :]
        of_pair = rounding * tl.maximum(of_i, of_j)
        near = total <= tl.maximum(limit, of_pair * of_pair)  # nan stays nan
        over = tl.where(near, 0.0, 1.0 / tl.sqrt_rn(total))
        total = tl.where(near, 0.0, total)
        inside = (i[:, None] < num) & (j[None, :] < num)
        corner = image * num * num
        ij = corner + i[:, None] * num + j[None, :]
        ji = corner + j[None, :] * num + i[:, None]
        tl.store(squared + ij, total, mask=inside)
        tl.store(squared + ji, total, mask=inside)
        tl.store(inverse + ij, over, mask=inside)
        tl.store(inverse + ji, over, mask=inside)
