# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

import math

from mmrazor.models.architectures.connectors.base_connector import (
    BaseConnector,
)
from mmrazor.registry import MODELS
from torch import Tensor

from ...functional.superpixel import size_pair
from .token_map import TokenMap


@MODELS.register_module()
class VisualTokens(BaseConnector):
    """Take the visual tokens out of what a backbone computed.

    Args:
        num_prefix_tokens: Number of class, distillation or register tokens in
            front of the visual tokens of a sequence: 1 for ViT, 2 for DeiT
            with distillation token, 0 without. Not used for feature maps.
        hw: Height and width of the token grid of a sequence. None takes the
            visual tokens as a square.
        num_suffix_tokens: Number of such tokens behind the visual ones.
        init_cfg: Initialisation config.

    Raises:
        ValueError: If a number of tokens is no integer from 0 on, or ``hw``
            neither one positive integer nor two.
    """

    def __init__(
        self,
        num_prefix_tokens: int = 0,
        hw: tuple[int, int] | None = None,
        num_suffix_tokens: int = 0,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        for name, number in (
            ('num_prefix_tokens', num_prefix_tokens),
            ('num_suffix_tokens', num_suffix_tokens),
        ):
            if type(number) is not int or number < 0:
                raise ValueError(
                    f'{name} must be an integer >= 0, got {number!r}'
                )
        self.num_prefix_tokens = num_prefix_tokens
        self.num_suffix_tokens = num_suffix_tokens
        self.hw = None if hw is None else size_pair(hw, 'hw')

    def forward_train(self, feature: Tensor) -> TokenMap:
        """Convert a token sequence or a feature map.

        Args:
            feature: Sequence ``(B, L, C)`` or map ``(B, C, H, W)``.

        Returns:
            Tokens ``(B, N, C)`` with their grid.

        Raises:
            TypeError: If ``feature`` is no tensor.
            ValueError: If it has another number of dimensions, or the token
                count does not fill the grid.
        """
        if not isinstance(feature, Tensor):
            raise TypeError(
                f'VisualTokens needs a tensor, got {type(feature).__name__}; '
                'pick one item of the record with data_idx in '
                'loss_forward_mappings'
            )
        if feature.dim() == 4:
            return TokenMap.of_maps(feature)
        if feature.dim() != 3:
            raise ValueError(
                'VisualTokens needs a (B, L, C) sequence or a (B, C, H, W) '
                f'map, got shape {tuple(feature.shape)}'
            )
        length = feature.shape[1]
        hw = self._grid(length)
        end = length - self.num_suffix_tokens
        return TokenMap(feature[:, self.num_prefix_tokens : end], hw)

    def _grid(self, length: int) -> tuple[int, int]:
        """Grid of the visual tokens in a sequence of ``length`` tokens."""
        others = self.num_prefix_tokens + self.num_suffix_tokens
        count = length - others
        if self.hw is not None and self.hw[0] * self.hw[1] == count:
            return self.hw
        side = math.isqrt(max(count, 1))
        if self.hw is None and side**2 == count:
            return side, side
        if (side + 1) ** 2 - count < count - side**2:
            side += 1
        wanted = 'a square' if self.hw is None else f'hw={self.hw}'
        prefix = length - self.num_suffix_tokens - side**2
        behind = ''
        if self.num_suffix_tokens:
            behind = f' and num_suffix_tokens={self.num_suffix_tokens}'
        nearest = ''
        # More tokens than that are no class or registers that were forgotten.
        if abs(prefix - self.num_prefix_tokens) <= 4:
            by = f' (num_prefix_tokens={prefix})' if prefix >= 0 else ''
            nearest = f' the nearest square is {side}x{side}={side**2}{by}:'
        raise ValueError(
            f'sequence of L={length} tokens less num_prefix_tokens='
            f'{self.num_prefix_tokens}{behind} leaves {count} visual tokens, '
            f'which do not fill {wanted};{nearest} change num_prefix_tokens '
            'or num_suffix_tokens of VisualTokens, or its hw for images that '
            'are no squares'
        )
