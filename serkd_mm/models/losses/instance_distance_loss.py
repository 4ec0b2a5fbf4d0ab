# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

from mmrazor.registry import MODELS
from torch import Tensor, nn

from ...functional import batch_as_tokens, distance_loss


@MODELS.register_module()
class InstanceDistanceLoss(nn.Module):
    """RKD's distance-wise loss between the images of a batch.

    :func:`serkd_mm.functional.distance_loss` of embeddings of unit length, the
    batch of a process in the place of the tokens of an image: MMRazor's
    ``DistanceWiseRKD`` in float32 under autocast too, where that one takes
    products in half precision.

    Args:
        loss_weight: Factor of the loss; MMRazor's by default.
    """

    def __init__(self, loss_weight: float = 25.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Compare embeddings ``(B, Cs)`` and ``(B, Ct)``, or maps."""
        student, teacher = batch_as_tokens(preds_S), batch_as_tokens(preds_T)
        return self.loss_weight * distance_loss(student, teacher)
