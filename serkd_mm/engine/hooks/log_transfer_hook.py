# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor

from ..runner_parts import unwrapped_model

# What a training logs of its distillation.
_DISTILLED = ('train/distill.', 'train/agreement')


@HOOKS.register_module()
class LogTransferHook(Hook):
    """Brings the losses of an iteration to the host in one transfer.

    MMEngine reads each scalar on its own, and waits for the device as often:
    seven times an iteration with the losses of SeRKD. What is not computed any
    more since distillation has stopped (``StopDistillHook``) is not logged
    either; the message hub would keep its last values.
    """

    priority = 'HIGHEST'  # before RuntimeInfoHook, which reads them

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Forget the losses of a distillation that has stopped."""
        if getattr(unwrapped_model(runner), 'distillation_stopped', False):
            scalars = runner.message_hub.log_scalars
            for name in [n for n in scalars if n.startswith(_DISTILLED)]:
                del scalars[name]

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict | None = None,
    ) -> None:
        """Replace the scalars of ``outputs``, in place."""
        names = [
            name
            for name, value in (outputs or {}).items()
            if isinstance(value, Tensor) and value.numel() == 1
        ]
        if not names:
            return
        assert outputs is not None
        values = torch.stack([outputs[n].float().reshape(()) for n in names])
        outputs.update(zip(names, values.tolist()))
