# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

from typing import Any

from mmpretrain.models.heads import DeiTClsHead
from mmpretrain.registry import MODELS
from torch import Tensor


@MODELS.register_module()
class DeiTDistillHead(DeiTClsHead):
    """DeiT head that trains with a distillation token.

    Labels (hard, or soft after batch augmentations) train the class head
    alone. The distillation head's logits, output of ``layers.head_dist``, are
    there for a recorder and a distillation loss. Predictions average the
    logits of both heads.

    Args:
        label_dist_head: Whether the labels train the distillation head too.
            For a student without a teacher, whose second head would stay
            random otherwise.
        kwargs: Arguments of :class:`mmpretrain.models.DeiTClsHead`, whose
            loss trains the average of both heads instead.
    """

    def __init__(
        self, *args: Any, label_dist_head: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.label_dist_head = label_dist_head
        # The algorithm's, for the time after the teacher.
        self.distillation_stopped = False

    def token_logits(self, feats: tuple) -> tuple[Tensor, Tensor]:
        """Logits of the class head and of the distillation head.

        Args:
            feats: Backbone outputs; the last holds the class and the
                distillation token, ``(B, C)`` each.

        Returns:
            Two tensors ``(B, num_classes)``.

        Raises:
            TypeError: If the backbone has no distillation token.
        """
        if not isinstance(feats[-1], (tuple, list)):
            raise TypeError(
                'DeiTDistillHead needs a class and a distillation token, got '
                f'one {type(feats[-1]).__name__}; use '
                "backbone=dict(type='DistilledVisionTransformer'), or "
                'VisionTransformerClsHead for this backbone'
            )
        cls_token, dist_token = self.pre_logits(feats)
        return self.layers.head(cls_token), self.layers.head_dist(dist_token)

    def forward(self, feats: tuple) -> Tensor:
        """Mean of both heads' logits, ``(B, num_classes)``."""
        class_logits, dist_logits = self.token_logits(feats)
        return (class_logits + dist_logits) / 2

    def loss(
        self, feats: tuple, data_samples: list, **kwargs: Any
    ) -> dict[str, Tensor]:
        """Classification loss of the class head on the labels.

        Args:
            feats: Backbone outputs.
            data_samples: Samples with ``gt_label``, or ``gt_score`` for soft
                labels.
            kwargs: Further arguments of the loss module.

        Returns:
            The classification loss under ``loss``, accuracies of the class
            head with ``cal_acc``, and the distillation head's classification
            loss under ``loss_dist_head`` with ``label_dist_head`` and once
            distillation has stopped.
        """
        # The distillation head runs here so that recorders see its logits.
        class_logits, dist_logits = self.token_logits(feats)
        losses = self._get_loss(class_logits, data_samples, **kwargs)
        if self.label_dist_head or self.distillation_stopped:
            dist = self._get_loss(dist_logits, data_samples, **kwargs)
            losses['loss_dist_head'] = dist['loss']
        return losses
