# Copyright (c) The serkd_mm authors. All rights reserved.
"""What the tools make of a config before they run it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmrazor.registry import MODELS

from serkd_mm.engine.launch import leave_teacher_out, resume_after_restart

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'


def test_the_student_is_tested_without_a_trace_of_its_teacher(
    capfd: pytest.CaptureFixture,
) -> None:
    cfg = Config.fromfile(CONFIGS / 'quickstart' / 'serkd.py')
    trained = cfg.copy().model
    trained.update(teacher_ckpt=None, allow_random_teacher=True)
    trained.data_preprocessor = cfg.data_preprocessor
    trained = MODELS.build(trained).eval()
    raw = dict(inputs=torch.randint(0, 256, (2, 3, 32, 32)))
    cfg.model.teacher.cfg_path = 'a/teacher/that/is/not/here.py'
    capfd.readouterr()

    leave_teacher_out(cfg)
    student = MODELS.build(cfg.model).eval()
    loaded = student.load_state_dict(trained.state_dict(), strict=False)

    assert 'eacher' not in str(cfg.model) + ''.join(capfd.readouterr())
    assert loaded.missing_keys == []
    assert {key.split('.')[0] for key in loaded.unexpected_keys} == {
        'distiller'
    }
    with torch.no_grad():
        logits = [
            model(model.data_preprocessor(raw)['inputs'])
            for model in (student, trained)
        ]
    assert torch.equal(*logits)


def test_a_config_without_teacher_is_tested_as_it_is() -> None:
    cfg = Config.fromfile(CONFIGS / 'quickstart' / 'student.py')
    before = cfg.pretty_text

    leave_teacher_out(cfg)

    assert cfg.pretty_text == before


@pytest.fixture
def used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A job that torchrun may restart, in a work dir with a checkpoint."""
    monkeypatch.setenv('TORCHELASTIC_MAX_RESTARTS', '2')
    monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', '0')
    (tmp_path / 'last_checkpoint').write_text('epoch_1.pth')
    return Config(
        dict(work_dir=str(tmp_path), resume=False, load_from='start.pth')
    )


def test_a_restarted_job_resumes_from_its_own_checkpoint(
    used: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', '1')
    resume_after_restart(used)
    assert (used.resume, used.load_from) == (True, None)


def test_a_restart_before_the_first_checkpoint_starts_again(
    used: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', '1')
    (Path(used.work_dir) / 'last_checkpoint').unlink()
    resume_after_restart(used)
    assert (used.resume, used.load_from) == (False, 'start.pth')


@pytest.mark.parametrize('resume', [True, False])
def test_a_job_that_may_restart_has_the_work_dir_to_itself(
    used: Config, resume: bool
) -> None:
    used.resume = resume
    with pytest.raises(FileExistsError, match=f'^{used.work_dir} holds the '):
        resume_after_restart(used)


def test_going_on_in_a_work_dir_needs_no_empty_one(used: Config) -> None:
    used.resume, used.load_from = True, None
    resume_after_restart(used)
    assert (used.resume, used.load_from) == (True, None)


def test_a_job_that_does_not_restart_is_left_alone(
    used: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('TORCHELASTIC_MAX_RESTARTS', '0')
    resume_after_restart(used)
    assert (used.resume, used.load_from) == (False, 'start.pth')
