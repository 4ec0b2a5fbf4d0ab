# Copyright (c) The serkd_mm authors. All rights reserved.
"""Logs of several starts are one run; pictures and pages are complete."""

from __future__ import annotations

import base64
import importlib.util
import json
import math
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure

from serkd_mm.analysis.logs import find_runs, read_run
from serkd_mm.analysis.plot_logs import _draw, markdown_table, plot_runs
from serkd_mm.analysis.report import write_report
from serkd_mm.studies.runs import read_curve

TOOLS = Path(__file__).resolve().parents[2] / 'tools'


def train_line(step: int, loss: float, **more: float) -> dict:
    epoch = (step - 1) // 10 + 1
    return dict(loss=loss, lr=0.1, epoch=epoch, iter=step, step=step, **more)


def val_line(epoch: int, top1: float) -> dict:
    return {'accuracy/top1': top1, 'time': 0.1, 'step': epoch}


def write_start(folder: Path, time: str, lines: list, **record) -> None:
    path = folder / time / 'vis_data' / 'scalars.json'
    path.parent.mkdir(parents=True)
    path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
    (path.parent / 'config.py').write_text('lr = 0.1  # <b>\n')
    (folder / time / 'run.json').write_text(json.dumps(record))


@pytest.fixture
def resumed(tmp_path: Path) -> Path:
    """Twenty iterations; resumed after ten, twice the log from there on."""
    folder = tmp_path / 'run'
    first = [
        train_line(5, 4.0, images_per_second=100.0, agreement=0.2),
        train_line(10, 3.0, images_per_second=300.0, agreement=0.3),
        val_line(1, 40.0),
        train_line(15, 9.0, images_per_second=900.0, agreement=0.9),
        val_line(2, 99.0),
    ]
    second = [
        train_line(15, 2.0, images_per_second=200.0, agreement=0.4),
        train_line(20, 1.0, images_per_second=250.0, agreement=0.5),
        val_line(2, 60.0),
        val_line(3, 50.0),
    ]
    write_start(folder, '20260101_000000', first, iterations_per_epoch=10)
    write_start(
        folder,
        '20260102_000000',
        second,
        iterations_per_epoch=10,
        command='python tools/train.py a<b',
        loss_weights={'loss_kd': 0.25},
    )
    return folder


def test_a_resumed_run_is_one_line(resumed: Path) -> None:
    run = read_run(resumed)
    assert run.train['loss'] == [(5, 4.0), (10, 3.0), (15, 2.0), (20, 1.0)]
    assert run.val['accuracy/top1'] == [(1, 40.0), (2, 60.0), (3, 50.0)]
    assert run.per_epoch() == 10


def test_a_run_begun_anew_forgets_the_old_one(resumed: Path) -> None:
    lines = [train_line(5, 7.0), val_line(1, 10.0)]
    write_start(resumed, '20260103_000000', lines)
    run = read_run(resumed)
    assert run.train['loss'] == [(5, 7.0)]
    assert run.val['accuracy/top1'] == [(1, 10.0)]


def test_a_run_begun_anew_forgets_the_old_validations(resumed: Path) -> None:
    """Its own come later; the first is one of the old run's iterations."""
    write_start(resumed, '20260103_000000', [train_line(8, 7.0)])
    run = read_run(resumed)
    assert run.train['loss'] == [(5, 4.0), (8, 7.0)]
    assert run.validated == []


def test_a_damaged_record_of_a_start_is_passed_over(resumed: Path) -> None:
    (resumed / '20260102_000000' / 'run.json').write_text('{"started": 1')
    assert read_run(resumed).train['loss'][-1] == (20, 1.0)


def test_the_table_has_the_numbers_of_the_log(resumed: Path) -> None:
    summary = read_run(resumed).summary()
    assert summary == {
        'run': str(resumed),
        'iterations': 20,
        'top-1 (last)': 50.0,
        'top-1 (best)': 60.0,
        'teacher top-1': None,
        'agreement': 0.5,
        'loss': 1.0,
        'images/s': 225.0,
    }
    row = markdown_table([read_run(resumed)]).splitlines()[-1]
    assert row == f'| {resumed} | 20 | 50 | 60 | - | 0.5 | 1 | 225 |'


