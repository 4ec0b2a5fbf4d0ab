# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

from torch import Tensor, nn


def check_count(loss: nn.Module, tokens: Tensor, needed: int) -> None:
    """Refuse so few tokens that they have no relation to learn.

    The functions give 0 then, whatever the tokens are, and so no gradient.

    Args:
        loss: Loss that compares the tokens.
        tokens: Student tokens, ``(B, K, C)``; the teacher's are as many.
        needed: Smallest K whose relations depend on the tokens.

    Raises:
        ValueError: If K is smaller.
    """
    count = tokens.shape[1]
    if count < needed:
        raise ValueError(
            f'{type(loss).__name__} needs K >= {needed} tokens per image, got '
            f'K = {count} (shape {tuple(tokens.shape)}); of fewer it is '
            'always 0 and trains nothing. Choose a finer grid on both sides: '
            'a smaller grid_size of SuperpixelTokenizer (the size of a cell, '
            'so smaller cells make more superpixels), a smaller stride of '
            'FeatureMapTokenizer, or a larger token map'
        )
