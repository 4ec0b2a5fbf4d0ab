# Copyright (c) The serkd_mm authors. All rights reserved.
r"""Superpixel tokens from the three rows of superpixels around a token.

Tokens that start in one row of cells form a band. A band is associated with
the superpixels of its own row and of the rows above and below in one product,
so a token meets :math:`3 \sqrt K` superpixels instead of :math:`K`. Products
over the nine neighbours alone would do less arithmetic, but nine columns are
too few for a matrix product to be fast, and gathering them copies every
superpixel nine times instead of three.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from ..functional.scale import power_of_two_scale
from ..functional.superpixel import (
    affinity_scores,
    cached,
    log_association,
    superpixel_grid,
)


def cluster_local(
    x: Tensor,
    hw: tuple[int, int],
    cell_size: tuple[int, int],
    num_iters: int,
    affinity: str,
    differentiable_assignment: bool,
    return_assignment: bool,
) -> tuple[Tensor, Tensor | None]:
    """Superpixels and log Q, band by band.

    Arguments and results are those of the dense form in
    :mod:`serkd_mm.functional.superpixel`. Time O(B N C sqrt(K)), memory
    O(B N (C + sqrt(K))); the returned log Q is dense, ``(B, N, K)``.
    """
    batch, num, width = x.shape
    rows, cols = superpixel_grid(hw, cell_size)
    average, outside, missing = cached(_bands, hw, cell_size, x)
    # Missing tokens fill the last band up. A pad of none would copy all.
    fill = missing.numel() - num
    band = F.pad(x, (0, 0, 0, fill)) if fill else x
    band = band.view(batch, rows, -1, width)
    superpixels = average.transpose(1, 2) @ band
    assignment = None
    if num_iters == 0 and return_assignment:
        assignment = average.sign().log().expand(batch, -1, -1, -1)
        assignment = F.pad(assignment, (cols, cols), value=float('-inf'))
    differentiable = torch.is_grad_enabled() and differentiable_assignment
    scale = power_of_two_scale(x).unsqueeze(1)
    for _ in range(num_iters):
        with torch.set_grad_enabled(differentiable):
            near = _windows(superpixels)
            scores = affinity_scores(band, near, affinity, scale)
            assignment = log_association(scores, outside, scale)
            assignment = assignment.masked_fill(missing, float('-inf'))
            weights = _column_weights(assignment, cols)
        superpixels = _fold(weights.transpose(-1, -2) @ band, cols)
    superpixels = superpixels.flatten(1, 2)
    if assignment is None or not return_assignment:
        return superpixels, None
    return superpixels, _dense_assignment(assignment, cols)[:, :num]


def _column_weights(log_q: Tensor, cols: int) -> Tensor:
    """Q over its column sums, ``(B, rows, band, 3 cols)``.

    The largest log Q of a superpixel is subtracted first, so one that every
    token avoids is no 0 / 0.
    """
    top = _fold(log_q.detach().amax(2).unsqueeze(-1), cols, maximum=True)
    q = (log_q - _windows(top).transpose(-1, -2)).exp()
    mass = _fold(q.sum(2).unsqueeze(-1), cols)
    return q / _windows(mass, fill=1).transpose(-1, -2)


def _windows(values: Tensor, fill: float = 0) -> Tensor:
    """Rows r - 1, r and r + 1 side by side.

    ``(B, rows, cols, C)`` to ``(B, rows, 3 cols, C)``; rows outside of the
    grid hold ``fill``.
    """
    rows = values.shape[1]
    padded = F.pad(values, (0, 0, 0, 0, 1, 1), value=fill)
    return torch.cat([padded[:, d : d + rows] for d in range(3)], dim=2)


def _fold(values: Tensor, cols: int, maximum: bool = False) -> Tensor:
    """Combine what the three windows of a superpixel hold.

    ``(B, rows, 3 cols, C)`` to ``(B, rows, cols, C)`` by sum or maximum.
    """
    above, own, below = values.split(cols, dim=2)
    fill = float('-inf') if maximum else 0
    # What a band holds for the row above belongs to the previous row.
    above = F.pad(above[:, 1:], (0, 0, 0, 0, 0, 1), value=fill)
    below = F.pad(below[:, :-1], (0, 0, 0, 0, 1, 0), value=fill)
    if maximum:
        return torch.maximum(torch.maximum(above, own), below)
    return above + own + below


def _dense_assignment(log_q: Tensor, cols: int) -> Tensor:
    """``(B, rows, band, 3 cols)`` to ``(B, rows * band, rows * cols)``."""
    batch, rows, band, _ = log_q.shape
    shape = (batch, rows, band, (rows + 2) * cols)
    dense = log_q.new_full(shape, float('-inf'))
    first = torch.arange(rows, device=log_q.device) * cols
    step = torch.arange(3 * cols, device=log_q.device)
    index = (first[:, None] + step).view(1, rows, 1, -1).expand_as(log_q)
    dense = dense.scatter(3, index, log_q)
    return dense[..., cols:-cols].flatten(1, 2)


@functools.lru_cache(maxsize=32)
def _bands(
    hw: tuple[int, int],
    cell_size: tuple[int, int],
    device: str,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """Tables of the bands.

    Returns:
        Weights that average the tokens of a cell, ``(rows, band, cols)``;
        whether a superpixel lies outside of a token's neighbourhood,
        ``(rows, band, 3 cols)``; whether a token only fills the last band up,
        ``(rows, band, 1)``.
    """
    rows, cols = superpixel_grid(hw, cell_size)
    with torch.inference_mode(False):
        y = torch.arange(rows * cell_size[0], device=device)
        missing = (y >= hw[0]).repeat_interleave(hw[1]).view(rows, -1, 1)
        cell = torch.arange(hw[1], device=device) // cell_size[1]
        column = torch.arange(cols, device=device)
        step = (cell[:, None] - column).abs().repeat(cell_size[0], 1)
        own_cell = ((step == 0) & ~missing).to(dtype)
        row = torch.arange(rows, device=device)[:, None, None]
        outside = torch.cat(
            [
                (step > 1) | (row + d < 0) | (row + d >= rows)
                for d in (-1, 0, 1)
            ],
            dim=2,
        )
        return own_cell / own_cell.sum(1, keepdim=True), outside, missing
