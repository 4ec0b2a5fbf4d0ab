# Copyright (c) The serkd_mm authors. All rights reserved.
"""Superpixel tokens: soft clustering of visual tokens on a regular grid.

The association of tokens with superpixels follows the attention form of super
token sampling (Eq. 7) or the Gaussian form of superpixel sampling networks
(Eq. 5); superpixels are then the association-weighted means of the tokens
(Eq. 8).
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

AFFINITIES = ('attention', 'rbf')


def superpixel_grid(
    hw: tuple[int, int], grid_size: int | tuple[int, int]
) -> tuple[int, int]:
    """Number of superpixels along the height and the width of a token map.

    Args:
        hw: Height and width of the token map, in tokens.
        grid_size: Height and width of a starting cell, in tokens.

    Returns:
        ``(ceil(H / h), ceil(W / w))``.

    Raises:
        ValueError: If a size is not a positive integer.

    Example:
        >>> superpixel_grid((14, 14), (2, 2))
        (7, 7)
        >>> superpixel_grid((7, 5), 2)
        (4, 3)
    """
    height, width = _pair(hw, 'hw')
    cell_h, cell_w = _pair(grid_size, 'grid_size')
    return -(-height // cell_h), -(-width // cell_w)


def superpixel_tokens(
    tokens: Tensor,
    hw: tuple[int, int],
    grid_size: int | tuple[int, int] = (2, 2),
    num_iters: int = 1,
    affinity: str = 'attention',
    differentiable_assignment: bool = True,
    return_assignment: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Group visual tokens into superpixel tokens.

    Superpixels start as the averages :math:`S^0` of the cells of a regular
    grid. Each iteration associates token :math:`n` with the superpixels
    :math:`k` in the 3x3 neighbourhood of the cell that the token starts in,

    .. math::
        Q_{nk} = \mathrm{softmax}_k \begin{cases}
            x_n^\top s_k / \sqrt{C} & \text{'attention' (Eq. 7)} \\
            -\lVert x_n - s_k \rVert^2 & \text{'rbf' (Eq. 5, 6)}
        \end{cases}

    and moves every superpixel to the mean of its tokens (Eq. 8),

    .. math:: S = \hat Q^\top X, \quad \hat Q_{nk} = Q_{nk} / \sum_m Q_{mk}.

    The neighbourhood does not move with the iterations. Neighbours outside
    the grid do not exist: they receive exactly no mass (public
    implementations that pad with zeros lose mass to them at the border).
    Column normalisation is done in the log domain, so a superpixel that every
    token avoids is still a weighted mean of tokens, never 0 / 0.

    Half-precision input is clustered in float32. Scores are formed from
    tokens divided by their largest magnitude, so no finite input overflows.
    Time and memory O(B N (C + K)).

    Args:
        tokens: Visual tokens without class or distillation token, row by row,
            ``(B, N, C)``, floating point.
        hw: Height and width ``(H, W)`` of the token map, ``H * W == N``.
        grid_size: Height and width of a starting cell, in tokens. Cells at
            the lower and right border are smaller where it does not divide
            the map; a cell as large as the map gives one superpixel.
        num_iters: Number of association/update iterations. 0 returns the
            starting averages.
        affinity: ``'attention'`` or ``'rbf'``.
        differentiable_assignment: Whether gradients flow through ``Q`` as
            well as through the mean. ``False`` is the public behaviour of
            super token sampling.
        return_assignment: Whether to return the association too.

    Returns:
        Superpixel tokens ``(B, K, C)`` in row-major grid order and the dtype
        of ``tokens``. With ``return_assignment`` also ``Q`` of the last
        iteration, ``(B, N, K)``, rows sum to 1, float32 (float64 for float64
        input).

    Raises:
        TypeError: If ``tokens`` is not a floating point tensor.
        ValueError: If shapes, sizes or names do not fit.

    Example:
        >>> import torch
        >>> tokens = torch.randn(2, 14 * 14, 192)
        >>> superpixel_tokens(tokens, (14, 14)).shape
        torch.Size([2, 49, 192])
    """
    height, width = _check_tokens(tokens, hw)
    cell_size = _pair(grid_size, 'grid_size')
    if num_iters < 0 or int(num_iters) != num_iters:
        raise ValueError(f'num_iters must be an integer >= 0, got {num_iters}')
    if affinity not in AFFINITIES:
        raise ValueError(
            f'affinity must be one of {list(AFFINITIES)}, got {affinity!r}'
        )
    x = tokens.double() if tokens.dtype == torch.float64 else tokens.float()
    with torch.autocast(tokens.device.type, enabled=False):
        own_cell, outside = _neighbourhood(
            (height, width), cell_size, str(tokens.device)
        )
        start = own_cell.to(x.dtype)
        superpixels = (start / start.sum(0)).T @ x
        assignment = start.expand(x.shape[0], -1, -1)
        for _ in range(num_iters):
            with torch.set_grad_enabled(
                torch.is_grad_enabled() and differentiable_assignment
            ):
                log_q = _log_association(x, superpixels, outside, affinity)
                # Softmax over tokens of log Q is Q divided by column sums.
                column_weights = log_q.softmax(dim=1)
            superpixels = column_weights.transpose(1, 2) @ x
            assignment = log_q
        if num_iters and return_assignment:
            assignment = assignment.exp()
    superpixels = superpixels.to(tokens.dtype)
    return (superpixels, assignment) if return_assignment else superpixels


