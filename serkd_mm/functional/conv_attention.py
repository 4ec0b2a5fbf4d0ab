# Copyright (c) The serkd_mm authors. All rights reserved.
"""Positions that let self-attention act as a convolution."""

from __future__ import annotations

import torch
from torch import Tensor


def nearest_offsets(count: int) -> Tensor:
    """Offsets on a grid, the nearest first.

    Args:
        count: How many.

    Returns:
        Rows and columns, ``(count, 2)``, by length, then row, then column:
        the query's own place first. For the square of an odd number they are
        the places of a square kernel up to 5x5.

    Raises:
        ValueError: If ``count`` is not positive.

    Example:
        >>> nearest_offsets(3).tolist()
        [[0.0, 0.0], [-1.0, 0.0], [0.0, -1.0]]
    """
    if count < 1:
        raise ValueError(f'count must be a positive integer, got {count!r}')
    places = [
        (row * row + col * col, row, col)
        for row in range(-count, count + 1)
        for col in range(-count, count + 1)
    ]
    nearest = sorted(places)[:count]
    return torch.tensor([place[1:] for place in nearest]).float()


def position_scores(
    hw: tuple[int, int], sharpness: Tensor, centers: Tensor
) -> Tensor:
    r"""Scores of the relative positions of tokens, quadratic per head.

    With :math:`\delta_{ij}` from token :math:`i` to token :math:`j` in rows
    and columns, :math:`\alpha_h` and :math:`\Delta_h`,

    .. math::
        s_{hij} = v_h^\top r_{ij}
            = -\alpha_h (\lVert \delta_{ij} \rVert^2
                - 2 \Delta_h^\top \delta_{ij}), \quad
        v_h = -\alpha_h (1, -2 \Delta_h), \quad
        r_{ij} = (\lVert \delta_{ij} \rVert^2, \delta_{ij})

    the quadratic encoding of Cordonnier et al. (arXiv 1911.03584), with which
    attention can express any convolution of as many places as it has heads:
    up to a constant of the head it is
    :math:`-\alpha_h \lVert \delta_{ij} - \Delta_h \rVert^2`, so that a large
    :math:`\alpha_h` attends to the place :math:`\Delta_h` alone. Time and
    memory O(heads N^2).

    Args:
        hw: Height and width of the token grid, ``N = hw[0] * hw[1]``.
        sharpness: :math:`\alpha`, ``(heads,)``.
        centers: :math:`\Delta` as rows and columns, ``(heads, 2)``.

    Returns:
        Scores of query ``i`` and key ``j``, ``(heads, N, N)``.

    Raises:
        ValueError: If ``centers`` are not as many as ``sharpness``.
    """
    if centers.shape != (*sharpness.shape, 2) or sharpness.dim() != 1:
        raise ValueError(
            'sharpness and centers must be (heads,) and (heads, 2), got '
            f'shapes {tuple(sharpness.shape)} and {tuple(centers.shape)}'
        )
    rows = torch.arange(hw[0], device=centers.device, dtype=centers.dtype)
    cols = torch.arange(hw[1], device=centers.device, dtype=centers.dtype)
    grid = torch.cartesian_prod(rows, cols)
    delta = grid.unsqueeze(0) - grid.unsqueeze(1)
    along = torch.einsum('ijd,hd->hij', delta, centers)
    squared = delta.square().sum(-1)
    return -sharpness[:, None, None] * (squared - 2 * along)
