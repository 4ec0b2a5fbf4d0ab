# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

import torch.nn.functional as F
from mmrazor.models.architectures.connectors.base_connector import (
    BaseConnector,
)
from mmrazor.registry import MODELS
from torch import nn

from .token_map import TokenMap, check_token_map


@MODELS.register_module()
class TokenAligner(BaseConnector):
    """Early tokens in a form that a CNN's features can be compared with.

    DearKD (arXiv 2204.12997) puts an aligner between the student's tokens and
    the CNN's features, as they differ in kind and shape. There is no public
    code. Chosen: layer norm without parameters, as early tokens are not
    normalised; a learned depthwise 3x3 convolution over the token grid, zero
    outside it, that starts as the identity; and behind it the linear
    projection of :class:`TokenFeatureLoss`.

    Stands behind :class:`VisualTokens` in a list of connectors.

    Args:
        channels: Width of the tokens.
        init_cfg: Initialisation config.
    """

    def __init__(self, channels: int, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        self.conv = nn.Conv2d(
            channels, channels, 3, padding=1, groups=channels
        )
        nn.init.dirac_(self.conv.weight, groups=channels)
        assert self.conv.bias is not None
        nn.init.zeros_(self.conv.bias)

    def forward_train(self, feature: TokenMap) -> TokenMap:
        """Align a token map.

        Args:
            feature: Tokens ``(B, N, channels)`` with their grid.

        Returns:
            Tokens of the same shape and grid.

        Raises:
            TypeError: If ``feature`` carries no grid.
            ValueError: If it has another width.
        """
        tokens, hw = check_token_map(feature, self)
        channels = self.conv.in_channels
        if tokens.shape[-1] != channels:
            raise ValueError(
                f'tokens have {tokens.shape[-1]} channels, but TokenAligner '
                f'was built with channels={channels}; set channels='
                f'{tokens.shape[-1]}'
            )
        normed = TokenMap(F.layer_norm(tokens, (channels,)), hw)
        return TokenMap.of_maps(self.conv(normed.maps()))
