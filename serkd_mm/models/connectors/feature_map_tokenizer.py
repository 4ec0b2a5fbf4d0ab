# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

import torch
import torch.nn.functional as F
from mmrazor.models.architectures.connectors.base_connector import (
    BaseConnector,
)
from mmrazor.registry import MODELS
from torch import Tensor, nn

from ...functional.checks import check_floating
from ...functional.superpixel import size_pair
from .token_map import TokenMap

MODES = ('max', 'avg', 'conv')


@MODELS.register_module()
class FeatureMapTokenizer(BaseConnector):
    r"""Tokens of a feature map, one per window (Eq. 9).

    The map is cut into windows :math:`W_n` of ``stride`` positions that do
    not overlap; channel :math:`c` of the token of window :math:`n` is

    .. math::
        x_{nc} = \begin{cases}
            \max_{p \in W_n} f_{cp} & \text{'max'} \\
            \frac{1}{|W_n|} \sum_{p \in W_n} f_{cp} & \text{'avg'} \\
            \sum_{p \in W_n} w_p f_{cp} & \text{'conv'}
        \end{cases}

    The strided convolution is one spatial kernel :math:`w` for all channels,
    without bias, that starts as the average and is learned. It fits any
    width, so teacher and student can share it: name the same connector for
    both. Teacher records pass through it without gradient.

    Stands where :class:`VisualTokens` would in a list of connectors, or
    behind it, to pool the token map of a transformer.

    Args:
        stride: Height and width of a window, in positions of the map. It has
            to divide the map.
        mode: ``'max'``, ``'avg'`` or ``'conv'``.
        init_cfg: Initialisation config.

    Raises:
        ValueError: If ``mode`` is unknown or ``stride`` not positive.
    """

    def __init__(
        self,
        stride: int | tuple[int, int] = 1,
        mode: str = 'avg',
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if mode not in MODES:
            raise ValueError(
                f'mode must be one of {list(MODES)}, got {mode!r}'
            )
        self.stride = size_pair(stride, 'stride')
        self.mode = mode
        if mode == 'conv':
            height, width = self.stride
            self.kernel = nn.Parameter(
                torch.full((1, 1, height, width), 1 / (height * width))
            )

    def forward_train(self, feature: Tensor | TokenMap) -> TokenMap:
        """Tokens of a feature map or of coarser windows of a token map.

        Args:
            feature: Map ``(B, C, H, W)``, or tokens ``(B, H * W, C)`` with
                their grid.

        Returns:
            Tokens ``(B, N, C)`` row by row with their grid ``(H / h, W / w)``
            for the stride ``(h, w)``.

        Raises:
            TypeError: If ``feature`` is neither, or not floating point.
            ValueError: If it is no map, or the stride does not divide it.
        """
        return TokenMap.of_maps(self._pool(self._checked(feature)))

    def _pool(self, maps: Tensor) -> Tensor:
        """One position per window, ``(B, C, H / h, W / w)``."""
        if self.mode == 'max':
            return F.max_pool2d(maps, self.stride)
        if self.mode == 'avg':
            return F.avg_pool2d(maps, self.stride)
        # Every channel is an image of its own, so that one kernel serves all.
        alone = maps.flatten(0, 1).unsqueeze(1)
        kernel = self.kernel.to(maps.dtype)
        # In the map's own precision: narrower ones cannot hold all of it.
        with torch.autocast(maps.device.type, enabled=False):
            pooled = F.conv2d(alone, kernel, stride=self.stride)
        return pooled.squeeze(1).unflatten(0, maps.shape[:2])

    def _checked(self, feature: Tensor | TokenMap) -> Tensor:
        """The map ``(B, C, H, W)`` of a map or token map that fits."""
        if isinstance(feature, TokenMap):
            maps = feature.maps()
        elif isinstance(feature, Tensor):
            maps = feature
        else:
            raise TypeError(
                'FeatureMapTokenizer needs a tensor or a TokenMap, got '
                f'{type(feature).__name__}; pick one item of the record with '
                'data_idx in loss_forward_mappings'
            )
        check_floating('map of FeatureMapTokenizer', maps)
        if maps.dim() != 4:
            raise ValueError(
                'FeatureMapTokenizer needs a (B, C, H, W) map, got shape '
                f'{tuple(maps.shape)}; put VisualTokens before it for a '
                'sequence of tokens'
            )
        height, width = maps.shape[2:]
        if height % self.stride[0] or width % self.stride[1]:
            raise ValueError(
                f'stride {self.stride} does not divide the map of H={height}, '
                f'W={width}; choose a stride of FeatureMapTokenizer that does'
            )
        return maps
