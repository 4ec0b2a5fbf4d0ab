# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

from typing import Any, ClassVar

from mmpretrain.models.backbones import ResNet_CIFAR
from mmpretrain.models.backbones.resnet import BasicBlock
from mmpretrain.registry import MODELS


@MODELS.register_module()
class ThinResNetCIFAR(ResNet_CIFAR):
    """The ResNets of 6n + 2 layers that He et al. trained on CIFAR-10.

    Three stages of 16, 32 and 64 channels; 32x32 pixels end in an 8x8 map.
    Shortcuts between stages are 1x1 convolutions, where He et al. have no
    parameters on CIFAR-10. MMPretrain's :class:`ResNet_CIFAR` has the wide
    ImageNet depths instead.

    Args:
        depth: 20, 32, 44, 56 or 110.
        kwargs: Arguments of :class:`mmpretrain.models.ResNet_CIFAR`.

    Raises:
        ValueError: If ``depth`` is another one.
    """

    arch_settings: ClassVar[dict] = {
        depth: (BasicBlock, ((depth - 2) // 6,) * 3)
        for depth in (20, 32, 44, 56, 110)
    }

    def __init__(self, depth: int, **kwargs: Any) -> None:
        if depth not in self.arch_settings:
            raise ValueError(
                f'depth must be one of {list(self.arch_settings)}, got '
                f'{depth!r}'
            )
        thin = {
            'num_stages': 3,
            'stem_channels': 16,
            'base_channels': 16,
            'strides': (1, 2, 2),
            'dilations': (1, 1, 1),
            'out_indices': (2,),
        }
        super().__init__(depth, **{**thin, **kwargs})
