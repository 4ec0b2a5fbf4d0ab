# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

import atexit
import logging
import os
import sys
import weakref
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ...number_text import number_text

# That have drawn a bar.
_hooks: weakref.WeakSet[ProgressHook] = weakref.WeakSet()


def _leave_the_bar_to_the_parent() -> None:
    """Let a forked process, as of a data loader, write past the bar.

    The bar's lock may have been held when it was forked, for ever then.
    """
    for hook in _hooks:
        hook.give_streams_back()


if hasattr(os, 'register_at_fork'):  # which Windows has not
    os.register_at_fork(after_in_child=_leave_the_bar_to_the_parent)


@HOOKS.register_module()
class ProgressHook(Hook):
    """Progress bar of the training on a terminal.

    Shows iterations, time left, images per second and the last loss below
    the lines of the log. Where the output is no terminal, a file say, the
    log stays as it is; other processes than the first show nothing.

    Args:
        console: Where to draw; standard output by default.
    """

    # After the logger, whose line the bar is drawn below.
    priority = 'LOW'

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._progress: Progress | None = None
        self._streams: list[tuple[logging.StreamHandler, Any]] = []
        self._standard: tuple[Any, Any] | None = None

    def before_train(self, runner: Runner) -> None:
        """Show the bar, with the log above it."""
        if not (is_main_process() and self._console.is_terminal):
            return
        self._progress = Progress(
            TextColumn('{task.description}'),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn('left'),
            TimeRemainingColumn(),
            TextColumn('{task.fields[state]}'),
            console=self._console,
        )
        self._standard = sys.stdout, sys.stderr
        self._progress.start()
        _hooks.add(self)
        # An exception ends the run without after_run, the cursor hidden.
        atexit.register(self._stop)
        self._task = self._progress.add_task(
            'iterations',
            total=runner.max_iters,
            completed=runner.iter,
            state='',
        )
        # Handlers keep the stream of their birth; rich has replaced it by one
        # that writes above the bar.
        for handler in runner.logger.handlers:
            stream = getattr(handler, 'stream', None)
            if stream in (sys.__stdout__, sys.__stderr__):
                self._streams.append((handler, handler.setStream(sys.stdout)))

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict | None = None,
    ) -> None:
        """Move the bar; numbers are those that the hub holds already."""
        if self._progress is None:
            return
        scalars = runner.message_hub.log_scalars
        state = [
            f'{unit}{number_text(scalars[name].current())}{after}'
            for name, unit, after in (
                ('train/images_per_second', '', ' images/s'),
                ('train/loss', 'loss ', ''),
            )
            if name in scalars
        ]
        self._progress.update(
            self._task, completed=runner.iter + 1, state=', '.join(state)
        )

    def after_train(self, runner: Runner) -> None:
        """Take the bar away."""
        self._stop()

    def after_run(self, runner: Runner) -> None:
        """Take the bar away if training has not."""
        self._stop()

    def _stop(self) -> None:
        if self._progress is None:
            return
        self._progress.stop()
        self._progress = None
        atexit.unregister(self._stop)
        self.give_streams_back()

    def give_streams_back(self) -> None:
        """Let this process write where it wrote before the bar."""
        if self._standard is None:
            return
        sys.stdout, sys.stderr = self._standard
        self._standard = None
        for handler, stream in self._streams:
            handler.stream = stream  # without a flush, which asks the bar
        self._streams.clear()
