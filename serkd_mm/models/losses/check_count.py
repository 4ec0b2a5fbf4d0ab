# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

from torch import Tensor, nn

from ...ops import MAX_TOKENS


def check_count(loss: nn.Module, tokens: Tensor, needed: int) -> None:
    """Refuse so few tokens that they have no relation to learn.

    The functions give nothing then that depends on where the tokens are, but
    for coincident ones, and so no gradient.

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
            f'K = {count} (shape {tuple(tokens.shape)}); fewer have no '
            'gradient and train nothing. Choose a finer grid on both sides: '
            'a smaller grid_size of SuperpixelTokenizer (the size of a cell, '
            'so smaller cells make more superpixels), a smaller stride of '
            'FeatureMapTokenizer, or a larger token map'
        )


def check_images(
    loss: nn.Module, student: Tensor, teacher: Tensor, impl: str
) -> None:
    """Refuse batches that a loss between images cannot compare.

    Args:
        loss: The loss.
        student: Student embeddings, ``(1, B, C)``.
        teacher: Teacher embeddings, ``(1, B, C)``.
        impl: How the loss is computed.

    Raises:
        ValueError: If the sides have other images, or more than ``impl``
            takes.
    """
    name, counts = type(loss).__name__, (student.shape[1], teacher.shape[1])
    if counts[0] != counts[1]:
        raise ValueError(
            f'{name} compares the images of a batch, but the student recorded '
            f'{counts[0]} and the teacher {counts[1]}; record modules whose '
            'first dimension is the batch'
        )
    if impl == 'triton' and counts[0] > MAX_TOKENS:
        raise ValueError(
            f"{name}(impl='triton') takes up to {MAX_TOKENS} images per "
            f"process, got {counts[0]}; use impl='chunked'"
        )
