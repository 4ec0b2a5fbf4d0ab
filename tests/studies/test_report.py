# Copyright (c) The serkd_mm authors. All rights reserved.
"""The numbers of a study's table, calculated by hand."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from serkd_mm.studies import Study, runs_of, write_report
from serkd_mm.studies.runs import gather_runs, teacher_run
from serkd_mm.studies.summary import Statistic, commands_of, paired, summarise

from .fakes import write_config, write_study

# Top-1 by seed; the fourth run of b failed, the fourth of c is missing.
TOP1 = {
    'a': {0: 80.0, 1: 82.0, 2: 84.0, 3: 86.0},
    'b': {0: 83.0, 1: 83.0, 2: 89.0},
    'c': {0: 70.0},
}


def finish(study: Study, out: Path, name: str, seed: int, **settings: Any):
    (run,) = runs_of(study, out, [name], [seed])
    run.folder.mkdir(parents=True, exist_ok=True)
    record = dict(
        status='finished',
        fingerprint=name,
        last=TOP1[name].get(seed),
        best=90.0,
        best_epoch=1,
        seconds=10.0 * (seed + 1),
        resumed=False,
        environment={'device': 'CPU', 'jobs': 1 + seed % 2},
    )
    run.write_record({**record, **settings})


@pytest.fixture
def study(tmp_path: Path) -> Study:
    for name in TOP1:
        write_config(tmp_path, name)
    return write_study(
        tmp_path,
        seeds=[0, 1, 2, 3],
        baseline='a',
        notes=['A note.'],
        experiments=[
            {'name': 'a', 'config': 'a.py', 'label': 'KD', 'paper': 74.1},
            {'name': 'b', 'config': 'b.py'},
            {'name': 'c', 'config': 'c.py', 'label': 'C'},
        ],
    )


@pytest.fixture
def out(study: Study, tmp_path: Path) -> Path:
    out = tmp_path / 'out'
    for name, values in TOP1.items():
        for seed in values:
            finish(study, out, name, seed, resumed=(name, seed) == ('a', 3))
    elsewhere = {'device': 'another CPU'}
    finish(study, out, 'b', 3, status='failed', error='exit status 1: no',
           environment=elsewhere)  # fmt: skip
    return out


def test_mean_spread_and_paired_difference(study: Study, out: Path) -> None:
    a, b, c = summarise(study, runs_of(study, out))

    # Deviations -3, -1, 1, 3: 20 / 3.
    assert a.last == Statistic(4, 83.0, pytest.approx((20 / 3) ** 0.5))
    # 83, 83, 89: deviations -2, -2, 4: 24 / 2.
    assert b.last == Statistic(3, 85.0, pytest.approx(12**0.5))
    # Differences 3, 1, 5: deviations 0, -2, 2: 8 / 2.
    assert b.difference == Statistic(3, 3.0, pytest.approx(2.0))
    assert (c.last, c.difference) == (
        Statistic(1, 70.0, None),
        Statistic(1, -10.0, None),
    )
    assert a.difference == Statistic(4, 0.0, 0.0)
    # 10, 20, 30; the resumed run says nothing about its seconds.
    assert a.seconds == Statistic(3, 20.0, 10.0)
    assert b.unfinished == {3: 'exit status 1: no'}
    assert c.unfinished == {1: 'open', 2: 'open', 3: 'open'}


def test_only_common_seeds_are_paired() -> None:
    assert paired({1: 2.0, 7: 9.0}, {1: 1.5, 2: 0.0}) == {1: 0.5}
    assert paired({1: 2.0}, {}) == {}
    assert Statistic.of([]) == Statistic(0, None, None)


def test_the_table_names_what_it_shows(
    study: Study, out: Path, tmp_path: Path
) -> None:
    text = write_report(
        study, runs_of(study, out), out, tmp_path / 'x' / 'y', ['make it']
    )

    rows = [line for line in text.splitlines() if line.startswith('|')][:5]
    assert rows == [
        '| experiment | top-1 | vs KD | seeds | seconds | paper |',
        '| --- | --- | --- | --- | --- | --- |',
        '| KD | 83.00 ± 2.58 |  | 4 | 20 | 74.1 |',
        '| b | 85.00 ± 3.46 | +3.00 ± 2.00 | 3 | 20 |  |',
        '| C | 70.00 | -10.00 | 1 | 10 |  |',
    ]
    assert '- Missing: b, seed 3: exit status 1: no.' in text
    assert '- Missing: c, seed 1: open; seed 2: open; seed 3: open.' in text
    assert '- A note.\n' in text
    assert '`make it`' in text
    assert 'Top-1 of the last epoch (%)' in text
    assert '| jobs | 1, 2 |' in text
    assert '| device | CPU |' in text  # that of the failed run is another
    assert (tmp_path / 'x' / 'y' / 'fake.md').read_text() == text


def test_the_command_is_that_of_the_runs(study: Study, tmp_path: Path) -> None:
    out = tmp_path / 'commands'
    command = 'python tools/ablate.py run fake'
    for seed in (0, 1):
        finish(study, out, 'a', seed, given="--cfg-options 'x=[1, 2]'")
    line = f"{command} --cfg-options 'x=[1, 2]'"
    assert commands_of(study, runs_of(study, out)) == [line]

    finish(study, out, 'c', 0, given='')
    runs = runs_of(study, out)
    only = line.replace(' --cfg', ' --only a --cfg')
    assert commands_of(study, runs) == [only, f'{command} --only c']

    # A record that was written before options were.
    finish(study, out, 'b', 0)
    runs = runs_of(study, out)
    assert commands_of(study, runs) == []
    known = {run.folder: '' for run in runs if run.experiment.name == 'b'}
    assert commands_of(study, runs, known) == [only, f'{command} --only b c']


def test_seeds_beside_the_studys_are_in_the_command(
    study: Study, tmp_path: Path
) -> None:
    for seed in (0, 7):
        finish(study, tmp_path, 'a', seed, given='')
    runs = runs_of(study, tmp_path, ['a'], [0, 7])
    (line,) = commands_of(study, runs)
    assert line == 'python tools/ablate.py run fake --seeds 0 7'
    (line,) = commands_of(study, runs, named='my studies/fake.yml')
    assert "run 'my studies/fake.yml' --seeds" in line


@pytest.mark.parametrize(
    ('given', 'line'),
    [
        (None, '- Teacher: big, top-1 97.50.'),
        ('other.pth', '- Teacher: epoch_2.pth, other.pth.'),
    ],
)
def test_the_table_names_the_teacher(
    given: str | None, line: str, out: Path, tmp_path: Path
) -> None:
    write_config(tmp_path, 'big')
    study = write_study(tmp_path, 'a', 'b', teacher={'config': 'big.py'})
    teacher = teacher_run(study, out)
    assert teacher is not None
    teacher.folder.mkdir()
    teacher.write_record({'last': 97.5})
    (teacher.folder / 'last_checkpoint').write_text('elsewhere/epoch_2.pth')
    (teacher.folder / 'epoch_2.pth').touch()
    finish(study, out, 'a', 1, teacher=None)
    finish(study, out, 'b', 1, teacher='epoch_2.pth')
    finish(study, out, 'b', 2, teacher=given or 'epoch_2.pth')

    text = write_report(study, runs_of(study, out), out, tmp_path, 'make it')

    assert line in text.splitlines()

    # Checkpoints of all teachers are named alike.
    finish(study, out, 'b', 1, teacher='epoch_2.pth', teacher_digest='other')
    text = write_report(study, runs_of(study, out), out, tmp_path, 'make it')
    assert '97.50' not in text


def test_texts_with_marks_of_markdown_and_formulas_are_shown(
    tmp_path: Path,
) -> None:
    write_config(tmp_path, 'a')
    label = r'$\frac$ a|b'
    study = write_study(
        tmp_path,
        title=label,
        baseline='a',
        experiments=[{'name': 'a', 'config': 'a.py', 'label': label}],
    )
    finish(study, tmp_path / 'out', 'a', 1)
    runs = runs_of(study, tmp_path / 'out')

    text = write_report(study, runs, tmp_path / 'out', tmp_path, ['make it'])

    assert r'| experiment | top-1 | vs $\frac$ a\|b | seeds |' in text
    assert r'| $\frac$ a\|b | 81' in text.replace('82.00', '81')


def test_the_csv_files_hold_the_numbers(
    study: Study, out: Path, tmp_path: Path
) -> None:
    write_report(study, runs_of(study, out), out, tmp_path, 'make it')

    with (tmp_path / 'fake.csv').open() as file:
        _, b, c = csv.DictReader(file)
    assert (b['top1_mean'], b['seeds'], b['pairs']) == ('85.0', '3', '3')
    assert float(b['top1_std']) == pytest.approx(12**0.5)
    assert (b['difference_mean'], b['difference_std']) == ('3.0', '2.0')
    assert (c['top1_std'], c['best_mean']) == ('', '90.0')
    with (tmp_path / 'fake_runs.csv').open() as file:
        runs = list(csv.DictReader(file))
    assert len(runs) == 12
    states = [run['status'] for run in runs if run['seed'] == '3']
    assert states == ['finished', 'failed', 'open']
    assert runs[0]['device'] == 'CPU'
    assert {run['last'] for run in runs if run['experiment'] == 'c'} == {
        '70.0',
        '',
    }


def test_the_picture_shows_every_finished_run(
    study: Study, out: Path, tmp_path: Path
) -> None:
    import matplotlib.image

    write_report(study, runs_of(study, out), out, tmp_path, 'make it')

    picture = matplotlib.image.imread(tmp_path / 'fake.png')[..., :3]
    blue = abs(picture - [158 / 255, 202 / 255, 225 / 255]).max(axis=2) < 0.02
    # Eight runs and four differences, dots of 4 points at 150 dpi.
    assert 12 * 25 < blue.sum() < 12 * 64


def test_runs_of_different_configs_make_no_mean(
    study: Study, out: Path
) -> None:
    finish(study, out, 'b', 2, fingerprint='other')

    with pytest.raises(ValueError, match="runs of 'b' had different configs"):
        summarise(study, runs_of(study, out))


def test_no_difference_is_taken_between_different_conditions(
    study: Study, tmp_path: Path
) -> None:
    out = tmp_path / 'apart'
    finish(study, out, 'a', 0, teacher_digest='1', given='--teacher x.pth')
    finish(study, out, 'a', 1, teacher_digest='1', given='--amp')
    finish(study, out, 'a', 2, teacher_digest='1', given='')
    # The same file by another name; other options; another file.
    finish(study, out, 'b', 0, teacher_digest='1', given='--teacher y.pth')
    finish(study, out, 'b', 1, teacher_digest='1', given='')
    finish(study, out, 'b', 2, teacher_digest='2', given='')
    # Without a teacher.
    finish(study, out, 'c', 0, teacher_digest=None, given='--teacher x.pth')

    _, b, c = summarise(study, runs_of(study, out))

    assert b.differences == {0: 3.0}
    assert b.incomparable == [1, 2]
    assert c.differences == {0: -10.0}
    text = write_report(study, runs_of(study, out), out, tmp_path, [])
    assert '- Not compared: b, seed 1, 2: trained with another teacher' in text


def test_no_table_of_nothing(study: Study, tmp_path: Path) -> None:
    out = tmp_path / 'nowhere'
    with pytest.raises(ValueError, match="no run of study 'fake'"):
        write_report(study, runs_of(study, out), out, tmp_path, 'make it')


def test_runs_of_several_folders_make_one_table(
    study: Study, out: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / 'elsewhere'
    finish(study, elsewhere, 'b', 3, last=95.0)
    finish(study, elsewhere, 'c', 1, status='running')

    runs = gather_runs(study, [out, elsewhere])

    assert len(runs) == 12
    _, b, c = summarise(study, runs)
    assert b.top1 == {**TOP1['b'], 3: 95.0}
    assert b.differences[3] == 9.0
    assert c.unfinished == {1: 'running', 2: 'open', 3: 'open'}


def test_a_run_that_was_copied_counts_once(
    study: Study, out: Path, tmp_path: Path
) -> None:
    finish(study, tmp_path / 'copy', 'a', 1)

    rows = summarise(study, gather_runs(study, [out, tmp_path / 'copy']))

    assert rows[0].top1 == TOP1['a']


def test_a_run_with_two_results_is_refused(
    study: Study, out: Path, tmp_path: Path
) -> None:
    finish(study, tmp_path / 'again', 'a', 1, last=83.0)

    with pytest.raises(ValueError, match='a seed 1 is finished in .* and, ot'):
        gather_runs(study, [out, tmp_path / 'again'])
