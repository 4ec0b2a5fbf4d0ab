# Copyright (c) The serkd_mm authors. All rights reserved.
"""Faults while checkpoints are written, and what resuming makes of them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.hooks import Hook
from mmengine.runner import CheckpointLoader

from serkd_mm.engine import AtomicLocalBackend, atomic_backend
from serkd_mm.engine.checkpoints import (
    ResumeError,
    choose_checkpoint,
    latest_checkpoints,
    why_unreadable,
)
from serkd_mm.engine.export import find_checkpoint
from serkd_mm.engine.hooks import (
    AtomicCheckpointHook,
    atomic_checkpoint_hook,
)
from tests.engine.runs import (
    EPOCHS,
    STEPS,
    Scores,
    build_runner,
    checkpoints_of,
    log_of,
    validation,
)

BEST = 'best_score_epoch_{}.pth'
KEEP_BEST = dict(checkpoint=dict(save_best='score', rule='greater'))


def train(work_dir: Path, **overrides: Any) -> Any:
    runner = build_runner(work_dir, **overrides)
    runner.train()
    return runner


def last(work_dir: Path) -> str:
    return Path((work_dir / 'last_checkpoint').read_text()).name


def resumed_epochs(work_dir: Path) -> str:
    lines = log_of(work_dir).splitlines()
    return [line for line in lines if 'resumed epoch' in line][-1]


def break_off(path: Path, keep: float = 0.5) -> None:
    """Leave the first part of a file, as a host's writer would."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])


