# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

import functools
import os
import signal
import threading
import weakref
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import torch
from mmengine import dist
from mmengine.fileio import join_path, put_text
from mmengine.hooks import EMAHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, Runner

from ..agreement import main_process_writes
from ..runner_parts import update_was_due

FILENAME = 'interrupted.pth'


@HOOKS.register_module()
class StopOnSignalHook(Hook):
    """Saves a checkpoint and ends the process when the scheduler asks to.

    Schedulers (and torchrun, when it ends itself) send SIGTERM some time
    before they kill. With this hook a run that receives it in one or more of
    its processes finishes the iteration, of training or of validation, on all
    of them, writes ``interrupted.pth``, points ``last_checkpoint`` to it, and
    exits with code 128 + signal: 143 for SIGTERM. ``--resume`` goes on from
    there, in the middle of the epoch.

    The processes of the data loaders heed the signals of their parent alone,
    as schedulers signal whole process groups and a loader that dies takes the
    run with it. (Where the system has no ``sigwaitinfo``, as on macOS, they
    die.)

    Args:
        signals: Names of the signals, for example ``('SIGTERM', 'SIGUSR1')``
            for a scheduler that warns by the latter.

    Raises:
        ValueError: If there is no signal of such a name, or no process can
            listen to it.
    """

    # After the others: the checkpoint holds what they did in this iteration.
    priority = 'LOWEST'

    def __init__(self, signals: Sequence[str] = ('SIGTERM',)) -> None:
        known = signal.Signals.__members__
        unknown = [name for name in signals if name not in known]
        if unknown:
            raise ValueError(
                f'StopOnSignalHook(signals={list(signals)}): {unknown} are '
                "no names of signals; write them like 'SIGTERM'"
            )
        deaf = [name for name in signals if name in ('SIGKILL', 'SIGSTOP')]
        if deaf:
            raise ValueError(
                f'StopOnSignalHook(signals={list(signals)}): no process can '
                f'listen to {deaf}; name what is sent before, as SIGTERM is'
            )
        self.signals = [signal.Signals[name] for name in signals]
        #: Number of the signal that this process received, 0 for none.
        self.received = 0
        self._previous: dict[signal.Signals, Any] = {}
        self._runner: Callable[[], Runner | None] = lambda: None
        self._training = self._averaged = self._stopped = False
        self._batches = 0

    def before_run(self, runner: Runner) -> None:
        """Let the data loaders ignore the scheduler's signals.

        Some may have processes before this hook's turn in ``before_train``.
        """
        if not isinstance(runner._train_loop, BaseLoop):
            return
        loops = (runner.train_loop, runner.val_loop)
        for loader in [loop.dataloader for loop in loops if loop is not None]:
            loader.worker_init_fn = functools.partial(
                _heed_parent_alone, self.signals, loader.worker_init_fn
            )

    def before_train(self, runner: Runner) -> None:
        """Listen to the signals from here on."""
        if threading.current_thread() is not threading.main_thread():
            runner.logger.warning(
                'Training is not in the main thread, so it cannot listen to '
                'signals: no checkpoint will be written before it is ended'
            )
            return
        self.received, self._training, self._stopped = 0, True, False
        self._runner = weakref.ref(runner)
        self._previous = {
            number: signal.signal(number, self._receive)
            for number in self.signals
        }

    def after_train(self, runner: Runner) -> None:
        """Hand the signals back."""
        self._training = False
        self._hand_back()

    def _hand_back(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler or signal.SIG_DFL)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict | None = None,
    ) -> None:
        """Stop here, unless the epoch ends or gradients accumulate."""
        last = self.end_of_epoch(runner.train_dataloader, batch_idx)
        if update_was_due(runner) and not last:
            self._stop_if_asked(runner, runner.epoch, runner.iter + 1)

    def after_train_epoch(self, runner: Runner) -> None:
        """Stop between training and validation."""
        self._stop_if_asked(runner, runner.epoch + 1, runner.iter)

    def before_val_epoch(self, runner: Runner) -> None:
        """Averaged weights are in place; count the batches of all ranks."""
        if self._training:
            self._averaged = True
            batches = torch.tensor(len(runner.val_dataloader))
            # Samplers may give one more to some; those would wait in vain.
            dist.all_reduce(batches, op='min')
            self._batches = int(batches)

    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Sequence | None = None,
    ) -> None:
        """Stop in a validation; resuming starts it again."""
        if not self._training:
            return
        if batch_idx < self._batches and (number := self._agreed()):
            for hook in runner.hooks:
                if self._averaged and isinstance(hook, EMAHook):
                    _restore_trained(hook)
            # Resuming makes up for a validation that comes after this stage.
            runner.message_hub.update_info('loop_stage', 'train')
            self._stop(runner, number, runner.epoch, runner.iter)
        if self.end_of_epoch(runner.val_dataloader, batch_idx):
            # MMPretrain's hook may validate the trained weights after them.
            self._averaged = False

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._stopped or self._trains(frame):
            self.received = number
            return
        # An error has ended the training, and there was no after_train.
        self._hand_back()
        os.kill(os.getpid(), number)

    def _trains(self, frame: FrameType | None) -> bool:
        """Whether a method of the runner is on this stack."""
        runner = self._runner()
        while frame is not None and runner is not None:
            if frame.f_locals.get('self') is runner:
                return True
            frame = frame.f_back
        return False

    def _agreed(self) -> int:
        """The signal that any process received, the same on all."""
        # One that comes while this waits is of the next round.
        received = torch.tensor(self.received)
        dist.all_reduce(received, op='max')
        return int(received)

    def _stop_if_asked(self, runner: Runner, epoch: int, done: int) -> None:
        if self._training and (number := self._agreed()):
            self._stop(runner, number, epoch, done)

    def _stop(
        self, runner: Runner, number: int, epoch: int, done: int
    ) -> None:
        """Save after ``epoch`` epochs and ``done`` iterations, and exit."""
        self._stopped = True
        name, code = signal.Signals(number).name, 128 + number
        folder = runner.work_dir
        path = join_path(folder, FILENAME)
        with main_process_writes():
            meta = dict(epoch=epoch, iter=done)
            runner.save_checkpoint(folder, FILENAME, meta=meta)
            if dist.is_main_process():
                put_text(path, join_path(folder, 'last_checkpoint'))
        runner.logger.warning(
            f'Received {name}: saved {path} after {epoch} epochs and {done} '
            f'iterations; exit code {code}; --resume goes on from there'
        )
        runner.visualizer.close()
        # A launcher kills the others when the first process has gone.
        dist.barrier()
        raise SystemExit(code)


def _restore_trained(hook: EMAHook) -> None:
    """Exchange averaged weights, where they are validated, for trained ones.

    ``after_val_epoch`` does too, but MMPretrain's goes on validating.
    """
    if getattr(hook, 'evaluate_on_ema', True):
        hook._swap_ema_parameters()


def _heed_parent_alone(
    signals: Sequence[signal.Signals],
    worker_init: Callable[[int], None] | None,
    worker: int,
) -> None:
    """Initialise a process of a data loader."""
    if hasattr(signal, 'sigwaitinfo'):
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        threading.Thread(
            target=_end_when_parent_asks,
            args=(signals, os.getppid()),
            daemon=True,
        ).start()
    if worker_init is not None:
        worker_init(worker)


def _end_when_parent_asks(
    signals: Sequence[signal.Signals], parent: int
) -> None:
    """End as PyTorch's own handler does when the parent terminates loaders.

    A parent that fails does so at its exit, and then waits for their end.
    """
    while signal.sigwaitinfo(signals).si_pid != parent:
        pass
    os._exit(0)
