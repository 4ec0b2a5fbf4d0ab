# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

from typing import Any

from mmpretrain.models.backbones import DistilledVisionTransformer
from mmpretrain.registry import MODELS

from ...functional.checks import check_share
from .conv_attention import ConvAttention


@MODELS.register_module()
class ConvAttentionDeiT(DistilledVisionTransformer):
    r"""DeiT whose first layers can act as convolutions: DearKD's student.

    From the paper (arXiv 2204.12997): early layers have a multi-head
    convolutional attention (MHCA) that rests on the equivalence of attention
    with relative positions and convolution, so that they can take over what a
    CNN's early layers know, and that keeps dropout from being too local.

    There is no public code. Chosen: the quadratic positions of Cordonnier et
    al., added to the scores of the content (:class:`ConvAttention`); every
    head starts at one of the places nearest to the query with sharpness 1;
    the number of layers; dropout of single position scores.

    Args:
        num_conv_layers: How many of the first layers; 0 is DeiT.
        position_drop_rate: Probability of dropping a position's score.
        kwargs: Arguments of
            :class:`mmpretrain.models.DistilledVisionTransformer`.

    Raises:
        TypeError: If ``num_conv_layers`` is no whole number or
            ``position_drop_rate`` no number.
        ValueError: If there are fewer layers, or ``position_drop_rate`` is no
            share.
    """

    def __init__(
        self,
        *args: Any,
        num_conv_layers: int = 4,
        position_drop_rate: float = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        check_share('position_drop_rate', position_drop_rate)
        if type(num_conv_layers) is not int:
            raise TypeError(
                'num_conv_layers must be a whole number, got '
                f'{num_conv_layers!r}'
            )
        if not 0 <= num_conv_layers <= self.num_layers:
            raise ValueError(
                f'num_conv_layers must lie in [0, {self.num_layers}], the '
                f'number of layers, got {num_conv_layers}'
            )
        for layer in self.layers[:num_conv_layers]:
            layer.attn.scaled_dot_product_attention = ConvAttention(
                layer.attn.num_heads,
                tuple(self.patch_resolution),
                self.num_extra_tokens,
                position_drop_rate,
            )