def test_the_last_line_of_a_killed_run_is_passed_over(resumed: Path) -> None:
    path = resumed / '20260102_000000' / 'vis_data' / 'scalars.json'
    path.write_text(path.read_text() + '{"loss": 0.5, "st')
    assert read_run(resumed).train['loss'][-1] == (20, 1.0)
    assert read_curve(resumed) == [(1, 40.0), (2, 60.0), (3, 50.0)]


@pytest.mark.parametrize('damage', [b'12', b'\xff\xfe', b'["step"]', b'\0'])
def test_damaged_lines_are_passed_over(resumed: Path, damage: bytes) -> None:
    path = resumed / '20260102_000000' / 'vis_data' / 'scalars.json'
    path.write_bytes(damage + b'\n' + path.read_bytes() + damage)
    assert read_run(resumed).train['loss'][-1] == (20, 1.0)


@pytest.mark.parametrize('values', [[math.nan, 30.0], [30.0, math.nan]])
def test_the_best_is_a_number(tmp_path: Path, values: list) -> None:
    lines = [val_line(epoch, top1) for epoch, top1 in enumerate(values, 1)]
    write_start(tmp_path, '20260101_000000', lines)
    assert read_run(tmp_path).summary()['top-1 (best)'] == 30


@pytest.mark.parametrize('prefix', ['', 'val/'])
@pytest.mark.parametrize(
    ('name', 'title'),
    [
        ('accuracy/top1', 'top-1'),
        ('student/top1', 'top-1'),
        ('multi-label/mAP', 'multi-label/mAP'),
    ],
)
def test_other_metrics_and_hierarchies_are_known(
    tmp_path: Path, prefix: str, name: str, title: str
) -> None:
    train = dict(loss=2.0, lr=0.1, loss_kd=1.0)
    if prefix:
        train = {f'train/{key}': value for key, value in train.items()}
    metrics = {'data_time': 0.1, 'other/top5': 90.0, name: 77.0, 'time': 0.1}
    if not name.endswith('top1'):
        del metrics['other/top5']
    lines = [
        {'weight/loss_kd': 1.0, 'teacher/top1': 90.0, 'step': 0},
        dict(train, epoch=1, iter=10, step=10),
        {f'{prefix}{key}': value for key, value in metrics.items()}
        | dict(step=1),
    ]
    write_start(tmp_path / 'run', '20260101_000000', lines)
    run = read_run(tmp_path / 'run')
    assert run.losses == ['loss', 'loss_kd']
    summary = run.summary()
    assert summary[f'{title} (last)'] == summary[f'{title} (best)'] == 77
    axes = Figure().subplots()
    _draw(axes, title, [run])
    assert [*axes.lines[0].get_xdata()] == [1]
    assert axes.get_title().startswith(title)


def test_runs_of_other_metrics_share_a_table(
    resumed: Path, tmp_path: Path
) -> None:
    lines = [train_line(5, 1.0), {'multi-label/mAP': 60.0, 'step': 1}]
    write_start(tmp_path / 'labels', '20260101_000000', lines)
    runs = [read_run(resumed), read_run(tmp_path / 'labels')]
    plot_runs(runs, tmp_path / 'curves.png')
    head, _, first, second = markdown_table(runs).splitlines()
    assert head.endswith('| multi-label/mAP (last) | multi-label/mAP (best) |')
    assert first.endswith('| - | - |')
    assert second.endswith('labels | 5 | - | - | - | - | 1 | - | 60 | 60 |')


@pytest.mark.parametrize('name', ['_run', 'a$x_$b', 'x$\\foo$'])
def test_every_name_of_a_run_is_in_the_legend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    write_start(tmp_path, '20260101_000000', [train_line(5, 1.0)])
    run = read_run(tmp_path)
    run.folder = Path(name)
    figures: list[Figure] = []
    save = Figure.savefig

    def savefig(figure: Figure, *args: Any, **kwargs: Any) -> None:
        figures.append(figure)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, 'savefig', savefig)
    plot_runs([run], tmp_path / 'curves.png')
    ((legend,),) = (figure.legends for figure in figures)
    assert [t.get_text().strip() for t in legend.get_texts()] == [name]


def test_a_bar_in_a_name_leaves_the_table_whole(resumed: Path) -> None:
    run = read_run(resumed)
    run.folder = Path('a|b')
    assert markdown_table([run]).splitlines()[-1].startswith(r'| a\|b | 20 |')


