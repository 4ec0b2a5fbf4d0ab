# Copyright (c) The serkd_mm authors. All rights reserved.
"""The teacher is evaluated before training, which does not notice."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.runner import Runner
from mmrazor.registry import MODELS
from torch import nn

from serkd_mm.engine.hooks import TeacherCheckHook, teacher_check_hook
from tests.engine.runners import images, loader, make_runner
from tests.models.builders import (
    CLASSES,
    algorithm_config,
    build,
    distiller_config,
    student_config,
    vit_config,
)

RGB = dict(
    type='ClsDataPreprocessor',
    num_classes=CLASSES,
    mean=[120.0, 110.0, 100.0],
    std=[60.0, 50.0, 40.0],
    to_rgb=True,
)
BGR = dict(
    type='ClsDataPreprocessor',
    mean=[10.0, 20.0, 200.0],
    std=[90.0, 9.0, 30.0],
    to_rgb=False,
)


def labelled(teacher: nn.Module, right: int, count: int = 20) -> list[dict]:
    """Images whose labels the teacher finds for ``right`` of them."""
    samples = images(count, seed=1)
    raw = torch.stack([sample['inputs'] for sample in samples])
    with torch.no_grad():
        inputs = teacher.data_preprocessor(dict(inputs=raw))['inputs']
        answers = teacher(inputs, mode='tensor').argmax(dim=1)
    for i, (sample, answer) in enumerate(zip(samples, answers.tolist())):
        label = answer if i < right else (answer + 1) % CLASSES
        sample['data_samples'].set_gt_label(label)
    return samples


def validation(samples: list[dict]) -> dict[str, Any]:
    return dict(
        val_dataloader=loader(samples, batch_size=6),
        val_cfg=dict(),
        val_evaluator=dict(type='Accuracy', topk=(1, 2)),
    )


def check(folder: Path, model: nn.Module, **overrides: Any) -> Runner:
    """Train with the hook; its settings are under ``hook``."""
    hook = dict(type='TeacherCheckHook', **overrides.pop('hook', {}))
    runner = make_runner(
        folder,
        model,
        custom_hooks=[hook],
        log_level='INFO',
        visualizer=dict(
            type='UniversalVisualizer',
            vis_backends=[dict(type='LocalVisBackend')],
        ),
        **overrides,
    )
    runner.train()
    return runner


def log(folder: Path) -> str:
    return ''.join(p.read_text() for p in sorted(folder.glob('*/*.log')))


def trained_teacher(folder: Path, **overrides: Any) -> nn.Module:
    """An algorithm whose teacher comes from a checkpoint."""
    path = folder / 'teacher.pth'
    torch.save(MODELS.build(vit_config()).state_dict(), path)
    return build(
        teacher_ckpt=str(path), allow_random_teacher=False, **overrides
    )


@pytest.mark.parametrize('preprocessor', [RGB, BGR], ids=['same', 'own'])
def test_its_top1_goes_to_log_and_visualizer(
    preprocessor: dict, tmp_path: Path
) -> None:
    teacher = dict(vit_config(), data_preprocessor=preprocessor)
    model = build(teacher=teacher, data_preprocessor=RGB)
    samples = labelled(model.teacher, right=17)

    check(tmp_path, model, **validation(samples))

    line = 'The teacher on all 20 validation images: accuracy/top1 85, '
    assert log(tmp_path).count(line) == 1
    (scalars,) = tmp_path.glob('*/vis_data/scalars.json')
    written = [json.loads(row) for row in scalars.read_text().splitlines()]
    assert written[0] == {'teacher/top1': 85.0, 'step': 0}
    assert [row for row in written if 'teacher/top1' in row] == written[:1]


def test_a_compiled_teacher_is_not_compiled_anew(tmp_path: Path) -> None:
    compiled: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        compiled.append(graph)
        return graph

    # In one graph since PyTorch 2.4.
    one = hasattr(torch.library, 'register_autograd')
    model = build(teacher_compile=dict(backend=backend, fullgraph=one))
    val = validation(labelled(model.teacher, right=17))
    before = len(compiled)

    hook = TeacherCheckHook()
    runner = make_runner(tmp_path, model, custom_hooks=[hook], **val)
    runner._val_loop = runner.build_val_loop(runner._val_loop)
    metrics, _ = hook._evaluate(runner, model)

    assert metrics['accuracy/top1'] == 85.0
    assert before == len(compiled)
    assert before == 1 if one else before > 1


def test_a_few_batches_are_enough_if_asked_for(tmp_path: Path) -> None:
    model = build()
    samples = labelled(model.teacher, right=9)

    hook = dict(num_batches=2)
    check(tmp_path, model, hook=hook, **validation(samples))

    line = 'on the first 12 of 20 validation images: accuracy/top1 75'
    assert line in log(tmp_path)


def test_no_process_takes_more_batches_than_the_others_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def least(count: torch.Tensor, op: str) -> None:
        assert (int(count), op) == (4, 'min')
        count.fill_(3)

    monkeypatch.setattr(teacher_check_hook, 'is_distributed', lambda: True)
    monkeypatch.setattr(teacher_check_hook, 'all_reduce', least)
    model = build()

    check(tmp_path, model, **validation(labelled(model.teacher, right=9)))

    assert 'on the first 18 of 20 validation images' in log(tmp_path)


def test_below_the_minimum_training_does_not_start(tmp_path: Path) -> None:
    model = trained_teacher(tmp_path)
    before = copy.deepcopy(model.state_dict())
    samples = labelled(model.teacher, right=15)

    with pytest.raises(ValueError, match='accuracy/top1 75') as error:
        check(tmp_path, model, hook=dict(min_top1=75.1), **validation(samples))

    text = str(error.value)
    assert 'min_top1=75.1; check model.teacher_ckpt' in text
    assert 'set default_hooks.teacher_check.min_top1' in text
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    check(tmp_path / 'b', model, hook=dict(min_top1=75), **validation(samples))


def test_without_top1_there_is_no_reaching_the_minimum(
    tmp_path: Path,
) -> None:
    model = trained_teacher(tmp_path)
    cfg = validation(labelled(model.teacher, right=20))
    cfg['val_evaluator'] = dict(type='Accuracy', topk=(2,))

    said = 'top2 100; none of these is the top1 that min_top1=1 is for: add'
    with pytest.raises(ValueError, match=said):
        check(tmp_path / 'a', model, hook=dict(min_top1=1), **cfg)

    model.teacher_ckpt = None  # as in a dry run
    check(tmp_path / 'b', model, hook=dict(min_top1=1), **cfg)
    assert said in log(tmp_path / 'b')


def test_a_random_teacher_of_a_dry_run_is_only_warned_about(
    tmp_path: Path,
) -> None:
    model = build()
    samples = labelled(model.teacher, right=1)

    runner = check(
        tmp_path, model, hook=dict(min_top1=50), **validation(samples)
    )

    assert runner.iter == 4
    assert 'top1 5, accuracy/top2' in log(tmp_path)
    assert 'WARNING - The teacher on all 20 validation' in log(tmp_path)


@pytest.mark.parametrize(
    ('overrides', 'reason'),
    [
        ({}, 'the run has no validation set'),
        (
            dict(classes=CLASSES + 2),
            f'it has {CLASSES + 2} classes, the student {CLASSES}',
        ),
    ],
    ids=['no validation', 'other classes'],
)
def test_what_cannot_be_checked_is_said(
    overrides: dict, reason: str, tmp_path: Path
) -> None:
    teacher = vit_config()
    cfg = {}
    if overrides:
        teacher['head']['num_classes'] = overrides['classes']
        cfg = validation(images(4))
    model = build(
        teacher=teacher, distiller=distiller_config(('loss_feature',))
    )

    runner = check(tmp_path, model, hook=dict(min_top1=90), **cfg)

    assert f'The teacher is not checked: {reason}.' in log(tmp_path)
    assert runner.iter == 4


def test_a_teacher_that_does_not_say_its_classes_is_checked(
    tmp_path: Path,
) -> None:
    """As MMPretrain's wrapper of timm's networks, which has no head."""
    model = build(distiller=distiller_config(('loss_feature',)))
    del model.teacher.head.num_classes

    check(tmp_path, model, hook=dict(min_top1=90), **validation(images(4)))

    assert 'WARNING - The teacher on all 4 validation' in log(tmp_path)


def test_a_model_without_teacher_is_no_concern(tmp_path: Path) -> None:
    student = MODELS.build(student_config())

    check(tmp_path, student, hook=dict(min_top1=90), **validation(images(4)))

    assert 'teacher' not in log(tmp_path).split('Hooks will be executed')[0]
    assert 'The teacher' not in log(tmp_path)


def test_training_is_the_same_with_the_check_and_without(
    tmp_path: Path,
) -> None:
    student = student_config(
        train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8)])
    )
    student['backbone'].update(drop_rate=0.3, drop_path_rate=0.3)
    model = MODELS.build(
        algorithm_config(architecture=student, data_preprocessor=RGB)
    )
    model.init_weights()

    def train(folder: Path, hooks: list[dict]) -> dict:
        val = validation(images(20))
        val['val_dataloader'] = loader(
            images(20), batch_size=6, num_workers=1, persistent_workers=True
        )
        runner = make_runner(
            folder,
            copy.deepcopy(model),
            train_dataloader=loader(images(16), shuffle=True),
            train_cfg=dict(by_epoch=True, max_epochs=2, val_interval=1),
            custom_hooks=hooks,
            **val,
        )
        runner.train()
        accuracy = runner.message_hub.get_scalar('val/accuracy/top1')
        return dict(
            weights=dict(runner.model.state_dict()),
            losses=runner.message_hub.get_scalar('train/loss').data[0],
            accuracy=accuracy.data[0],
            random=torch.get_rng_state(),
        )

    # One batch of four: the workers stay and are started anew.
    hook = dict(type='TeacherCheckHook', num_batches=1)
    checked = train(tmp_path / 'a', [hook])
    plain = train(tmp_path / 'b', [])

    torch.testing.assert_close(
        checked.pop('weights'), plain.pop('weights'), rtol=0, atol=0
    )
    for name, value in plain.items():
        assert len(value) > 1
        assert (checked[name] == value).all(), name


def test_a_resumed_run_checks_again(tmp_path: Path) -> None:
    model = build()
    val = validation(labelled(model.teacher, right=17))
    check(tmp_path, model, **val)

    checkpoint = str(tmp_path / 'epoch_1.pth')
    again = dict(train_cfg=dict(by_epoch=True, max_epochs=2), resume=True)
    worse = validation(labelled(model.teacher, right=3))
    check(tmp_path / 'b', model, load_from=checkpoint, **again, **worse)

    assert 'accuracy/top1 15' in log(tmp_path / 'b')
    (scalars,) = tmp_path.glob('b/*/vis_data/scalars.json')
    first = json.loads(scalars.read_text().splitlines()[0])
    assert first == {'teacher/top1': 15.0, 'step': 4}


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(min_top1=101), 'from 0 to 100, got 101'),
        (dict(min_top1=-1), 'from 0 to 100, got -1'),
        (dict(num_batches=0), '>= 1, got 0'),
    ],
)
def test_settings_out_of_range_are_refused(
    settings: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        TeacherCheckHook(**settings)