class FailsError(Exception):
    pass


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let the n-th write from now on fail."""

    def at(number: int) -> None:
        write, calls = atomic_backend._write, []

        def failing_write(path: Path, data: bytes) -> None:
            calls.append(path)
            if len(calls) == number:
                write(path, data[:10])
                raise FailsError
            write(path, data)

        monkeypatch.setattr(atomic_backend, '_write', failing_write)

    return at


def forgive(runner: Any, method: str) -> None:
    """Let a run go on after a save that failed."""
    (saver,) = (h for h in runner.hooks if hasattr(h, 'last_ckpt'))
    save = getattr(saver, method)

    def going_on(*args: Any) -> None:
        with contextlib.suppress(FailsError):
            save(*args)

    setattr(saver, method, going_on)


def test_the_last_ones_are_kept_and_named(tmp_path: Path) -> None:
    train(tmp_path, hooks=dict(checkpoint=dict(max_keep_ckpts=2)))

    assert checkpoints_of(tmp_path) == ['epoch_2.pth', 'epoch_3.pth']
    assert last(tmp_path) == 'epoch_3.pth'


def test_by_iteration_too(tmp_path: Path) -> None:
    hook = dict(by_epoch=False, interval=5, max_keep_ckpts=1, save_last=False)

    train(tmp_path, hooks=dict(checkpoint=hook))

    assert checkpoints_of(tmp_path) == ['iter_10.pth']
    assert last(tmp_path) == 'iter_10.pth'


def test_a_name_that_every_checkpoint_has_stays(tmp_path: Path) -> None:
    hook = dict(filename_tmpl='latest.pth', max_keep_ckpts=1)

    train(
        tmp_path,
        hooks=dict(checkpoint=hook),
        train_cfg=dict(by_epoch=True, max_epochs=2),
    )

    assert checkpoints_of(tmp_path) == [last(tmp_path)] == ['latest.pth']


# Every save writes a checkpoint and last_checkpoint.
@pytest.mark.parametrize('write', [3, 4])
def test_the_old_checkpoint_outlives_a_failed_save(
    tmp_path: Path, failing: Any, write: int
) -> None:
    failing(write)

    with pytest.raises(FailsError):
        train(tmp_path, hooks=dict(checkpoint=dict(max_keep_ckpts=1)))

    assert 'epoch_1.pth' in checkpoints_of(tmp_path)
    assert last(tmp_path) == 'epoch_1.pth'
    assert not list(tmp_path.glob('.*'))


# Epoch 1: checkpoint, last, best, checkpoint, last; epoch 2 the same.
@pytest.mark.parametrize('write', [8, 9, 10])
def test_the_old_best_outlives_a_failed_save(
    tmp_path: Path, failing: Any, write: int
) -> None:
    hook = dict(max_keep_ckpts=1, save_best='score', rule='greater')
    failing(write)
    runner = build_runner(
        tmp_path, hooks=dict(checkpoint=hook), **validation(1, 2, 0)
    )

    with pytest.raises(FailsError):
        runner.train()

    assert BEST.format(1) in checkpoints_of(tmp_path)
    assert BEST.format(2) not in checkpoints_of(tmp_path)
    assert last(tmp_path) == 'epoch_2.pth'
    info = runner.message_hub.runtime_info
    assert info['best_score'] == 1
    assert Path(info['best_ckpt']).name == BEST.format(1)


def test_a_run_goes_on_after_a_save_that_failed(
    tmp_path: Path, failing: Any
) -> None:
    """Whoever catches the error finds the bookkeeping as it was."""
    hook = dict(max_keep_ckpts=1, save_best='score', rule='greater')
    runner = build_runner(
        tmp_path, hooks=dict(checkpoint=hook), **validation(1, 2, 0)
    )
    forgive(runner, '_save_best_checkpoint')
    # The second best one.
    failing(8)

    runner.train()

    assert checkpoints_of(tmp_path) == [BEST.format(1), 'epoch_3.pth']
    assert last(tmp_path) == 'epoch_3.pth'


def test_of_several_best_ones_too(tmp_path: Path, failing: Any) -> None:
    hook = dict(
        max_keep_ckpts=1, save_best=['score', 'other/score'], rule='greater'
    )
    cfg = validation(1, 2, 3)
    other = Scores((1, 2, 3))
    other.prefix = 'other'
    cfg['val_evaluator'].append(other)
    runner = build_runner(tmp_path, hooks=dict(checkpoint=hook), **cfg)
    forgive(runner, '_save_best_checkpoint')
    # The first one of epoch 2: six writes of epoch 1, then two.
    failing(9)

    runner.train()

    best = [f'best_other_score_epoch_{EPOCHS}.pth', BEST.format(EPOCHS)]
    assert checkpoints_of(tmp_path) == [*best, f'epoch_{EPOCHS}.pth']


def test_what_was_to_be_kept_outlives_a_save_that_failed(
    tmp_path: Path, failing: Any
) -> None:
    hook = dict(max_keep_ckpts=2, save_best='score', rule='greater')
    runner = build_runner(
        tmp_path, hooks=dict(checkpoint=hook), **validation(3, 2, 1)
    )
    forgive(runner, '_save_checkpoint')
    # The third checkpoint, after five writes of epoch 1 and two of epoch 2.
    failing(8)

    runner.train()

    kept = [BEST.format(1), 'epoch_1.pth', 'epoch_2.pth']
    assert checkpoints_of(tmp_path) == kept


def test_a_first_save_that_failed_is_named_nowhere(
    tmp_path: Path, failing: Any
) -> None:
    failing(1)
    runner = build_runner(tmp_path)

    with pytest.raises(FailsError):
        runner.train()

    assert 'last_ckpt' not in runner.message_hub.runtime_info


def test_files_of_others_outlive_a_failed_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing_write(path: Path, data: bytes) -> None:
        (tmp_path / 'other').touch()
        raise FailsError

    monkeypatch.setattr(atomic_backend, '_write', failing_write)
    with pytest.raises(FailsError):
        train(tmp_path)

    assert (tmp_path / 'other').exists()


def test_old_folders_are_removed_too(tmp_path: Path) -> None:
    """As sharded checkpoints are."""

    class Shard(Hook):
        def before_train_epoch(self, runner: Any) -> None:
            path = tmp_path / f'epoch_{runner.epoch}.pth'
            if path.exists():
                path.unlink()
                path.mkdir()

    hooks = dict(checkpoint=dict(max_keep_ckpts=1), shard=Shard())
    train(tmp_path, hooks=hooks)

    assert checkpoints_of(tmp_path) == ['epoch_3.pth']


def test_a_better_score_of_the_same_epoch_replaces_its_checkpoint(
    tmp_path: Path,
) -> None:
    hook = dict(save_best='score', rule='greater')
    runner = train(tmp_path, hooks=dict(checkpoint=hook))
    (saver,) = (h for h in runner.hooks if hasattr(h, 'last_ckpt'))

    for score in (1, 2):
        saver.after_val_epoch(runner, dict(score=score))

    info = torch.load(tmp_path / BEST.format(3))['message_hub']['runtime_info']
    assert info['best_score'] == 2


def test_best_checkpoints_replace_each_other(tmp_path: Path) -> None:
    hook = dict(save_best='score', rule='less', max_keep_ckpts=1)

    train(tmp_path, hooks=dict(checkpoint=hook), **validation(3, 2, 4))

    assert checkpoints_of(tmp_path) == [BEST.format(2), 'epoch_3.pth']


def test_published_checkpoints_hold_the_published_keys(
    tmp_path: Path,
) -> None:
    hook = dict(published_keys=['meta', 'state_dict'])

    train(tmp_path, hooks=dict(checkpoint=hook))

    (published,) = tmp_path.glob('epoch_3-*.pth')
    assert set(torch.load(published)) == {'meta', 'state_dict'}


def test_another_folder_for_checkpoints(tmp_path: Path) -> None:
    work, out = tmp_path / 'work', tmp_path / 'out'
    hooks = dict(checkpoint=dict(out_dir=str(out), max_keep_ckpts=1))
    train(work, hooks=hooks)
    (work / 'last_checkpoint').unlink()

    train(work, hooks=hooks, resume=True)

    assert checkpoints_of(out / 'work') == ['epoch_3.pth']
    assert 'epoch: 3' in resumed_epochs(work)


@pytest.mark.parametrize('keep', [0, 0.5, 0.99])
def test_a_broken_newest_checkpoint_is_passed_over(
    tmp_path: Path, keep: float
) -> None:
    train(tmp_path)
    break_off(tmp_path / 'epoch_3.pth', keep)

    train(tmp_path, resume=True)

    assert f'epoch: 2, iter: {2 * STEPS}' in resumed_epochs(tmp_path)
    log = log_of(tmp_path)
    assert f'Not resuming from {tmp_path / "epoch_3.pth"}: ' in log
    assert f'Resuming from {tmp_path / "epoch_2.pth"} instead' in log
    # Trained again and written again.
    assert torch.load(tmp_path / 'epoch_3.pth')['meta']['epoch'] == 3


def test_one_flipped_byte_is_found(tmp_path: Path) -> None:
    train(tmp_path)
    path = tmp_path / 'epoch_3.pth'
    data = bytearray(path.read_bytes())
    weight = torch.load(path)['state_dict']['layer.weight'].numpy().tobytes()
    data[data.index(weight)] ^= 1
    path.write_bytes(data)

    train(tmp_path, resume=True)

    assert 'epoch: 2' in resumed_epochs(tmp_path)
    assert 'checksum' in log_of(tmp_path)


@pytest.mark.parametrize('content', ['', '/nowhere/epoch_9.pth'])
def test_a_last_checkpoint_that_names_nothing_is_passed_over(
    tmp_path: Path, content: str
) -> None:
    train(tmp_path)
    (tmp_path / 'last_checkpoint').write_text(content)

    train(tmp_path, resume=True)

    assert 'epoch: 3' in resumed_epochs(tmp_path)


def test_a_moved_work_dir_resumes(tmp_path: Path) -> None:
    train(tmp_path / 'old')
    shutil.move(tmp_path / 'old', tmp_path / 'new')

    train(tmp_path / 'new', resume=True)

    assert 'epoch: 3' in resumed_epochs(tmp_path / 'new')
    assert f'from {tmp_path / "new" / "epoch_3.pth"}' in log_of(
        tmp_path / 'new'
    )


def test_a_copied_work_dir_resumes_from_its_own_files(tmp_path: Path) -> None:
    old, new = tmp_path / 'old', tmp_path / 'new'
    train(old, hooks=KEEP_BEST, **validation(1, 2, 1))
    shutil.copytree(old, new)

    runner = train(new, hooks=KEEP_BEST, resume=True, **validation(1))

    assert f'from {new / "epoch_3.pth"}' in log_of(new)
    best = runner.message_hub.get_info('best_ckpt')
    assert best == str(new / BEST.format(2))
    assert find_checkpoint(str(new)) == str(new / 'epoch_3.pth')


def test_a_dead_link_among_the_checkpoints_is_passed_over(
    tmp_path: Path,
) -> None:
    train(tmp_path)
    (tmp_path / 'epoch_1.pth').unlink()
    (tmp_path / 'epoch_1.pth').symlink_to('/nowhere/epoch_1.pth')

    train(tmp_path, resume=True)

    assert 'epoch: 3' in resumed_epochs(tmp_path)


def test_a_resumed_run_keeps_a_start_for_its_best_checkpoint(
    tmp_path: Path,
) -> None:
    """As one that was not interrupted does between its checkpoints."""
    hook = dict(interval=2, save_last=False, max_keep_ckpts=9)
    hooks = dict(checkpoint=dict(**KEEP_BEST['checkpoint'], **hook))
    first = validation(1, 2)
    first['train_cfg']['max_epochs'] = 2
    train(tmp_path, hooks=hooks, **first)
    assert checkpoints_of(tmp_path) == [BEST.format(2), 'epoch_2.pth']

    train(tmp_path, hooks=hooks, resume=True, **validation(3))

    found = checkpoints_of(tmp_path)
    assert found == [BEST.format(3), 'epoch_2.pth', 'epoch_3.pth']
    assert last(tmp_path) == 'epoch_3.pth'


def test_a_resumed_run_that_cannot_write_names_where_it_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tmp_path, train_cfg=dict(by_epoch=True, max_epochs=2))

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(atomic_backend, '_write', full)
    with pytest.raises(OSError, match='No space'):
        train(tmp_path, resume=True)

    good = f'last good one of this run: {tmp_path / "epoch_2.pth"}'
    assert good in log_of(tmp_path)


def test_a_moved_work_dir_resumes_from_the_file_that_was_last(
    tmp_path: Path,
) -> None:
    old, new = tmp_path / 'old', tmp_path / 'new'
    train(old)
    os.rename(old / 'epoch_2.pth', old / 'interrupted.pth')
    (old / 'last_checkpoint').write_text(str(old / 'interrupted.pth'))
    shutil.move(old, new)

    train(new, resume=True)

    assert 'epoch: 2' in resumed_epochs(new)


def test_the_best_checkpoint_of_another_run_is_not_removed(
    tmp_path: Path,
) -> None:
    one, other = tmp_path / 'one', tmp_path / 'other'
    train(one, hooks=KEEP_BEST, **validation(2, 1, 1))
    start = str(one / 'epoch_2.pth')

    again = dict(resume=True, load_from=start, **validation(1, 3))
    train(other, hooks=KEEP_BEST, **again)

    assert BEST.format(1) in checkpoints_of(one)
    assert BEST.format(3) in checkpoints_of(other)


def test_a_moved_work_dir_replaces_its_best_checkpoint(tmp_path: Path) -> None:
    old, new = tmp_path / 'old', tmp_path / 'new'
    train(old, hooks=KEEP_BEST, **validation(1, 2, 1))
    shutil.move(old, new)

    train(new, hooks=KEEP_BEST, resume=True, **validation(3))

    best = [name for name in checkpoints_of(new) if 'best' in name]
    assert best == [BEST.format(3)]


def test_so_does_one_that_goes_on_from_a_copy_elsewhere(
    tmp_path: Path,
) -> None:
    old, new = tmp_path / 'old', tmp_path / 'new'
    train(old, hooks=KEEP_BEST, **validation(1, 2, 1))
    start = str(shutil.copy(old / 'epoch_2.pth', tmp_path))
    shutil.move(old, new)

    again = dict(resume=True, load_from=start, **validation(3, 3))
    train(new, hooks=KEEP_BEST, **again)

    best = [name for name in checkpoints_of(new) if 'best' in name]
    assert len(best) == 1


@pytest.mark.parametrize('action', ['stop', 'continue'])
def test_an_old_checkpoint_that_stays_is_only_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    def busy(self: Any, path: str) -> None:
        raise OSError(16, 'Device or resource busy', path)

    monkeypatch.setattr(AtomicLocalBackend, 'remove', busy)
    hook = dict(max_keep_ckpts=1, if_unwritable=action)

    train(tmp_path, hooks=dict(checkpoint=hook))

    assert last(tmp_path) == 'epoch_3.pth'
    log = log_of(tmp_path)
    assert f'Could not remove {tmp_path / "epoch_2.pth"}: ' in log
    assert 'Could not write' not in log


def test_a_misspelt_argument_is_named_before_training(tmp_path: Path) -> None:
    runner = build_runner(tmp_path, hooks=dict(checkpoint=dict(intervall=2)))
    with pytest.raises(
        TypeError, match="argument 'intervall'; did you mean 'interval'"
    ):
        runner.train()
    assert runner.iter == 0


def test_resuming_where_nothing_was_written_starts(tmp_path: Path) -> None:
    tmp_path.joinpath('last_checkpoint').touch()

    runner = train(tmp_path, resume=True)

    assert runner.iter == EPOCHS * STEPS
    said = f'no checkpoint to resume from in {tmp_path}: training starts from'
    assert said in log_of(tmp_path)
    assert 'Nothing is left to train' not in log_of(tmp_path)


@pytest.mark.parametrize('by_epoch', [True, False])
def test_resuming_a_finished_run_says_how_to_train_longer(
    by_epoch: bool, tmp_path: Path
) -> None:
    key, length = ('max_epochs', 1) if by_epoch else ('max_iters', 2)
    short = dict(
        train_cfg=dict(by_epoch=by_epoch, **{key: length}),
        hooks=dict(checkpoint=dict(by_epoch=by_epoch)),
    )
    train(tmp_path, **short)
    said = (
        'Nothing is left to train: the run has come to '
        f'train_cfg.{key}={length}. To train longer, raise train_cfg.{key}\n'
    )
    assert said not in log_of(tmp_path)

    train(tmp_path, resume=True, **short)

    assert said in log_of(tmp_path)
    longer = {**short, 'train_cfg': {**short['train_cfg'], key: length + 1}}
    train(tmp_path, resume=True, **longer)
    assert log_of(tmp_path).count('Nothing is left to train') == 1


def test_nothing_readable_is_an_error_and_no_fresh_start(
    tmp_path: Path,
) -> None:
    train(tmp_path)
    for path in tmp_path.glob('*.pth'):
        break_off(path)

    with pytest.raises(ResumeError, match='none of the checkpoints') as error:
        train(tmp_path, resume=True)

    for epoch in range(1, EPOCHS + 1):
        assert f'epoch_{epoch}.pth: ' in str(error.value)


def test_a_named_checkpoint_is_not_exchanged(tmp_path: Path) -> None:
    train(tmp_path)
    broken = tmp_path / 'epoch_2.pth'
    break_off(broken)

    with pytest.raises(ResumeError) as error:
        train(tmp_path, resume=True, load_from=str(broken))

    assert f'cannot resume from {broken}: ' in str(error.value)
    assert str(tmp_path / 'epoch_3.pth') in str(error.value)


def test_what_a_config_says_of_the_data_can_be_read_again(
    tmp_path: Path,
) -> None:
    # As `metainfo` of a dataset's config arrives.
    metainfo = ConfigDict(groups=dict(even=[0, 2]), pairs=[dict(a=(1, 2))])
    checkpoint = dict(meta=dict(dataset_meta=metainfo))
    path = tmp_path / 'epoch_1.pth'

    AtomicCheckpointHook().before_save_checkpoint(None, checkpoint)
    torch.save(checkpoint, path)

    meta = CheckpointLoader.load_checkpoint(str(path))['meta']
    assert meta['dataset_meta'] == metainfo.to_dict()


def test_the_users_home_may_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('HOME', str(tmp_path))
    train(tmp_path)
    path = str(tmp_path / 'epoch_2.pth')

    found = choose_checkpoint('~/epoch_2.pth', '', '', 'epoch_{}.pth')

    assert found == (path, {})


def test_a_named_checkpoint_goes_before_a_remote_one(tmp_path: Path) -> None:
    remote = 's3://bucket/epoch_9.pth'
    train(tmp_path)
    (tmp_path / 'last_checkpoint').write_text(remote)
    folder = str(tmp_path)
    named = str(tmp_path / 'epoch_1.pth')

    found = choose_checkpoint(named, folder, folder, 'epoch_{}.pth')
    assert found == (named, {})
    found = choose_checkpoint(None, folder, folder, 'epoch_{}.pth')
    assert found == (remote, {})
    with pytest.raises(ResumeError, match=f'can be read is {remote}'):
        choose_checkpoint('none.pth', folder, folder, 'epoch_{}.pth')


def test_a_remote_checkpoint_is_left_to_the_host(tmp_path: Path) -> None:
    remote = 's3://bucket/epoch_9.pth'
    runner = build_runner(tmp_path, resume=True, load_from=remote)

    runner.call_hook('before_run')

    assert (runner._resume, runner._load_from) == (True, remote)


def test_a_sharded_checkpoint_is_not_looked_into(tmp_path: Path) -> None:
    assert why_unreadable(tmp_path) is None


def test_an_empty_file_is_called_so(tmp_path: Path) -> None:
    (tmp_path / 'epoch_1.pth').touch()

    assert why_unreadable(tmp_path / 'epoch_1.pth') == 'the file is empty'


def test_too_little_memory_is_no_fault_of_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(path: str, **_: Any) -> None:
        raise MemoryError

    train(tmp_path)
    monkeypatch.setattr(CheckpointLoader, 'load_checkpoint', load)

    with pytest.raises(MemoryError):
        why_unreadable(tmp_path / 'epoch_1.pth')


def test_an_error_without_words_is_a_reason_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(path: str, **_: Any) -> None:
        raise EOFError

    (tmp_path / 'epoch_1.pth').write_text('anything')
    monkeypatch.setattr(CheckpointLoader, 'load_checkpoint', load)

    assert why_unreadable(tmp_path / 'epoch_1.pth') == 'EOFError: '


# A file system that lost power may leave zeros of what it had not written.
@pytest.mark.parametrize('content', [b'', b'\0\0\0', b'\n'])
def test_a_last_checkpoint_without_a_name_means_none(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / 'last_checkpoint').write_bytes(content)

    assert latest_checkpoints(str(tmp_path)) == []


def test_a_last_checkpoint_that_is_no_text_is_passed_over(
    tmp_path: Path,
) -> None:
    train(tmp_path)
    (tmp_path / 'last_checkpoint').write_bytes(b'\xff\xfe')
    folder = str(tmp_path)

    path, _ = choose_checkpoint(None, folder, folder, 'epoch_{}.pth')

    assert path == str(tmp_path / 'epoch_3.pth')


def test_a_file_in_a_folder_of_the_run_goes_before_its_namesake(
    tmp_path: Path,
) -> None:
    work, out = tmp_path / 'work', tmp_path / 'out'
    own, other = (str(folder / 'epoch_1.pth') for folder in (work, out))
    for path in (own, other):
        Path(path).parent.mkdir()
        Path(path).touch()
    (work / 'last_checkpoint').write_text(other)

    assert latest_checkpoints(str(work), str(out)) == [other, own]
    assert latest_checkpoints(str(work)) == [own, other]


def test_files_that_only_begin_like_a_checkpoint_are_none(
    tmp_path: Path,
) -> None:
    train(tmp_path)
    (tmp_path / 'last_checkpoint').unlink()
    shutil.copy(tmp_path / 'epoch_1.pth', tmp_path / 'epoch_9.pth.old')
    folder = str(tmp_path)

    found = choose_checkpoint(None, folder, folder, 'epoch_{}.pth')

    assert found == (str(tmp_path / 'epoch_3.pth'), {})


def test_a_folder_that_is_not_there_has_no_checkpoint(tmp_path: Path) -> None:
    folder = str(tmp_path / 'none')

    assert choose_checkpoint(None, folder, folder, '{}.pth') == (None, {})


def test_a_machine_without_the_checkpoint_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(data: list) -> None:
        data[:] = [True, '/elsewhere/epoch_1.pth', None]

    monkeypatch.setattr(
        atomic_checkpoint_hook, 'broadcast_object_list', answer
    )

    with pytest.raises(ResumeError, match='a disk that all machines share'):
        train(tmp_path)


def test_weights_alone_cannot_be_resumed_from(tmp_path: Path) -> None:
    train(tmp_path)
    state = torch.load(tmp_path / 'epoch_3.pth')['state_dict']
    torch.save(dict(state_dict=state), tmp_path / 'weights.pth')

    with pytest.raises(ResumeError, match='has no meta, message_hub,'):
        train(tmp_path, resume=True, load_from=str(tmp_path / 'weights.pth'))


def test_without_its_optimizer_no_run_goes_on(tmp_path: Path) -> None:
    train(tmp_path, hooks=KEEP_BEST, **validation(1, 1, 1))
    best = str(tmp_path / BEST.format(1))

    with pytest.raises(ResumeError, match='has no optimizer.*load_from'):
        train(tmp_path, resume=True, load_from=best)


def test_leftovers_of_killed_writers_are_removed(tmp_path: Path) -> None:
    leftover = tmp_path / '.epoch_3.pth.123.partial'
    leftover.write_bytes(b'half')

    train(tmp_path)

    assert not leftover.exists()
    assert f'Removed the unfinished {leftover}' in log_of(tmp_path)


def test_so_are_those_beside_last_checkpoint(tmp_path: Path) -> None:
    work, out = tmp_path / 'work', tmp_path / 'out'
    work.mkdir()
    leftover = work / '.last_checkpoint.123.partial'
    leftover.write_bytes(b'half')

    train(work, hooks=dict(checkpoint=dict(out_dir=str(out))))

    assert not leftover.exists()


class Stop(Hook):
    """End the run when the validation of an epoch begins."""

    def before_val(self, runner: Any) -> None:
        if runner.epoch == 2:
            raise FailsError


# The last one validates from the second epoch on.
@pytest.mark.parametrize(
    ('interval', 'later'), [(1, None), (2, None), (9, [(3, 1)])]
)
def test_a_validation_that_did_not_end_is_made_up_for(
    tmp_path: Path, interval: int, later: list | None
) -> None:
    def cfg(*scores: float) -> dict:
        overrides = validation(*scores, interval=interval)
        overrides['train_cfg']['dynamic_intervals'] = later
        return overrides

    hooks = dict(checkpoint=dict(save_best='score', rule='greater'))
    with pytest.raises(FailsError):
        train(
            tmp_path,
            hooks=dict(**hooks, stop=Stop()),
            **cfg(*([1] * (interval == 1))),
        )
    assert last(tmp_path) == 'epoch_2.pth'

    train(tmp_path, hooks=hooks, resume=True, **cfg(5, 2))

    assert BEST.format(2) in checkpoints_of(tmp_path)
    assert 'Validating first' in log_of(tmp_path)


def test_a_validation_that_was_not_due_is_not_made_up_for(
    tmp_path: Path,
) -> None:
    train(tmp_path, **validation(1, interval=3))

    train(
        tmp_path,
        resume=True,
        load_from=str(tmp_path / 'epoch_1.pth'),
        **validation(1, interval=3),
    )

    assert 'Validating first' not in log_of(tmp_path)


def test_a_validation_that_ended_is_not_repeated(tmp_path: Path) -> None:
    hooks = dict(checkpoint=dict(save_best='score', rule='greater'))
    train(tmp_path, hooks=hooks, **validation(1, 2, 3))

    train(tmp_path, hooks=hooks, resume=True, **validation(4))

    assert 'Validating first' not in log_of(tmp_path)


def test_a_checkpoint_of_mmengine_is_not_validated_again(
    tmp_path: Path,
) -> None:
    hooks = dict(checkpoint=dict(type='CheckpointHook'))
    train(tmp_path, hooks=hooks, **validation(1, 2, 3))

    train(tmp_path, resume=True, **validation(4))

    assert 'Validating first' not in log_of(tmp_path)


@pytest.mark.parametrize('best', [None, 'score'])
def test_a_validation_by_itself_saves_nothing(
    tmp_path: Path, best: str | None
) -> None:
    hooks = dict(checkpoint=dict(save_best=best, rule='greater'))
    runner = build_runner(tmp_path, hooks, **validation(3.0, 4.0, 5.0, 6.0))

    assert runner.val() == dict(score=3.0)
    assert checkpoints_of(tmp_path) == []

    runner.train()
    assert f'epoch_{EPOCHS}.pth' in checkpoints_of(tmp_path)


def test_mmengines_own_hook_still_saves_and_resumes(tmp_path: Path) -> None:
    hooks = dict(checkpoint=dict(type='CheckpointHook'))
    train(tmp_path, hooks=hooks)

    train(tmp_path, hooks=hooks, resume=True)

    assert 'epoch: 3' in resumed_epochs(tmp_path)


def test_file_client_args_are_refused() -> None:
    with pytest.raises(ValueError, match='backend_args'):
        build_runner(
            Path(os.devnull).parent,
            hooks=dict(checkpoint=dict(file_client_args=dict(backend='disk'))),
        )


# The n-th write of a run that keeps one checkpoint is killed halfway.
KILLED = """
import os, signal, sys
from pathlib import Path
from serkd_mm.engine import AtomicLocalBackend, atomic_backend
from tests.engine.runs import build_runner

