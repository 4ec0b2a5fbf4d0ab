# Copyright (c) The serkd_mm authors. All rights reserved.
"""What a run says of itself while it trains."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import RuntimeInfoHook
from mmengine.logging import MessageHub
from mmengine.runner import Runner
from rich.console import Console
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from serkd_mm.analysis.logs import read_run
from serkd_mm.engine.hooks import (
    LogTransferHook,
    ProgressHook,
    RunRecordHook,
    ThroughputHook,
)
from tests.models import builders


def test_throughput_is_images_over_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A slow batch counts by its time, for as long as the log has it."""
    monkeypatch.setattr(
        'serkd_mm.engine.hooks.throughput_hook.get_world_size', lambda: 2
    )
    hub = MessageHub('throughput')
    runner = SimpleNamespace(
        message_hub=hub, log_processor=SimpleNamespace(window_size=2)
    )
    hook = ThroughputHook()
    hook.before_train(runner)
    found = []

    for seconds in (0.5, 1.5, 0.5, 0.5):
        hub.update_scalar('train/time', seconds)
        hook.after_train_iter(runner, 0, dict(inputs=[0] * 12))
        found.append(hub.get_scalar('train/images_per_second').current())

    assert found == [48, 24, 24, 48]


@pytest.mark.parametrize('stopped', [True, False])
def test_what_is_not_distilled_any_more_is_not_logged(stopped: bool) -> None:
    hub = MessageHub(f'stopped {stopped}')
    names = {'train/loss', 'train/student.loss', 'train/lr'}
    distilled = {'train/distill.loss_kd', 'train/agreement'}
    for name in names | distilled:
        hub.update_scalar(name, 1.0)
    model = SimpleNamespace(distillation_stopped=stopped)
    runner = SimpleNamespace(message_hub=hub, model=model)

    LogTransferHook().before_train_iter(runner, 5)

    assert set(hub.log_scalars) == names | (set() if stopped else distilled)


class Reads(TorchDispatchMode):
    """Counts how often a value is read on the host."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_the_losses_come_to_the_host_together() -> None:
    runner = SimpleNamespace(message_hub=MessageHub('transfer'))
    losses = {f'loss_{i}': torch.tensor(i + 0.5) for i in range(7)}
    expected = {name: float(value) for name, value in losses.items()}
    losses['half'] = torch.tensor([3.0]).half()
    outputs = dict(losses, text='as it is', maps=torch.zeros(2))

    def log(outputs: dict) -> int:
        scalars = {k: v for k, v in outputs.items() if k in losses}
        with Reads() as reads:
            RuntimeInfoHook().after_train_iter(runner, 0, outputs=scalars)
        return reads.count

    assert log(outputs) == 8
    with Reads() as reads:
        LogTransferHook().after_train_iter(runner, 0, outputs=outputs)
    assert reads.count == 0  # `tolist` is one copy, and no read of a scalar.
    assert log(outputs) == 0
    for name, value in expected.items():
        assert outputs[name] == value
    assert outputs['half'] == 3
    assert outputs['text'] == 'as it is'
    assert outputs['maps'].shape == (2,)


@pytest.fixture
def run(tmp_path: Path) -> tuple[list[dict], Path]:
    """A short distillation with the hooks of the configs."""
    runner = Runner(
        model=builders.build(),
        work_dir=str(tmp_path),
        train_dataloader=dict(
            batch_size=4,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=False),
            dataset=Samples(),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=2),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01)),
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=1),
            throughput=dict(type='ThroughputHook'),
            progress=dict(type='ProgressHook'),
            run_record=dict(type='RunRecordHook'),
        ),
        default_scope='mmpretrain',
        experiment_name=f'progress_{tmp_path.name}',
    )
    runner.train()
    log = Path(runner.log_dir)
    lines = (log / 'vis_data' / 'scalars.json').read_text().splitlines()
    return [json.loads(line) for line in lines], log


class Samples(torch.utils.data.Dataset):
    """Eight labelled images of noise."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict:
        batch = builders.raw_batch(8)
        return {key: value[index] for key, value in batch.items()}


def test_a_run_logs_under_stable_names(run: tuple[list[dict], Path]) -> None:
    lines, log = run
    steps = [line for line in lines if 'loss' in line]
    assert [line['step'] for line in steps] == [1, 2, 3, 4]
    for line in steps:
        assert line['images_per_second'] > 0
        assert 0 <= line['agreement'] <= 1
        parts = sum(v for k, v in line.items() if '.loss' in k)
        assert line['loss'] == pytest.approx(parts, rel=1e-5)
    (weights,) = (line for line in lines if 'weight/loss_kd' in line)
    record = json.loads((log / 'run.json').read_text())
    assert {f'weight/{k}': v for k, v in record['loss_weights'].items()} == {
        k: v for k, v in weights.items() if k.startswith('weight/')
    }
    assert record['iterations_per_epoch'] == 2
    assert time.time() - 600 < record['started'] < time.time()
    assert record['processes'] == 1
    assert record['parameters']['teacher'] > record['parameters']['student']
    assert 'PyTorch' in record['environment']
    assert not list(log.glob('*.tmp'))


