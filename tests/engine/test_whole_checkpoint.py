# Copyright (c) The serkd_mm authors. All rights reserved.
"""Nothing goes on with weights that a checkpoint did not have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from serkd_mm.engine.launch import leave_teacher_out
from serkd_mm.engine.whole_checkpoint import (
    require_whole_checkpoint,
    why_misfit,
)
from tests.engine.runners import make_runner
from tests.models.builders import algorithm_config

BIAS = 'architecture.backbone.ln1.bias'


def runner(folder: Path, **overrides: Any) -> Runner:
    made = make_runner(folder, algorithm_config(), **overrides)
    require_whole_checkpoint(made)
    return made


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    make_runner(tmp_path / 'run', algorithm_config()).train()
    return tmp_path / 'run' / 'epoch_1.pth'


def change(path: Path, change: Any) -> None:
    content = torch.load(path)
    change(content['state_dict'])
    torch.save(content, path)


def test_its_own_checkpoint_is_loaded(
    checkpoint: Path, tmp_path: Path
) -> None:
    for resume in (False, True):
        made = runner(
            tmp_path / f'{resume}', load_from=str(checkpoint), resume=resume
        )
        made.load_or_resume()
        saved = torch.load(checkpoint)['state_dict']
        state = made.model.state_dict()
        assert all(torch.equal(state[key], saved[key]) for key in saved)


def test_a_teacher_in_the_checkpoint_does_no_harm(
    checkpoint: Path, tmp_path: Path
) -> None:
    change(checkpoint, lambda s: s.update({'teacher.head.x': torch.ones(1)}))
    runner(tmp_path / 'a', load_from=str(checkpoint)).load_or_resume()


def test_a_student_is_tested_without_the_distillation(
    checkpoint: Path, tmp_path: Path
) -> None:
    cfg = Config(dict(model=algorithm_config()))
    leave_teacher_out(cfg)
    made = make_runner(tmp_path / 'a', cfg.model, load_from=str(checkpoint))
    require_whole_checkpoint(made)
    assert any('distiller.' in k for k in torch.load(checkpoint)['state_dict'])
    made.load_or_resume()
    made._has_loaded = False
    change(checkpoint, lambda state: state.pop(BIAS))
    with pytest.raises(ValueError, match=f'missing keys .*: {BIAS}'):
        made.load_or_resume()


@pytest.mark.parametrize('resume', [False, True])
@pytest.mark.parametrize(
    ('mistake', 'named'),
    [
        (
            lambda s: s.pop('architecture.backbone.ln1.weight'),
            'missing keys in source state_dict: architecture.backbone.ln1.w',
        ),
        (
            lambda s: s.update({'architecture.new': torch.ones(1)}),
            'unexpected key in source state_dict: architecture.new',
        ),
        (
            lambda s: s.update(
                {'architecture.backbone.ln1.bias': torch.ones(7)}
            ),
            f'size mismatch for {BIAS}',
        ),
    ],
)
def test_another_checkpoint_is_one_line(
    resume: bool, mistake: Any, named: str, checkpoint: Path, tmp_path: Path
) -> None:
    change(checkpoint, mistake)
    made = runner(tmp_path / 'a', load_from=str(checkpoint), resume=resume)
    with pytest.raises(ValueError, match='does not belong to') as error:
        made.load_or_resume()
    message = str(error.value)
    assert str(checkpoint) in message
    assert named in message
    assert '\n' not in message


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    def fails(filename: str, strict: bool) -> None:
        raise RuntimeError('CUDA out of memory')

    made: Any = runner(tmp_path / 'a')
    made.load_checkpoint = fails
    require_whole_checkpoint(made)
    with pytest.raises(RuntimeError, match='CUDA out of memory'):
        made.load_checkpoint('a.pth')


def test_of_a_misfit_the_first_names_are_said_or_else_all() -> None:
    title = 'Error(s) in loading state_dict for Net:\n'
    keys = '\tMissing key(s) in state_dict: "a", "b", "c", "d".\n'
    said = 'Missing key(s) in state_dict: "a", "b", "c", ...'
    assert why_misfit(RuntimeError(title + keys)) == said
    assert why_misfit(RuntimeError('cannot be\tread.')) == 'cannot be read'
    assert why_misfit(AssertionError('of 5\nnot 6.')) == 'of 5 not 6'
