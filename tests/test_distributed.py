# Copyright (c) The serkd_mm authors. All rights reserved.
"""Jobs of several processes, started as a user would."""

from __future__ import annotations

import argparse
import os
import re
import signal
from pathlib import Path

import pytest
import torch
from torch.distributed import fsdp

from serkd_mm.engine.launch import add_runner_arguments, load_config

from .jobs import (
    RANDOM_TEACHER,
    SERKD,
    TIMEOUT,
    free_port,
    run,
    started,
)

# Without randomness of its own in a rank, so that the global batch, not its
# division, decides: no augmentation, and SGD, which shows sums that should be
# means. 190 images: 50, 50, 50, 40 per step of all ranks. One connector of
# the student learns.
CONFIG = f"""
_base_ = {SERKD!r}
custom_imports = dict(imports=['serkd_mm', 'tests.rank_report'])
report = dict(type='RankReport')
custom_hooks = [report, dict(type='EMAHook')]
model = dict(
    type='MarkedTeacherDistill',
    architecture=dict(train_cfg=None),
    distiller=dict(
        connectors=dict(
            student_superpixels=[
                dict(type='VisualTokens', num_prefix_tokens=2),
                dict(type='FeatureMapTokenizer', stride=2, mode='conv'),
                dict(type='SuperpixelTokenizer', grid_size=(2, 2), norm='ln'),
            ],
            teacher_superpixels=[
                dict(type='VisualTokens', num_prefix_tokens=1),
                dict(type='FeatureMapTokenizer', stride=2, mode='avg'),
                dict(type='SuperpixelTokenizer', grid_size=(2, 2), norm='ln'),
            ],
        ),
    ),
)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='SGD', lr=0.05, momentum=0.9),
    paramwise_cfg=None,
)
param_scheduler = None
train_dataloader = dict(
    dataset=dict(
        times=1,
        dataset=dict(samples_per_class=19, pipeline=[dict(type='PackInputs')]),
    ),
)
val_evaluator = [dict(type='Accuracy', topk=(1,)), dict(type='ImagesSeen')]
train_cfg = dict(max_epochs=1, val_interval=1)
default_hooks = dict(checkpoint=dict(interval=1), logger=dict(interval=1))
"""
# In the second of four steps SIGTERM ends the launcher of the second rank.
INTERRUPTED = """
_base_ = 'short.py'
custom_imports = dict(
    imports=['serkd_mm', 'tests.rank_report', 'tests.rank_faults'],
)
custom_hooks = [
    {{_base_.report}},
    dict(type='EMAHook'),
    dict(type='TerminateLauncher', rank=1, step=2),
]
"""
SHARDED = """
_base_ = 'short.py'
model = dict(teacher_shard=['backbone.layers'])
"""
# Relative, for losses and parameters: the float32 sums of two halves and of
# the whole differ in their order only (measured: 5e-6).
TOLERANCE = 1e-4
STEPS = [50, 50, 50, 40]

needs_no_cuda = pytest.mark.skipif(
    torch.cuda.is_available(),
    reason='the runs over gloo are for machines without CUDA',
)


@pytest.fixture(scope='module')
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list]:
    """Reports of the ranks of one process and of two, same global batch."""
    reports = {}
    for name, count in (('one', 1), ('two', 2)):
        cwd = tmp_path_factory.mktemp(name)
        (cwd / 'short.py').write_text(CONFIG)
        work = ('--work-dir', 'work', *RANDOM_TEACHER)
        if count == 1:
            batch = 'train_dataloader.batch_size=50'
            code = run('train.py', 'short.py', *work, batch, cwd=cwd)
        else:
            code = run(
                *('dist_train.sh', 'short.py', count, *work),
                cwd=cwd,
                PORT=free_port(),
            )
        assert code == 0, (cwd / 'log.txt').read_text()[-3000:]
        reports[name] = [
            torch.load(cwd / f'report-{rank}.pth') for rank in range(count)
        ]
        reports[name][0]['log'] = (cwd / 'log.txt').read_text()
    return reports


