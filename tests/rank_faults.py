# Copyright (c) The serkd_mm authors. All rights reserved.
"""Faults that a rank of a tested job injects into itself or the job."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from serkd_mm.engine import StopOnSignalHook


class Fault(Hook):
    """Happens once, on one rank.

    Args:
        rank: The rank.
        step: Number of the training iteration, from 1.
    """

    def __init__(self, rank: int, step: int) -> None:
        self.rank = rank
        self.step = step

    def happen(self, runner: Any) -> None:
        raise NotImplementedError

    def before_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None
    ) -> None:
        first = os.environ.get('TORCHELASTIC_RESTART_COUNT', '0') == '0'
        now = runner.rank == self.rank and runner.iter + 1 == self.step
        if first and now:
            self.happen(runner)


@HOOKS.register_module()
class TerminateLauncher(Fault):
    """SIGTERM to torchrun, as a scheduler sends it."""

    def happen(self, runner: Any) -> None:
        (hook,) = [h for h in runner.hooks if isinstance(h, StopOnSignalHook)]
        os.kill(os.getppid(), signal.SIGTERM)
        patience = time.monotonic() + 60
        while not hook.received and time.monotonic() < patience:
            time.sleep(0.01)
