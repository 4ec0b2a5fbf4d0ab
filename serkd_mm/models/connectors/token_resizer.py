# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

import torch.nn.functional as F
from mmrazor.models.architectures.connectors.base_connector import (
    BaseConnector,
)
from mmrazor.registry import MODELS

from ...functional.scale import at_least_float32
from ...functional.superpixel import size_pair
from .token_map import TokenMap, check_token_map


@MODELS.register_module()
class TokenResizer(BaseConnector):
    """Tokens of another grid over the same image.

    For networks whose grids have no common divisor worth pooling to, such as
    the 16x16 tokens of patches of 14 pixels and the 14x14 of patches of 16:
    cells of both grids then cover the same parts of the image. Bilinear, with
    antialiasing where the grid gets coarser. Stands behind
    :class:`VisualTokens` or :class:`FeatureMapTokenizer`.

    Args:
        hw: Height and width of the grid to resize to, in tokens; one number
            for both.
        init_cfg: Initialisation config.

    Raises:
        ValueError: If ``hw`` is neither one positive integer nor two.
    """

    def __init__(
        self, hw: int | tuple[int, int], init_cfg: dict | None = None
    ) -> None:
        super().__init__(init_cfg)
        self.hw = size_pair(hw, 'hw')

    def forward_train(self, feature: TokenMap) -> TokenMap:
        """Resize a token map.

        Args:
            feature: Tokens ``(B, H * W, C)`` with their grid.

        Returns:
            Tokens ``(B, h * w, C)`` with the grid ``hw``, in the same dtype.

        Raises:
            TypeError: If ``feature`` carries no grid or is not floating
                point.
        """
        if check_token_map(feature, self).hw == self.hw:
            return feature
        maps = feature.maps()
        # Antialiasing has no half-precision form on every device.
        resized = F.interpolate(
            at_least_float32(maps), self.hw, mode='bilinear', antialias=True
        ).to(maps.dtype)
        return TokenMap.of_maps(resized)
