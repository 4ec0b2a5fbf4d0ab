# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import Tensor, nn

from ... import compat
from ..run_config import unscoped_type

# What MMEngine's AmpOptimWrapper alone takes.
AMP_ARGUMENTS = ('loss_scale', 'dtype', 'use_fsdp')


@OPTIM_WRAPPERS.register_module()
class Bfloat16OptimWrapper(OptimWrapper):
    """Training under bfloat16 autocast, on any device.

    bfloat16 has float32's range, so that gradients need no loss scale.
    MMEngine's ``AmpOptimWrapper`` has one even then, and refuses CPUs and
    Apple's GPUs. A CPU without instructions for it is many times slower than
    in float32, which is logged when training begins.

    Args:
        fused_attention: Whether attention on CPUs may run as one fused
            operator. Its backward in bfloat16 is slow there where sequences
            are short. Forward and backward of 65 tokens took 2.4 times as
            long as products of matrices (torch 2.13, one core of an Intel
            Xeon).
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
        if device == 'cpu':
            _warn_of_emulation()
        with (
            super().optim_context(model),
            compat.autocast(device, self.cast_dtype),
            cpu_attention(self.fused_attention),
        ):
            yield

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        """Backward; what it computes again attends as the forward did."""
        with cpu_attention(self.fused_attention):
            super().backward(loss, **kwargs)


@functools.cache
def _warn_of_emulation() -> None:
    if compat.emulates_bfloat16():
        print_log(
            'This CPU has no instructions for bfloat16, so that training is '
            'many times slower than in float32; leave out --amp or '
            "optim_wrapper.type='Bfloat16OptimWrapper'",
            logger='current',
            level=logging.WARNING,
        )


def mix_precision(wrapper: dict, device: str) -> None:
    """Make a config's optimizer wrapper one of mixed precision, in place.

    ``AmpOptimWrapper`` with a dynamic loss scale unless the config has
    another; on CPUs and Apple's GPUs, which it refuses,
    :class:`Bfloat16OptimWrapper`. One that is bfloat16 already stays.

    Args:
        wrapper: Config of the wrapper.
        device: As :func:`mmengine.device.get_device` names it.
    """
    if unscoped_type(wrapper) == 'Bfloat16OptimWrapper':
        return
    if device in ('cpu', 'mps'):
        wrapper['type'] = 'Bfloat16OptimWrapper'
        for name in AMP_ARGUMENTS:
            wrapper.pop(name, None)
    else:
        wrapper['type'] = 'AmpOptimWrapper'
        wrapper.setdefault('loss_scale', 'dynamic')


@contextmanager
def cpu_attention(fused: bool) -> Iterator[None]:
    """Choose how PyTorch computes attention on CPUs inside.

    Args:
        fused: Whether it may be one operator.
    """
    before = torch.backends.cuda.flash_sdp_enabled()
    # Named after CUDA, which has other fused operators to fall back on.
    torch.backends.cuda.enable_flash_sdp(before and fused)
    try:
        yield
    finally:
        torch.backends.cuda.enable_flash_sdp(before)
