# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

from mmrazor.registry import MODELS
from torch import Tensor, nn

from ...functional import angle_loss
from ...ops import check_impl
from .check_count import check_count

# Of two tokens, both outer ones are the same and the cosine is 1.
NEEDED = 3


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
        """Compare ``(B, K, Cs)`` student and ``(B, K, Ct)`` teacher tokens.

        Returns:
            Weighted loss, a scalar, float32 under autocast too.

        Raises:
            ValueError: If K < 3, where no gradient trains anything.
        """
        loss = angle_loss(preds_S, preds_T, impl=self.impl)
        check_count(self, preds_S, NEEDED)
        return self.loss_weight * loss
