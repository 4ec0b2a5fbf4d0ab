# Copyright (c) The serkd_mm authors. All rights reserved.
"""What networks and training steps cost."""

from __future__ import annotations

import math
import statistics
from typing import Any

import torch
from mmengine.analysis import FlopAnalyzer
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from torch import nn

from .. import compat
from ..benchmarks.measure import MIB, max_rss, milliseconds, settle

_ATTENTION = 'aten::scaled_dot_product_attention'


def count_flops(network: nn.Module, size: tuple[int, int]) -> int:
    """Multiply-adds of a forward pass of one image.

    As MMPretrain's model zoo counts them, fused attention included, which
    MMEngine leaves out.

    Args:
        network: Model with a tensor forward; put into eval mode.
        size: Height and width of the image.
    """
    network.eval()
    image = torch.zeros(1, 3, *size, device=next(network.parameters()).device)
    counter = FlopAnalyzer(network, (image,))
    counter.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    counter.set_op_handle(_ATTENTION, _attention_flops)
    with torch.no_grad(), compat.encoders_in_parts():
        return int(counter.total())


def _attention_flops(inputs: list[Any], outputs: list[Any]) -> int:
    """Both products of an attention, ``2 B H N M C``."""
    query, key = (value.type().sizes() for value in inputs[:2])
    return 2 * math.prod(query) * key[-2]


def time_steps(
    algorithm: BaseModel,
    optimizer: OptimWrapper,
    data: dict,
    steps: int,
) -> tuple[float, float]:
    """Run training steps on one batch.

    Args:
        algorithm: Model in train mode.
        optimizer: Its optimizer.
        data: Batch as a data loader hands it over.
        steps: Steps that are timed, after one that is not.

    Returns:
        Median milliseconds of a step and peak memory in MiB.
    """
    kind = next(algorithm.parameters()).device.type
    cuda = kind == 'cuda'

    def step() -> None:
        algorithm.train_step(data, optimizer)

    if cuda:
        torch.cuda.reset_peak_memory_stats()
    else:
        settle()
    times = [milliseconds(step, kind) for _ in range(steps + 1)]
    peak = torch.cuda.max_memory_allocated() if cuda else max_rss()
    return statistics.median(times[1:]), peak / MIB
