# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

import math

import torch
from torch import Tensor

from .checks import check_tokens

# Devices with frexp; Apple's MPS has none.
FREXP_DEVICES = ('cpu', 'cuda')

# Integers of the same bits, and those of the exponent in them.
_EXPONENT = {
    torch.float32: (torch.int32, 0xFF << 23),
    torch.float64: (torch.int64, 0x7FF << 52),
}


def at_least_float32(x: Tensor) -> Tensor:
    """Float64 as it is, everything else as float32."""
    return x if x.dtype == torch.float64 else x.float()


def power_of_two_scale(x: Tensor) -> Tensor:
    """Power of two just above the largest magnitude in every image.

    Dividing by it is exact and leaves magnitudes up to 1, so that squares and
    products of the quotients stay in range.

    Args:
        x: ``(B, N, C)``, float32 or float64.

    Returns:
        Scale, detached, ``(B, 1, 1)``; 1 for an image of zeros or with
        entries that are not finite. At least ``2 ** -66``, whose inverse
        square is still finite in float32, and at most a quarter of the
        dtype's range, which leaves magnitudes up to 4.

    Example:
        >>> x = torch.tensor([[[3.0, -5.0]], [[0.0, 0.0]]])
        >>> power_of_two_scale(x).flatten().tolist()
        [8.0, 1.0]
    """
    # Two reductions: aminmax is many times slower on CPUs.
    images = x.detach().flatten(1)
    largest = torch.maximum(images.amax(1), -images.amin(1))[:, None, None]
    top = math.frexp(torch.finfo(x.dtype).max)[1] - 2
    if x.device.type in FREXP_DEVICES:
        power = torch.frexp(largest).exponent.clamp(-66, top)
        # Older PyTorch takes the power of an integer in float32, where
        # 2**1022 is infinite.
        return torch.ldexp(torch.ones_like(largest), power.to(largest.dtype))
    # Of a float without its fraction a power of two is left. torch.func of
    # older PyTorch does not take views of other types.
    integer, exponent = _EXPONENT[x.dtype]
    below = (largest.view(integer) & exponent).view(x.dtype)
    above = (2 * below).clamp(2.0**-66, 2.0**top)
    usual = (largest > 0) & (largest < math.inf)
    return above.where(usual, torch.ones_like(above))


def unit_length(tokens: Tensor) -> Tensor:
    """Tokens of length 1.

    Computed in float32 at least and without overflow. A token shorter than
    a few units in the last place, of that precision, of the image's largest
    entry, or of ``2 ** -66`` where that is larger, is the zero vector and
    sends no gradient.

    Args:
        tokens: ``(B, N, C)``, floating point.

    Returns:
        Tokens of the same shape and dtype.

    Raises:
        TypeError: If ``tokens`` are not floating point.
        ValueError: If they are no ``(B, N, C)`` or empty.

    Example:
        >>> import torch
        >>> unit_length(torch.tensor([[[3e30, -4e30], [0.0, 0.0]]]))
        tensor([[[ 0.6000, -0.8000],
                 [ 0.0000,  0.0000]]])
    """
    check_tokens('tokens', tokens)
    x = at_least_float32(tokens)
    x = x / power_of_two_scale(x)
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    there = ~(length <= 4 * torch.finfo(x.dtype).eps)  # nan stays nan
    x = x / length.where(there, torch.ones_like(length)) * there
    return x.to(tokens.dtype)
