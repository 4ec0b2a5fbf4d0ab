# Copyright (c) The serkd_mm authors. All rights reserved.
"""What "frozen" means, and that every weight of the teacher arrives."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine import hub
from mmengine.model import ExponentialMovingAverage, ImgDataPreprocessor
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.runner import load_checkpoint
from mmrazor.registry import MODELS
from torch import Tensor, nn

from serkd_mm import compat
from serkd_mm.models.algorithms import (
    checks,
    frozen_teacher_distill,
    renormalize,
)
from serkd_mm.models.algorithms.renormalize import Renormalize
from serkd_mm.models.algorithms.teacher import load_teacher_weights
from serkd_mm.models.from_config import student_network

from .builders import (
    BASE,
    CLASSES,
    OTHER_RGB,
    RGB,
    STUDENT_WIDTH,
    EvalCache,
    algorithm_config,
    batch,
    build,
    cnn_config,
    distiller_config,
    losses_of,
    raw_batch,
    recorder,
    student_config,
    total,
    vit_config,
)


def half_convolution() -> bool:
    """Whether CPUs convolve in half precision, as since PyTorch 2.3."""
    try:
        torch.nn.functional.conv2d(*torch.zeros(2, 1, 1, 1, 1).half())
    except RuntimeError:
        return False
    return True


RECENT_DYNAMO = hasattr(torch.library, 'register_autograd')
STOCHASTIC = dict(drop_rate=0.3, drop_path_rate=0.4)
BGR = dict(BASE, mean=[104.0, 117.0, 124.0], std=[1.0, 2.0, 3.0], to_rgb=False)
PLAIN = dict(BASE, to_rgb=False)
MIXUP = dict(augments=[dict(type='Mixup', alpha=0.8)])


@pytest.fixture
def said(logged: Callable) -> list[str]:
    """What is logged about the normalisation of both networks."""
    return logged(renormalize)


def watch_inputs(module: nn.Module) -> list[Tensor]:
    """The first argument of every later call of a module."""
    seen: list[Tensor] = []
    module.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    return seen


def watch_outputs(module: nn.Module) -> list[Tensor]:
    """Copies of what a module returns from now on."""
    seen: list[Tensor] = []
    module.register_forward_hook(
        lambda _, args, output: seen.append(output.clone())
    )
    return seen


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers, copied."""
    tensors = (*module.named_parameters(), *module.named_buffers())
    return {name: tensor.detach().clone() for name, tensor in tensors}


def assert_same(
    actual: dict[str, Tensor], expected: dict[str, Tensor]
) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def build_with_cnn_teacher(**overrides: Any) -> nn.Module:
    """A teacher with BatchNorm, 8x8 tokens against the student's 4x4."""
    distiller = distiller_config(losses=('loss_kd', 'loss_distance'))
    distiller['teacher_recorders'] = dict(
        tokens=recorder('backbone.layer3'), logits=recorder('head.fc')
    )
    distiller['connectors']['teacher_superpixels'] = [
        dict(type='VisualTokens'),
        dict(type='SuperpixelTokenizer', grid_size=(4, 4), norm='ln'),
    ]
    return build(teacher=cnn_config(), distiller=distiller, **overrides)


# -- mode and gradient ------------------------------------------------------


@pytest.mark.parametrize(
    'switch',
    [
        lambda model: model,
        lambda model: model.train(),
        lambda model: model.train(False),
        lambda model: model.eval(),
        lambda model: model.eval().train().train(False).train(),
        lambda model: model.requires_grad_(True).train(),
    ],
    ids=['built', 'train', 'train(False)', 'eval', 'chain', 'requires_grad_'],
)
def test_the_teacher_is_frozen_in_every_mode(switch: Callable) -> None:
    model = switch(build(teacher=vit_config(**STOCHASTIC)))

    assert not any(m.training for m in model.teacher.modules())
    assert not any(p.requires_grad for p in model.teacher.parameters())


def test_train_sets_the_student_and_returns_the_model() -> None:
    model = build()

    assert model.train(False) is model
    assert not any(m.training for m in model.student.modules())
    assert model.train() is model
    assert all(m.training for m in model.student.modules())
    assert model.distiller.training


def test_a_teacher_with_dropout_gives_the_same_outputs_twice() -> None:
    model = build(teacher=vit_config(**STOCHASTIC))
    logits = watch_outputs(model.teacher.head.layers.head)
    inputs, samples = batch()

    losses_of(model, inputs, samples)
    losses_of(model.train(), inputs, samples)
    model.teacher.train()
    model.teacher(inputs, mode='tensor')
    model.teacher.head(model.teacher.extract_feat(inputs))

    assert torch.equal(logits[0], logits[1])
    # A teacher in train mode would have differed.
    assert not torch.equal(logits[1], logits[2])


def test_the_gradient_stops_at_the_teacher() -> None:
    model = build()
    recorded = watch_outputs(model.teacher.backbone.ln1)

    total(losses_of(model)).backward()

    assert not recorded[0].requires_grad
    assert all(p.grad is None for p in model.teacher.parameters())
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize('build_model', [build, build_with_cnn_teacher])
def test_training_leaves_the_teacher_as_it_was(build_model: Callable) -> None:
    model = build_model()
    probe = torch.randn(3, 3, 32, 32)
    before = snapshot(model.teacher)
    student_before = snapshot(model.student)
    output_before = model.teacher(probe, mode='tensor')
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    for _ in range(4):
        optimizer.zero_grad()
        total(losses_of(model)).backward()
        optimizer.step()

    assert_same(snapshot(model.teacher), before)
    torch.testing.assert_close(
        model.teacher(probe, mode='tensor'), output_before, rtol=0, atol=0
    )
    student_after = snapshot(model.student)
    trained = [p for p, _ in model.student.named_parameters()]
    unmoved = [
        p for p in trained if torch.equal(student_after[p], student_before[p])
    ]
    assert unmoved == []


# -- what the teacher runs --------------------------------------------------


