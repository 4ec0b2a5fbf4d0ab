# Copyright (c) The serkd_mm authors. All rights reserved.
"""Distances between the tokens of an image, and which of them are none."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .scale import at_least_float32, power_of_two_scale

# Devices that multiply matrices in float64. Apple's MPS has no such type, and
# Ascend's NPU no such product.
FLOAT64_DEVICES = ('cpu', 'cuda')


def squared_distances(
    tokens: Tensor, dims: tuple[int, ...], dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Squared distances between the tokens of an image, up to scale.

    From the Gram matrix of the centred tokens, ``D_ij = G_ii + G_jj -
    2 G_ij``. The subtraction cancels where tokens are close together for
    their distance from the centre, and with 24 bits the distances within a
    tight cluster, a plain background say, would be noise. Float32 tokens are
    multiplied in float64.

    A pair counts as coincident that is apart by no more than a few units in
    the last place, of ``dtype``, of the image's largest entry, or one in that
    of the tokens' own dtype of the larger entry of the two. Nor can the Gram
    matrix tell a pair apart below ``sqrt((16 + C) eps)`` of the largest
    distance from the centre. In float64 that is as little as these units of
    float32. Where no product is wider than the tokens it is far more: 1e-7
    for float64 tokens, and on devices other than ``FLOAT64_DEVICES`` half a
    percent at C = 192.

    Args:
        tokens: ``(B, K, C)``, floating point.
        dims: Dimensions whose largest entry sets the unit, a power of two.
            Relations do not depend on scale, so it is a constant for
            gradients; it keeps squares in range.
        dtype: Precision that the tokens are taken in, float32 or float64.

    Returns:
        Squared distances in squared units, float64 where that is multiplied
        in, 0 for coincident pairs and without gradient there; the boolean
        mask of the pairs that are apart, each ``(B, K, K)``; and the unit in
        ``dtype``, of 1 or B in the first dimension and 1 in the others.
    """
    of_token = token_resolution(tokens).to(dtype)
    of_pair = torch.maximum(of_token.unsqueeze(1), of_token.unsqueeze(2))
    tokens = tokens.to(dtype)
    scale = power_of_two_scale(tokens)
    unit = scale.amax(dim=dims, keepdim=True)
    resolution = image_resolution(dtype) * (scale / unit)
    resolution = torch.maximum(resolution, of_pair / unit)
    tokens = tokens / unit
    if tokens.device.type in FLOAT64_DEVICES:
        tokens = tokens.double()
    tokens = tokens - tokens.mean(dim=1, keepdim=True)
    gram = tokens @ tokens.transpose(1, 2)
    # No view of the matrix: torch.compile of PyTorch 2.13 writes backward's
    # results into it while it still reads its diagonal.
    norms = tokens.square().sum(dim=2)
    squared = norms.unsqueeze(1) + norms.unsqueeze(2) - 2 * gram
    largest = norms.detach().amax(dim=1)[:, None, None]
    # What the sums over C channels may be off by.
    terms = 16 + tokens.shape[2]
    rounding = terms * torch.finfo(gram.dtype).eps * largest
    limit = torch.maximum(rounding, resolution.to(gram.dtype) ** 2)
    # Not (a > b): nan in the tokens stays nan.
    apart = ~(squared.detach() <= limit)
    return squared.where(apart, squared.new_zeros(())), apart, unit


def image_resolution(dtype: torch.dtype) -> float:
    """Distance up to which all tokens coincide, over the image's scale.

    Args:
        dtype: Precision that the tokens are taken in.
    """
    return 4 * torch.finfo(dtype).eps


def token_resolution(tokens: Tensor) -> Tensor:
    """Distance up to which another token coincides with a token.

    What the rounding of its largest entry may be. Half precision has few
    digits, and in an image that has one far larger entry those of the other
    tokens are not worth less by that.

    Args:
        tokens: In the dtype that they came in, ``(B, K, C)``.

    Returns:
        ``(B, K)``, without gradient, float32 at least.
    """
    largest = torch.linalg.vector_norm(tokens.detach(), math.inf, dim=2)
    return at_least_float32(largest) * torch.finfo(tokens.dtype).eps


def inverse_distances(squared: Tensor, apart: Tensor) -> Tensor:
    """One over the distances, 0 with gradient 0 for coincident pairs."""
    return squared.where(apart, squared.new_ones(())).rsqrt() * apart


def positive_sqrt(squared: Tensor, apart: Tensor) -> Tensor:
    """Square root with value and gradient 0 for coincident pairs."""
    return squared.where(apart, squared.new_ones(())).sqrt() * apart