def _log_association(
    x: Tensor, superpixels: Tensor, outside: Tensor, affinity: str
) -> Tensor:
    """Log of Q, ``(B, N, K)``; -inf outside of the neighbourhood.

    The scores are computed from tokens scaled to magnitude one and multiplied
    by the square of the scale after their row maximum is subtracted: large
    tokens give a hard association instead of inf - inf.
    """
    scale = _power_of_two_scale(x)
    xs, ss = x / scale, superpixels / scale
    scores = xs @ ss.transpose(1, 2)
    if affinity == 'attention':
        scores = scores / math.sqrt(x.shape[-1])
    else:
        # |x - s|^2 less |x|^2, which softmax over k does not see.
        scores = 2 * scores - (ss * ss).sum(-1).unsqueeze(1)
    scores = scores.masked_fill(outside, float('-inf'))
    scores = scores - scores.detach().amax(-1, keepdim=True)
    lowest = torch.finfo(scores.dtype).min / 4
    scores = (scores * scale * scale).clamp(min=lowest)
    return scores.masked_fill(outside, float('-inf')).log_softmax(-1)


def _power_of_two_scale(x: Tensor) -> Tensor:
    """Power of two near each image's largest magnitude, ``(B, 1, 1)``.

    Dividing by a power of two is exact. Zero and tiny maps get the smallest
    scale whose inverse is finite, non-finite ones are left alone.
    """
    largest = x.detach().abs().amax(dim=(1, 2), keepdim=True)
    exponent = torch.frexp(largest).exponent.clamp(-100, 126)
    return torch.ldexp(torch.ones_like(largest), exponent)


@functools.lru_cache(maxsize=32)
def _neighbourhood(
    hw: tuple[int, int], cell_size: tuple[int, int], device: str
) -> tuple[Tensor, Tensor]:
    """Two boolean ``(N, K)`` tables, built once per shape and device.

    The first marks the cell that a token starts in, the second the
    superpixels outside of the 3x3 neighbourhood of that cell.
    """
    rows, cols = superpixel_grid(hw, cell_size)
    with torch.inference_mode(False):
        y = torch.arange(hw[0], device=device) // cell_size[0]
        x = torch.arange(hw[1], device=device) // cell_size[1]
        token_row = y.repeat_interleave(hw[1])[:, None]
        token_col = x.repeat(hw[0])[:, None]
        index = torch.arange(rows * cols, device=device)
        row_step = (token_row - index // cols).abs()
        col_step = (token_col - index % cols).abs()
        own_cell = (row_step == 0) & (col_step == 0)
        outside = (row_step > 1) | (col_step > 1)
    return own_cell, outside


def _pair(value: int | tuple[int, int], name: str) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or any(int(v) != v or v < 1 for v in pair):
        raise ValueError(
            f'{name} must be a positive integer or two of them, got {value}'
        )
    return int(pair[0]), int(pair[1])


def _check_tokens(tokens: Tensor, hw: tuple[int, int]) -> tuple[int, int]:
    if not tokens.is_floating_point():
        raise TypeError(f'tokens must be floating point, got {tokens.dtype}')
    if tokens.dim() != 3 or 0 in tokens.shape:
        raise ValueError(
            'tokens must be a non-empty (B, N, C) tensor, got shape '
            f'{tuple(tokens.shape)}'
        )
    height, width = _pair(hw, 'hw')
    if height * width != tokens.shape[1]:
        raise ValueError(
            f'hw = ({height}, {width}) has {height * width} positions but '
            f'tokens of shape {tuple(tokens.shape)} hold N = '
            f'{tokens.shape[1]}; remove class and distillation tokens first '
            'or pass the right hw'
        )
    return height, width