def test_the_teacher_runs_its_tensor_forward_and_never_its_loss() -> None:
    teacher = vit_config()
    teacher['head']['num_classes'] = CLASSES + 3
    model = build(
        architecture=student_config(train_cfg=MIXUP),
        data_preprocessor=RGB,
        teacher=teacher,
        distiller=distiller_config(losses=('loss_feature',)),
    )
    data = model.data_preprocessor(raw_batch(), training=True)
    # Soft labels for 5 classes would fail in the loss of an 8-class head.
    assert data['data_samples'][0].gt_score.shape == (CLASSES,)

    losses = losses_of(model, data['inputs'], data['data_samples'])

    assert set(losses) == {'student.loss', 'distill.loss_feature'}
    assert all(torch.isfinite(value) for value in losses.values())


def test_stopped_distillation_does_not_run_the_teacher() -> None:
    model = build()
    calls = watch_inputs(model.teacher.backbone)
    inputs, samples = batch()

    model.distillation_stopped = True
    losses = losses_of(model, inputs, samples)

    assert set(losses) == {'student.loss', 'student.loss_dist_head'}
    assert calls == []
    model.distillation_stopped = False
    assert 'distill.loss_kd' in losses_of(model, inputs, samples)
    assert len(calls) == 1


def test_prediction_does_not_run_the_teacher() -> None:
    model = build().eval()
    calls = watch_inputs(model.teacher.backbone)
    inputs, samples = batch()

    predicted = model(inputs, samples, mode='predict')

    torch.testing.assert_close(
        torch.stack([p.pred_score for p in predicted]),
        model.student.head(model.student.extract_feat(inputs)).softmax(1),
    )
    assert calls == []


def test_the_students_own_loss_can_be_left_out() -> None:
    model = build(calculate_student_loss=False)

    assert set(losses_of(model)) == {
        'distill.loss_kd',
        'distill.loss_feature',
        'distill.loss_distance',
        'distill.loss_angle',
        'agreement',
    }


def test_a_student_that_is_not_trainable_runs_without_gradient() -> None:
    model = build(student_trainable=False)

    total(losses_of(model)).backward()

    assert all(p.grad is None for p in model.student.parameters())
    projection = model.distiller.distill_losses['loss_feature'].projection
    assert projection.weight.grad is not None


# -- the teacher is no submodule --------------------------------------------


def teacher_parts(model: nn.Module) -> set[int]:
    teacher = model.teacher
    return {
        id(part)
        for parts in (
            teacher.modules(),
            teacher.parameters(),
            teacher.buffers(),
        )
        for part in parts
    }


def test_the_teacher_is_no_part_of_the_model() -> None:
    model = build_with_cnn_teacher()
    inside = teacher_parts(model)
    stored = {t.data_ptr() for t in model.teacher.state_dict().values()}

    assert not inside & {id(part) for part in model.parameters()}
    assert not inside & {id(part) for part in model.buffers()}
    assert not inside & {id(part) for _, part in model.named_modules()}
    assert not inside & {id(part) for part in model.children()}
    state = model.state_dict()
    assert not any(key.startswith('teacher.') for key in state)
    assert not stored & {tensor.data_ptr() for tensor in state.values()}
    assert {k.split('.')[0] for k in state} == {'architecture'}


@pytest.mark.parametrize(
    'paramwise',
    [
        None,
        dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
        dict(custom_keys={'teacher': dict(lr_mult=0.1)}),
    ],
    ids=['one group', 'by kind', 'by name'],
)
def test_the_optimizer_holds_every_parameter_but_the_teachers(
    paramwise: dict | None,
) -> None:
    model = build()
    optimizer = dict(type='SGD', lr=0.1, weight_decay=0.01)
    cfg = dict(type='OptimWrapper', optimizer=optimizer)
    if paramwise is not None:
        cfg['paramwise_cfg'] = paramwise

    groups = build_optim_wrapper(model, cfg).optimizer.param_groups
    held = {id(p) for group in groups for p in group['params']}

    assert not held & teacher_parts(model)
    assert held == {id(p) for p in model.parameters()}


def test_an_averaged_model_shares_the_teacher_and_computes_losses() -> None:
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inputs, samples = batch()
    total(losses_of(model, inputs, samples)).backward()
    optimizer.step()

    average = ExponentialMovingAverage(model, momentum=0.5)
    before = losses_of(average, inputs, samples)
    expected = losses_of(model, inputs, samples)
    total(losses_of(model, inputs, samples)).backward()
    optimizer.step()
    average.update_parameters(model)
    after = losses_of(average, inputs, samples)

    assert average.module.teacher is model.teacher
    assert not any('.teacher.' in key for key in average.state_dict())
    assert not teacher_parts(model) & {id(p) for p in average.parameters()}
    torch.testing.assert_close(before, expected)
    assert after['student.loss'] != before['student.loss']
    assert after['distill.loss_angle'] != before['distill.loss_angle']


def test_a_deep_copy_records_its_own_student() -> None:
    model = build()
    inputs, samples = batch()
    total(losses_of(model, inputs, samples)).backward()

    duplicate = copy.deepcopy(model)
    expected = losses_of(model, inputs, samples)
    with torch.no_grad():
        for parameter in duplicate.student.parameters():
            parameter.add_(torch.randn_like(parameter))
    changed = losses_of(duplicate, inputs, samples)

    torch.testing.assert_close(losses_of(model, inputs, samples), expected)
    for name in set(expected) - {'agreement'}:
        assert changed[name] != expected[name], name