def test_large_numbers_have_no_exponents(tmp_path: Path) -> None:
    lines = [train_line(375_300, 0.12345, images_per_second=12_345.6)]
    record = dict(parameters=dict(student=11_173_962))
    write_start(tmp_path, '20260101_000000', lines, **record)
    run = read_run(tmp_path)
    row = markdown_table([run]).splitlines()[-1]
    assert row.endswith('| 375,300 | - | - | - | - | 0.1235 | 12,346 |')
    write_report(run, tmp_path / 'report.html')
    page = (tmp_path / 'report.html').read_text()
    for number in ('375,300', '0.12345', '12,346', '11,173,962'):
        assert f'<td>{number}</td>' in page


def test_losses_of_a_run_begun_before_leave_the_table(resumed: Path) -> None:
    """A run begun anew with other losses still has a row."""
    lines = [dict(loss=7.0, step=1), dict(loss=6.0, step=2)]
    write_start(resumed, '20260103_000000', lines)
    run = read_run(resumed)
    assert run.losses == ['loss']
    assert run.summary()['iterations'] == 2
    assert run.summary()['agreement'] is None


@pytest.fixture
def iterations(tmp_path: Path) -> Path:
    """A run of iterations as MMEngine logs it: epoch 1 and step 0 for ever."""
    folder = tmp_path / 'iterations'
    starts = {'1': [10, 20, 30, 40], '2': [30, 40, 50]}
    for day, steps in starts.items():
        lines = [{'teacher/top1': 90.0, 'step': steps[0] - 10}]
        if steps[0] == 30:
            # The validation that was due where it resumed.
            lines.append(val_line(0, 22.0))
        for step in steps:
            lines.append(train_line(step, 1.0) | dict(epoch=1))
            if step % 20 == 0:
                lines.append(val_line(0, float(step) + int(day)))
        write_start(folder, f'2026010{day}', lines, iterations_per_epoch=10)
    return folder


def test_a_run_of_iterations_has_a_curve(iterations: Path) -> None:
    run = read_run(iterations)
    assert run.val['accuracy/top1'] == [(20, 22.0), (40, 42.0)]
    assert run.per_epoch() is None
    assert read_curve(iterations) == [(20, 22.0), (40, 42.0)]


@pytest.mark.parametrize('length', [50, 200])
def test_a_run_resumed_with_other_epochs_is_one_line(
    tmp_path: Path, length: int
) -> None:
    """After five epochs of 100 iterations each, for two more."""
    starts = {'1': (100, range(1, 6)), '2': (length, range(6, 8))}
    for name, (per_epoch, epochs) in starts.items():
        lines = []
        for epoch in epochs:
            for step in (per_epoch * (epoch - 0.5), per_epoch * epoch):
                lines.append(dict(loss=1.0, epoch=epoch, step=int(step)))
            lines.append(val_line(epoch, 60.0 - epoch))
        record = dict(iterations_per_epoch=per_epoch)
        write_start(tmp_path, name, lines, **record)
    run = read_run(tmp_path)
    assert run.val['accuracy/top1'] == [(e, 60 - e) for e in range(1, 8)]
    assert run.per_epoch() == length
    assert run.summary()['iterations'] == 7 * length
    axes = Figure().subplots()
    _draw(axes, 'loss', [run])
    assert [*axes.lines[0].get_xdata()] == [e / 2 for e in range(1, 15)]

    # A start killed before its first loss counts nothing anew.
    write_start(tmp_path, '3', [], iterations_per_epoch=7)
    assert read_run(tmp_path).train == run.train
    assert read_run(tmp_path).per_epoch() == length

    # A run begun anew, which keeps nothing.
    lines = [dict(loss=2.0, epoch=1, step=50), val_line(1, 10.0)]
    write_start(tmp_path, '4', lines, iterations_per_epoch=2 * length)
    assert read_run(tmp_path).train['loss'] == [(50, 2.0)]
    assert read_run(tmp_path).val['accuracy/top1'] == [(1, 10.0)]


