# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

from mmrazor.registry import MODELS
from torch import Tensor, nn

from ...functional import angle_loss


@MODELS.register_module()
class TokenAngleLoss(nn.Module):
    """Weighted :func:`serkd_mm.functional.angle_loss` (Eq. 11).

    Args:
        loss_weight: Factor of the loss.
    """

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Compare ``(B, K, Cs)`` student and ``(B, K, Ct)`` teacher tokens."""
        return self.loss_weight * angle_loss(preds_S, preds_T)
