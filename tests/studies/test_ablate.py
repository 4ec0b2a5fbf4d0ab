# Copyright (c) The serkd_mm authors. All rights reserved.
"""The tool: a real study, tiny, and what it says to the user."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

from serkd_mm.studies.cli import main

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / 'configs'
# Two steps of training and ten images of validation.
TINY = [
    'train_cfg.max_epochs=1',
    'train_dataloader.batch_size=10',
    'val_dataloader.dataset.indices=10',
    'param_scheduler=None',
]


def start(*arguments: Any, cwd: Path) -> subprocess.Popen[str]:
    path = os.pathsep.join(
        filter(None, (str(ROOT), os.environ.get('PYTHONPATH')))
    )
    return subprocess.Popen(
        [sys.executable, '-W', 'ignore', str(ROOT / 'tools' / 'ablate.py')]
        + [str(argument) for argument in arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={**os.environ, 'PYTHONPATH': path},
    )


def ablate(*arguments: Any, cwd: Path) -> tuple[int, str, str]:
    process = start(*arguments, cwd=cwd)
    output, error = process.communicate(timeout=300)
    return process.returncode, output, error


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study of a teacher, KD and SeRKD on ten labels."""
    folder = tmp_path_factory.mktemp('study')
    labels = {'train_dataloader.dataset.dataset.samples_per_class': 1}
    content = {
        'title': 'Tiny',
        'seeds': [3],
        'seed_keys': [
            'randomness.seed',
            'train_dataloader.dataset.dataset.subset_seed',
        ],
        'teacher': {
            'config': str(CONFIGS / 'quickstart' / 'teacher.py'),
            'options': labels,
        },
        'baseline': 'kd',
        'experiments': [
            {
                'name': name,
                'config': str(CONFIGS / 'digits' / f'{name}.py'),
                'options': {**labels, 'train_dataloader.dataset.times': 2},
            }
            for name in ('kd', 'serkd')
        ],
    }
    (folder / 'tiny.yml').write_text(json.dumps(content))
    return folder


@pytest.mark.slow
def test_a_tiny_study_from_teacher_to_table(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    command = ('run', 'tiny.yml', '--jobs', 1, '--cfg-options', *TINY)

    code, output, error = ablate(*command, cwd=folder)

    assert code == 0, error[-2000:]
    out = folder / 'work_dirs' / 'studies' / 'tiny'
    record = json.loads((out / 'serkd' / 'seed-3' / 'run.json').read_text())
    ((epoch, top1),) = record['curve']
    assert (epoch, top1) == (1, record['last'])
    assert top1 in [10.0 * count for count in range(11)]
    assert record['environment']['threads'] == 1
    trained = Config.fromfile(out / 'serkd' / 'seed-3' / 'config.py')
    assert trained.model.teacher_ckpt == f'{out}/teacher/epoch_1.pth'
    assert trained.train_dataloader.dataset.dataset.subset_seed == 3
    assert trained.randomness.seed == 3
    with (out / 'tiny.csv').open() as file:
        rows = {row['experiment']: row for row in csv.DictReader(file)}
    assert float(rows['serkd']['top1_mean']) == top1
    difference = top1 - float(rows['kd']['top1_mean'])
    assert float(rows['serkd']['difference_mean']) == difference
    assert f'| serkd | {top1:.2f} | {difference:+.2f} | 1 |' in output
    assert (out / 'tiny.png').stat().st_size > 5000

    # Finished runs are left alone, and asked for with other settings refused.
    monkeypatch.chdir(folder)
    main(ROOT, list(map(str, command)))
    assert '2 of 2 runs are finished' in capsys.readouterr().out
    main(ROOT, [*map(str, command), '--only', 'serkd'])
    assert '| kd |' in capsys.readouterr().out
    (line,) = re.findall('Command: `(.*)`', (out / 'tiny.md').read_text())
    options = ' '.join(shlex.quote(option) for option in TINY)
    command_line = 'python tools/ablate.py run tiny.yml --cfg-options'
    assert line == f'{command_line} {options}'
    again = json.loads((out / 'serkd' / 'seed-3' / 'run.json').read_text())
    assert again == record
    with pytest.raises(SystemExit):
        main(ROOT, ['run', 'tiny.yml', '--only', 'kd'])
    refused = 'error: 1 run was trained with another config, teacher or ar'
    said = capsys.readouterr().err
    assert refused in said
    assert '(param_scheduler' in said or '(train_' in said
    main(ROOT, ['table', 'tiny.yml', '--save', 'saved'])
    (again,) = re.findall('Command: `(.*)`', Path('saved/tiny.md').read_text())
    assert again == line
    capsys.readouterr()
    shown = ['table', 'tiny.yml', '--only', 'serkd', '--save', 'saved']
    main(ROOT, shown)
    assert f'| {difference:+.2f} |' in capsys.readouterr().out
    # As if another machine had trained it.
    other = folder / 'other' / 'tiny'
    other.mkdir(parents=True)
    (out / 'kd').rename(other / 'kd')
    main(ROOT, [*shown, '--also', 'other'])
    assert f'| {difference:+.2f} |' in capsys.readouterr().out


@pytest.mark.slow
def test_ending_the_tool_ends_its_training(
    folder: Path, tmp_path: Path
) -> None:
    options = (
        *('--out', tmp_path, '--only', 'kd', '--jobs', 1),
        *('--cfg-options', 'train_cfg.max_epochs=1000'),
    )
    process = start('run', 'tiny.yml', *options, cwd=folder)
    log = tmp_path / 'tiny' / 'teacher' / 'train.log'
    while not log.exists() or 'Epoch(train)' not in log.read_text():
        assert process.poll() is None, process.communicate()[1][-2000:]
        time.sleep(0.1)

    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)

    assert process.returncode == 130
    assert error.strip() == 'interrupted; the same command goes on'
    size = log.stat().st_size
    time.sleep(1)
    assert log.stat().st_size == size
    record = json.loads((log.parent / 'run.json').read_text())
    assert record['status'] == 'running'


