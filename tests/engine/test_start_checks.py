# Copyright (c) The serkd_mm authors. All rights reserved.
"""Checkpoints that are not there are refused before anything is built."""

from __future__ import annotations

from pathlib import Path

import pytest
from mmengine.config import Config

from serkd_mm.engine.start_checks import check_start


def config(path: Path | str | None = None, **others: object) -> Config:
    load_from = None if path is None else str(path)
    return Config(dict(model=dict(type='A'), load_from=load_from, **others))


def test_what_is_there_or_may_be_elsewhere_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / 'a.pth').touch()
    monkeypatch.setenv('HOME', str(tmp_path))
    paths = ('http://x/a.pth', 'https://x/a.pth', 'torchvision://resnet18')
    paths += ('open-mmlab://a', 's3://bucket/a.pth', 'aws:s3://bucket/a.pth')
    for path in (None, tmp_path / 'a.pth', '~/a.pth', *paths):
        check_start(config(path))
        teacher = None if path is None else str(path)
        check_start(Config(dict(model=dict(teacher_ckpt=teacher))))
    check_start(Config(dict()))


def test_a_missing_teacher_is_named() -> None:
    cfg = Config(dict(model=dict(teacher_ckpt='no.pth')))
    with pytest.raises(FileNotFoundError, match='set model.teacher_ckpt to'):
        check_start(cfg)


def test_a_missing_file_is_named_as_the_user_named_it() -> None:
    end = 'name the path or URL of a checkpoint'
    with pytest.raises(
        FileNotFoundError, match=f"^load_from 'no.pth' is not a file; {end}$"
    ):
        check_start(config('no.pth'))
    with pytest.raises(
        FileNotFoundError, match='^--resume .* or none for the latest one of'
    ):
        check_start(config('no.pth'), '--resume')


def test_a_folder_is_no_checkpoint_of_the_usual_runner(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match='is a folder; name the path'):
        check_start(config(tmp_path))
    (tmp_path / 'epoch_2.pth').touch()
    with pytest.raises(FileNotFoundError, match=r"such as '.*/epoch_2\.pth'$"):
        check_start(config(tmp_path))
    # Sharded ones are.
    check_start(config(tmp_path, runner_type='FlexibleRunner'))


def test_the_weights_that_a_network_starts_from_are_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    initial = dict(type='Pretrained', checkpoint='students/a.pth', prefix='b')
    model = dict(backbone=dict(init_cfg=[dict(type='TruncNormal'), initial]))
    named = 'model.backbone.init_cfg.1.checkpoint .students/a.pth. is not a'
    with pytest.raises(FileNotFoundError, match=named):
        check_start(Config(dict(model=model)))
    # The teacher's own are replaced by those of teacher_ckpt.
    check_start(Config(dict(model=dict(teacher=model))))
    (tmp_path / 'a.pth').touch()
    monkeypatch.setenv('HOME', str(tmp_path))
    for there in ('https://example.org/a.pth', '~/a.pth'):
        initial['checkpoint'] = there
        check_start(Config(dict(model=model)))