@pytest.mark.slow
@needs_no_cuda
class TestTwoProcesses:
    """Over gloo, started as a user would."""

    def test_end_outside_their_group(self, reports: dict[str, list]) -> None:
        # Inside it, exiting aborts now and then ("terminate called").
        log = reports['two'][0]['log']
        assert re.findall(r'threads of Gloo: (\d+)', log) == ['0', '0']

    def test_have_the_losses_of_one(self, reports: dict[str, list]) -> None:
        one, two = reports['one'][0]['losses'], reports['two']
        assert [rank['world_size'] for rank in two] == [2, 2]
        assert [step['images'] for step in one] == STEPS
        for rank in two:
            images = [step['images'] for step in rank['losses']]
            assert images == [count // 2 for count in STEPS]

        for whole, *parts in zip(one, *(rank['losses'] for rank in two)):
            del whole['images']
            assert {'loss', 'student.loss', 'distill.loss_angle'} <= set(whole)
            for name, loss in whole.items():
                mean = sum(part[name] for part in parts) / len(parts)
                assert mean == pytest.approx(loss, rel=TOLERANCE), name

    def test_end_with_the_parameters_of_one(
        self, reports: dict[str, list]
    ) -> None:
        whole = reports['one'][0]['state']
        first, second = (rank['state'] for rank in reports['two'])
        kernel = 'distiller.connectors.student_superpixels.1.kernel'

        assert {name.split('.')[0] for name in whole} == {
            'architecture',
            'distiller',
        }
        assert first.keys() == second.keys() == whole.keys()
        for name, value in whole.items():
            assert torch.equal(first[name], second[name]), name
            torch.testing.assert_close(
                first[name], value, rtol=TOLERANCE, atol=1e-6
            )
        moved = (first[kernel] - 0.25).abs().max()
        assert moved > 100 * (first[kernel] - whole[kernel]).abs().max()

    def test_wait_for_every_parameter(self, reports: dict[str, list]) -> None:
        for rank in reports['two']:
            assert rank['wrapper'] == 'MMDistributedDataParallel'
            assert rank['find_unused'] is False

    def test_leave_the_teacher_alone(self, reports: dict[str, list]) -> None:
        two = reports['two']
        assert [rank['teacher_mark'] for rank in two] == [0.0, 1.0]
        for rank in two:
            assert not [n for n in rank['wrapped_names'] if 'teacher.' in n]
            assert rank['teacher_grads'] == 0

    def test_hold_one_teacher_each(self, reports: dict[str, list]) -> None:
        for rank in reports['two']:
            assert rank['teachers'] == 1
            assert rank['is_teacher']
            assert rank['ema_shares_teacher'] == [True]

    def test_check_the_teacher_on_every_image_once(
        self, reports: dict[str, list]
    ) -> None:
        said = [
            re.findall('The teacher on .*', ranks[0]['log'])
            for ranks in reports.values()
        ]
        assert said[0] == said[1]
        (line,) = said[0]
        assert line.startswith(
            'The teacher on all 719 validation images: accuracy/top1 '
        )
        assert line.endswith('images 719, distinct 719')

    def test_validate_every_image_once(self, reports: dict[str, list]) -> None:
        # 719 images, 360 to a rank: one is sent to both.
        (one,), two = reports['one'], reports['two']
        for rank in (one, *two):
            assert rank['metrics']['images'] == 719
            assert rank['metrics']['distinct'] == 719
            hits = rank['metrics']['accuracy/top1'] * 7.19
            assert hits == pytest.approx(round(hits), abs=1e-3)
        top1 = one['metrics']['accuracy/top1']
        # At most one image may change sides by rounding.
        assert two[0]['metrics']['accuracy/top1'] == pytest.approx(
            top1, abs=0.15
        )


@pytest.mark.slow
@needs_no_cuda
def test_sigterm_to_one_of_two_nodes_loses_nothing(
    tmp_path: Path, reports: dict[str, list]
) -> None:
    (tmp_path / 'short.py').write_text(CONFIG)
    (tmp_path / 'interrupted.py').write_text(INTERRUPTED)
    work = ('--work-dir', 'work', *RANDOM_TEACHER)

    # Two nodes on one machine: a launcher each.
    port = free_port()
    nodes = [
        started(
            *('dist_train.sh', 'interrupted.py', 1, *work),
            cwd=tmp_path,
            log=f'node-{node}.txt',
            NNODES=2,
            NODE_RANK=node,
            MASTER_ADDR='127.0.0.1',
            PORT=port,
        )
        for node in range(2)
    ]
    with nodes[0] as first, nodes[1] as second:
        codes = [node.wait(timeout=TIMEOUT) for node in (first, second)]

    log = (tmp_path / 'node-0.txt').read_text()
    assert codes == [128 + signal.SIGTERM] * 2, log[-3000:]
    assert 'work/interrupted.pth after 0 epochs and 2 iterations' in log
    assert 'Traceback' not in log
    assert 'threads of Gloo: 0' in log
    saved = torch.load(tmp_path / 'work' / 'interrupted.pth')['meta']
    assert (saved['epoch'], saved['iter']) == (0, 2)

    code = run(
        *('dist_train.sh', 'short.py', 2, '--resume', *work),
        cwd=tmp_path,
        PORT=free_port(),
    )

    assert code == 0, (tmp_path / 'log.txt').read_text()[-3000:]
    for rank, straight in enumerate(reports['two']):
        resumed = torch.load(tmp_path / f'report-{rank}.pth')
        assert resumed['losses'] == straight['losses'][2:]
        assert_same_state(resumed, straight)


@pytest.mark.slow
@needs_no_cuda
@pytest.mark.skipif(
    not hasattr(fsdp, 'fully_shard'),
    reason='this torch cannot shard a module in place',
)
def test_a_teacher_that_is_divided_is_the_same(
    tmp_path: Path, reports: dict[str, list]
) -> None:
    (tmp_path / 'short.py').write_text(CONFIG)
    (tmp_path / 'sharded.py').write_text(SHARDED)

    code = run(
        *('dist_train.sh', 'sharded.py', 2, '--work-dir', 'work'),
        *('--no-validate', *RANDOM_TEACHER),
        cwd=tmp_path,
        PORT=free_port(),
    )

    assert code == 0, (tmp_path / 'log.txt').read_text()[-3000:]
    sharded = [torch.load(tmp_path / f'report-{r}.pth') for r in range(2)]
    for rank, straight in zip(sharded, reports['two']):
        assert rank['losses'] == straight['losses']
        assert rank['teacher_size'] < 0.52 * straight['teacher_size']
        assert_same_state(rank, straight)
    # Each has the mark beside its part.
    sizes = [rank['teacher_size'] for rank in sharded]
    assert sum(sizes) == reports['two'][0]['teacher_size'] + 1


def assert_same_state(report: dict, other: dict) -> None:
    for name, value in other['state'].items():
        assert torch.equal(report['state'][name], value), name


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        (('dist_train.sh', SERKD), ''),
        (('dist_train.sh', SERKD, '--amp'), ", got '--amp'"),
        (('dist_train.sh', SERKD, 0), ", got '0'"),
        (('dist_test.sh', SERKD, 'best.pth'), ''),
        (('dist_test.sh', SERKD, 'best.pth', 'two'), ", got 'two'"),
    ],
)
def test_without_a_number_of_processes_the_usage_is_shown(
    arguments: tuple, said: str, tmp_path: Path
) -> None:
    assert run(*arguments, cwd=tmp_path) == 2
    shown = (tmp_path / 'log.txt').read_text()
    assert shown.startswith('usage: ')
    assert shown.endswith(f'is a positive integer{said}\n')


