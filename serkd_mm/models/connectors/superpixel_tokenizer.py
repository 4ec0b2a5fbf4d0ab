# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

import torch
import torch.nn.functional as F
from mmrazor.models.architectures.connectors.base_connector import (
    BaseConnector,
)
from mmrazor.registry import MODELS
from torch import Tensor, nn

from ...functional import superpixel_grid, superpixel_tokens, unit_length
from ...functional.scale import at_least_float32
from ...functional.superpixel import check_clustering, size_pair
from .token_map import TokenMap, check_token_map

NORMS = (None, 'ln', 'l2')


@MODELS.register_module()
class SuperpixelTokenizer(BaseConnector):
    """Superpixel tokens of visual tokens.

    Stands behind :class:`VisualTokens` in a list of connectors. Settings of
    the clustering are those of :func:`serkd_mm.functional.superpixel_tokens`.
    Half precision is normalised and clustered in float32 and stays so, under
    autocast too: superpixels are means, between which relations are
    differences that half precision would round away.

    Args:
        grid_size: Height and width of a starting cell, in tokens.
        num_iters: Number of clustering iterations.
        affinity: ``'attention'`` (Eq. 7) or ``'rbf'`` (Eq. 5).
        differentiable_assignment: Whether gradients flow through the
            association.
        norm: Normalisation of the tokens before clustering: ``'ln'`` layer
            norm without parameters, ``'l2'`` unit length, None as they are.
            The association sharpens with the token norm, so teacher and
            student only cluster alike when their tokens have like norms.
        refine_channels: Channels of the learnable refinement, a residual 3x3
            depthwise convolution over the superpixel grid that starts as the
            identity; None for no refinement. Teacher records want None.
        impl: Form of the clustering, ``'auto'``, ``'dense'`` or ``'local'``.
        init_cfg: Initialisation config.

    Raises:
        ValueError: If a name is unknown or a size not positive.
    """

    def __init__(
        self,
        grid_size: int | tuple[int, int] = (2, 2),
        num_iters: int = 1,
        affinity: str = 'attention',
        differentiable_assignment: bool = True,
        norm: str | None = None,
        refine_channels: int | None = None,
        impl: str = 'auto',
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if norm not in NORMS:
            raise ValueError(
                f'norm must be one of {list(NORMS)}, got {norm!r}'
            )
        if refine_channels is not None and (
            type(refine_channels) is not int or refine_channels < 1
        ):
            raise ValueError(
                'refine_channels must be a positive integer or None, got '
                f'{refine_channels!r}'
            )
        check_clustering(num_iters, affinity, impl)
        self.grid_size = size_pair(grid_size, 'grid_size')
        self.num_iters = num_iters
        self.affinity = affinity
        self.differentiable_assignment = differentiable_assignment
        self.norm = norm
        self.impl = impl
        self.refine = (
            None if refine_channels is None else _identity(refine_channels)
        )

    def forward_train(self, feature: TokenMap) -> Tensor:
        """Superpixel tokens of a token map.

        Args:
            feature: Tokens ``(B, N, C)`` with their grid.

        Returns:
            Superpixel tokens in row-major grid order, ``(B, K, C)``, float32
            (float64 for float64 tokens).

        Raises:
            TypeError: If ``feature`` carries no grid or is not floating
                point.
            ValueError: If tokens and refinement have other widths.
        """
        superpixels = self._cluster(feature, return_assignment=False)
        assert isinstance(superpixels, Tensor)
        if self.refine is None:
            return superpixels
        channels = superpixels.shape[2]
        if channels != self.refine.in_channels:
            raise ValueError(
                f'tokens have {channels} channels, but SuperpixelTokenizer '
                f'was built with refine_channels={self.refine.in_channels}; '
                f'set refine_channels={channels}, or None for no refinement'
            )
        grid = superpixel_grid(feature.hw, self.grid_size)
        maps = TokenMap(superpixels, grid).maps()
        wide = maps.to(self.refine.weight.dtype)
        # Half precision ends at 65504, superpixels need not.
        with torch.autocast(maps.device.type, enabled=False):
            maps = maps + self.refine(wide).to(maps.dtype)
        return TokenMap.of_maps(maps).tokens

    def assignment(self, feature: TokenMap) -> Tensor:
        """Association of the tokens with the superpixels, to look at.

        Args:
            feature: Tokens ``(B, N, C)`` with their grid.

        Returns:
            Weights ``(B, N, K)``, rows sum to 1.
        """
        return self._cluster(feature, return_assignment=True)[1]

    def _cluster(
        self, feature: TokenMap, return_assignment: bool
    ) -> Tensor | tuple[Tensor, Tensor]:
        tokens, hw = check_token_map(feature, self)
        tokens = at_least_float32(tokens)
        if self.norm == 'ln':
            tokens = F.layer_norm(tokens, tokens.shape[-1:])
        elif self.norm == 'l2':
            tokens = unit_length(tokens)
        return superpixel_tokens(
            tokens,
            hw,
            grid_size=self.grid_size,
            num_iters=self.num_iters,
            affinity=self.affinity,
            differentiable_assignment=self.differentiable_assignment,
            return_assignment=return_assignment,
            impl=self.impl,
        )


def _identity(channels: int) -> nn.Conv2d:
    """Depthwise convolution whose residual form starts as the identity.

    Without bias: what it adds to all superpixels alike, no relation sees.
    """
    conv = nn.Conv2d(
        channels, channels, 3, padding=1, groups=channels, bias=False
    )
    nn.init.zeros_(conv.weight)
    return conv
