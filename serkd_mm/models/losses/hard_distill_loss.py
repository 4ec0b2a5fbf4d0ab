# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

from mmrazor.registry import MODELS
from torch import Tensor, nn

from ...functional import hard_distill_loss


@MODELS.register_module()
class HardDistillLoss(nn.Module):
    """DeiT's hard distillation, a cross-entropy on the teacher's decision.

    See :func:`serkd_mm.functional.hard_distill_loss`.

    Args:
        loss_weight: Factor of the loss.
    """

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Compare logits image by image.

        Args:
            preds_S: Student logits, ``(B, classes)``.
            preds_T: Teacher logits, ``(B, classes)``; no gradient reaches
                them.

        Returns:
            Scalar loss, float32 under autocast too.

        Raises:
            TypeError: If a side is not floating point.
            ValueError: If the shapes differ, are not those of logits or
                are of no image.
        """
        return self.loss_weight * hard_distill_loss(preds_S, preds_T)
