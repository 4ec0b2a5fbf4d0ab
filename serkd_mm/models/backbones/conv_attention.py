# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...functional import nearest_offsets, position_scores


class ConvAttention(nn.Module):
    r"""Attention weights and values of a layer that can be a convolution.

    :math:`\mathrm{softmax}(Q_h K_h^\top / \sqrt{d} + s_h) V_h` with the
    learned :func:`serkd_mm.functional.position_scores` :math:`s_h` between
    visual tokens. Class and distillation token have no place on the grid, so
    they take part with score 0.

    Stands where an attention of MMPretrain calls
    ``scaled_dot_product_attention``.

    Args:
        num_heads: Number of heads.
        hw: Height and width of the token grid.
        num_prefix_tokens: Number of tokens in front of the visual ones.
        drop_rate: Probability that training takes a position's score as 0,
            for every pair of tokens and head anew and for all images of the
            batch alike. As in every dropout, the other scores are divided by
            ``1 - drop_rate``.
    """

    def __init__(
        self,
        num_heads: int,
        hw: tuple[int, int],
        num_prefix_tokens: int,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.hw = hw
        self.num_prefix_tokens = num_prefix_tokens
        self.drop_rate = drop_rate
        self.sharpness = nn.Parameter(torch.ones(num_heads))
        self.centers = nn.Parameter(nearest_offsets(num_heads))

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, dropout_p: float = 0.0
    ) -> Tensor:
        """Attend.

        Args:
            query: Queries, ``(B, heads, L, d)``.
            key: Keys, same shape.
            value: Values, same shape.
            dropout_p: Dropout of the attention weights.

        Returns:
            Weighted values, ``(B, heads, L, d)``.

        Raises:
            ValueError: If L is not the grid and the tokens before it.
        """
        count = self.hw[0] * self.hw[1]
        length = query.shape[-2]
        if length != self.num_prefix_tokens + count:
            raise ValueError(
                f'ConvAttention was built for {self.num_prefix_tokens} tokens '
                f'and a grid of {self.hw[0]}x{self.hw[1]}, got a sequence of '
                f'L={length}; build the backbone with the img_size of the '
                'images'
            )
        scores = position_scores(self.hw, self.sharpness, self.centers)
        scores = F.dropout(scores, self.drop_rate, self.training)
        before = self.num_prefix_tokens
        scores = F.pad(scores, (before, 0, before, 0)).to(query.dtype)
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=scores, dropout_p=dropout_p
        )
