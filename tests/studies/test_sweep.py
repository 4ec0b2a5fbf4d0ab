# Copyright (c) The serkd_mm authors. All rights reserved.
"""What a sweep trains, leaves alone, starts again and reports."""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

from serkd_mm.studies import Run, Study, Sweep, runs_of
from serkd_mm.studies import sweep as sweep_module
from serkd_mm.studies.fingerprint import file_digest, fingerprint
from serkd_mm.studies.process import RunError, lock, slot_environment
from serkd_mm.studies.runs import finished_curve, read_curve

from .fakes import (
    FakeLauncher,
    launcher,
    started,
    starts,
    write_config,
    write_study,
)


def sweep(
    study: Study,
    folder: Path,
    *arguments: str,
    only: list[str] | None = None,
    **settings: Any,
) -> dict[str, str]:
    out = folder / 'out'
    runs = runs_of(study, out, only)
    return Sweep(study, out, launcher(*arguments), **settings).run(runs)


def run_of(study: Study, folder: Path, name: str, seed: int) -> Run:
    (run,) = runs_of(study, folder / 'out', [name], [seed])
    return run


def record(study: Study, folder: Path, name: str, seed: int) -> dict:
    found = run_of(study, folder, name, seed).record()
    assert found is not None
    return found


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Experiments a and b; b fails while the file ``key`` is missing."""
    write_config(tmp_path, 'a', top1=[70.0, 50.0])
    write_config(tmp_path, 'b', needs=str(tmp_path / 'key'))
    (tmp_path / 'key').touch()
    return write_study(tmp_path, 'a', 'b')


def test_every_run_is_trained_once_and_recorded(
    study: Study, tmp_path: Path
) -> None:
    assert sweep(study, tmp_path) == {}

    # Seed by seed, so that a half-finished sweep compares already.
    expected = ['a/seed-1', 'b/seed-1', 'a/seed-2', 'b/seed-2']
    assert started(tmp_path) == expected
    found = record(study, tmp_path, 'a', 2)
    assert (found['last'], found['best'], found['best_epoch']) == (52, 72, 1)
    assert found['curve'] == [[1, 72.0], [2, 52.0]]
    assert (found['config'], found['seed']) == ('a.py', 2)
    assert (found['status'], found['resumed']) == ('finished', False)
    assert found['seconds'] > 0
    where = found['environment']
    assert {'device', 'torch', 'mmrazor', 'serkd_mm', 'date'} < set(where)
    assert (where['threads'], where['jobs'], where['processes']) == (1, 1, 1)


def test_a_second_sweep_trains_nothing(study: Study, tmp_path: Path) -> None:
    sweep(study, tmp_path)
    before = record(study, tmp_path, 'a', 1)

    assert sweep(study, tmp_path) == {}

    assert len(starts(tmp_path)) == 4
    assert record(study, tmp_path, 'a', 1) == before


@pytest.mark.parametrize(
    ('given', 'kept'), [({}, 2), (dict(max_keep_ckpts=5), 5)]
)
def test_a_run_keeps_its_last_checkpoints(
    given: dict, kept: int, study: Study, tmp_path: Path
) -> None:
    # Of a hundred epochs each of a dozen experiments the disk would be full.
    path = tmp_path / 'a.py'
    hook = dict(type='CheckpointHook', **given)
    path.write_text(
        f'{path.read_text()}\ndefault_hooks = dict(checkpoint={hook})\n'
    )
    run = run_of(study, tmp_path, 'a', 1)
    before = fingerprint(run, None)

    assert run.config().default_hooks.checkpoint.max_keep_ckpts == kept

    # It decides no result.
    assert fingerprint(run, None) == before
    assert run_of(study, tmp_path, 'b', 1).config() is not None


def test_a_failed_run_is_reported_and_the_others_go_on(
    study: Study, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / 'key').unlink()

    failures = sweep(study, tmp_path)

    assert set(failures) == {'b seed 1', 'b seed 2'}
    assert 'exit status 1: ValueError: it lacks' in failures['b seed 1']
    assert 'train.log' in failures['b seed 1']
    assert record(study, tmp_path, 'b', 1)['status'] == 'failed'
    assert record(study, tmp_path, 'a', 2)['status'] == 'finished'
    assert '[2/4] b seed 1: FAILED: exit' in capsys.readouterr().out

    # The cause is mended: only what failed is trained.
    (tmp_path / 'key').touch()
    assert sweep(study, tmp_path) == {}
    assert started(tmp_path)[4:] == ['b/seed-1', 'b/seed-2']
    assert 'error' not in record(study, tmp_path, 'b', 1)


@pytest.mark.parametrize(
    ('lines', 'found'),
    [
        (['a', 'ValueError: b', 'c'], 'ValueError: b'),
        # As launchers of several processes report.
        (
            [
                'error: no data',
                'torch.distributed.elastic.multiprocessing.errors.'
                'ChildFailedError: ',
                '=====',
            ],
            'error: no data',
        ),
        (
            ['[rank1]: mmengine.XError: b', '==='],
            '[rank1]: mmengine.XError: b',
        ),
        (['loss: 1', 'killed'], 'killed'),
        ([], 'no output'),
    ],
)
def test_the_line_that_says_why_is_quoted(
    lines: list[str], found: str, tmp_path: Path
) -> None:
    (tmp_path / 'train.log').write_text('\n'.join(lines))
    with pytest.raises(RunError, match=re.escape(f'status 1: {found} (see')):
        finished_curve(tmp_path, 1, None)


@pytest.mark.parametrize(
    ('metric', 'curve'),
    [('student/top1', [(1, 50.0)]), ('multi-label/mAP', [])],
)
def test_top1_may_have_any_prefix(
    metric: str, curve: list, tmp_path: Path
) -> None:
    log = tmp_path / '20260101_000000' / 'vis_data' / 'scalars.json'
    log.parent.mkdir(parents=True)
    log.write_text(json.dumps({metric: 50.0, 'step': 1}))
    assert read_curve(tmp_path) == curve


def half_finish(study: Study, folder: Path, checkpoint: bool) -> Run:
    """What a run leaves that is killed after its first epoch."""
    sweep(study, folder, only=['a'])
    run = run_of(study, folder, 'a', 1)
    found = run.record()
    assert found is not None
    kept = ('status', 'fingerprint', 'resumed')
    run.write_record({k: {**found, 'status': 'running'}[k] for k in kept})
    scalars = run.folder / '1_started' / 'vis_data' / 'scalars.json'
    lines = scalars.read_text().splitlines(keepends=True)
    scalars.write_text(''.join(lines[:2]).replace('71', '33'))
    if not checkpoint:
        (run.folder / 'last_checkpoint').unlink()
    return run


def test_a_half_finished_run_starts_again_from_nothing(
    study: Study, tmp_path: Path
) -> None:
    run = half_finish(study, tmp_path, checkpoint=False)
    (run.folder / 'leftover').mkdir()

    sweep(study, tmp_path, only=['a'])

    assert started(tmp_path)[2:] == ['a/seed-1']
    assert '--resume' not in starts(tmp_path)[-1]['arguments']
    assert record(study, tmp_path, 'a', 1)['curve'] == [[1, 71], [2, 51]]
    assert not (run.folder / 'leftover').exists()


def test_a_half_finished_run_goes_on_from_its_checkpoint(
    study: Study, tmp_path: Path
) -> None:
    half_finish(study, tmp_path, checkpoint=True)

    sweep(study, tmp_path, only=['a'])

    assert starts(tmp_path)[-1]['arguments'][-1] == '--resume'
    found = record(study, tmp_path, 'a', 1)
    # The first epoch of the first start, the second of the second.
    assert found['curve'] == [[1, 33], [2, 51]]
    assert found['resumed']


@pytest.mark.parametrize(
    ('change', 'named'),
    [
        ('config', '(lr is not set there, 2 now)'),
        ('arguments', '(trained with no arguments, now with --amp)'),
        ('options', '(lr is not set there, 2 now)'),
    ],
)
def test_results_of_another_config_are_neither_mixed_nor_lost(
    change: str, named: str, study: Study, tmp_path: Path
) -> None:
    sweep(study, tmp_path, only=['a'])
    before = record(study, tmp_path, 'a', 1)
    arguments = ['--amp'] if change == 'arguments' else []
    if change == 'config':
        write_config(tmp_path, 'a', top1=[70.0, 50.0], lr=2)
    elif change == 'options':
        study = study.with_options({'lr': 2})

    with pytest.raises(ValueError, match=r'2 runs .* another config') as error:
        sweep(study, tmp_path, *arguments)

    assert named in str(error.value)
    assert str(tmp_path / 'out' / 'a' / 'seed-2') in str(error.value)
    assert '--out' in str(error.value)
    assert len(starts(tmp_path)) == 2
    assert record(study, tmp_path, 'a', 1) == before


def test_the_first_key_that_differs_is_named(
    study: Study, tmp_path: Path
) -> None:
    sweep(study, tmp_path, only=['a'])
    study = study.with_options({'train_cfg.max_epochs': 3})

    # The other seed is of the same row.
    with pytest.raises(ValueError, match='2 runs were .* another') as error:
        Sweep(study, tmp_path / 'out', launcher()).run(
            [run_of(study, tmp_path, 'a', 1)]
        )

    assert '(train_cfg.max_epochs is 2 there, 3 now)' in str(error.value)


def test_a_new_seed_of_another_config_is_refused_before_it_is_trained(
    study: Study, tmp_path: Path
) -> None:
    sweep(study, tmp_path, only=['a'])
    study = study.with_options({'lr': 2})
    out = tmp_path / 'out'

    with pytest.raises(ValueError, match='2 runs were .* another config'):
        Sweep(study, out, launcher()).run(runs_of(study, out, ['a'], [7]))
    assert len(starts(tmp_path)) == 2


def test_a_seed_given_twice_is_trained_once(
    study: Study, tmp_path: Path
) -> None:
    runs = runs_of(study, tmp_path / 'out', ['a'], [1, 1])
    assert [run.seed for run in runs] == [1]


def test_results_of_another_number_of_processes_are_not_mixed(
    study: Study, tmp_path: Path
) -> None:
    sweep(study, tmp_path, only=['a'])
    out = tmp_path / 'out'
    eight = FakeLauncher(Path('tools'), gpus=8)

    with pytest.raises(ValueError, match='processes: 1 there, 8 now'):
        Sweep(study, out, eight).run(runs_of(study, out, ['a']))
    assert len(starts(tmp_path)) == 2


def test_the_same_run_of_another_study_is_not_trained_again(
    study: Study, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """As the paper's best row, which is in six of its tables."""
    outs = tmp_path / 'outs'
    first = runs_of(study, outs / 'first', ['a'])
    assert Sweep(study, outs / 'first', launcher()).run(first) == {}
    (outs / 'first' / 'x' / 'seed-1').mkdir(parents=True)
    (outs / 'first' / 'x' / 'seed-1' / 'run.json').write_text('{')
    experiment = replace(study.experiments[0], name='c', label='c')
    other = replace(study, name='other', experiments=[experiment])
    again = runs_of(other, outs / 'second')
    capsys.readouterr()

    assert Sweep(other, outs / 'second', launcher()).run(again) == {}

    assert started(tmp_path) == ['a/seed-1', 'a/seed-2']
    folder = outs / 'first' / 'a' / 'seed-2'
    assert f'as trained in {folder}' in capsys.readouterr().out
    theirs, ours = first[1].record(), again[1].record()
    assert theirs is not None
    assert ours == {
        **theirs,
        'study': 'other',
        'experiment': 'c',
        'trained_in': str(folder),
    }

    # With other arguments it is another training.
    third = runs_of(other, outs / 'third')
    assert Sweep(other, outs / 'third', launcher('--amp')).run(third) == {}
    assert len(starts(tmp_path)) == 4