def test_starts_follow_each_other_by_when_they_began(tmp_path: Path) -> None:
    """Not by their names, local times: summer ends between the two."""
    first, second = ([train_line(step, 1.0)] for step in (5, 10))
    write_start(tmp_path, '20261025_025000', first, started=100.0)
    write_start(tmp_path, '20261025_020500', second, started=1000.0)
    assert read_run(tmp_path).train['loss'] == [(5, 1.0), (10, 1.0)]
    config = tmp_path / '20261025_020500' / 'vis_data' / 'config.py'
    config.write_text('of = "the second"')
    write_report(read_run(tmp_path), tmp_path / 'report.html')
    assert 'the second' in (tmp_path / 'report.html').read_text()


def test_a_run_that_has_only_begun_leaves_the_epochs(
    resumed: Path, tmp_path: Path
) -> None:
    lines = [{'teacher/top1': 90.0, 'step': 0}]
    write_start(tmp_path / 'begun', '20260101_000000', lines)
    axes = Figure().subplots()
    _draw(axes, 'loss', [read_run(resumed), read_run(tmp_path / 'begun')])
    assert axes.get_xlabel() == 'epoch'
    assert [*axes.lines[0].get_xdata()] == [0.5, 1.0, 1.5, 2.0]


def test_epochs_and_iterations_share_an_axis(
    resumed: Path, iterations: Path
) -> None:
    axes = Figure().subplots()
    _draw(axes, 'top-1', [read_run(resumed), read_run(iterations)])
    drawn = [[*line.get_xdata()] for line in axes.lines[:2]]
    assert drawn == [[10, 20, 30], [20, 40]]
    assert axes.get_xlabel() == 'iteration'


def test_a_validation_takes_the_place_of_that_of_a_killed_start(
    resumed: Path,
) -> None:
    """Also where nothing of the training was logged before it."""
    lines = [val_line(2, 61.0), val_line(3, 51.0)]
    write_start(resumed, '20260103_000000', lines)
    top1 = read_run(resumed).val['accuracy/top1']
    assert top1 == [(1, 40.0), (2, 61.0), (3, 51.0)]


def test_runs_are_found_inside_a_folder(resumed: Path) -> None:
    other = resumed.parent / 'study' / 'other'
    write_start(other, '20260101_000000', [train_line(5, 1.0)])
    runs = find_runs([resumed.parent])
    assert [run.folder for run in runs] == [resumed, other]


def test_a_link_to_a_run_beside_it_is_no_other_run(
    resumed: Path, tmp_path: Path
) -> None:
    try:
        (tmp_path / 'best').symlink_to(resumed)
    except OSError as error:
        pytest.skip(f'no links: {error}')
    assert [run.folder for run in find_runs([tmp_path])] == [resumed]
    links = tmp_path / 'links'
    links.mkdir()
    (links / 'best').symlink_to(resumed)
    assert [run.folder for run in find_runs([links])] == [links / 'best']


@pytest.mark.parametrize(
    ('folder', 'message'),
    [('missing', 'is no folder'), ('empty', 'no run has logged below')],
)
def test_folders_without_logs_are_named(
    tmp_path: Path, folder: str, message: str
) -> None:
    (tmp_path / 'empty').mkdir()
    with pytest.raises(FileNotFoundError, match=f'{folder}.*|{message}'):
        find_runs([tmp_path / folder])


def test_the_picture_shows_every_run(resumed: Path, tmp_path: Path) -> None:
    plot_runs([read_run(resumed)], tmp_path / 'one.png')
    other = tmp_path / 'other'
    lines = [train_line(5, 1.0, agreement=0.9), val_line(1, 99.0)]
    write_start(other, '20260101_000000', lines)
    plot_runs([read_run(resumed), read_run(other)], tmp_path / 'two.png')
    one, two = (
        cv2.imread(str(tmp_path / f'{name}.png')) for name in ('one', 'two')
    )
    assert one is not None
    # The second colour of the map, orange, in BGR.
    orange = np.array([14, 127, 255])
    assert not (abs(one.astype(int) - orange) < 3).all(axis=2).any()
    assert (abs(two.astype(int) - orange) < 3).all(axis=2).any()