calls = []
write = atomic_backend._write

def halfway(path, data):
    calls.append(path)
    if len(calls) == int(sys.argv[2]):
        write(path, data[: len(data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    write(path, data)

atomic_backend._write = halfway
hooks = dict(checkpoint=dict(max_keep_ckpts=1))
build_runner(Path(sys.argv[1]), hooks=hooks).train()
"""


# The second checkpoint, and the last_checkpoint that names it.
@pytest.mark.parametrize('write', [3, 4])
def test_a_run_killed_while_it_writes_resumes(
    tmp_path: Path, write: int
) -> None:
    root = str(Path(__file__).resolve().parents[3])
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', KILLED, tmp_path, str(write)],
        env={**os.environ, 'PYTHONPATH': root},
        capture_output=True,
    )

    assert done.returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob('.*.partial'))) == 1
    assert last(tmp_path) == 'epoch_1.pth'
    for name in checkpoints_of(tmp_path):
        CheckpointLoader.load_checkpoint(str(tmp_path / name))
    runner = train(
        tmp_path, hooks=dict(checkpoint=dict(max_keep_ckpts=1)), resume=True
    )
    assert f'epoch: 1, iter: {STEPS}' in resumed_epochs(tmp_path)
    assert runner.iter == EPOCHS * STEPS
    assert not list(tmp_path.glob('.*.partial'))
