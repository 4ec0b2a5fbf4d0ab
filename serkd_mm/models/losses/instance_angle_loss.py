# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

from mmrazor.registry import MODELS
from torch import Tensor, nn

from ...functional import angle_loss, batch_as_tokens
from ...ops import check_impl
from .check_count import check_images


@MODELS.register_module()
class InstanceAngleLoss(nn.Module):
    """RKD's angle-wise loss between the images of a batch.

    :func:`serkd_mm.functional.angle_loss` of embeddings of unit length, the
    batch of a process in the place of the tokens of an image: MMRazor's
    ``AngleWiseRKD`` in float32 under autocast too, where that one takes
    products in half precision.

    Args:
        loss_weight: Factor of the loss; MMRazor's by default.
        impl: How to compute it, see :func:`serkd_mm.functional.angle_loss`.

    Raises:
        ValueError: If ``impl`` is unknown.
    """

    def __init__(self, loss_weight: float = 50.0, impl: str = 'auto') -> None:
        super().__init__()
        check_impl(impl)
        self.loss_weight = loss_weight
        self.impl = impl

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Compare embeddings ``(B, Cs)`` and ``(B, Ct)``, or maps.

        Returns:
            Weighted loss, a scalar, float32 under autocast too.

        Raises:
            ValueError: If the sides have other images, or more than ``impl``
                takes.
        """
        student, teacher = batch_as_tokens(preds_S), batch_as_tokens(preds_T)
        check_images(self, student, teacher, self.impl)
        return self.loss_weight * angle_loss(student, teacher, impl=self.impl)