def test_what_a_seed_is_set_to_decides(study: Study, tmp_path: Path) -> None:
    sweep(study, tmp_path)
    other = replace(study, seed_keys=('seed', 'train_cfg.seed'))

    with pytest.raises(ValueError, match=r'train_cfg.seed is not set there'):
        sweep(other, tmp_path)


def test_what_a_named_checkpoint_holds_decides(tmp_path: Path) -> None:
    start = tmp_path / 'start.pth'
    start.write_text('weights')
    init = dict(type='Pretrained', checkpoint=str(start))
    write_config(tmp_path, 'a', model=dict(type='Fake', parts=[dict(x=init)]))
    study = write_study(tmp_path, 'a')
    assert sweep(study, tmp_path) == {}
    assert sweep(study, tmp_path) == {}

    start.write_text('other weights')

    with pytest.raises(ValueError, match='a checkpoint that the config names'):
        sweep(study, tmp_path)


def test_other_work_of_a_sweep_that_was_faster_is_no_result(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep(study, tmp_path, only=['a'])
    # As they were when this sweep looked.
    monkeypatch.setattr(Sweep, '_other_seeds', lambda self, runs: [])
    ours = Sweep(study, tmp_path / 'out', launcher('--amp'))
    run = run_of(study, tmp_path, 'a', 1)
    slots: queue.SimpleQueue[int] = queue.SimpleQueue()
    slots.put(0)

    with pytest.raises(RunError, match='trained meanwhile with another'):
        ours._run_one(run, 'another', slots)

    assert len(starts(tmp_path)) == 2


class Killed(BaseException):
    """Ends a sweep as nothing that it catches does."""


@pytest.mark.parametrize(
    ('owner', 'step'),
    [(Run, 'write_record'), (Config, 'dump'), (FakeLauncher, 'call')],
)
def test_a_run_killed_before_it_began_starts_again(
    owner: type,
    step: str,
    study: Study,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def killed(self: Any, *args: Any) -> None:
        raise Killed

    run = run_of(study, tmp_path, 'a', 1)
    first = Sweep(study, tmp_path / 'out', launcher())
    with monkeypatch.context() as patch, lock(run.folder) as held:
        patch.setattr(owner, step, killed)
        with pytest.raises(Killed):
            first._train(run, 'digest', 0, held)

    assert sweep(study, tmp_path) == {}


def test_a_failed_run_without_checkpoint_takes_the_mended_config(
    study: Study, tmp_path: Path
) -> None:
    (tmp_path / 'key').unlink()
    sweep(study, tmp_path, only=['b'])
    write_config(tmp_path, 'b')

    assert sweep(study, tmp_path, only=['b']) == {}


def test_files_of_somebody_else_stay(study: Study, tmp_path: Path) -> None:
    folder = run_of(study, tmp_path, 'a', 1).folder
    folder.mkdir(parents=True)
    (folder / 'thesis.txt').write_text('unique')

    failures = sweep(study, tmp_path, only=['a'])

    assert list(failures) == ['a seed 1']
    assert 'no record of a run' in failures['a seed 1']
    assert (folder / 'thesis.txt').read_text() == 'unique'


def test_a_training_that_stops_early_is_no_result(tmp_path: Path) -> None:
    write_config(tmp_path, 'a', top1=[70.0])
    study = write_study(tmp_path, 'a', seeds=[0])

    failures = sweep(study, tmp_path)

    assert 'no top-1 of epoch 2: validated after epochs [1]' in str(failures)


def test_a_training_may_stop_early_where_its_config_says_so(
    tmp_path: Path,
) -> None:
    early = [dict(type='EarlyStoppingHook', monitor='accuracy/top1')]
    write_config(tmp_path, 'a', top1=[70.0], custom_hooks=early)
    study = write_study(tmp_path, 'a', seeds=[0])

    assert sweep(study, tmp_path) == {}
    assert record(study, tmp_path, 'a', 0)['last'] == 70.0


def test_the_reason_of_a_failure_is_of_the_last_attempt(
    tmp_path: Path,
) -> None:
    write_config(tmp_path, 'a', needs=str(tmp_path / 'key'))
    study = write_study(tmp_path, 'a', seeds=[0])
    sweep(study, tmp_path)
    log = run_of(study, tmp_path, 'a', 0).folder / 'train.log'
    begun = log.stat().st_size

    with pytest.raises(RunError, match='status -9: no output'):
        finished_curve(log.parent, -9, None, begun)
    failures = sweep(study, tmp_path)

    assert 'it lacks' in failures['a seed 0']


# -- teacher ----------------------------------------------------------------


@pytest.fixture
def taught(tmp_path: Path) -> Study:
    """An experiment alone and one with the study's teacher."""
    write_config(tmp_path, 'alone')
    write_config(
        tmp_path, 'kd', model={'teacher': {}, 'teacher_ckpt': 'own.pth'}
    )
    write_config(tmp_path, 'big', needs=str(tmp_path / 'key'))
    return write_study(
        tmp_path, 'alone', 'kd', teacher={'config': 'big.py'}, seeds=[1, 2]
    )


def test_the_teacher_is_trained_once_and_first(
    taught: Study, tmp_path: Path
) -> None:
    (tmp_path / 'key').touch()

    assert sweep(taught, tmp_path, jobs=2) == {}

    notes = starts(tmp_path)
    assert Path(notes[0]['folder']) == tmp_path / 'out' / 'teacher'
    assert len(notes) == 5
    teachers = {Path(n['folder']).parent.name: n['teacher'] for n in notes}
    assert teachers['alone'] is None
    assert teachers['kd'] == str(tmp_path / 'out' / 'teacher' / 'epoch_2.pth')


def test_the_plan_begins_with_the_teacher_and_refuses_what_a_run_does(
    taught: Study, tmp_path: Path
) -> None:
    def plan(study: Study) -> list[str]:
        out = tmp_path / 'out'
        runs = Sweep(study, out, launcher()).plan(runs_of(study, out))
        return [f'{run.title} {run.status}' for run in runs]

    (tmp_path / 'key').touch()
    assert plan(taught)[:2] == ['teacher open', 'alone seed 1 open']
    assert not (tmp_path / 'out').exists()

    sweep(taught, tmp_path)
    assert plan(taught)[0] == 'teacher finished'
    assert 'kd seed 2 finished' in plan(taught)
    with pytest.raises(ValueError, match='trained with another config'):
        plan(taught.with_options({'top1': [1.0, 2.0]}))


def test_a_damaged_record_is_named(study: Study, tmp_path: Path) -> None:
    sweep(study, tmp_path)
    path = tmp_path / 'out' / 'a' / 'seed-1' / 'run.json'
    path.write_text('{"status"')
    with pytest.raises(ValueError, match=r'seed-1/run.json is no record'):
        sweep(study, tmp_path)


def test_a_teacher_whose_checkpoint_is_gone_is_named(
    taught: Study, tmp_path: Path
) -> None:
    (tmp_path / 'key').touch()
    sweep(taught, tmp_path, only=['alone'])
    (tmp_path / 'out' / 'teacher' / 'epoch_2.pth').unlink()

    failures = sweep(taught, tmp_path)

    assert set(failures) == {'teacher', 'kd seed 1', 'kd seed 2'}
    assert 'checkpoint is gone; remove the folder' in failures['teacher']


def test_who_needs_no_teacher_does_without_a_failed_one(
    taught: Study, tmp_path: Path
) -> None:
    failures = sweep(taught, tmp_path)

    assert set(failures) == {'teacher', 'kd seed 1', 'kd seed 2'}
    assert failures['kd seed 1'] == 'not started, as the teacher failed'
    assert record(taught, tmp_path, 'alone', 2)['status'] == 'finished'


def test_students_of_another_teacher_are_not_mixed(
    taught: Study, tmp_path: Path
) -> None:
    for name in ('one', 'two'):
        (tmp_path / f'{name}.pth').write_text(name)
    sweep(taught, tmp_path, teacher=str(tmp_path / 'one.pth'))
    assert len(starts(tmp_path)) == 4
    assert starts(tmp_path)[1]['teacher'] == str(tmp_path / 'one.pth')
    assert record(taught, tmp_path, 'kd', 1)['teacher'] == 'one.pth'
    digests = [
        record(taught, tmp_path, name, 1)['teacher_digest']
        for name in ('kd', 'alone')
    ]
    assert digests == [file_digest(str(tmp_path / 'one.pth')), None]
    assert record(taught, tmp_path, 'alone', 1)['teacher'] is None

    with pytest.raises(ValueError, match='s checkpoint holds some'):
        sweep(taught, tmp_path, teacher=str(tmp_path / 'two.pth'))
    assert len(starts(tmp_path)) == 4


def test_a_teachers_file_is_read_again_only_when_it_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / 'teacher.pth'
    path.write_text('one')
    opened, reads = Path.open, []

    def counted(self: Path, mode: str) -> Any:
        reads.append(self)
        return opened(self, mode)

    monkeypatch.setattr(Path, 'open', counted)
    first = {file_digest(str(path)) for _ in range(3)}
    assert len(reads) == len(first) == 1
    os.truncate(path, 2)
    assert file_digest(str(path)) not in first
    assert len(reads) == 2


# -- several at a time ------------------------------------------------------


def test_jobs_run_at_the_same_time_in_places_of_their_own(
    tmp_path: Path,
) -> None:
    # Each waits for the other one.
    write_config(tmp_path, 'a', meets=True)
    study = write_study(tmp_path, 'a')

    assert sweep(study, tmp_path, jobs=2) == {}

    assert {start['port'] for start in starts(tmp_path)} == {'29500', '29501'}


def test_slots_share_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '4,5,6,7')
    name = 'CUDA_VISIBLE_DEVICES'

    single = [slot_environment(slot, None, 1)[name] for slot in range(5)]
    double = [slot_environment(slot, 2, 1)[name] for slot in range(2)]

    assert single == ['4', '5', '6', '7', '4']
    assert double == ['4,5', '6,7']
    assert slot_environment(0, None, 3)['OMP_NUM_THREADS'] == '3'
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', 'GPU-a, GPU-b,-1,GPU-c')
    assert slot_environment(1, None, 1)[name] == 'GPU-b'
    for hidden in ('', '-1'):
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', hidden)
        assert name not in slot_environment(0, 1, 1)


def test_a_run_that_another_process_trains_is_left_to_it(
    study: Study, tmp_path: Path
) -> None:
    run = run_of(study, tmp_path, 'a', 1)

    with lock(run.folder):
        failures = sweep(study, tmp_path)

    assert list(failures) == ['a seed 1']
    assert 'another process is training it' in failures['a seed 1']
    assert started(tmp_path) == ['b/seed-1', 'a/seed-2', 'b/seed-2']


def test_a_training_is_held_even_if_its_sweep_dies(tmp_path: Path) -> None:
    sleeper = launcher()
    command = [sys.executable, '-c', 'import time; time.sleep(60)']
    with ThreadPoolExecutor(1) as pool:
        with lock(tmp_path) as held:
            code = pool.submit(
                sleeper.call, command, tmp_path / 'log', 0, held
            )
            while not sleeper._processes:
                time.sleep(0.01)
        with pytest.raises(RunError, match='another process'), lock(tmp_path):
            pass
        sleeper.stop()

        assert code.result() == -signal.SIGTERM
    with lock(tmp_path):
        pass


def test_a_training_that_starts_while_others_are_ended_ends_too(
    tmp_path: Path,
) -> None:
    """Between the check and the start lies the reading of a config."""
    sleeper = launcher()
    sleeper.stop()
    command = [sys.executable, '-c', 'import time; time.sleep(5)']
    with lock(tmp_path) as held:
        code = sleeper.call(command, tmp_path / 'log', 0, held)
    assert code == -signal.SIGTERM


def test_an_interruption_ends_the_trainings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_config(tmp_path, 'a', sleeps=True)
    study = write_study(tmp_path, 'a', seeds=[1, 2, 3])
    run = run_of(study, tmp_path, 'a', 1)

    def interrupt(futures: object) -> None:
        while not starts(tmp_path):
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep_module, 'as_completed', interrupt)
    with pytest.raises(KeyboardInterrupt):
        sweep(study, tmp_path)

    # The second has not begun and the first not written its result.
    assert started(tmp_path) == ['a/seed-1']
    assert run.status == 'running'
    assert not list(run.folder.glob('*_started'))
    # A training holds the lock as long as it lives.
    with lock(run.folder):
        pass


def test_a_record_is_replaced_in_one_step(
    study: Study, tmp_path: Path
) -> None:
    run = run_of(study, tmp_path, 'a', 1)
    run.folder.mkdir(parents=True)
    run.write_record({'status': 'running'})

    with pytest.raises(TypeError):
        run.write_record({'status': object()})

    text = (run.folder / 'run.json').read_text()
    assert json.loads(text) == {'status': 'running'}
