# Copyright (c) The serkd_mm authors. All rights reserved.
"""Runs that are asked to stop; whole jobs are in tests/test_faults.py."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine import dist
from mmengine.hooks import Hook

from serkd_mm.engine import AtomicLocalBackend, StopOnSignalHook
from tests.engine.runs import (
    BATCH,
    EPOCHS,
    STEPS,
    Points,
    build_runner,
    checkpoints_of,
    log_of,
    two_optimizers,
    validation,
)

HOOKS = dict(
    stop_on_signal=dict(type='StopOnSignalHook'),
    exact_resume=dict(type='ExactResumeHook'),
)
TERMINATED = 128 + signal.SIGTERM


class Signal(Hook):
    """Sends a signal to this process at one point of the run."""

    def __init__(self, step: int, number: int, validating: int) -> None:
        self.step = step
        self.number = number
        self.validating = validating
        self.validated = 0
        self.weights: dict[str, torch.Tensor] = {}

    def before_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None
    ) -> None:
        if not self.validating and runner.iter + 1 == self.step:
            os.kill(os.getpid(), self.number)

    def before_val(self, runner: Any) -> None:
        self.weights = {
            name: value.clone()
            for name, value in runner.model.state_dict().items()
        }

    def before_val_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None
    ) -> None:
        self.validated += runner.iter == self.step
        if self.validating and self.validated == self.validating:
            os.kill(os.getpid(), self.number)


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """The signals are others' again, however a run ends."""
    numbers = (signal.SIGTERM, signal.SIGUSR1)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def interrupt(
    work_dir: Path,
    step: int,
    validating: int = 0,
    number: int = signal.SIGTERM,
    hooks: dict = HOOKS,
    custom_hooks: Any = (),
    **overrides: Any,
) -> Signal:
    """Train until the signal and expect the exit code."""
    sender = Signal(step, number, validating)
    runner = build_runner(
        work_dir, hooks, custom_hooks=[sender, *custom_hooks], **overrides
    )
    with pytest.raises(SystemExit) as ended:
        runner.train()
    assert ended.value.code == 128 + number
    return sender


def resume(work_dir: Path, **overrides: Any) -> Any:
    runner = build_runner(work_dir, HOOKS, resume=True, **overrides)
    runner.train()
    return runner


def saved(work_dir: Path) -> dict:
    path = Path((work_dir / 'last_checkpoint').read_text())
    assert path == work_dir / 'interrupted.pth'
    return torch.load(path)


@pytest.mark.parametrize(
    ('step', 'epoch'),
    [(1, 0), (STEPS - 1, 0), (STEPS, 1), (STEPS + 1, 1)],
)
def test_the_step_is_finished_and_saved(
    tmp_path: Path, step: int, epoch: int
) -> None:
    interrupt(tmp_path, step)

    meta = saved(tmp_path)['meta']
    assert (meta['epoch'], meta['iter']) == (epoch, step)
    assert f'exit code {TERMINATED}' in log_of(tmp_path)
    assert resume(tmp_path).iter == EPOCHS * STEPS
    assert (tmp_path / f'epoch_{EPOCHS}.pth').is_file()


def test_accumulated_gradients_are_used_up(tmp_path: Path) -> None:
    optimizer = dict(type='SGD', lr=0.1)
    optim_wrapper = dict(optimizer=optimizer, accumulative_counts=2)

    interrupt(tmp_path, 1, optim_wrapper=optim_wrapper)

    assert saved(tmp_path)['meta']['iter'] == 2


def test_with_several_optimizers_every_step_is_one(tmp_path: Path) -> None:
    interrupt(tmp_path, 2, **two_optimizers())
    assert saved(tmp_path)['meta']['iter'] == 2
    assert resume(tmp_path, **two_optimizers()).iter == EPOCHS * STEPS


def test_a_due_validation_comes_after_the_pause(tmp_path: Path) -> None:
    interrupt(tmp_path, STEPS, **validation(0.1))
    assert 'Epoch(val)' not in log_of(tmp_path)

    resume(tmp_path, **validation(0.1, 0.2, 0.3))

    assert log_of(tmp_path).count('Validating first') == 1


# MMPretrain's hook can validate the weights of training after the averages.
BOTH = dict(type='mmpretrain.EMAHook', momentum=0.5, evaluate_on_origin=True)


@pytest.mark.parametrize(
    ('ema', 'batch'),
    [(dict(type='EMAHook', momentum=0.5), 1), (BOTH, 1), (BOTH, 2)],
)
def test_a_validation_is_broken_off_and_done_again(
    tmp_path: Path, ema: dict, batch: int
) -> None:
    scores = validation(*[0.1] * 8)
    sender = interrupt(tmp_path, STEPS, batch, custom_hooks=[ema], **scores)

    checkpoint = saved(tmp_path)
    assert checkpoint['meta']['epoch'] == 1
    # A checkpoint has the averages under the model's names.
    trained = checkpoint['ema_state_dict']
    for name, value in sender.weights.items():
        assert torch.equal(trained[f'module.{name}'], value)
        assert not torch.equal(checkpoint['state_dict'][name], value)

    resume(tmp_path, custom_hooks=[ema], **validation(*[0.1] * 8))

    assert log_of(tmp_path).count('Validating first') == 1


