# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn


@OPTIM_WRAPPERS.register_module()
class Bfloat16OptimWrapper(OptimWrapper):
    """Training under bfloat16 autocast, on any device.

    bfloat16 has float32's range, so that gradients need no loss scale.
    MMEngine's ``AmpOptimWrapper`` has one even then, and refuses CPUs.

    Args:
        fused_attention: Whether attention may run as one fused operator. On
            CPUs its backward in bfloat16 is slow where sequences are short:
            with 65 tokens and torch 2.13, three times as slow as products of
            matrices.
        kwargs: Arguments of :class:`mmengine.optim.OptimWrapper`.
    """

    cast_dtype = torch.bfloat16

    def __init__(self, fused_attention: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.fused_attention = fused_attention

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Autocast of the forward, beside what MMEngine does there.

        Args:
            model: What is trained; its device decides that of the autocast.
        """
        device = next(model.parameters()).device.type
        with (
            super().optim_context(model),
            torch.autocast(device, self.cast_dtype),
            _flash_attention(self.fused_attention),
        ):
            yield


@contextmanager
def _flash_attention(allowed: bool) -> Iterator[None]:
    before = torch.backends.cuda.flash_sdp_enabled()
    # The switch is named after CUDA and holds for CPUs too.
    torch.backends.cuda.enable_flash_sdp(before and allowed)
    try:
        yield
    finally:
        torch.backends.cuda.enable_flash_sdp(before)