def test_the_report_holds_everything_and_loads_nothing(
    resumed: Path, tmp_path: Path
) -> None:
    drawn = Path('20260101_000000') / 'vis_data' / 'vis_image'
    inner = resumed / 'inner'
    write_start(inner, '20260101_000000', [train_line(5, 1.0)])
    for folder in (resumed, resumed / drawn, inner / drawn):
        folder.mkdir(exist_ok=True)
        picture = folder / f'superpixels_{folder.parts.count("inner")}.png'
        cv2.imwrite(str(picture), np.zeros((4, 4, 3), np.uint8))
    path = tmp_path / 'report.html'
    write_report(read_run(resumed), path)
    page = path.read_text()
    assert 'python tools/train.py a&lt;b' in page
    assert 'lr = 0.1  # &lt;b&gt;' in page
    assert '<th>loss_kd</th><td>0.25</td>' in page
    assert '<th>top-1 (best)</th><td>60</td>' in page
    sources = re.findall(r'src="([^"]*)"', page)
    assert len(sources) == 3
    assert 'superpixels_0' in page
    assert 'superpixels_1' not in page  # another run's
    for source in sources:
        assert source.startswith('data:image/png;base64,')
        data = base64.b64decode(source.split(',')[1])
        assert data.startswith(b'\x89PNG')
    assert 'http' not in page
    assert sorted(p.name for p in tmp_path.iterdir()) == ['report.html', 'run']


def test_the_report_shows_the_config_of_the_training_not_of_a_later_test(
    resumed: Path, tmp_path: Path
) -> None:
    tested = resumed / '99991231_235959' / 'vis_data' / 'config.py'
    tested.parent.mkdir(parents=True)
    tested.write_text('only_tested = True')
    path = tmp_path / 'report.html'
    write_report(read_run(resumed), path)
    page = path.read_text()
    assert 'lr = 0.1' in page
    assert 'only_tested' not in page


def tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, TOOLS / f'{name}.py')
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tools_write_where_they_say(
    resumed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    picture = tmp_path / 'new' / 'curves.png'
    arguments = ['plot_logs.py', str(resumed), '--out', str(picture)]
    monkeypatch.setattr(sys, 'argv', arguments)
    tool('plot_logs').main()
    assert str(picture) in capsys.readouterr().out
    assert picture.is_file()
    # Pictures are PNGs by default.
    picture.unlink()
    monkeypatch.setattr(sys, 'argv', [*arguments[:3], str(tmp_path / 'c')])
    tool('plot_logs').main()
    assert f'picture: {tmp_path / "c.png"}' in capsys.readouterr().out
    assert (tmp_path / 'c.png').is_file()

    monkeypatch.setattr(sys, 'argv', ['report.py', str(resumed)])
    tool('report').main()
    assert (resumed / 'report.html').is_file()

    # The run itself is meant, not those that it holds.
    write_start(resumed / 'inner', '20260101', [train_line(5, 1.0)])
    (resumed / 'report.html').unlink()
    tool('report').main()
    assert (resumed / 'report.html').is_file()
    # From inside the folder its name is known too.
    monkeypatch.chdir(resumed)
    monkeypatch.setattr(sys, 'argv', ['report.py', '.'])
    tool('report').main()
    assert '<h1>run</h1>' in (resumed / 'report.html').read_text()

    monkeypatch.setattr(sys, 'argv', ['report.py', str(tmp_path / 'new')])
    with pytest.raises(SystemExit, match='error: no run has logged'):
        tool('report').main()


@pytest.mark.parametrize(
    ('name', 'out', 'message'),
    [
        ('plot_logs', 'curves.png', 'no loss or top-1 yet in .*run'),
        ('report', 'run.html', 'no loss or top-1 yet in .*run'),
        ('plot_logs', 'curves.xyz', 'xyz'),
    ],
)
def test_what_cannot_be_drawn_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    out: str,
    message: str,
) -> None:
    """A run that was killed before its first loss; an unknown picture."""
    lines = [{'weight/loss_kd': 1.0, 'step': 0}]
    if out.endswith('xyz'):
        lines.append(train_line(5, 1.0))
    write_start(tmp_path / 'run', '20260101_000000', lines)
    arguments = [name, str(tmp_path / 'run'), '--out', str(tmp_path / out)]
    monkeypatch.setattr(sys, 'argv', arguments)
    with pytest.raises(SystemExit, match=f'^error: .*{message}'):
        tool(name).main()
    assert not (tmp_path / out).exists()
