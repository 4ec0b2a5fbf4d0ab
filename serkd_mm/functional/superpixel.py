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
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .checks import check_tokens
from .scale import at_least_float32, power_of_two_scale

AFFINITIES = ('attention', 'rbf')
IMPLS = ('auto', 'dense', 'local')

# The association with all superpixels costs 9 / K of its work for nothing;
# from this many superpixels on the local form is the faster one.
_LOCAL_FROM = 128


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
    height, width = size_pair(hw, 'hw')
    cell_h, cell_w = size_pair(grid_size, 'grid_size')
    return -(-height // cell_h), -(-width // cell_w)


def superpixel_tokens(
    tokens: Tensor,
    hw: tuple[int, int],
    grid_size: int | tuple[int, int] = (2, 2),
    num_iters: int = 1,
    affinity: str = 'attention',
    differentiable_assignment: bool = True,
    return_assignment: bool = False,
    impl: str = 'auto',
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

    Half-precision input is clustered in float32: an association needs the
    exponents of scores that are sums of C products, and the means feed
    distances between tokens that differ little. Scores are formed from
    tokens divided by their largest magnitude, so that scores do not overflow;
    where that is 32768 or more (float32), Q is a choice of rounding and sends
    no gradient.

    ``impl='dense'`` associates every token with every superpixel in one
    masked product: time O(B N K C), memory O(B N (C + K)). ``'local'`` works
    on one row of cells and the three rows of superpixels around it: time
    O(B N C sqrt(K)), memory O(B N (C + sqrt(K))). Both give the same result
    up to rounding; ``'auto'`` takes ``'dense'`` below 128 superpixels.

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
        impl: ``'auto'``, ``'dense'`` or ``'local'``.

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
    cell_size = size_pair(grid_size, 'grid_size')
    check_clustering(num_iters, affinity, impl)
    rows, cols = superpixel_grid((height, width), cell_size)
    if impl == 'auto':
        impl = 'dense' if rows * cols < _LOCAL_FROM else 'local'
    x = at_least_float32(tokens)
    with torch.autocast(tokens.device.type, enabled=False):
        if impl == 'local':
            from ..ops.superpixel_local import cluster_local as cluster
        else:
            cluster = _cluster_dense
        superpixels, log_q = cluster(
            x,
            (height, width),
            cell_size,
            num_iters,
            affinity,
            differentiable_assignment,
            return_assignment,
        )
    superpixels = superpixels.to(tokens.dtype)
    if log_q is None:
        return superpixels
    return superpixels, log_q.exp()


def _cluster_dense(
    x: Tensor,
    hw: tuple[int, int],
    cell_size: tuple[int, int],
    num_iters: int,
    affinity: str,
    differentiable_assignment: bool,
    return_assignment: bool,
) -> tuple[Tensor, Tensor | None]:
    """Superpixels and log Q from products over all superpixels.

    Arguments are those of :func:`superpixel_tokens`, ``x`` in float32 or
    float64. Log Q is None unless ``return_assignment``.
    """
    average, outside = cached(_neighbourhood, hw, cell_size, x)
    superpixels = average.T @ x
    log_q = None
    if num_iters == 0 and return_assignment:
        log_q = average.sign().log().expand(x.shape[0], -1, -1)
    differentiable = torch.is_grad_enabled() and differentiable_assignment
    scale = power_of_two_scale(x)
    for _ in range(num_iters):
        with torch.set_grad_enabled(differentiable):
            scores = affinity_scores(x, superpixels, affinity, scale)
            log_q = log_association(scores, outside, scale)
            # Softmax over tokens of log Q is Q divided by its column sums.
            column_weights = log_q.softmax(dim=1)
        superpixels = column_weights.transpose(1, 2) @ x
    return superpixels, log_q if return_assignment else None


def affinity_scores(
    x: Tensor, superpixels: Tensor, affinity: str, scale: Tensor
) -> Tensor:
    """Exponents of the association over ``scale ** 2``.

    Args:
        x: Tokens, ``(..., N, C)``.
        superpixels: Superpixel tokens, ``(..., K, C)``.
        affinity: ``'attention'`` or ``'rbf'``.
        scale: Positive scale of the tokens, broadcastable to ``x``.

    Returns:
        ``(..., N, K)``, of the order of C for any magnitude of the tokens.
        For ``'rbf'`` without the summand of the token itself, which a
        softmax over superpixels does not see.
    """
    small = superpixels / scale / scale
    if affinity == 'attention':
        return x @ (small / math.sqrt(x.shape[-1])).transpose(-1, -2)
    norms = (small * superpixels).sum(-1).unsqueeze(-2)
    return x @ (2 * small).transpose(-1, -2) - norms


def log_association(scores: Tensor, outside: Tensor, scale: Tensor) -> Tensor:
    """Log of Q from scaled scores; -inf outside of the neighbourhood.

    The scale is multiplied back after the row maximum is subtracted: large
    tokens give a hard association instead of inf - inf. It sends no gradient
    where tokens are so large (from 32768 on in float32) that rounding alone
    makes exponents differ by tens.
    """
    resolvable = scale <= 16 * torch.finfo(scores.dtype).eps ** -0.5
    scores = scores.where(resolvable, scores.detach())
    scores = scores.masked_fill(outside, float('-inf'))
    scores = scores - scores.detach().amax(-1, keepdim=True)
    lowest = torch.finfo(scores.dtype).min / 4
    scores = (scores * scale * scale).clamp(min=lowest)
    return scores.masked_fill(outside, float('-inf')).log_softmax(-1)


def cached(
    build: Callable[..., tuple],
    hw: tuple[int, int],
    cell_size: tuple[int, int],
    x: Tensor,
) -> tuple:
    """Tables for tokens like ``x``, built once per shape, device and dtype.

    Tensors that only pretend to be there, as when a model is traced for its
    shapes, get tables of their own, which are not kept.
    """
    if type(x) is not Tensor:
        build = build.__wrapped__  # type: ignore[attr-defined]
    return build(hw, cell_size, str(x.device), x.dtype)


@functools.lru_cache(maxsize=32)
def _neighbourhood(
    hw: tuple[int, int],
    cell_size: tuple[int, int],
    device: str,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Tables ``(N, K)``.

    The first averages the tokens of each cell; the second marks the
    superpixels outside of the 3x3 neighbourhood of a token's cell.
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
        own_cell = ((row_step == 0) & (col_step == 0)).to(dtype)
        outside = (row_step > 1) | (col_step > 1)
        return own_cell / own_cell.sum(0), outside


def size_pair(value: int | Sequence[int], name: str) -> tuple[int, int]:
    """A height and a width from one number or two.

    Args:
        value: Positive integer, or two of them.
        name: What an error calls it.

    Raises:
        ValueError: If it is anything else.
    """
    # Configs read from a command line or a file hold lists.
    pair = value if isinstance(value, (tuple, list)) else (value, value)
    if len(pair) != 2 or not all(_is_whole(v) and v >= 1 for v in pair):
        raise ValueError(
            f'{name} must be a positive integer or two of them, got {value!r}'
        )
    return pair[0], pair[1]


def _is_whole(value: Any) -> bool:
    # torch.compile knows no attributes of a size that it keeps symbolic.
    if isinstance(value, int):
        return not isinstance(value, bool)
    # Of the tensors and arrays those of one number.
    return hasattr(value, '__index__') and not getattr(value, 'ndim', 0)


def check_clustering(num_iters: int, affinity: str, impl: str) -> None:
    """Refuse settings of :func:`superpixel_tokens` that are none.

    Raises:
        ValueError: If one is unknown or out of range.
    """
    if not _is_whole(num_iters) or num_iters < 0:
        raise ValueError(
            f'num_iters must be an integer >= 0, got {num_iters!r}'
        )
    if affinity not in AFFINITIES:
        raise ValueError(
            f'affinity must be one of {list(AFFINITIES)}, got {affinity!r}'
        )
    if impl not in IMPLS:
        raise ValueError(f'impl must be one of {list(IMPLS)}, got {impl!r}')


def _check_tokens(tokens: Tensor, hw: tuple[int, int]) -> tuple[int, int]:
    check_tokens('tokens', tokens)
    height, width = size_pair(hw, 'hw')
    if height * width != tokens.shape[1]:
        raise ValueError(
            f'hw = ({height}, {width}) has {height * width} positions but '
            f'tokens of shape {tuple(tokens.shape)} hold N = '
            f'{tokens.shape[1]}; remove class and distillation tokens first '
            'or pass the right hw'
        )
    return height, width
