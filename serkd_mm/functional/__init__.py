# Copyright (c) The serkd_mm authors. All rights reserved.
"""The mathematics of SeRKD as pure functions of tensors."""

from .relation import angle_loss, distance_loss
from .superpixel import superpixel_grid, superpixel_tokens

__all__ = [
    'angle_loss',
    'distance_loss',
    'superpixel_grid',
    'superpixel_tokens',
]
