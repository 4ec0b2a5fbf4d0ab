# Copyright (c) The serkd_mm authors. All rights reserved.
"""Spoils the batches of one rank of a tested job."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class SpoilBatches(Hook):
    """NaN for pixels in some iterations of one rank.

    Writes the state of every rank, ``state-RANK-ITERATION.pth``, after each
    iteration that ends.

    Args:
        rank: The rank whose batches are spoiled.
        iterations: Which ones, the first being 1.
    """

    def __init__(self, rank: int, iterations: tuple[int, ...]) -> None:
        self.rank = rank
        self.iterations = iterations

    def before_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None
    ) -> None:
        if runner.rank == self.rank and batch_idx + 1 in self.iterations:
            pixels = data_batch['inputs']
            data_batch['inputs'] = torch.full_like(pixels.float(), torch.nan)
            paths = [s.img_path for s in data_batch['data_samples']]
            torch.save(paths, f'paths-{batch_idx + 1}.pth')

    def after_train_iter(
        self,
        runner: Any,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict | None = None,
    ) -> None:
        state = runner.model.module.state_dict()
        torch.save(state, f'state-{runner.rank}-{batch_idx + 1}.pth')
