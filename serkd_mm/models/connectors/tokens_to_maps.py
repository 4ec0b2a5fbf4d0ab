# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

from mmrazor.models.architectures.connectors.base_connector import (
    BaseConnector,
)
from mmrazor.registry import MODELS
from torch import Tensor

from .token_map import TokenMap, check_token_map


@MODELS.register_module()
class TokensToMaps(BaseConnector):
    """Tokens of a transformer as the feature maps of a CNN.

    For losses and connectors that take maps, such as MMRazor's
    ``MGDConnector``, ``ChannelWiseDivergence`` and ``ATLoss``. Stands behind
    :class:`VisualTokens`, which leaves class tokens out.
    """

    def forward_train(self, feature: TokenMap) -> Tensor:
        """Lay tokens out on their grid.

        Args:
            feature: Tokens ``(B, H * W, C)`` with their grid.

        Returns:
            Feature maps ``(B, C, H, W)``, contiguous.

        Raises:
            TypeError: If ``feature`` carries no grid.
            ValueError: If the grid is one of other tokens.
        """
        # Some losses of MMRazor take views that need it so.
        return check_token_map(feature, self).maps().contiguous()
