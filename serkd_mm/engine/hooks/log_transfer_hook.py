# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor


@HOOKS.register_module()
class LogTransferHook(Hook):
    """Brings the losses of an iteration to the host in one transfer.

    MMEngine reads each scalar on its own, and waits for the device as often:
    seven times an iteration with the losses of SeRKD.
    """

    priority = 'HIGHEST'  # before RuntimeInfoHook, which reads them

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