def test_restarts_that_are_no_number_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('MAX_RESTARTS', 'three')
    assert run('dist_train.sh', SERKD, 1, cwd=tmp_path) == 2
    shown = (tmp_path / 'log.txt').read_text()
    assert shown == "MAX_RESTARTS is a number of restarts, got 'three'\n"


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
    packaged = load_config(parser.parse_args(['serkd_mm::serkd_deit-s.py']))

    assert named.work_dir == os.path.join('work_dirs', 'serkd')
    assert packaged.work_dir == os.path.join('work_dirs', 'serkd_deit-s')
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


SPOILED = f"""
_base_ = {SERKD!r}
custom_imports = dict(imports=['serkd_mm', 'tests.rank_trap'])
custom_hooks = [dict(type='SpoilBatches', rank=1, iterations=(2, 4, 5))]
param_scheduler = None
train_dataloader = dict(dataset=dict(times=6))
train_cfg = dict(max_epochs=1)
default_hooks = dict(non_finite=dict(action='skip', max_consecutive=1))
"""


@pytest.mark.slow
@needs_no_cuda
def test_all_ranks_skip_what_is_not_finite_on_one(tmp_path: Path) -> None:
    (tmp_path / 'spoiled.py').write_text(SPOILED)

    code = run(
        *('dist_train.sh', 'spoiled.py', 2, '--work-dir', 'work'),
        *RANDOM_TEACHER,
        cwd=tmp_path,
        PORT=free_port(),
    )

    log = (tmp_path / 'log.txt').read_text()
    # The second skip in a row, in iteration 5, is one too many.
    assert code != 0
    assert '2 updates in a row had losses or gradients' in log
    states = {
        name: torch.load(tmp_path / f'state-{name}.pth')
        for name in ('0-1', '0-2', '0-3', '0-4', '1-1', '1-2', '1-3', '1-4')
    }

    def equal(first: str, second: str) -> bool:
        pairs = zip(states[first].values(), states[second].values())
        return all(torch.equal(a, b) for a, b in pairs)

    assert all(equal(f'0-{i}', f'1-{i}') for i in range(1, 5))
    assert equal('0-1', '0-2')
    assert equal('0-3', '0-4')
    assert not equal('0-2', '0-3')
    # The log, rank 0's, tells of rank 1 and of nobody else.
    (told, *_) = (line for line in log.splitlines() if 'No update, as' in line)
    assert 'iteration 2 (epoch 1): rank 1: losses ' in told
    assert 'student.loss=nan' in told
    assert ', '.join(torch.load(tmp_path / 'paths-2.pth')[:8]) in told
    assert 'rank 0' not in told
    assert [p.name for p in tmp_path.glob('work/non_finite/*')] == [
        'iter_2_rank_1.pth'
    ]
