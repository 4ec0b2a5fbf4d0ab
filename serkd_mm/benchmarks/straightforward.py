# Copyright (c) The serkd_mm authors. All rights reserved.
"""The forms that the package's functions are compared with.

Angles as the authors of relational knowledge distillation write them, from
difference tensors; distances so too, and as those authors write them, from
products; superpixels from unfolded 3x3 neighbourhoods with zero padding (super
token sampling).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mmrazor.registry import MODELS
from torch import Tensor, nn

from ..functional import superpixel_grid


def angle_relation(tokens: Tensor) -> Tensor:
    """Cosines ``(B K, K, K)`` from normalised differences ``(B, K, K, C)``.

    The first token axis is the vertex.
    """
    difference = tokens.unsqueeze(1) - tokens.unsqueeze(2)
    direction = F.normalize(difference, p=2, dim=-1).flatten(0, 1)
    return torch.bmm(direction, direction.transpose(1, 2))


def distance_relation(tokens: Tensor, products: bool = False) -> Tensor:
    """Distances ``(B, K, K)`` over their mean, from differences or products.

    What products leave of small distances depends on how far the tokens are
    from the origin.
    """
    if products:
        squared = _squared_by_products(tokens)
    else:
        difference = tokens.unsqueeze(1) - tokens.unsqueeze(2)
        squared = difference.square().sum(-1)
    apart = squared > 0
    distance = torch.where(apart, squared, 1.0).sqrt() * apart
    count = apart.sum((1, 2), keepdim=True)
    return distance / (distance.sum((1, 2), keepdim=True) / count)


def _squared_by_products(tokens: Tensor) -> Tensor:
    """Squared distances from the Gram matrix, 0 between a token and itself."""
    norms = tokens.square().sum(-1)
    gram = tokens @ tokens.transpose(1, 2)
    squared = norms.unsqueeze(1) + norms.unsqueeze(2) - 2 * gram
    itself = torch.eye(tokens.shape[1], dtype=torch.bool, device=tokens.device)
    return squared.clamp(min=1e-12).masked_fill(itself, 0.0)


def angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Angle loss (Eq. 11); memory O(B K^2 (C + K))."""
    with torch.no_grad():
        target = angle_relation(teacher)
    return F.smooth_l1_loss(angle_relation(student), target)


def distance_loss(
    student: Tensor, teacher: Tensor, *, products: bool = False
) -> Tensor:
    """Distance loss (Eq. 10) per image.

    Memory O(B K^2 C), or O(B K (C + K)) from products.
    """
    with torch.no_grad():
        target = distance_relation(teacher, products)
    return F.smooth_l1_loss(distance_relation(student, products), target)


def superpixel_tokens(
    tokens: Tensor,
    hw: tuple[int, int],
    grid_size: tuple[int, int] = (2, 2),
    differentiable_assignment: bool = True,
) -> Tensor:
    """One iteration of super token sampling on ``(B, N, C)`` tokens.

    Cells must divide the map. Neighbours outside of the grid are zeros that
    take part in the softmax, so tokens at the border lose mass to them;
    superpixels two cells away from the border do not notice.

    Returns:
        Superpixel tokens ``(B, K, C)`` in grid order.
    """
    batch, _, width = tokens.shape
    (rows, cols), (high, wide) = superpixel_grid(hw, grid_size), grid_size
    maps = tokens.transpose(1, 2).unflatten(2, hw)
    start = F.adaptive_avg_pool2d(maps, (rows, cols))
    pixels = tokens.reshape(batch, rows, high, cols, wide, width)
    pixels = pixels.transpose(2, 3).reshape(batch, rows * cols, -1, width)
    with torch.set_grad_enabled(
        torch.is_grad_enabled() and differentiable_assignment
    ):
        around = _unfold(start).flatten(3).permute(0, 3, 1, 2)
        affinity = (pixels @ around * width**-0.5).softmax(-1)
        mass = affinity.sum(2).transpose(1, 2).unflatten(2, (rows, cols))
        mass = _fold(mass.unsqueeze(1))
    sums = pixels.transpose(2, 3) @ affinity
    sums = _fold(sums.permute(0, 2, 3, 1).unflatten(3, (rows, cols)))
    return (sums / (mass + 1e-12)).flatten(2).transpose(1, 2)


def _unfold(maps: Tensor) -> Tensor:
    """The 3x3 neighbours of every cell, ``(B, C, 9, rows, cols)``."""
    weights = torch.eye(9, dtype=maps.dtype, device=maps.device)
    single = maps.flatten(0, 1).unsqueeze(1)
    around = F.conv2d(single, weights.view(9, 1, 3, 3), padding=1)
    return around.unflatten(0, maps.shape[:2])


def _fold(around: Tensor) -> Tensor:
    """Sum what each cell's neighbours hold for it, ``(B, C, rows, cols)``."""
    weights = torch.eye(9, dtype=around.dtype, device=around.device)
    single = around.flatten(0, 1)
    maps = F.conv_transpose2d(single, weights.view(9, 1, 3, 3), padding=1)
    return maps.squeeze(1).unflatten(0, around.shape[:2])


@MODELS.register_module()
class StraightforwardAngleLoss(nn.Module):
    """:func:`angle_loss` of this module, for a distiller."""

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Compare ``(B, K, Cs)`` student and ``(B, K, Ct)`` teacher tokens."""
        return self.loss_weight * angle_loss(preds_S, preds_T)


@MODELS.register_module()
class StraightforwardDistanceLoss(nn.Module):
    """:func:`distance_loss` of this module, for a distiller."""

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Compare ``(B, K, Cs)`` student and ``(B, K, Ct)`` teacher tokens."""
        return self.loss_weight * distance_loss(preds_S, preds_T)
