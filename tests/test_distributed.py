# Copyright (c) The serkd_mm authors. All rights reserved.
"""Two processes over gloo, started as a user would."""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from serkd_mm.engine.launch import add_runner_arguments, load_config

ROOT = Path(__file__).resolve().parents[1]
SERKD = str(ROOT / 'configs' / 'quickstart' / 'serkd.py')

CONFIG = f"""
_base_ = {SERKD!r}
custom_imports = dict(imports=['serkd_mm', 'compare_ranks'])
custom_hooks = [dict(type='CompareRanks')]
param_scheduler = None
# 200 images: 4 steps of 2 x 25.
train_dataloader = dict(dataset=dict(times=4))
train_cfg = dict(max_epochs=1, val_interval=1)
default_hooks = dict(checkpoint=dict(interval=1), logger=dict(interval=1))
"""

# Compares the parameters of all processes at the end of training.
COMPARE = """
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import distributed


@HOOKS.register_module()
class CompareRanks(Hook):

    def after_train(self, runner):
        model = runner.model.module
        for name, value in (
            ('student', list(model.parameters())),
            ('teacher', list(model.teacher.parameters())),
        ):
            own = torch.cat([p.detach().flatten() for p in value])
            everyone = [torch.empty_like(own) for _ in range(2)]
            distributed.all_gather(everyone, own)
            equal = torch.equal(*everyone)
            # A file each: lines of two processes in one pipe may mix.
            with open(f'{name}-{runner.rank}-{runner.world_size}', 'w') as f:
                f.write(str(equal))
"""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return free.getsockname()[1]


def dist_train(*arguments: Any, cwd: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(
        filter(None, (str(cwd), os.environ.get('PYTHONPATH')))
    )
    return subprocess.run(
        ['bash', str(ROOT / 'tools' / 'dist_train.sh')]
        + [str(argument) for argument in arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={
            **os.environ,
            'PYTHON': sys.executable,
            'PYTHONPATH': path,
            'PYTHONWARNINGS': 'ignore',
            'PORT': str(free_port()),
            'OMP_NUM_THREADS': '1',
        },
        timeout=600,
    )


@pytest.mark.slow
def test_two_processes_train_one_student(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip('the run over gloo is for machines without CUDA')
    (tmp_path / 'compare_ranks.py').write_text(COMPARE)
    (tmp_path / 'short.py').write_text(CONFIG)

    done = dist_train(
        'short.py',
        2,
        '--work-dir',
        'work',
        '--cfg-options',
        'model.teacher_ckpt=None',
        'model.allow_random_teacher=True',
        cwd=tmp_path,
    )

    assert done.returncode == 0, done.stderr[-3000:]
    said = {p.name: p.read_text() for p in tmp_path.glob('*-?-?')}
    assert said == {
        'student-0-2': 'True',
        'student-1-2': 'True',
        'teacher-0-2': 'True',
        'teacher-1-2': 'True',
    }
    log = done.stdout + done.stderr
    assert 'Epoch(train) [1][4/4]' in log
    assert 'accuracy/top1' in log
    state = torch.load(tmp_path / 'work' / 'epoch_1.pth')['state_dict']
    prefixes = {key.split('.')[0] for key in state}
    assert prefixes == {'architecture', 'distiller'}


def test_too_few_arguments_show_the_usage(tmp_path: Path) -> None:
    done = dist_train(SERKD, cwd=tmp_path)

    assert done.returncode == 2
    assert 'usage:' in done.stderr


@pytest.mark.parametrize(
    'spelling',
    [
        ['--local-rank=3'],
        ['--local_rank=3'],
        ['--local-rank', '3'],
        ['--local_rank', '3'],
    ],
)
def test_both_spellings_of_the_local_rank_parse(
    spelling: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('LOCAL_RANK', '')
    monkeypatch.delenv('LOCAL_RANK')
    parser = argparse.ArgumentParser()
    add_runner_arguments(parser)

    args = parser.parse_args([SERKD, *spelling])
    load_config(args)

    assert args.local_rank == 3
    assert os.environ['LOCAL_RANK'] == '3'


def test_the_launchers_local_rank_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv('LOCAL_RANK', '1')
    parser = argparse.ArgumentParser()
    add_runner_arguments(parser)

    load_config(parser.parse_args([SERKD]))

    assert os.environ['LOCAL_RANK'] == '1'


def test_the_work_dir_is_the_options_or_the_configs_name() -> None:
    parser = argparse.ArgumentParser()
    add_runner_arguments(parser)

    named = load_config(parser.parse_args([SERKD]))
    chosen = load_config(parser.parse_args([SERKD, '--work-dir', 'there']))
    optional = load_config(
        parser.parse_args([SERKD, '--cfg-options', 'work_dir=here'])
    )

    assert named.work_dir == os.path.join('work_dirs', 'serkd')
    assert chosen.work_dir == 'there'
    assert optional.work_dir == 'here'


def test_a_config_is_named_by_package_path_too() -> None:
    parser = argparse.ArgumentParser()
    add_runner_arguments(parser)

    cfg = load_config(
        parser.parse_args(
            [
                'serkd_mm::quickstart/serkd.py',
                '--launcher',
                'none',
                '--cfg-options',
                'model.teacher_ckpt=None',
                'train_dataloader.batch_size=7',
            ]
        )
    )

    assert cfg.model.teacher_ckpt is None
    assert cfg.train_dataloader.batch_size == 7
    assert cfg.work_dir == os.path.join('work_dirs', 'serkd')
    assert cfg.launcher == 'none'