class Count(BaseMetric):
    """Validates without looking at anything."""

    default_prefix = 'accuracy'

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results.append(1.0)

    def compute_metrics(self, results: list) -> dict:
        return dict(top1=float(len(results)))


@pytest.mark.parametrize('hierarchy', [False, True])
def test_validations_of_a_run_of_iterations_are_where_they_were(
    tmp_path: Path, hierarchy: bool
) -> None:
    loader = dict(
        batch_size=4,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=False),
        dataset=Samples(),
    )
    runner = Runner(
        model=builders.build(),
        work_dir=str(tmp_path),
        train_dataloader=loader | dict(sampler=dict(type='InfiniteSampler')),
        val_dataloader=loader,
        val_cfg=dict(),
        val_evaluator=Evaluator(Count()),
        train_cfg=dict(by_epoch=False, max_iters=7, val_interval=3),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01)),
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=4),
            checkpoint=None,
            run_record=dict(type='RunRecordHook'),
        ),
        log_processor=dict(log_with_hierarchy=hierarchy),
        default_scope='mmpretrain',
        experiment_name=f'iterations_{tmp_path.name}',
    )
    runner.train()
    run = read_run(tmp_path)
    assert [step for step, _ in run.val['accuracy/top1']] == [3, 6, 7]
    assert run.per_epoch() is None


def test_models_without_a_distiller_are_recorded(tmp_path: Path) -> None:
    said: list[str] = []
    runner = SimpleNamespace(
        model=nn.Linear(3, 2),
        train_dataloader=[0] * 7,
        log_dir=str(tmp_path),
        logger=SimpleNamespace(info=said.append),
    )
    RunRecordHook().before_train(runner)
    record = json.loads((tmp_path / 'run.json').read_text())
    assert record['parameters'] == {'student': 8}
    assert record['loss_weights'] == {}
    assert not said


def test_agreement_is_the_share_of_equal_answers() -> None:
    model = builders.build().eval()
    inputs, samples = builders.batch(8)
    with torch.no_grad():
        teacher = model.teacher(model.teacher_inputs(inputs))
        losses = model.loss(inputs, samples)
        student = model.student.head.layers.head_dist(
            model.student.backbone(inputs)[-1][-1]
        )
    expected = (student.argmax(1) == teacher.argmax(1)).float().mean()
    assert losses['agreement'] == expected
    total, logged = model.parse_losses(losses)
    assert 'agreement' in logged
    parts = [v for k, v in losses.items() if 'loss' in k]
    assert total == pytest.approx(float(sum(parts)))


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    logger = logging.Logger('progress')
    logger.addHandler(logging.StreamHandler(sys.__stdout__))
    yield logger
    logger.handlers.clear()


def fake_runner(logger: logging.Logger) -> Any:
    hub = MessageHub('progress')
    hub.update_scalar('train/images_per_second', 12345.6)
    hub.update_scalar('train/loss', 4.5)
    return SimpleNamespace(iter=3, max_iters=5, logger=logger, message_hub=hub)


def test_a_terminal_gets_a_bar_below_the_log(logger: logging.Logger) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120)
    hook, runner = ProgressHook(console), fake_runner(logger)
    hook.before_train(runner)
    assert logger.handlers[0].stream is sys.stdout is not sys.__stdout__
    hook.after_train_iter(runner, 0)
    logger.warning('a line of the log')
    hook.after_train(runner)
    hook.after_run(runner)
    shown = screen.getvalue()
    assert '4/5' in shown
    assert '12,346 images/s, loss 4.5' in shown
    assert 'a line of the log' in shown
    assert logger.handlers[0].stream is sys.__stdout__


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs os.fork')
def test_a_forked_process_writes_past_the_bar(logger: logging.Logger) -> None:
    """Whose lock its parent's bar may hold at the fork, here for sure."""
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    hook, runner = ProgressHook(console), fake_runner(logger)
    before = sys.stdout, sys.stderr
    hook.before_train(runner)
    with console._lock:
        child = os.fork()
        if not child:
            given_back = (sys.stdout, sys.stderr) == before
            handler = logger.handlers[0].stream is sys.__stdout__
            os._exit(0 if given_back and handler else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert sys.stdout is not before[0]  # the parent's bar goes on
    hook.after_train(runner)
    assert (sys.stdout, sys.stderr) == before


def test_a_file_gets_no_bar(logger: logging.Logger) -> None:
    screen = io.StringIO()
    hook = ProgressHook(Console(file=screen, force_terminal=False))
    runner = fake_runner(logger)
    hook.before_train(runner)
    hook.after_train_iter(runner, 0)
    hook.after_run(runner)
    assert screen.getvalue() == ''
    assert logger.handlers[0].stream is sys.__stdout__