@pytest.mark.parametrize(
    ('convert', 'dtype'),
    [
        (lambda model: model.double(), torch.float64),
        pytest.param(
            lambda model: model.half(),
            torch.float16,
            marks=pytest.mark.skipif(
                not half_convolution(),
                reason='this PyTorch has none in half precision on CPUs',
            ),
        ),
        (lambda model: model.to(torch.bfloat16), torch.bfloat16),
        (lambda model: model.half().float(), torch.float32),
    ],
    ids=['double', 'half', 'to bfloat16', 'back'],
)
def test_the_teacher_follows_a_change_of_dtype(
    convert: Callable, dtype: torch.dtype
) -> None:
    model = build(
        data_preprocessor=RGB,
        teacher=dict(vit_config(), data_preprocessor=OTHER_RGB),
    )

    model = convert(model)

    assert {p.dtype for p in model.teacher.parameters()} == {dtype}
    inputs = torch.randn(2, 3, 32, 32, dtype=dtype)
    teacher_inputs = model.teacher_inputs(inputs)
    assert teacher_inputs.dtype == dtype
    assert model.teacher(teacher_inputs)[-1].dtype == dtype


def test_the_teacher_follows_to_another_device() -> None:
    model = build().to('meta')

    assert {p.device.type for p in model.teacher.parameters()} == {'meta'}


def test_so_does_what_it_keeps_of_its_weights_for_eval_mode() -> None:
    model = build()
    model.teacher.cache = EvalCache().eval()

    model.to('meta')

    assert model.teacher.cache.cached.device.type == 'meta'


# -- the teacher's view of the batch ----------------------------------------


@pytest.mark.parametrize(
    ('student', 'teacher'),
    [
        (RGB, OTHER_RGB),
        (RGB, BGR),
        (BGR, RGB),
        (PLAIN, RGB),
        (PLAIN, BGR),
        (RGB, dict(RGB, to_rgb=False)),
    ],
    ids=[
        'statistics',
        'RGB to BGR',
        'BGR to RGB',
        'raw to RGB',
        'raw to BGR',
        'order only',
    ],
)
def test_the_teacher_sees_the_batch_in_its_own_normalisation(
    student: dict, teacher: dict
) -> None:
    model = build(
        data_preprocessor=student,
        teacher=dict(vit_config(), data_preprocessor=teacher),
    )
    seen = watch_inputs(model.teacher.backbone)
    raw = raw_batch()
    own = model.teacher.data_preprocessor(copy.deepcopy(raw))['inputs']
    shared = model.data_preprocessor(raw)

    losses_of(model, shared['inputs'], shared['data_samples'])

    assert not torch.equal(shared['inputs'], own)
    torch.testing.assert_close(
        seen[0], own, rtol=1e-5, atol=1e-5 * float(own.abs().max())
    )


@pytest.mark.parametrize('teacher', [RGB, dict(BASE, to_rgb=True), None])
def test_a_teacher_with_the_same_normalisation_gets_the_very_batch(
    teacher: dict | None,
) -> None:
    model = build(
        data_preprocessor=RGB,
        teacher=dict(vit_config(), data_preprocessor=teacher),
    )
    seen = watch_inputs(model.teacher.backbone)
    inputs, samples = batch()

    losses_of(model, inputs, samples)

    assert seen[0] is inputs


def test_normalisations_that_differ_are_reported_in_one_line(
    said: list[str],
) -> None:
    teacher = dict(vit_config(), data_preprocessor=BGR)

    build(data_preprocessor=RGB, teacher=teacher)

    (line,) = (message for message in said if 'normalisation' in message)
    assert '\n' not in line
    theirs, own = line.split(';')
    assert 'mean [104, 117, 124], std [1, 2, 3], to_rgb=False' in theirs
    assert 'mean [123.675, 116.28, 103.53], std [58.395, ' in own
    assert 'to_rgb=True' in own


def test_equal_normalisations_are_not_reported(said: list[str]) -> None:
    teacher = dict(vit_config(), data_preprocessor=RGB)

    build(data_preprocessor=RGB, teacher=teacher)

    assert not any('normalisation' in message for message in said)


def test_a_teacher_without_statistics_is_said_to_get_the_students(
    said: list[str],
) -> None:
    build(data_preprocessor=RGB, teacher=vit_config())

    (line,) = (message for message in said if 'normalisation' in message)
    assert "gets the student's normalisation: mean [123.675, " in line
    assert 'set mean=[0, 0, 0] and std=[1, 1, 1]' in line
    said.clear()
    build(teacher=vit_config())
    assert not any('normalisation' in message for message in said)


def test_renormalisation_leaves_the_students_batch_alone() -> None:
    model = build(
        data_preprocessor=RGB,
        teacher=dict(vit_config(), data_preprocessor=BGR),
    )
    inputs = torch.randn(2, 3, 32, 32)
    before = inputs.clone()

    model.teacher_inputs(inputs)

    assert torch.equal(inputs, before)


def test_teacher_and_student_see_the_same_mixed_batch() -> None:
    model = build(
        architecture=student_config(train_cfg=MIXUP), data_preprocessor=RGB
    )
    of_teacher = watch_inputs(model.teacher.backbone)
    of_student = watch_inputs(model.student.backbone)
    raw = raw_batch()
    clean = model.data_preprocessor(copy.deepcopy(raw))['inputs']

    data = model.data_preprocessor(raw, training=True)
    model(**data, mode='loss')

    assert not torch.allclose(data['inputs'], clean)
    assert torch.equal(of_student[0], data['inputs'])
    assert torch.equal(of_teacher[0], of_student[0])


def test_a_top_level_preprocessor_keeps_the_students_augmentation() -> None:
    architecture = student_config(train_cfg=MIXUP)
    cfg = dict(algorithm_config(data_preprocessor=RGB))
    cfg['architecture'] = architecture

    model = MODELS.build(cfg)

    preprocessor = model.data_preprocessor
    assert preprocessor.batch_augments is not None
    assert preprocessor.mean.flatten().tolist() == pytest.approx(RGB['mean'])
    # The config that came in is not written to.
    assert 'data_preprocessor' not in architecture


def test_the_students_own_preprocessor_wins() -> None:
    model = build(
        architecture=student_config(data_preprocessor=BGR),
        data_preprocessor=RGB,
    )

    mean = model.data_preprocessor.mean.flatten().tolist()
    assert mean == pytest.approx(BGR['mean'])


