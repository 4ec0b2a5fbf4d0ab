# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

import torch.nn.functional as F
from mmrazor.registry import MODELS
from torch import Tensor, nn


@MODELS.register_module()
class HardDistillLoss(nn.Module):
    r"""Cross-entropy on the teacher's decision: DeiT's hard distillation.

    :math:`L = -\frac{1}{B} \sum_b \log \mathrm{softmax}(z^S_b)_{y_b}` with
    :math:`y_b = \arg\max_c z^T_{bc}`, the first of equal ones.

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
            ValueError: If the shapes differ, are not those of logits or
                are of no image.
        """
        if preds_S.dim() != 2 or preds_S.shape != preds_T.shape:
            raise ValueError(
                'student and teacher logits must both be (B, classes), got '
                f'shapes {tuple(preds_S.shape)} and {tuple(preds_T.shape)}; '
                'record logits over the same classes on both sides'
            )
        if len(preds_S) == 0:
            raise ValueError(
                'HardDistillLoss needs one image at least, got logits of '
                f'shape {tuple(preds_S.shape)}'
            )
        loss = F.cross_entropy(preds_S.float(), preds_T.argmax(dim=1))
        return self.loss_weight * loss
