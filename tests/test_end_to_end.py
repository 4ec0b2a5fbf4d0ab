# Copyright (c) The serkd_mm authors. All rights reserved.
"""From the command line to a trained student on real images, and what a
mistake in the config looks like there."""

from __future__ import annotations

import functools
import json
import os
import runpy
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.device import get_device

from .jobs import SERKD_LOSSES

ROOT = Path(__file__).resolve().parents[1]
QUICKSTART = ROOT / 'configs' / 'quickstart'
STUDENT_EPOCHS = 6
# Ten classes: twice chance. Measured: 36.7 after a teacher of 43.9.
MARGIN = 20.0


def tool(
    name: str, *arguments: Any, cwd: Path
) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(
        filter(None, (str(ROOT), os.environ.get('PYTHONPATH')))
    )
    return subprocess.run(
        [sys.executable, '-W', 'ignore', str(ROOT / 'tools' / name)]
        + [str(argument) for argument in arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, 'PYTHONPATH': path, 'OMP_NUM_THREADS': '1'},
        timeout=600,
    )


def run_tool(name: str, *arguments: Any, cwd: Path) -> str:
    done = tool(name, *arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def last_words(
    monkeypatch: pytest.MonkeyPatch, name: str, *arguments: Any, cwd: Path
) -> tuple[str, bool]:
    """The last line of a tool that fails, and whether a traceback is before.

    Runs it in this process, which spares the imports of one of its own.
    """
    path = ROOT / 'tools' / name
    monkeypatch.setattr(sys, 'argv', [str(path), *map(str, arguments)])
    monkeypatch.setenv('LOCAL_RANK', '0')
    monkeypatch.chdir(cwd)
    try:
        runpy.run_path(str(path), run_name='__main__')
    except SystemExit as stop:
        return str(stop.code), False
    except Exception as error:
        lines = traceback.format_exception_only(type(error), error)
        return lines[-1].rstrip(), True
    raise AssertionError(f'{name} did not fail')


def last_words_of_process(
    name: str, *arguments: Any, cwd: Path
) -> tuple[str, bool]:
    """The same of a process as a user starts it."""
    done = tool(name, *arguments, cwd=cwd)
    assert done.returncode != 0
    last = done.stderr.rstrip().splitlines()[-1]
    return last, 'Traceback' in done.stderr


def logged(work_dir: Path) -> list[dict]:
    (scalars,) = work_dir.glob('*/vis_data/scalars.json')
    return [json.loads(line) for line in scalars.read_text().splitlines()]


def losses(work_dir: Path, name: str = 'loss') -> list[float]:
    return [line[name] for line in logged(work_dir) if name in line]


def top1(work_dir: Path) -> float:
    found = [line.get('accuracy/top1') for line in logged(work_dir)]
    return [value for value in found if value is not None][-1]


def serkd_options(teacher: Path) -> list[str]:
    return [
        '--cfg-options',
        f'model.teacher_ckpt={teacher}',
        f'train_cfg.val_interval={STUDENT_EPOCHS}',
        'default_hooks.checkpoint.interval=3',
        'default_hooks.checkpoint.max_keep_ckpts=-1',
    ]


@pytest.fixture(scope='module')
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of a teacher, briefly trained."""
    folder = tmp_path_factory.mktemp('teacher')
    run_tool(
        'train.py',
        QUICKSTART / 'teacher.py',
        '--work-dir',
        folder,
        '--cfg-options',
        'train_cfg.max_epochs=6',
        'train_cfg.val_interval=6',
        'train_dataloader.batch_size=32',
        'default_hooks.checkpoint.interval=6',
        cwd=folder,
    )
    return folder / 'epoch_6.pth'


@pytest.fixture(scope='module')
def student(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Work dir of a student that learned from the teacher."""
    folder = tmp_path_factory.mktemp('student')
    run_tool(
        'train.py',
        QUICKSTART / 'serkd.py',
        '--work-dir',
        folder,
        *serkd_options(teacher),
        f'train_cfg.max_epochs={STUDENT_EPOCHS}',
        cwd=folder,
    )
    return folder


@pytest.mark.slow
def test_the_student_learns(student: Path) -> None:
    for name in SERKD_LOSSES:
        values = losses(student, name)
        # 1000 images in batches of 25, logged every 10 steps.
        assert len(values) == 4 * STUDENT_EPOCHS
        assert sum(values[-4:]) < 0.95 * sum(values[:4]), name
    assert top1(student) > MARGIN


@pytest.mark.slow
def test_the_checkpoint_holds_the_student_and_no_teacher(
    student: Path,
) -> None:
    state = torch.load(student / f'epoch_{STUDENT_EPOCHS}.pth')['state_dict']

    assert {key.split('.')[0] for key in state} == {
        'architecture',
        'distiller',
    }
    assert [key for key in state if key.startswith('distiller.')] == [
        'distiller.distill_losses.loss_feature.projection.weight',
        'distiller.distill_losses.loss_feature.projection.bias',
    ]
    widths = {value.shape[-1] for value in state.values() if value.dim() > 1}
    # The teacher's 192 hidden units are nowhere.
    assert 192 not in widths


@pytest.mark.slow
def test_testing_the_checkpoint_gives_the_same_top1(
    student: Path, tmp_path: Path
) -> None:
    metrics = tmp_path / 'metrics.json'
    # What a run that was resumed has left in its work dir.
    config = tmp_path / 'serkd.py'
    text = (student / 'serkd.py').read_text() + 'resume = True\n'
    config.write_text(text)

    # In a folder without the teacher's checkpoint: testing needs none.
    said = run_tool(
        'test.py',
        config,
        student / f'epoch_{STUDENT_EPOCHS}.pth',
        '--work-dir',
        tmp_path,
        '--out',
        metrics,
        '--out-item',
        'metrics',
        cwd=tmp_path,
    )

    assert 'RANDOM' not in said
    assert config.read_text() == text
    assert (tmp_path / 'test_serkd.py').is_file()
    tested = json.loads(metrics.read_text())['accuracy/top1']
    assert tested == pytest.approx(top1(student), abs=1e-4)


@pytest.mark.slow
def test_resuming_goes_on_where_training_stopped(
    teacher: Path, student: Path, tmp_path: Path
) -> None:
    run_tool(
        'train.py',
        QUICKSTART / 'serkd.py',
        '--work-dir',
        tmp_path,
        '--resume',
        student / 'epoch_3.pth',
        '--no-validate',
        *serkd_options(teacher),
        f'train_cfg.max_epochs={STUDENT_EPOCHS}',
        cwd=tmp_path,
    )

    straight = [line for line in logged(student) if 'loss' in line][12:]
    resumed = [line for line in logged(tmp_path) if 'loss' in line]
    for name in ('epoch', 'step', 'lr'):
        expected = [line[name] for line in straight]
        assert [line[name] for line in resumed] == expected
    # Weights and not only counters: far below the loss at the start.
    assert resumed[0]['loss'] < 0.8 * losses(student)[0]
    checkpoint = torch.load(tmp_path / f'epoch_{STUDENT_EPOCHS}.pth')
    counts = checkpoint['optimizer']['state'].values()
    assert {int(state['step']) for state in counts} == {40 * STUDENT_EPOCHS}


@pytest.mark.slow
@pytest.mark.skipif(
    get_device() != 'cpu', reason='mixed precision is float16 on a GPU'
)
def test_mixed_precision_on_cpus_is_bfloat16(
    teacher: Path, tmp_path: Path
) -> None:
    run_tool(
        'train.py',
        QUICKSTART / 'serkd.py',
        '--work-dir',
        tmp_path,
        '--amp',
        '--no-validate',
        *serkd_options(teacher),
        'train_cfg.max_epochs=1',
        'param_scheduler=None',
        cwd=tmp_path,
    )

    cfg = Config.fromfile(tmp_path / 'serkd.py')
    assert cfg.optim_wrapper.type == 'Bfloat16OptimWrapper'
    assert 'loss_scale' not in cfg.optim_wrapper
    values = losses(tmp_path)
    assert values[-1] < values[0]


# -- mistakes ---------------------------------------------------------------

RANDOM = ('model.teacher_ckpt=None', 'model.allow_random_teacher=True')
TOKENS = 'model.distiller.teacher_recorders.tokens.source'
CONNECTORS = 'model.distiller.connectors'

MISTAKES = {
    'no images': (
        'serkd_deit-ti.py',
        RANDOM,
        'error',
        ('data/imagenet', 'train_dataloader.dataset.data_root'),
    ),
    'no teacher': (
        'quickstart/serkd.py',
        ('model.teacher_ckpt=absent/teacher.pth',),
        'error',
        ("'absent/teacher.pth'", 'set model.teacher_ckpt'),
    ),
    'teacher left out': (
        'quickstart/serkd.py',
        ('model.teacher_ckpt=None',),
        'error',
        ('set model.teacher_ckpt', 'model.allow_random_teacher=True'),
    ),
    'teacher of another shape': (
        'quickstart/serkd.py',
        ('model.teacher_ckpt={other}',),
        'error',
        (
            'does not fit the teacher',
            'other shapes: backbone.cls_token (1, 1, 7) instead of (1, 1, 96)',
            'model.teacher config',
        ),
    ),
    'misspelt key': (
        'quickstart/serkd.py',
        (*RANDOM, 'param_schedulers=None'),
        'error',
        ('key param_schedulers is not known', 'did you mean param_scheduler'),
    ),
    'wrong type': (
        'quickstart/serkd.py',
        (*RANDOM, 'train_cfg.max_epochs=many'),
        'error',
        ('train_cfg.max_epochs', "'many'"),
    ),
    'unknown source': (
        'quickstart/serkd.py',
        (*RANDOM, f'{TOKENS}=backbone.ln2'),
        'ValueError',
        (
            "'backbone.ln2'",
            'nearest names: backbone.ln1',
            'change distiller.teacher_recorders.tokens.source',
        ),
    ),
    'prefix tokens': (
        'quickstart/serkd.py',
        (*RANDOM, f'{CONNECTORS}.teacher_tokens.num_prefix_tokens=2'),
        'ValueError',
        ('leaves 63 visual tokens', '8x8=64 (num_prefix_tokens=1)'),
    ),
    'token counts': (
        'quickstart/serkd.py',
        (*RANDOM, f'{CONNECTORS}.teacher_superpixels.1.grid_size=4'),
        'ValueError',
        ('(2, 16) and (2, 4)', 'grid_size'),
    ),
}


@pytest.fixture(scope='module')
def other_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights with the teacher's names in other shapes."""
    from mmengine.config import Config
    from mmengine.registry import DefaultScope
    from mmpretrain.registry import MODELS

    with DefaultScope.overwrite_default_scope('mmpretrain'):
        cfg = Config.fromfile(QUICKSTART / 'teacher.py').model
        state = MODELS.build(cfg).state_dict()
    other = {key: torch.zeros(*v.shape[:-1], 7) for key, v in state.items()}
    path = tmp_path_factory.mktemp('other') / 'other.pth'
    torch.save({'state_dict': other}, path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize('mistake', list(MISTAKES))
def test_a_mistake_ends_in_one_line_that_says_what_to_change(
    mistake: str,
    other_teacher: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config, options, error, parts = MISTAKES[mistake]
    say = functools.partial(last_words, monkeypatch)
    # One of each kind.
    if mistake in ('misspelt key', 'unknown source'):
        say = last_words_of_process

    last, traced = say(
        'train.py',
        ROOT / 'configs' / config,
        '--work-dir',
        tmp_path,
        '--cfg-options',
        *(option.format(other=other_teacher) for option in options),
        cwd=tmp_path,
    )

    assert last.startswith(f'{error}: ')
    for part in parts:
        assert part in last
    # What building a model raises keeps where it was raised.
    assert traced is (error != 'error')


@pytest.mark.slow
@pytest.mark.parametrize(
    ('tool_name', 'config', 'arguments', 'said'),
    [
        ('test.py', 'teacher', ['a.pth'], "checkpoint 'a.pth' is not a file"),
        ('test.py', 'teacher', ['{other}'], 'does not belong to the config'),
        # Where MMPretrain asserts that position embeddings fit.
        ('test.py', 'student', ['{other}'], 'does not belong to the config'),
        ('train.py', 'student', ['--resume', 'a.pth'], "--resume 'a.pth' is"),
        ('train.py', 'student', ['--resume', '{other}'], 'cannot resume'),
        (
            'train.py',
            'student',
            ['--cfg-options', 'load_from=.'],
            "load_from '.' is a folder",
        ),
    ],
)
def test_a_wrong_checkpoint_ends_without_traceback(
    tool_name: str,
    config: str,
    arguments: list[str],
    said: str,
    other_teacher: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    last, traced = last_words(
        monkeypatch,
        tool_name,
        QUICKSTART / f'{config}.py',
        *(argument.format(other=other_teacher) for argument in arguments),
        cwd=tmp_path,
    )

    assert last.startswith('error: ')
    assert said in last
    assert not traced