def test_a_built_student_keeps_its_own_preprocessor() -> None:
    mixed = student_config(
        data_preprocessor=dict(BGR, num_classes=CLASSES),
        train_cfg=dict(augments=dict(type='Mixup', alpha=0.8)),
    )
    student = MODELS.build(mixed)

    model = build(architecture=student, data_preprocessor=RGB)

    assert model.data_preprocessor is student.data_preprocessor
    assert model.data_preprocessor.batch_augments is not None


# -- where the teacher's weights come from ----------------------------------


def teacher_weights(config: dict | None = None) -> dict[str, Tensor]:
    """State dict of a teacher whose every tensor is its own."""
    state = MODELS.build(config or vit_config()).state_dict()
    return {
        k: v if v.dtype == torch.long else torch.rand_like(v)
        for k, v in state.items()
    }


def saved(folder: Path, content: Any) -> str:
    path = str(folder / 'teacher.pth')
    torch.save(content, path)
    return path


def build_from(path: str | None, **overrides: Any) -> nn.Module:
    return build(teacher_ckpt=path, allow_random_teacher=False, **overrides)


@pytest.mark.parametrize(
    'pack',
    [
        lambda weights: weights,
        lambda weights: {'state_dict': weights, 'meta': {'epoch': 3}},
        # As DeiT's own code and others write them.
        lambda weights: {'model': weights, 'epoch': 3},
        lambda weights: {'model_state_dict': weights, 'optimizer': {}},
        lambda weights: {f'module.{k}': v for k, v in weights.items()},
        lambda weights: {
            'state_dict': {f'module.{k}': v for k, v in weights.items()}
        },
    ],
    ids=[
        *('bare', 'checkpoint', 'DeiT', 'model_state_dict', 'wrapped'),
        'wrapped checkpoint',
    ],
)
def test_every_weight_of_the_checkpoint_arrives(
    tmp_path: Path, pack: Callable
) -> None:
    weights = teacher_weights()

    model = build_from(saved(tmp_path, pack(weights)))

    assert_same(dict(model.teacher.state_dict()), weights)


def test_the_initialisation_of_the_model_leaves_the_teacher(
    tmp_path: Path,
) -> None:
    weights = teacher_weights()
    init_cfg = [dict(type='Constant', layer='Linear', val=0.25)]
    model = build_from(
        saved(tmp_path, weights),
        architecture=student_config(init_cfg=init_cfg),
        init_cfg=init_cfg,
    )

    model.init_weights()

    assert_same(dict(model.teacher.state_dict()), weights)


def test_counts_that_older_files_lack_may_be_missing(tmp_path: Path) -> None:
    weights = teacher_weights(cnn_config())
    old = {k: v for k, v in weights.items() if 'num_batches' not in k}
    assert len(old) < len(weights)
    distiller = distiller_config(losses=('loss_kd',))
    distiller['teacher_recorders'] = dict(logits=recorder('head.fc'))

    model = build_from(
        saved(tmp_path, old), teacher=cnn_config(), distiller=distiller
    )

    loaded = model.teacher.state_dict()
    assert_same({k: loaded[k] for k in old}, old)


class Versioned(nn.Module):
    """A layer that converts what its older versions saved."""

    _version = 2

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Parameter(torch.ones(2))

    def _load_from_state_dict(
        self, state: dict, prefix: str, metadata: dict, *args: Any
    ) -> None:
        if metadata.get('version', 1) < 2:
            state[f'{prefix}model'] = 2 * state[f'{prefix}model']
        super()._load_from_state_dict(state, prefix, metadata, *args)


def test_a_part_may_have_versions_and_the_name_model(tmp_path: Path) -> None:
    """Files of other libraries have their weights under it."""
    path = saved(tmp_path, Versioned().state_dict())
    teacher = Versioned()
    nn.init.zeros_(teacher.model)

    load_teacher_weights(teacher, path)

    assert torch.equal(teacher.model, torch.ones(2))


def test_a_teacher_without_checkpoint_is_refused() -> None:
    with pytest.raises(ValueError, match='teacher_ckpt is not set') as error:
        build_from(None)
    assert 'allow_random_teacher=True' in str(error.value)


def test_a_random_teacher_is_announced(logged: Callable) -> None:
    said = logged(frozen_teacher_distill)
    build()

    assert any('RANDOM' in message for message in said)


def test_permission_for_a_random_teacher_ignores_no_checkpoint(
    tmp_path: Path,
) -> None:
    weights = teacher_weights()

    model = build(
        teacher_ckpt=saved(tmp_path, weights), allow_random_teacher=True
    )

    assert_same(dict(model.teacher.state_dict()), weights)


def test_a_checkpoint_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = str(tmp_path / 'absent.pth')

    with pytest.raises(FileNotFoundError, match='absent.pth') as error:
        build_from(path)
    assert 'model.teacher_ckpt' in str(error.value)


def test_wrong_keys_and_shapes_are_listed_and_counted(tmp_path: Path) -> None:
    weights = teacher_weights()
    missing = [k for k in weights if k.startswith('backbone.layers.0.')][:6]
    reshaped = [k for k in weights if k.startswith('backbone.layers.1.')][:5]
    for key in missing:
        del weights[key]
    for key in reshaped:
        weights[key] = torch.zeros(7)
    for index in range(2):
        weights[f'stranger.{index}'] = torch.zeros(1)

    with pytest.raises(ValueError, match='does not fit the teacher') as error:
        build_from(saved(tmp_path, weights))

    text = str(error.value)
    first = ', '.join(missing[:4])
    assert f'missing keys: {first}, ... (6 in all);' in text
    assert missing[4] not in text
    assert 'unexpected keys: stranger.0, stranger.1;' in text
    assert f'{reshaped[0]} (7,) instead of ' in text
    assert '(5 in all)' in text
    assert 'model.teacher config' in text


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, teacher_weights(cnn_config()))

    with pytest.raises(ValueError, match='VisionTransformer') as error:
        build_from(path)
    assert 'missing keys: backbone.cls_token' in str(error.value)
    assert 'unexpected keys: backbone.conv1.weight' in str(error.value)


