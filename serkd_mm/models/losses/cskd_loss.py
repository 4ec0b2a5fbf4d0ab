# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

from mmengine.logging import MessageHub
from mmrazor.registry import MODELS
from torch import Tensor, nn

from ...functional import dense_logits, local_weight, spatial_distill_loss
from ...functional.checks import check_tau
from ...functional.spatial import SCHEDULES, TARGETS


@MODELS.register_module()
class CSKDLoss(nn.Module):
    r"""Cumulative spatial knowledge distillation, arXiv 2307.08500.

    A CNN's classifier, applied at every position of its last map, supervises
    the student's visual tokens there, and the supervision moves from these
    local logits to the global ones in the course of training:
    :func:`serkd_mm.functional.spatial_distill_loss` with :math:`\alpha` of
    :func:`serkd_mm.functional.local_weight`.

    From the paper: the blend, the hard target with its cross-entropy and the
    soft alternative, the linear schedule and, in its ablation, others; the
    loss stands beside half the labels' and half DeiT's hard loss with weight
    1. From the authors' code: the distillation head is the student's
    classifier, and the student's logits are averaged over the 2x2 tokens that
    share a position of the teacher. The classifier being linear, averaging
    the tokens before it gives the same logits for less.

    Chosen: the progress of training is counted in iterations, not in epochs;
    the soft loss is a mean over positions too, where the authors' code sums
    over them; predictions are DeiT's, where it averages the visual tokens'
    logits in.

    The progress is that of MMEngine's runner, which a resumed run shares with
    a straight one. Where no runner trains, it is that of the start, 0.

    Args:
        loss_weight: Factor of the loss.
        target: ``'hard'`` or ``'soft'``.
        schedule: ``'linear'``, ``'square'`` or ``'cos'``.
        tau: Temperature of the soft target.

    Raises:
        ValueError: If ``target`` or ``schedule`` is unknown, or ``tau`` not
            positive.
    """

    def __init__(
        self,
        loss_weight: float = 1.0,
        target: str = 'hard',
        schedule: str = 'linear',
        tau: float = 1.0,
    ) -> None:
        super().__init__()
        for name, value, known in (
            ('target', target, TARGETS),
            ('schedule', schedule, SCHEDULES),
        ):
            if value not in known:
                raise ValueError(
                    f'{name} must be one of {list(known)}, got {value!r}'
                )
        check_tau(tau)
        self.loss_weight = loss_weight
        self.target = target
        self.schedule = schedule
        self.tau = tau

    @property
    def alpha(self) -> float:
        """Weight of the local logits in the current iteration."""
        hub = MessageHub.get_current_instance()
        done, total = hub.get_info('iter'), hub.get_info('max_iters')
        progress = done / total if done and total else 0.0
        return local_weight(progress, self.schedule)

    def forward(
        self,
        preds_S: Tensor,
        preds_T: Tensor,
        weight_S: Tensor,
        weight_T: Tensor,
        bias_S: Tensor | None = None,
        bias_T: Tensor | None = None,
    ) -> Tensor:
        """Compare position by position.

        Args:
            preds_S: Student tokens at the teacher's positions, ``(B, N, Cs)``.
            preds_T: Teacher's last map as tokens, ``(B, N, Ct)``.
            weight_S: Weight of the student's classifier, ``(classes, Cs)``,
                from a recorder of type ``Parameter``.
            weight_T: Weight of the teacher's, ``(classes, Ct)``.
            bias_S: Bias of the student's classifier, ``(classes,)``.
            bias_T: Bias of the teacher's.

        Returns:
            Scalar loss, float32 under autocast too.
        """
        loss = spatial_distill_loss(
            dense_logits(preds_S, weight_S, bias_S),
            dense_logits(preds_T, weight_T, bias_T),
            alpha=self.alpha,
            target=self.target,
            tau=self.tau,
        )
        return self.loss_weight * loss
