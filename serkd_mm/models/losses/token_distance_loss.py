# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

from mmrazor.registry import MODELS
from torch import Tensor, nn

from ...functional import distance_loss
from ...ops import check_distance_impl
from .check_count import check_count

# The one distance of two tokens is its own mean, that of an image at least.
NEEDED = dict(image=3, batch=2)


@MODELS.register_module()
class TokenDistanceLoss(nn.Module):
    """Weighted :func:`serkd_mm.functional.distance_loss` (Eq. 10).

    Args:
        loss_weight: Factor of the loss.
        normalize: ``'image'`` or ``'batch'``: over which pairs distances are
            averaged to normalise them.
        impl: How to compute it: ``'auto'``, ``'reference'``, ``'chunked'`` or
            ``'triton'``, see :func:`serkd_mm.functional.distance_loss`.

    Raises:
        ValueError: If ``normalize`` or ``impl`` is unknown, or one does not
            take the other.
    """

    def __init__(
        self,
        loss_weight: float = 1.0,
        normalize: str = 'image',
        impl: str = 'auto',
    ) -> None:
        super().__init__()
        check_distance_impl(impl, normalize)
        self.loss_weight = loss_weight
        self.normalize = normalize
        self.impl = impl

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Compare ``(B, K, Cs)`` student and ``(B, K, Ct)`` teacher tokens.

        Returns:
            Weighted loss, a scalar, float32 under autocast too.

        Raises:
            ValueError: If K < 3, or < 2 with ``normalize='batch'``, where
                no gradient trains anything.
        """
        loss = distance_loss(preds_S, preds_T, self.normalize, self.impl)
        check_count(self, preds_S, NEEDED[self.normalize])
        return self.loss_weight * loss
