# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

import math

import torch
from mmrazor.registry import MODELS
from torch import Tensor, nn

from ...functional.checks import check_tokens


@MODELS.register_module()
class TokenFeatureLoss(nn.Module):
    r"""Mean squared error between projected student and teacher tokens.

    :math:`L = \mathrm{mean}\,(W x^S + b - x^T)^2` with a learnable projection
    to the teacher's width: the feature term of Eq. 12 in the form of FitNet.

    Args:
        student_channels: Width of the student's tokens.
        teacher_channels: Width of the teacher's tokens.
        loss_weight: Factor of the loss.
    """

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.projection = nn.Linear(student_channels, teacher_channels)
        self.loss_weight = loss_weight

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Compare token by token.

        Args:
            preds_S: Student tokens, ``(B, N, student_channels)``.
            preds_T: Teacher tokens, ``(B, N, teacher_channels)``; detached.

        Returns:
            Scalar loss, float32 under autocast too.

        Raises:
            TypeError: If a side is no floating point tensor.
            ValueError: If one has other axes, or widths or token counts do
                not fit.
        """
        projection = self.projection
        for name, tokens, width in (
            ('student', preds_S, projection.in_features),
            ('teacher', preds_T, projection.out_features),
        ):
            check_tokens(f'{name} tokens', tokens)
            if tokens.shape[-1] != width:
                raise ValueError(
                    f'{name} tokens have {tokens.shape[-1]} channels, shape '
                    f'{tuple(tokens.shape)}, but TokenFeatureLoss was built '
                    f'with {name}_channels={width}; set {name}_channels='
                    f'{tokens.shape[-1]}'
                )
        if preds_S.shape[:-1] != preds_T.shape[:-1]:
            raise ValueError(
                'student and teacher must have the same number of images and '
                f'tokens, got shapes {tuple(preds_S.shape)} and '
                f'{tuple(preds_T.shape)}; choose recorders, or img_size and '
                'patch_size of the backbones, that give both sides the same '
                'token grid, or resize one with the connector TokenResizer'
            )
        # Half precision ends at 65504, tokens without final norm may not.
        with torch.autocast(preds_S.device.type, enabled=False):
            projected = projection(preds_S.to(projection.weight.dtype))
        error = projected.float() - preds_T.detach().float()
        # A mean whose sum need not be in range.
        loss = (error / math.sqrt(error.numel())).square().sum()
        return self.loss_weight * loss
