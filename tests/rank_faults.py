# Copyright (c) The serkd_mm authors. All rights reserved.
"""Faults that a rank of a tested job injects into itself or the job."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
from pathlib import Path
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


@HOOKS.register_module()
class Kill(Fault):
    """SIGKILL, as the system sends it when memory runs out."""

    def happen(self, runner: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


@HOOKS.register_module()
class KillWhileSaving(Kill):
    """SIGKILL when the next checkpoint is written but has no name yet."""

    def happen(self, runner: Any) -> None:
        replace = os.replace

        def killed(source: Any, target: Any) -> None:
            if str(target).endswith('.pth'):
                Kill.happen(self, runner)
            replace(source, target)

        os.replace = killed


@HOOKS.register_module()
class Hang(Fault):
    """Deaf to SIGTERM, as a rank that waits for another one's tensor."""

    def happen(self, runner: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            time.sleep(1)


@HOOKS.register_module()
class LimitFiles(Fault):
    """No file can grow to the size of a checkpoint."""

    def happen(self, runner: Any) -> None:
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))


@HOOKS.register_module()
class FillDisk(Fault):
    """Nothing can be written for a number of steps.

    Args:
        steps: That number.
    """

    def __init__(self, steps: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.steps = steps

    def happen(self, runner: Any) -> None:
        logs = [p for p in Path('work').rglob('*') if p.suffix != '.pth']
        # The last pages of files that are there have room of their own.
        for path in (Path('work/ballast'), *filter(Path.is_file, logs)):
            with open(path, 'ab', buffering=0) as file:
                for size in (1 << 16, 1):
                    with contextlib.suppress(OSError):
                        while True:
                            file.write(b' ' * size)

    def before_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None
    ) -> None:
        super().before_train_iter(runner, batch_idx, data_batch)
        over = runner.iter + 1 == self.step + self.steps
        if over and runner.rank == self.rank:
            os.remove('work/ballast')
