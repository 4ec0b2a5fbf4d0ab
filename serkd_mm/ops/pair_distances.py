# Copyright (c) The serkd_mm authors. All rights reserved.
"""Distances between the tokens of an image, from their differences.

On a CPU faster than a Gram matrix, which has every pair twice and has to be
formed in float64 (see
:func:`serkd_mm.functional.distances.squared_distances`): a difference of close
tokens is exact in their own precision.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from ..functional.distances import image_resolution, token_resolution
from ..functional.scale import power_of_two_scale
from .pieces import pieces


def distances_from_differences(
    tokens: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Squared and inverse distances between the tokens of an image.

    In units of the image's :func:`~serkd_mm.functional.scale.\
power_of_two_scale`. Which pairs count as coincident is said in
    :func:`~serkd_mm.functional.distances.squared_distances`. No gradient.
    Time O(B K^2 C), memory O(B K^2) and a piece of the tokens.

    Args:
        tokens: ``(B, K, C)``, floating point, on the CPU.
        dtype: Precision to compute in, float32 or float64.

    Returns:
        Squared distances and one over the distances, ``(B, K, K)`` of
        ``dtype``; both are 0 for coincident pairs. Their unit,
        ``(B, 1, 1)``.

    Example:
        >>> tokens = torch.tensor([[[0.0], [2.0], [2.0]]])
        >>> squared, inverse, unit = distances_from_differences(
        ...     tokens, torch.float32
        ... )
        >>> unit
        tensor([[[4.]]])
        >>> squared * 4**2
        tensor([[[0., 4., 4.],
                 [4., 0., 0.],
                 [4., 0., 0.]]])
        >>> inverse[0, 0] / 4
        tensor([0.0000, 0.5000, 0.5000])
    """
    batch, num, width = tokens.shape
    of_images: list[Tensor] = []
    units = []
    for part in pieces(batch, num * width * dtype.itemsize, tokens.device):
        images = tokens[part].detach().to(dtype)
        units.append(power_of_two_scale(images))
        of_images += map(F.pdist, (images / units[-1]).unbind())
    distance, unit = torch.stack(of_images), torch.cat(units)
    apart = ~(distance <= image_resolution(dtype))  # nan stays nan
    # What is taken in its own precision has no coarser one.
    if tokens.dtype != dtype:
        of_token = token_resolution(tokens).to(dtype) / unit.squeeze(2)
        i, j = _pairs(num)
        apart &= ~(distance <= torch.maximum(of_token[:, i], of_token[:, j]))
    found = torch.cat([distance.square(), distance.reciprocal()])
    found = found.where(apart.repeat(2, 1), found.new_zeros(()))
    # A last entry for the diagonal.
    found = F.pad(found, (0, 1)).index_select(1, _pair_index(num))
    squared, inverse = found.view(2, batch, num, num)
    return squared, inverse, unit


@functools.lru_cache(maxsize=32)
def _pairs(num: int) -> Tensor:
    """Both tokens of a pair, ``(2, K (K - 1) / 2)``, as ``pdist`` has them."""
    with torch.device('cpu'):
        return torch.triu_indices(num, num, 1)


@functools.lru_cache(maxsize=32)
def _pair_index(num: int) -> Tensor:
    """Where ``pdist`` has the pair of a ``(K, K)`` matrix's entries.

    One beyond its end for the diagonal, ``(K * K,)``.
    """
    i, j = _pairs(num)
    with torch.device('cpu'):
        index = torch.full((num, num), len(i))
        index[i, j] = index[j, i] = torch.arange(len(i))
    return index.flatten()
