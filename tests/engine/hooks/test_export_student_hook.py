# Copyright (c) The serkd_mm authors. All rights reserved.
"""The files of the best student, whatever happens to the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.hooks import EMAHook
from mmengine.runner import Runner

from serkd_mm.engine import export
from serkd_mm.engine.hooks import ExportStudentHook, export_student_hook
from tests.engine.runners import images, loader, make_runner
from tests.engine.runs import Scores, log_of
from tests.models.builders import algorithm_config, student_config


def run(
    folder: Path,
    *scores: float,
    hooks: tuple = (dict(type='ExportStudentHook'),),
    save_best: Any = 'auto',
    **overrides: Any,
) -> Runner:
    """Train an epoch per score, which its validation finds."""
    student = student_config()
    student['backbone'].update(drop_rate=0.2, drop_path_rate=0.2)
    model = algorithm_config(architecture=student)
    checkpoint = dict(type='AtomicCheckpointHook', rule='greater')
    checkpoint['save_best'] = save_best
    runner = make_runner(
        folder,
        model,
        cfg=Config(dict(model=model)),
        train_cfg=dict(by_epoch=True, max_epochs=len(scores)),
        train_dataloader=loader(images(4)),
        val_dataloader=loader(images(2)),
        val_cfg=dict(),
        val_evaluator=Evaluator([Scores(scores)]),
        default_hooks=dict(checkpoint=checkpoint),
        custom_hooks=list(hooks),
        **overrides,
    )
    runner.train()
    return runner


def exported(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.glob('best_student*'))


def student_of(path: Path) -> dict:
    """The student's weights in a checkpoint."""
    start = 'architecture.'
    state = torch.load(path)['state_dict']
    return {
        key[len(start) :] if key.startswith(start) else key: value
        for key, value in state.items()
        if not key.startswith('distiller.')
    }


def assert_same(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose second epoch was the best."""
    folder = tmp_path_factory.mktemp('run')
    run(folder, 1.0, 3.0, 2.0)
    return folder


def test_the_files_are_those_of_the_best_student(folder: Path) -> None:
    weights, config = exported(folder)

    assert Path(config).stem == Path(weights).stem
    assert (config[-3:], weights[-4:]) == ('.py', '.pth')
    assert torch.load(folder / weights)['meta']['epoch'] == 2
    best = student_of(folder / 'best_score_epoch_2.pth')
    assert_same(student_of(folder / weights), best)


def test_training_is_the_same_without_the_hook(
    folder: Path, tmp_path: Path
) -> None:
    run(tmp_path, 1.0, 3.0, 2.0, hooks=())

    assert not exported(tmp_path)
    for name in ('epoch_3.pth', 'best_score_epoch_2.pth'):
        assert_same(student_of(folder / name), student_of(tmp_path / name))


def test_a_resumed_run_catches_up(tmp_path: Path) -> None:
    run(tmp_path, 1.0, hooks=())
    # As if the process had been killed before it removed them.
    for ending in ('pth', 'py', 'onnx', 'pt'):
        (tmp_path / f'best_student-01234567.{ending}').touch()
    (tmp_path / 'best_student-of-all.pth').touch()
    run(tmp_path, 0.5, 0.5, resume=True)

    weights, config, other = exported(tmp_path)
    assert other == 'best_student-of-all.pth'
    best = student_of(tmp_path / 'best_score_epoch_1.pth')
    assert_same(student_of(tmp_path / weights), best)


def test_the_averaged_student_is_exported(tmp_path: Path) -> None:
    hooks = (
        dict(type='EMAHook', momentum=0.5),
        dict(type='ExportStudentHook'),
    )
    runner = run(tmp_path, 1.0, 2.0, hooks=hooks)

    (ema,) = [hook for hook in runner.hooks if isinstance(hook, EMAHook)]
    averaged = ema.ema_model.module.student.state_dict()
    weights = student_of(tmp_path / exported(tmp_path)[0])
    assert_same(weights, averaged)
    trained = runner.model.student.state_dict()
    assert any(not torch.equal(weights[key], trained[key]) for key in weights)


@pytest.mark.parametrize('fails', ['check', 'write'])
def test_an_export_that_fails_ends_nothing_and_removes_nothing(
    fails: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    function = 'put' if fails == 'write' else '_compare_logits'
    original = getattr(export, function)

    def second_fails(*args: Any) -> Any:
        last = fails == 'check' or args[1].endswith('.pth')
        calls.append(last)
        if last and sum(calls) == 2:
            raise OSError(28, 'No space left on device')
        return original(*args)

    monkeypatch.setattr(export, function, second_fails)
    runner = run(tmp_path, 1.0, 2.0)

    assert runner.epoch == 2
    (weights,) = tmp_path.glob('best_student-*.pth')
    assert torch.load(weights)['meta']['epoch'] == 1
    assert weights.with_suffix('.py').is_file()
    log = log_of(tmp_path)
    assert 'the files of the one before stay: OSError' in log


def test_an_old_export_that_stays_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*args: Any) -> None:
        raise OSError(16, 'Device or resource busy')

    monkeypatch.setattr(export_student_hook, '_remove_others', busy)

    assert run(tmp_path, 1.0, 2.0).epoch == 2
    assert 'Device or resource busy' in log_of(tmp_path)


def test_settings_that_export_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"save_best='auto'"):
        run(tmp_path, 1.0, save_best=None)
    with pytest.raises(ValueError, match='set metric to one of a, b'):
        run(tmp_path, 1.0, save_best=['a', 'b'])
    trained = dict(type='EMAHook', evaluate_on_ema=False,
                   evaluate_on_origin=True)  # fmt: skip
    with pytest.raises(ValueError, match='evaluate_on_ema=False.* averaged'):
        run(tmp_path, 1.0, hooks=(dict(type='ExportStudentHook'), trained))
    with pytest.raises(ValueError, match=r"'student\.pt'.*a \.pth file"):
        ExportStudentHook(out='student.pt')
