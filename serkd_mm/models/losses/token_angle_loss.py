# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

from mmrazor.registry import MODELS
from torch import Tensor, nn

from ...functional import angle_loss
from ...ops import check_impl


@MODELS.register_module()
class TokenAngleLoss(nn.Module):
    """Weighted :func:`serkd_mm.functional.angle_loss` (Eq. 11).

    Args:
        loss_weight: Factor of the loss.
        impl: How to compute it: ``'auto'``, ``'reference'``, ``'chunked'`` or
            ``'triton'``, see :func:`serkd_mm.functional.angle_loss`.

    Raises:
        ValueError: If ``impl`` is unknown.
    """

    def __init__(self, loss_weight: float = 1.0, impl: str = 'auto') -> None:
        super().__init__()
        check_impl(impl)
        self.loss_weight = loss_weight
        self.impl = impl

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Compare ``(B, K, Cs)`` student and ``(B, K, Ct)`` teacher tokens."""
        loss = angle_loss(preds_S, preds_T, impl=self.impl)
        return self.loss_weight * loss