def test_ranks_with_fewer_batches_of_a_validation_are_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def other_rank(data: torch.Tensor, op: str) -> None:
        """Has one batch, and no signal."""
        if op == 'min':
            data.clamp_(max=1)
        else:
            asked.append(runner.iter)

    monkeypatch.setattr(dist, 'all_reduce', other_rank)
    settings = validation(0.1)
    settings['val_dataloader'].update(batch_size=1)
    settings['train_cfg'].update(max_epochs=1)
    runner = build_runner(tmp_path, HOOKS, **settings)

    runner.train()

    assert len(runner.val_dataloader) == 2
    # In three steps, after the epoch, in the validation.
    assert len(asked) == STEPS - 1 + 1 + 1


def test_a_signal_while_the_ranks_agree_is_heeded_at_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def other_rank(data: torch.Tensor, op: str) -> None:
        """Has no signal; this process receives one while it waits."""
        asked.append(int(data))
        if len(asked) == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(dist, 'all_reduce', other_rank)
    runner = build_runner(tmp_path, HOOKS)

    with pytest.raises(SystemExit):
        runner.train()

    assert asked == [0, signal.SIGTERM]
    assert saved(tmp_path)['meta']['iter'] == 2


def test_another_signal_can_be_named(tmp_path: Path) -> None:
    hooks = dict(
        stop_on_signal=dict(
            type='StopOnSignalHook', signals=('SIGTERM', 'SIGUSR1')
        )
    )
    interrupt(tmp_path, 2, number=signal.SIGUSR1, hooks=hooks)
    assert saved(tmp_path)['meta']['iter'] == 2


def test_a_signal_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\['TERM'\] are no names"):
        StopOnSignalHook(signals=('TERM',))
    with pytest.raises(ValueError, match=r"can listen to \['SIGKILL'\]; nam"):
        StopOnSignalHook(signals=('SIGTERM', 'SIGKILL'))


def test_a_run_that_ends_hands_the_signals_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    build_runner(tmp_path, HOOKS).train()
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_run_that_fails_does_not_swallow_signals(tmp_path: Path) -> None:
    received: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    runner = build_runner(tmp_path, HOOKS, custom_hooks=[Raise()])
    with pytest.raises(ZeroDivisionError):
        runner.train()

    os.kill(os.getpid(), signal.SIGTERM)

    assert received == [signal.SIGTERM]
    hook = next(h for h in runner.hooks if isinstance(h, StopOnSignalHook))
    assert not hook.received


class Raise(Hook):
    def after_train_iter(self, runner: Any, *args: Any, **kw: Any) -> None:
        raise ZeroDivisionError


def test_a_second_run_starts_anew(tmp_path: Path) -> None:
    interrupt(tmp_path, 1)
    assert resume(tmp_path).iter == EPOCHS * STEPS
    assert checkpoints_of(tmp_path) == [
        *(f'epoch_{epoch}.pth' for epoch in range(1, EPOCHS + 1)),
        'interrupted.pth',
    ]


def test_without_room_for_it_the_last_checkpoint_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = AtomicLocalBackend.put

    def full(self: Any, obj: bytes, filepath: Any) -> None:
        if Path(filepath).name == 'interrupted.pth':
            raise OSError(28, os.strerror(28))
        put(self, obj, filepath)

    monkeypatch.setattr(AtomicLocalBackend, 'put', full)
    sender = Signal(STEPS + 1, signal.SIGTERM, 0)
    runner = build_runner(tmp_path, HOOKS, custom_hooks=[sender])

    with pytest.raises(OSError, match='No space left'):
        runner.train()

    last = Path((tmp_path / 'last_checkpoint').read_text())
    assert last == tmp_path / 'epoch_1.pth'


class SignalLoaders(Hook):
    """Signals the processes of the data loaders."""

    signalled = 0

    def before_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None
    ) -> None:
        for process in multiprocessing.active_children():
            # As a scheduler: the loaders obey their parent.
            subprocess.run(['sh', '-c', f'kill {process.pid}'], check=True)
            self.signalled += 1


def test_data_loaders_outlive_the_signal(tmp_path: Path) -> None:
    sender = SignalLoaders()
    loader = dict(
        batch_size=BATCH,
        num_workers=1,
        dataset=Points(),
        sampler=dict(type='DefaultSampler', shuffle=True),
    )
    runner = build_runner(
        tmp_path, HOOKS, custom_hooks=[sender], train_dataloader=loader
    )

    runner.train()

    assert sender.signalled >= EPOCHS
    assert runner.iter == EPOCHS * STEPS


def test_so_do_those_of_a_validation_that_is_made_up_for(
    tmp_path: Path,
) -> None:
    sender = SignalLoaders()
    settings = validation(0.1, 0.2, 0.3)
    interrupt(tmp_path, STEPS, **settings)
    settings['val_dataloader'].update(num_workers=1, persistent_workers=True)

    runner = resume(tmp_path, custom_hooks=[sender], **settings)
    # Ends the worker now; the garbage collector waits for seconds.
    runner.val_dataloader._iterator = None

    assert sender.signalled == 2 * STEPS
    assert 'Validating first' in log_of(tmp_path)


FAILING = """
import sys

from mmengine.hooks import Hook

from tests.engine.hooks.test_stop_on_signal_hook import *


class Fail(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        raise RuntimeError('broken on purpose')


loader = dict(
    batch_size=BATCH,
    num_workers=1,
    persistent_workers=True,
    dataset=Points(),
    sampler=dict(type='DefaultSampler', shuffle=True),
)
build_runner(
    Path(sys.argv[1]), HOOKS, custom_hooks=[Fail()], train_dataloader=loader
).train()
"""


def test_data_loaders_end_with_a_run_that_fails(tmp_path: Path) -> None:
    failed = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', FAILING, str(tmp_path)],
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
    )

    assert failed.returncode == 1
    assert 'RuntimeError: broken on purpose' in failed.stderr
