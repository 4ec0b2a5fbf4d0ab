# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

from mmrazor.registry import MODELS
from torch import Tensor, nn

from ...functional import distance_loss
from ...functional.relation import check_normalize


@MODELS.register_module()
class TokenDistanceLoss(nn.Module):
    """Weighted :func:`serkd_mm.functional.distance_loss` (Eq. 10).

    Args:
        loss_weight: Factor of the loss.
        normalize: ``'image'`` or ``'batch'``: over which pairs distances are
            averaged to normalise them.

    Raises:
        ValueError: If ``normalize`` is unknown.
    """

    def __init__(
        self, loss_weight: float = 1.0, normalize: str = 'image'
    ) -> None:
        super().__init__()
        check_normalize(normalize)
        self.loss_weight = loss_weight
        self.normalize = normalize

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Compare ``(B, K, Cs)`` student and ``(B, K, Ct)`` teacher tokens."""
        loss = distance_loss(preds_S, preds_T, normalize=self.normalize)
        return self.loss_weight * loss