def test_the_checkpoint_of_a_distillation_is_to_be_exported(
    tmp_path: Path,
) -> None:
    path = saved(tmp_path, build().state_dict())

    with pytest.raises(ValueError, match=r'tools/export_student\.py') as error:
        build_from(path)
    assert 'teacher_revise_keys' not in str(error.value)


# -- where the student comes from -------------------------------------------


def referred_student(**reference: Any) -> nn.Module:
    path = 'mmpretrain::resnet/resnet18_8xb16_cifar10.py'
    teacher = cnn_config()
    teacher['head']['num_classes'] = 10
    distiller = distiller_config(losses=('loss_kd',))
    for side in ('student', 'teacher'):
        distiller[f'{side}_recorders'] = dict(logits=recorder('head.fc'))
    return build(
        architecture=dict(cfg_path=path, **reference.pop('keys', {})),
        teacher=teacher,
        distiller=distiller,
        **reference,
    )


def test_a_referred_student_gets_the_preprocessing_of_the_run() -> None:
    """As with MMRazor, whose configs refer to most of their students."""
    theirs = referred_student(keys=dict(pretrained=False))
    ours = referred_student(data_preprocessor=dict(OTHER_RGB, num_classes=10))

    zoo = hub.get_config('mmpretrain::resnet/resnet18_8xb16_cifar10.py')
    for model, mean in (
        (theirs, zoo.data_preprocessor.mean),
        (ours, OTHER_RGB['mean']),
    ):
        assert type(model.student.backbone).__name__ == 'ResNet_CIFAR'
        for part in (model, model.student):
            found = part.data_preprocessor.mean.flatten().tolist()
            assert found == pytest.approx(mean)
        assert torch.isfinite(losses_of(model)['distill.loss_kd'])


def test_a_referred_student_keeps_what_is_said_beside_the_reference() -> None:
    model = referred_student(keys=dict(train_cfg=MIXUP))

    assert model.data_preprocessor.batch_augments is not None


def test_pretrained_weights_of_a_referred_student_are_its_start() -> None:
    path = 'mmpretrain::resnet/resnet18_8xb16_cifar10.py'
    reference = dict(cfg_path=path, pretrained=True)

    network = student_network(reference)

    assert network.type == 'ImageClassifier'
    assert network.init_cfg.type == 'Pretrained'
    assert network.init_cfg.checkpoint.endswith('.pth')


# -- where the teacher comes from -------------------------------------------


@pytest.mark.parametrize('folder', [None, 'weights'])
def test_pretrained_beside_a_reference_needs_a_checkpoint(
    folder: str | None, tmp_path: Path
) -> None:
    teacher = dict(cfg_path=str(own_config(tmp_path)), pretrained=True)
    if folder is None:
        with pytest.raises(ValueError, match='which weights; name their file'):
            build(teacher=teacher)
        return
    path = saved(tmp_path, teacher_weights(vit_config()))
    assert build(teacher=teacher, teacher_ckpt=path) is not None


def test_margins_of_overhauled_features_are_the_teachers() -> None:
    """MMRazor's algorithm for them computes these; this one must too."""
    distiller = dict(
        type='OFDDistiller',
        student_recorders=dict(bn=recorder('backbone.layer2.0.bn1')),
        teacher_recorders=dict(bn=recorder('backbone.layer2.0.bn1')),
        connectors=dict(
            student=dict(
                type='ConvModuleConnector',
                in_channel=32,
                out_channel=32,
                norm_cfg=dict(type='BN'),
                act_cfg=None,
            ),
            teacher=dict(type='OFDTeacherConnector'),
        ),
        distill_losses=dict(loss_ofd=dict(type='OFDLoss')),
        loss_forward_mappings=dict(
            loss_ofd=dict(
                s_feature=dict(
                    from_student=True, recorder='bn', connector='student'
                ),
                t_feature=dict(
                    from_student=False, recorder='bn', connector='teacher'
                ),
            )
        ),
    )
    cfg = dict(architecture=cnn_config(), teacher=cnn_config())
    model = build(**cfg, distiller=distiller)

    theirs = MODELS.build(
        dict(
            _scope_='mmrazor',
            type='OverhaulFeatureDistillation',
            **copy.deepcopy(cfg),
            distiller=copy.deepcopy(distiller),
        )
    )
    theirs.load_state_dict(model.state_dict(), strict=False)
    theirs.teacher.load_state_dict(model.teacher.state_dict())
    theirs.distiller.init_ofd_connectors(theirs.teacher)
    for network in (theirs.student, theirs.teacher):
        compat.disable_inplace(network)  # it misses some
    theirs.train()
    data = batch()
    torch.testing.assert_close(
        losses_of(model, *data)['distill.loss_ofd'],
        losses_of(theirs, *data)['distill.loss_ofd'],
    )


def own_config(folder: Path) -> Path:
    path = folder / 'trained_with.py'
    model = {k: v for k, v in vit_config().items() if k != '_scope_'}
    path.write_text(f'model = {model!r}\ndata_preprocessor = {BGR!r}\n')
    return path


def test_a_teacher_comes_from_the_config_it_was_trained_with(
    tmp_path: Path,
) -> None:
    path = own_config(tmp_path)
    model = build(data_preprocessor=RGB, teacher=dict(cfg_path=str(path)))

    assert type(model.teacher.backbone).__name__ == 'VisionTransformer'
    mean = model.teacher.data_preprocessor.mean.flatten().tolist()
    assert mean == pytest.approx(BGR['mean'])
    assert model.renormalize is not None


@pytest.mark.parametrize('divisor', [1, 32])
def test_padding_of_another_normalisation_is_announced(
    divisor: int, said: list[str], tmp_path: Path
) -> None:
    padded = dict(RGB, pad_size_divisor=divisor)
    teacher = dict(cfg_path=str(own_config(tmp_path)))
    build(data_preprocessor=padded, teacher=teacher)
    announced = any('padding has another value' in text for text in said)
    assert announced == (divisor > 1)


