# Copyright (c) The serkd_mm authors. All rights reserved.
"""Pictures of superpixels."""

from .superpixels import (
    draw_superpixels,
    superpixel_assignments,
    superpixel_labels,
)

__all__ = [
    'draw_superpixels',
    'superpixel_assignments',
    'superpixel_labels',
]
