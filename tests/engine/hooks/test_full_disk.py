# Copyright (c) The serkd_mm authors. All rights reserved.
"""Files that cannot grow as far as a checkpoint needs."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.hooks import Hook

from serkd_mm.engine import TolerantVisBackend
from tests.engine.runs import (
    EPOCHS,
    Line,
    build_runner,
    checkpoints_of,
    log_of,
    validation,
)

# Bytes: less than a checkpoint of :class:`Wide`, more than a log.
LIMIT = 200_000


class Wide(Line):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 20_000)


class DiskIsFull(Hook):
    """From some epoch until another, no file grows beyond :data:`LIMIT`."""

    def __init__(self, begin: int, end: int) -> None:
        self.begin = begin
        self.end = end

    def before_train_epoch(self, runner: Any) -> None:
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        full = self.begin <= runner.epoch + 1 < self.end
        soft = LIMIT if full else hard
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(autouse=True)
def _disk() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def train(
    work_dir: Path, disk: DiskIsFull, *scores: float, **checkpoint: Any
) -> None:
    checkpoint = dict(max_keep_ckpts=1, **checkpoint)
    build_runner(
        work_dir,
        dict(checkpoint=checkpoint),
        model=Wide(),
        custom_hooks=[disk],
        **(validation(*scores) if scores else {}),
    ).train()


def last(work_dir: Path) -> str:
    return Path((work_dir / 'last_checkpoint').read_text()).name


def readable(work_dir: Path) -> list[str]:
    for name in checkpoints_of(work_dir):
        torch.load(work_dir / name)
    return checkpoints_of(work_dir)


def test_stops_and_keeps_the_last_good_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match='File too large'):
        train(tmp_path, DiskIsFull(2, EPOCHS))

    assert readable(tmp_path) == ['epoch_1.pth']
    assert last(tmp_path) == 'epoch_1.pth'
    assert not list(tmp_path.glob('.*'))
    assert 'Could not write this checkpoint' in log_of(tmp_path)
    assert f'of this run: {tmp_path / "epoch_1.pth"}' in log_of(tmp_path)


def test_goes_on_by_option(tmp_path: Path) -> None:
    train(tmp_path, DiskIsFull(2, EPOCHS), if_unwritable='continue')

    assert log_of(tmp_path).count('Could not write this checkpoint') == 1
    assert readable(tmp_path) == [f'epoch_{EPOCHS}.pth']
    assert last(tmp_path) == f'epoch_{EPOCHS}.pth'


def test_a_last_checkpoint_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match='File too large'):
        train(tmp_path, DiskIsFull(2, 9), if_unwritable='continue')

    assert log_of(tmp_path).count('Could not write this checkpoint') == 2
    assert readable(tmp_path) == ['epoch_1.pth']


def test_the_best_checkpoint_is_kept_too(tmp_path: Path) -> None:
    train(
        tmp_path,
        DiskIsFull(2, EPOCHS),
        *(0.5, 0.7, 0.6),
        save_best='score',
        rule='greater',
        if_unwritable='continue',
    )

    # The score of epoch 2 could not be kept, so that of 3 is the best.
    assert readable(tmp_path) == ['best_score_epoch_3.pth', 'epoch_3.pth']
    assert log_of(tmp_path).count('Could not write this checkpoint') == 2


def test_lines_of_scalars_that_do_not_fit_are_left_out(
    tmp_path: Path,
) -> None:
    backend = TolerantVisBackend(str(tmp_path))
    backend.add_scalars(dict(loss=1.0), step=1)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (40, hard))
    backend.add_scalars(dict(loss=2.0), step=2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    backend.add_scalars(dict(loss=3.0), step=3)

    lines = (tmp_path / 'scalars.json').read_text().splitlines()
    assert [json.loads(line)['step'] for line in lines] == [1, 3]


def test_another_option_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got 'ignore'"):
        build_runner(tmp_path, dict(checkpoint=dict(if_unwritable='ignore')))
