# Copyright (c) The serkd_mm authors. All rights reserved.
"""The mathematics of SeRKD and other methods as pure functions of tensors."""

from .conv_attention import nearest_offsets, position_scores
from .hard import hard_distill_loss
from .relation import angle_loss, batch_as_tokens, distance_loss
from .scale import unit_length
from .spatial import dense_logits, local_weight, spatial_distill_loss
from .superpixel import superpixel_grid, superpixel_tokens

__all__ = [
    'angle_loss',
    'batch_as_tokens',
    'dense_logits',
    'distance_loss',
    'hard_distill_loss',
    'local_weight',
    'nearest_offsets',
    'position_scores',
    'spatial_distill_loss',
    'superpixel_grid',
    'superpixel_tokens',
    'unit_length',
]
