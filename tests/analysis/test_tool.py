# Copyright (c) The serkd_mm authors. All rights reserved.
"""The command line: exit codes, files, one line for a mistake."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
from mmengine.config import Config

ROOT = Path(__file__).resolve().parents[2]
QUICK = ['--steps', '1', '--batch-size', '4', '--device', 'cpu']
PAIR = ['serkd_mm::quickstart/teacher.py', 'serkd_mm::quickstart/student.py']


@pytest.fixture(scope='module')
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        'check_pair_tool', ROOT / 'tools/check_pair.py'
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_pair_that_fits_ends_well(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / 'pair.json'

    code = tool.main(
        [
            'serkd_mm::quickstart/serkd.py',
            '--random-teacher',
            *('--json', str(path)),
            *QUICK,
        ]
    )

    assert code == 0
    assert json.loads(path.read_text())['fits']
    assert 'Everything fits.' in capsys.readouterr().out


def test_options_of_the_config_and_other_images_count(
    tool: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Where no quick start has left its teacher.
    monkeypatch.chdir(tmp_path)
    key = 'model.distiller.distill_losses.loss_feature.teacher_channels=95'

    code = tool.main(
        [
            'serkd_mm::quickstart/serkd.py',
            *('--cfg-options', key),
            *('--size', '48'),
            *QUICK,
        ]
    )

    out = ' '.join(capsys.readouterr().out.split())
    assert code == 1
    assert 'random images, 48x48' in out
    # The teacher's checkpoint is not there either.
    assert '2 PROBLEMS' in out


def test_a_suggestion_is_written_and_checked(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / 'new' / 'pair.py'

    code = tool.main(['--suggest', *PAIR, '--out', str(path), *QUICK])

    # The teacher's weights are left to the reader.
    assert code == 1
    out = capsys.readouterr().out
    assert f'Written to {path}.' in out
    assert '1 PROBLEM' in out
    assert 'TEACHER.pth' in out
    assert Config.fromfile(path).model.type == 'mmrazor.FrozenTeacherDistill'


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['no.py'], "error: config 'no.py' is not a file"),
        (
            ['--suggest', 'resnet50', PAIR[1], '--out', 'x.py'],
            'nearest names: resnet50_8xb32_in1k',
        ),
        ([PAIR[1]], 'is no config of a distillation'),
        (
            [PAIR[1], '--cfg-options', 'model=3'],
            'error: config key model must be of type',
        ),
        (
            [PAIR[1], '--cfg-options', 'param_scheduler.9.end=3'],
            'error: option param_scheduler.9.end=3 has no place',
        ),
        (
            [
                'serkd_mm::quickstart/serkd.py',
                *('--cfg-options', 'train_dataloader.batch_size=x'),
            ],
            "batch_size must be a whole number, got 'x'",
        ),
    ],
)
def test_a_mistake_is_one_line(
    tool: ModuleType,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture,
) -> None:
    assert tool.main(arguments) == 2

    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not Path('x.py').exists()


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ([], 'give a config, or --suggest'),
        (['a.py', '--suggest', 'b', 'c'], 'give a config, or --suggest'),
        (['--suggest', 'b', 'c'], '--suggest needs --out'),
        (['--suggest', 'b', 'c', '--out', __file__], 'exists; name another'),
        (['--suggest', 'b', 'c', '--out', 'x.txt'], 'must be a .py file'),
        (['a.py', '--out', 'x.py'], '--out is for --suggest'),
        (['a.py', '--device', 'cuda'], 'PyTorch finds no CUDA device'),
        (['a.py', '--batch-size', '0'], '--batch-size must be at least 1'),
        (['a.py', '--size', '1', '2', '3'], '--size takes one or two'),
    ],
)
def test_options_that_make_no_sense_are_refused(
    tool: ModuleType,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    with pytest.raises(SystemExit, match='2'):
        tool.main(arguments)
    assert message in capsys.readouterr().err