def test_a_config_of_the_teacher_that_is_not_there_is_named() -> None:
    with pytest.raises(FileNotFoundError, match="'nowhere/teacher.py'"):
        build(teacher=dict(cfg_path='nowhere/teacher.py'))


def test_a_teacher_comes_from_a_config_of_a_package() -> None:
    path = 'mmpretrain::resnet/resnet18_8xb16_cifar10.py'
    architecture = student_config()
    architecture['head']['num_classes'] = 10
    distiller = distiller_config(losses=('loss_kd',))
    distiller['teacher_recorders'] = dict(logits=recorder('head.fc'))
    model = build(
        architecture=architecture,
        data_preprocessor=RGB,
        teacher=dict(cfg_path=path),
        distiller=distiller,
    )

    assert type(model.teacher.backbone).__name__ == 'ResNet_CIFAR'
    preprocessor = model.teacher.data_preprocessor
    expected = hub.get_config(path).data_preprocessor
    mean = preprocessor.mean.flatten().tolist()
    assert mean == pytest.approx(expected.mean)
    assert preprocessor.to_rgb == expected.to_rgb
    assert torch.isfinite(losses_of(model)['distill.loss_kd'])


def test_a_built_teacher_is_taken_as_it_is() -> None:
    teacher = MODELS.build(vit_config())

    model = build(teacher=teacher)

    assert model.teacher is teacher
    assert not teacher.training


def test_one_object_as_teacher_and_student_is_refused() -> None:
    student = MODELS.build(student_config())

    with pytest.raises(ValueError, match='one object; build two models'):
        build(architecture=student, teacher=student)


@pytest.mark.parametrize('key', ['train_cfg', 'head'])
def test_a_setting_of_the_student_is_sent_there(key: str) -> None:
    with pytest.raises(TypeError, match=f'write model.architecture.{key}$'):
        build(**{key: dict(augments=dict(type='Mixup', alpha=0.2))})


def test_a_trainable_teacher_is_refused() -> None:
    with pytest.raises(ValueError, match='mmrazor.SingleTeacherDistill'):
        build(teacher_trainable=True)
    assert build(teacher_trainable=False).teacher is not None


# -- checkpoints ------------------------------------------------------------


def with_teacher(model: nn.Module) -> dict[str, Tensor]:
    """A state dict as MMRazor's own algorithm would have saved it."""
    state = {k: torch.rand_like(v) for k, v in model.state_dict().items()}
    for key, value in model.teacher.state_dict().items():
        state[f'teacher.{key}'] = torch.zeros_like(value)
    return state


def test_a_state_dict_with_a_teacher_loads_strictly() -> None:
    model = build()
    teacher_before = snapshot(model.teacher)
    state = with_teacher(model)

    model.load_state_dict(dict(state), strict=True)

    assert_same(
        dict(model.state_dict()),
        {k: v for k, v in state.items() if not k.startswith('teacher.')},
    )
    assert_same(snapshot(model.teacher), teacher_before)


def test_a_wrapped_state_dict_with_a_teacher_loads_strictly() -> None:
    model = build()
    wrapper = nn.ModuleDict({'module': model})
    state = {f'module.{k}': v for k, v in with_teacher(model).items()}

    wrapper.load_state_dict(dict(state), strict=True)

    for key, value in model.state_dict().items():
        assert torch.equal(value, state[f'module.{key}'])


def test_a_checkpoint_file_with_a_teacher_loads_strictly(
    tmp_path: Path,
) -> None:
    model = build()
    state = with_teacher(model)

    path = saved(tmp_path, {'state_dict': state})
    load_checkpoint(model, path, strict=True)

    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key])


def test_other_unknown_keys_are_still_refused() -> None:
    model = build()
    state = with_teacher(model)
    state['stranger'] = torch.zeros(1)

    with pytest.raises(RuntimeError, match='stranger'):
        model.load_state_dict(state, strict=True)


# -- records stay what they were --------------------------------------------


def test_an_activation_does_not_write_into_what_was_recorded() -> None:
    # The output of a BatchNorm whose ReLU works in place by default.
    source = recorder('backbone.layer1.0.bn1')
    distiller = dict(
        type='SeRKDDistiller',
        student_recorders=dict(norm=source),
        teacher_recorders=dict(norm=source),
    )
    cfg = algorithm_config(
        architecture=cnn_config(), teacher=cnn_config(), distiller=distiller
    )
    model = MODELS.build(cfg)
    sides = {
        'student': (model.student, model.distiller.student_recorders),
        'teacher': (model.teacher, model.distiller.teacher_recorders),
    }
    for side, (network, recorders) in sides.items():
        fresh = watch_outputs(network.backbone.layer1[0].bn1)
        with recorders:
            network(torch.randn(2, 3, 32, 32))
        recorded = recorders.get_recorder('norm').get_record_data()

        assert (recorded < 0).any(), side
        assert torch.equal(recorded, fresh[0]), side


def test_activations_stay_in_place_where_that_is_asked_for() -> None:
    distiller = dict(type='SeRKDDistiller')
    model = build(
        architecture=cnn_config(),
        teacher=cnn_config(),
        distiller=distiller,
        module_inplace=True,
        teacher_module_inplace=False,
    )

    assert model.student.backbone.relu.inplace
    assert not model.teacher.backbone.relu.inplace


def test_a_teacher_comes_from_a_config_of_this_package() -> None:
    path = 'serkd_mm::quickstart/teacher.py'
    architecture = student_config()
    architecture['head']['num_classes'] = 10
    distiller = distiller_config(losses=('loss_kd',))
    distiller['teacher_recorders'] = dict(logits=recorder('head.layers.head'))
    model = build(
        architecture=architecture,
        data_preprocessor=RGB,
        teacher=dict(cfg_path=path),
        distiller=distiller,
    )

    cfg = hub.get_config(path)
    assert type(model.teacher.backbone).__name__ == cfg.model.backbone.type
    mean = model.teacher.data_preprocessor.mean.flatten().tolist()
    assert mean == pytest.approx(cfg.data_preprocessor.mean)
    assert torch.isfinite(losses_of(model)['distill.loss_kd'])