def test_a_row_of_the_paper_is_listed_with_its_command(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)

    main(ROOT, ['list', 'table7', '--only', 'kd-2_deit-s'])

    lines = capsys.readouterr().out.splitlines()
    assert ' 24 experiments x 1 seed: Table VII' in lines[0]
    assert lines[1].split()[:4] == ['kd-2_deit-s', 'paper', '81.0', '0/1']
    assert 'configs/ablations/table7_kd-2_deit-ti.py' in lines[1]
    assert 'model.architecture.backbone.arch=deit-small' in lines[1]
    command = 'run table7 --only kd-2_deit-s'
    assert lines[2] == f'one:  python tools/ablate.py {command} [--gpus 8]'
    options = '--gpus 1 --jobs 1 --amp --dry-run'
    main(ROOT, f'{command} {options}'.split())
    folder = tmp_path / 'work_dirs/studies/table7/kd-2_deit-s/seed-0'
    assert capsys.readouterr().out.strip() == (
        f'kd-2_deit-s seed 0 (open): bash {ROOT}/tools/dist_train.sh '
        f'{folder}/config.py 1 --work-dir {folder} --amp'
    )
    assert not list(tmp_path.iterdir())


def test_what_a_study_sets_everywhere_is_listed_once(
    capsys: pytest.CaptureFixture,
) -> None:
    main(ROOT, ['list', 'cifar10-short'])

    text = capsys.readouterr().out
    assert text.count('train_cfg.max_epochs=10') == 1
    assert text.splitlines()[1].startswith('  every experiment: train_cfg.')
    assert text.splitlines()[2].endswith(' configs/cifar10/kd.py')


def test_who_reads_a_list_may_stop(tmp_path: Path) -> None:
    process = start('list', 'table7', cwd=tmp_path)
    assert process.stdout is not None
    process.stdout.close()
    _, error = process.communicate(timeout=300)
    assert (process.returncode, error) == (0, '')


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('list', 'table9'), "'table9' is no study of .* no file; there are "),
        (('run', 'digits', '--only', 'x'), "no experiment 'x'; it has stud"),
        (('run', 'digits', '--teacher', 'x.pth'), 'x.pth is not a file'),
        (('run', 'digits', '--threads', '0'), 'must be at least 1'),
        (('run', 'digits', '--gpus', '0'), 'must be at least 1'),
        (
            ('run', 'digits', '--cfg-options', 'param_scheduler.9.end=3'),
            r'option param_scheduler.9.end=3 has no place',
        ),
        (('table', 'digits'), "no run of study 'digits' in .* is finished"),
        (('table', 'digits', '--also', 'x'), '--also: .*x/digits does not ex'),
        (
            ('run', 'digits', '--jobs', '999', '--threads', '2'),
            '999 jobs of 2 threads are more than the .* cores; lower --jobs',
        ),
        (
            ('run', 'digits', '--threads', '999'),
            '1 jobs of 999 threads are more than the .* cores',
        ),
        (('run', 'digits', '--jobs', '0'), 'must be at least 1'),
        (
            ('run', 'digits', '--gpus', '3'),
            r'--gpus 3 is more than CUDA may use here: GPU 4, 6',
        ),
    ],
)
def test_a_mistake_on_the_command_line_is_named(
    arguments: tuple,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '4,6')
    with pytest.raises(SystemExit) as exit_:
        main(ROOT, arguments)

    assert exit_.value.code == 2

    assert re.search(message, capsys.readouterr().err)
    assert not list(tmp_path.iterdir())
