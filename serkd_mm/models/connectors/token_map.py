# Copyright (c) The serkd_mm authors. All rights reserved.
"""What connectors hand to each other."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from torch import Tensor

from ...functional.checks import check_floating


class TokenMap(NamedTuple):
    """Visual tokens and the grid that they lie on.

    Attributes:
        tokens: Tokens row by row, ``(B, N, C)``.
        hw: Height and width of the grid, ``N == hw[0] * hw[1]``.
    """

    tokens: Tensor
    hw: tuple[int, int]

    @classmethod
    def of_maps(cls, maps: Tensor) -> TokenMap:
        """Tokens of feature maps ``(B, C, H, W)``, one per position."""
        height, width = maps.shape[2:]
        return cls(maps.flatten(2).transpose(1, 2), (height, width))

    def maps(self) -> Tensor:
        """The tokens as feature maps, a view ``(B, C, H, W)``.

        Raises:
            ValueError: If the grid is one of other tokens.
        """
        if math.prod(self.hw) != self.tokens.shape[1]:
            raise ValueError(
                f'TokenMap has hw={tuple(self.hw)}, {math.prod(self.hw)} '
                f'positions, but tokens of shape {tuple(self.tokens.shape)}; '
                'the connector that made it has to give the grid of its tokens'
            )
        return self.tokens.transpose(1, 2).unflatten(2, self.hw)


def grid_like(count: int, size: tuple[int, int]) -> tuple[int, int] | None:
    """Grid of ``count`` tokens with the aspect ratio of the image.

    Args:
        count: Number of tokens.
        size: Height and width of the image in pixels.

    Returns:
        Height and width, None if no such grid has as many tokens.
    """
    height = max(round(math.sqrt(count * size[0] / size[1])), 1)
    return (height, count // height) if count % height == 0 else None


def is_grid_of(hw: tuple[int, int], size: tuple[int, int]) -> bool:
    """Whether the cells of a grid are square, up to rounding.

    Args:
        hw: Height and width of the grid.
        size: Height and width of the image in pixels.
    """
    strides = [pixels / cells for pixels, cells in zip(size, hw)]
    return abs(size[1] / strides[0] - hw[1]) <= 1 and min(strides) >= 1


def check_token_map(feature: Any, connector: Any) -> TokenMap:
    """What a connector behind another one was given, if it has a grid.

    Args:
        feature: What it was given.
        connector: Who asks.

    Raises:
        TypeError: If it is no token map, or its tokens are integers.
    """
    name = type(connector).__name__
    if isinstance(feature, TokenMap):
        check_floating(f'tokens of {name}', feature.tokens)
        return feature
    raise TypeError(
        f'{name} needs tokens with their grid, got {type(feature).__name__}; '
        "put VisualTokens before it: connector=[dict(type='VisualTokens', "
        f"...), dict(type='{name}', ...)]"
    )