def test_a_config_path_takes_no_other_keys() -> None:
    teacher = dict(cfg_path='serkd_mm::quickstart/teacher.py', backbone=dict())
    with pytest.raises(ValueError, match=r"takes nothing else.*'backbone'"):
        build(teacher=teacher)


def test_the_preprocessor_of_one_model_does_not_reach_the_next() -> None:
    preprocessor = dict(RGB)
    build(
        architecture=student_config(
            train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8)])
        ),
        data_preprocessor=preprocessor,
    )
    assert 'batch_augments' not in preprocessor


def test_a_compiled_teacher_is_one_graph_and_gives_the_same_losses() -> None:
    torch.manual_seed(0)
    model = build(teacher=vit_config(drop_path_rate=0.2))
    inputs = batch()
    expected = losses_of(model, *inputs)

    graphs: list[object] = []

    def backend(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    torch.manual_seed(0)
    model = build(
        teacher=vit_config(drop_path_rate=0.2),
        teacher_compile=dict(backend=backend),
    )
    actual = losses_of(model, *inputs)
    losses_of(model, *inputs)

    for name, loss in expected.items():
        torch.testing.assert_close(actual[name], loss)
    # Several before PyTorch 2.4.
    if RECENT_DYNAMO:
        assert len(graphs) == 1
    assert not any('_orig_mod' in name for name in model.state_dict())


def test_channels_last_changes_the_layout_alone() -> None:
    def step(**settings: Any) -> tuple:
        torch.manual_seed(0)
        model = build_with_cnn_teacher(**settings)
        layouts = []
        for network, name in (
            (model.student, 'backbone.patch_embed.projection'),
            (model.teacher, 'backbone.layer3'),
        ):
            network.get_submodule(name).register_forward_hook(
                lambda module, args, output: layouts.append(
                    output.is_contiguous(memory_format=torch.channels_last)
                )
            )
        losses = losses_of(model, *batch())
        total(losses).backward()
        gradients = {n: p.grad for n, p in model.named_parameters()}
        return layouts, losses, gradients, model.state_dict()

    layouts, losses, gradients, weights = step(channels_last=True)
    before, expected, slopes, initial = step()

    assert all(layouts)
    assert not any(before)
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(gradients, slopes, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(weights, initial, rtol=0, atol=0)


@pytest.mark.parametrize('kind', [nn.Conv2d, nn.ConvTranspose2d])
def test_convolutions_of_both_directions_are_channels_last(
    kind: type[nn.Module],
) -> None:
    layer = kind(2, 3, 2)
    frozen_teacher_distill.keep_channels_last(layer)
    assert layer.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    'dtype',
    [
        torch.bfloat16,
        pytest.param(
            torch.float16,
            marks=pytest.mark.skipif(
                not half_convolution(), reason='no half precision on CPUs'
            ),
        ),
    ],
)
def test_under_autocast_the_teacher_computes_in_half_precision(
    dtype: torch.dtype,
) -> None:
    model = build().train()
    layers = [
        module
        for module in model.teacher.modules()
        if isinstance(module, (nn.Linear, nn.Conv2d))
    ]
    outputs = [watch_outputs(layer) for layer in layers]
    with torch.autocast('cpu', dtype):
        losses = losses_of(model)

    assert layers
    for seen in outputs:
        assert [output.dtype for output in seen] == [dtype]
        assert not seen[0].requires_grad
    for name, parameter in model.teacher.named_parameters():
        assert parameter.dtype == torch.float32, name
    assert all(loss.isfinite() for loss in losses.values())
    # What is compared is compared in single precision.
    assert losses['distill.loss_angle'].dtype == torch.float32


def test_a_compiled_training_step_gives_the_same_losses_and_weights() -> None:
    def trained(compiled: bool) -> tuple[list[Tensor], dict[str, Tensor]]:
        torch.manual_seed(0)
        model = build().train()
        step = model.train_step
        if compiled:
            torch.compiler.reset()
            step = torch.compile(step, backend='aot_eager')
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        wrapper = OptimWrapper(optimizer)
        losses = [step(raw_batch(), wrapper)['loss'] for _ in range(2)]
        return losses, model.state_dict()

    torch.testing.assert_close(trained(True), trained(False))


def test_losses_under_no_grad_have_no_graph() -> None:
    model = build()
    with torch.no_grad():
        losses = losses_of(model)
    assert not any(loss.requires_grad for loss in losses.values())


def test_a_teacher_of_another_input_size_is_refused(tmp_path: Path) -> None:
    # MMPretrain would resize the position embeddings without a word.
    larger = vit_config()
    larger['backbone']['img_size'] = 64
    path = tmp_path / 'larger.pth'
    torch.save(MODELS.build(larger).state_dict(), path)
    with pytest.raises(ValueError, match=r'other shapes: backbone\.pos_embed'):
        build(teacher_ckpt=str(path), allow_random_teacher=False)


def test_a_teacher_that_recomputes_buffers_loads_its_own_checkpoint(
    tmp_path: Path,
) -> None:
    teacher = dict(
        _scope_='mmpretrain',
        type='ImageClassifier',
        backbone=dict(
            type='SwinTransformerV2',
            arch=dict(
                embed_dims=16,
                depths=[1, 1],
                num_heads=[2, 2],
                extra_norm_every_n_blocks=0,
            ),
            img_size=64,
            window_size=4,
            out_indices=(1,),
        ),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=CLASSES, in_channels=32),
    )
    saved = MODELS.build(copy.deepcopy(teacher))
    path = tmp_path / 'swin.pth'
    torch.save(saved.state_dict(), path)
    distiller = distiller_config(losses=('loss_kd',))
    distiller['teacher_recorders'] = dict(logits=recorder('head.fc'))

    model = build(teacher=teacher, teacher_ckpt=str(path), distiller=distiller)

    for actual, expected in zip(
        model.teacher.parameters(), saved.parameters()
    ):
        assert torch.equal(actual, expected)


