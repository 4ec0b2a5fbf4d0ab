# Copyright (c) The serkd_mm authors. All rights reserved.
"""What the tools make of a config before they run it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS as RUNNER_MODELS
from mmengine.registry import DefaultScope
from mmrazor.registry import MODELS
from torch import nn

from serkd_mm.engine.launch import (
    check_batch_norm,
    check_keys,
    leave_teacher_out,
    resume_after_restart,
)

from ..models.builders import build, cnn_config, distiller_config, recorder

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
IDLE = dict(type='SeRKDDistiller')


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


def test_a_student_of_the_default_scope_is_tested_without_its_teacher() -> (
    None
):
    cfg = Config.fromfile(CONFIGS / 'quickstart' / 'serkd.py')
    for part in (cfg.model, cfg.model.architecture):
        part.pop('_scope_')
    cfg.model.type = 'mmrazor.FrozenTeacherDistill'

    leave_teacher_out(cfg)

    # A runner builds in the scope of the config.
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        student = RUNNER_MODELS.build(cfg.model)
    assert type(student.architecture).__name__ == 'ImageClassifier'


def test_a_config_without_teacher_is_tested_as_it_is() -> None:
    cfg = Config.fromfile(CONFIGS / 'quickstart' / 'student.py')
    before = cfg.pretty_text

    leave_teacher_out(cfg)

    assert cfg.pretty_text == before


@pytest.fixture
def used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A launched job in a work dir with a checkpoint that is 60 s old."""
    last = tmp_path / 'last_checkpoint'
    last.write_text('epoch_1.pth')
    os.utime(last, (1e9 - 60, 1e9 - 60))
    monkeypatch.setenv('SERKD_MM_STARTED', repr(1e9))
    return Config(
        dict(work_dir=str(tmp_path), resume=False, load_from='start.pth')
    )


def test_a_job_goes_on_from_its_own_checkpoint(used: Config) -> None:
    os.utime(Path(used.work_dir) / 'last_checkpoint', (1e9 + 60, 1e9 + 60))
    resume_after_restart(used)
    assert (used.resume, used.load_from) == (True, None)


def test_a_checkpoint_of_an_earlier_run_is_not_the_jobs(used: Config) -> None:
    resume_after_restart(used)
    assert (used.resume, used.load_from) == (False, 'start.pth')


def test_a_job_without_checkpoint_starts_again(used: Config) -> None:
    (Path(used.work_dir) / 'last_checkpoint').unlink()
    resume_after_restart(used)
    assert (used.resume, used.load_from) == (False, 'start.pth')


def test_without_launcher_only_the_option_resumes(
    used: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv('SERKD_MM_STARTED')
    resume_after_restart(used)
    assert (used.resume, used.load_from) == (False, 'start.pth')


# -- mistakes that show before training -------------------------------------


@pytest.mark.parametrize(
    ('misspelt', 'meant'),
    [
        ('param_schedulers', 'param_scheduler'),
        ('custom_hook', 'custom_hooks'),
        ('randomnes', 'randomness'),
        ('load_fromm', 'load_from'),
        ('train_dataloaders', 'train_dataloader'),
    ],
)
def test_a_misspelt_setting_of_the_runner_is_named(
    misspelt: str, meant: str
) -> None:
    with pytest.raises(ValueError, match=rf"'{misspelt}'.*mean '{meant}'"):
        check_keys(Config({misspelt: 1}))


@pytest.mark.parametrize('path', CONFIGS.rglob('*.py'), ids=str)
def test_no_config_has_a_key_that_looks_misspelt(path: Path) -> None:
    check_keys(Config.fromfile(path, import_custom_modules=False))


def batch_norm_config(batch_size: int) -> Config:
    return Config(dict(train_dataloader=dict(batch_size=batch_size)))


def test_batch_norm_over_one_image_is_refused() -> None:
    norm = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    with pytest.raises(
        ValueError, match=r'train_dataloader\.batch_size is 1.*norm \(1\)'
    ):
        check_batch_norm(batch_norm_config(1), norm)
    check_batch_norm(batch_norm_config(2), norm)
    check_batch_norm(Config(dict(train_dataloader=None)), norm)


def test_norms_that_need_no_batch_may_have_one_image() -> None:
    class Frozen(nn.BatchNorm2d):
        def train(self, mode: bool = True) -> Frozen:
            return super().train(False)

    check_batch_norm(batch_norm_config(1), nn.LayerNorm(4))
    check_batch_norm(batch_norm_config(1), nn.Sequential(Frozen(4)))


def test_batch_norm_of_the_teacher_may_see_one_image() -> None:
    distiller = distiller_config(losses=('loss_kd',))
    distiller['teacher_recorders'] = dict(logits=recorder('head.fc'))
    model = build(teacher=cnn_config(), distiller=distiller)
    check_batch_norm(batch_norm_config(1), model)
    student = build(
        architecture=cnn_config(), teacher=cnn_config(), distiller=IDLE
    )
    with pytest.raises(ValueError, match='architecture.backbone.bn1'):
        check_batch_norm(batch_norm_config(1), student)