def test_a_copy_that_moves_leaves_the_teacher_where_it_is() -> None:
    model = build()
    ExponentialMovingAverage(model, device=torch.device('meta'))
    copy.deepcopy(model).double()
    assert {p.device.type for p in model.teacher.parameters()} == {'cpu'}
    assert {p.dtype for p in model.teacher.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ('recorded', 'compared'), [(True, True), (True, False), (False, False)]
)
def test_a_distillation_head_that_nothing_trains_is_announced(
    recorded: bool, compared: bool, logged: Callable
) -> None:
    said = logged(checks)
    losses = ('loss_kd', 'loss_angle') if compared else ('loss_angle',)
    distiller = distiller_config(losses=losses)
    if not recorded:
        distiller['student_recorders'].pop('logits')
    build(distiller=distiller)
    assert any('head_dist' in text for text in said) is not compared


@pytest.mark.parametrize('teacher_rgb', [True, False])
def test_the_channel_order_of_mmengine_preprocessors_is_honoured(
    teacher_rgb: bool,
) -> None:
    student = MODELS.build(dict(RGB, _scope_='mmpretrain'))
    teacher = ImgDataPreprocessor(
        mean=RGB['mean'], std=RGB['std'], bgr_to_rgb=teacher_rgb
    )
    change = Renormalize.between(student, teacher)
    assert (change is None) is teacher_rgb
    assert change is None or change.flip


def test_a_teacher_that_wants_rgb_alone_gets_it() -> None:
    bgr = MODELS.build({**RGB, 'to_rgb': False, '_scope_': 'mmpretrain'})
    teacher = MODELS.build(
        dict(type='ClsDataPreprocessor', to_rgb=True, _scope_='mmpretrain')
    )
    batch = torch.randn(2, 3, 4, 4)
    change = Renormalize.between(bgr, teacher)
    assert change is not None
    assert torch.equal(change(batch), batch.flip(1))
    rgb = MODELS.build(dict(RGB, _scope_='mmpretrain'))
    assert Renormalize.between(rgb, teacher) is None


def test_logits_of_other_classes_are_refused_when_built() -> None:
    teacher = vit_config()
    teacher['head']['num_classes'] = CLASSES + 1
    message = rf'loss_kd compares logits.*{CLASSES} classes.*{CLASSES + 1}'
    with pytest.raises(ValueError, match=message):
        build(teacher=teacher)
    build(teacher=teacher, distiller=distiller_config(losses=('loss_angle',)))


def test_logits_of_a_teacher_of_timm_are_compared_as_those_of_a_head() -> None:
    pytest.importorskip('timm')
    distiller = distiller_config(losses=('loss_kd',))
    logits = dict(type='ModuleOutputs', source='model.fc')
    distiller['teacher_recorders'] = dict(logits=logits)
    teacher = dict(type='mmpretrain.TimmClassifier', model_name='resnet10t')
    settings = dict(distiller=distiller, input_size=32)

    model = build(teacher=dict(teacher, num_classes=CLASSES), **settings)
    assert 0 <= losses_of(model)['agreement'] <= 1

    message = rf'loss_kd compares logits.*{CLASSES} classes.*{CLASSES + 1}'
    with pytest.raises(ValueError, match=message):
        build(teacher=dict(teacher, num_classes=CLASSES + 1), **settings)


@pytest.mark.parametrize('package', ['', 'mmrazor.'])
def test_logits_of_other_classes_are_embeddings_to_relations_of_images(
    package: str,
) -> None:
    teacher = vit_config()
    teacher['head']['num_classes'] = CLASSES + 1
    kind = 'DistanceWiseRKD' if package else 'InstanceDistanceLoss'
    distiller = distiller_config(
        losses=('loss_kd',),
        distill_losses=dict(loss_kd=dict(type=f'{package}{kind}')),
    )
    losses = losses_of(build(teacher=teacher, distiller=distiller))
    assert losses['distill.loss_kd'] > 0


def test_what_goes_into_heads_of_other_classes_may_be_compared() -> None:
    teacher = vit_config()
    teacher['head']['num_classes'] = CLASSES + 1
    distiller = distiller_config(losses=('loss_kd',))
    for side, source in (('student', 'head_dist'), ('teacher', 'head')):
        distiller[f'{side}_recorders']['logits'] = dict(
            type='ModuleInputs', source=f'head.layers.{source}'
        )
    for record in distiller['loss_forward_mappings']['loss_kd'].values():
        record['data_idx'] = 0
    # Of the same widths, which the logits of other classes are not.
    teacher['backbone']['arch']['embed_dims'] = STUDENT_WIDTH
    teacher['head']['in_channels'] = STUDENT_WIDTH
    build(teacher=teacher, distiller=distiller)


def test_the_learning_rate_decays_by_the_students_layers() -> None:
    model = build()
    wrapper = build_optim_wrapper(
        model,
        dict(
            constructor='mmpretrain.LearningRateDecayOptimWrapperConstructor',
            optimizer=dict(type='SGD', lr=1.0, weight_decay=0.1),
            paramwise_cfg=dict(layer_decay_rate=0.5),
        ),
    )

    # MMEngine puts a group without parameters before them.
    named = [g for g in wrapper.param_groups if g['params']]
    rates = {g['param_name']: g['lr'] for g in named}

    # Two blocks: embedding, both blocks and what is behind them.
    assert rates['architecture.backbone.cls_token'] == 0.5**3
    assert rates['architecture.backbone.layers.0.ln1.weight'] == 0.5**2
    assert rates['architecture.backbone.layers.1.ln1.weight'] == 0.5
    assert rates['architecture.head.layers.head.weight'] == 1.0
    assert rates['distiller.distill_losses.loss_feature.projection.bias'] == 1
