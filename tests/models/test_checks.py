# Copyright (c) The serkd_mm authors. All rights reserved.
"""Mistakes that show when the algorithm is built."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from mmengine.model import BaseModel
from mmpretrain.models.heads import LinearClsHead
from mmpretrain.registry import MODELS as PRETRAIN
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS
from torch import Tensor, nn

from serkd_mm.models.algorithms import FrozenTeacherDistill
from serkd_mm.ops import relation_triton, triton_build

from .builders import (
    CLASSES,
    algorithm_config,
    batch,
    build,
    cnn_config,
    cnn_distiller,
    distiller_config,
    losses_of,
    raw_batch,
    recorder,
    student_config,
    vit_config,
)


def build_cnns(stride: int, **overrides: Any) -> nn.Module:
    return build(
        architecture=cnn_config(),
        teacher=cnn_config(),
        distiller=cnn_distiller(stride),
        **overrides,
    )


def test_a_stride_that_does_not_fit_the_map_is_named_when_built() -> None:
    with pytest.raises(ValueError, match=r'stride \(3, 3\).*H=8, W=8'):
        build_cnns(3, input_size=32)
    # 24 pixels make 6x6 positions.
    assert build_cnns(3, input_size=24) is not None
    with pytest.raises(ValueError, match=r'stride \(3, 3\).*H=8, W=6'):
        build_cnns(3, input_size=(32, 24))


def test_a_cuda_kernel_is_not_tried_before_the_runner_moves_the_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    distiller = distiller_config(losses=('loss_angle',))
    distiller['distill_losses']['loss_angle']['impl'] = 'triton'
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(RuntimeError, match="impl='triton' needs"):
        build(distiller=distiller)

    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    # No kernel is built, so that Triton need not be there.
    monkeypatch.setattr(triton_build, '_INSTALLED', True)
    model = build(distiller=distiller)

    assert model.distiller.distill_losses['loss_angle'].impl == 'triton'
    # What does not depend on the device is checked all the same.
    with monkeypatch.context() as patched:
        patched.setattr(relation_triton, 'MAX_TOKENS', 3)
        with pytest.raises(ValueError, match='takes up to 3 tokens'):
            build(distiller=distiller)
    monkeypatch.setattr(triton_build, '_INSTALLED', False)
    with pytest.raises(RuntimeError, match='needs the package triton'):
        build(distiller=distiller)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(type='TokenAngleLoss', impl='fast'), "'chunked'.*got 'fast'"),
        (dict(type='InstanceAngleLoss', impl=None), "'chunked'.*got None"),
        (
            dict(type='TokenDistanceLoss', normalize='row'),
            "'image', 'batch'.*got 'row'",
        ),
        (dict(type='SuperpixelTokenizer', impl='fast'), "'local'.*got 'fast'"),
        (dict(type='SuperpixelTokenizer', affinity='x'), "'rbf'.*got 'x'"),
        (
            dict(type='SuperpixelTokenizer', num_iters='1'),
            "num_iters must be an integer >= 0, got '1'",
        ),
        *(
            (
                dict(type='SuperpixelTokenizer', grid_size=size),
                'grid_size must be a positive integer or two of them, got ',
            )
            for size in ((2.7, 2), (2, 2, 9), '22', 2.0, None, 0, True)
        ),
        (dict(type='VisualTokens', hw=(3.9, 4)), r'hw must be .* \(3.9, 4\)'),
        (
            dict(type='FeatureMapTokenizer', stride=0),
            'stride must be .* got 0',
        ),
    ],
)
def test_settings_are_checked_without_any_input(
    settings: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        MODELS.build(dict(settings, _scope_='mmrazor'))


@pytest.mark.parametrize('value', ['yes', 1, None])
def test_teacher_compile_is_a_switch_or_options(value: Any) -> None:
    with pytest.raises(TypeError, match='teacher_compile must be True, Fal'):
        build(teacher_compile=value)


@pytest.mark.parametrize('size', ['32', -1, (32,), (32, 0), 32.0])
def test_an_input_size_that_is_none_is_refused(size: Any) -> None:
    with pytest.raises(ValueError, match=r'model.input_size must be a posit'):
        build(input_size=size)


def test_a_cnn_of_unknown_input_size_is_left_to_the_first_batch() -> None:
    model = build_cnns(3)

    with pytest.raises(ValueError, match=r'stride \(3, 3\).*H=8, W=8'):
        losses_of(model)


def test_a_transformer_says_its_input_size_itself() -> None:
    distiller = distiller_config(losses=('loss_distance',))
    chain = distiller['connectors']['student_superpixels']
    chain.insert(1, dict(type='FeatureMapTokenizer', stride=3))

    with pytest.raises(ValueError, match=r'stride \(3, 3\).*H=4, W=4'):
        build(distiller=distiller)
    assert build(distiller=distiller, input_size=0) is not None


@pytest.mark.parametrize('side', ['student', 'teacher'])
def test_wide_images_have_no_square_grid(side: str) -> None:
    """2x8 tokens are as many as 4x4."""
    student, teacher = student_config(), vit_config()
    for network in (student, teacher):
        network['backbone']['img_size'] = (16, 64)
    cfg = dict(architecture=student, teacher=teacher)
    distiller = distiller_config(losses=('loss_distance',))
    for name in ('student', 'teacher'):
        if name != side:
            tokens = distiller['connectors'][f'{name}_superpixels'][0]
            tokens['hw'] = (2, 8)
    with pytest.raises(
        ValueError,
        match=f"^connector '{side}_superpixels' .*: images of 16x64 pixels "
        r'have no square grid of 4x4 tokens, .* such as hw=\(2, 8\)$',
    ):
        build(**cfg, distiller=distiller)

    tokens = distiller['connectors'][f'{side}_superpixels'][0]
    tokens['hw'] = (2, 8)
    assert build(**cfg, distiller=distiller) is not None


class _Centred(nn.Module):
    """A loss with a memory, one part of which is replaced."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer('centre', torch.zeros(CLASSES))
        self.register_buffer('calls', torch.zeros(()))

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        self.centre += preds_T.mean(0)
        self.calls = self.calls + 1
        return (preds_S - self.centre).square().mean()


def test_made_up_images_leave_nothing_in_buffers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(MODELS.module_dict, 'TestCentred', _Centred)
    distiller = distiller_config(losses=('loss_kd',))
    distiller['distill_losses']['loss_kd'] = dict(type='TestCentred')
    model = build(distiller=distiller)
    loss = model.distiller.distill_losses['loss_kd']
    assert not loss.centre.any()
    assert loss.calls == 0
    assert set(dict(loss.named_buffers())) == {'centre', 'calls'}
    losses_of(model)
    assert loss.centre.any()
    assert loss.calls == 1


class _WeightedHead(LinearClsHead):
    """A head that takes a weight from each sample."""

    def loss(self, feats: Any, data_samples: Any, **kwargs: Any) -> dict:
        weight = torch.stack([sample.weight for sample in data_samples])
        losses = super().loss(feats, data_samples, **kwargs)
        return {name: weight.mean() * value for name, value in losses.items()}


class _AssertingHead(LinearClsHead):
    """A head that asks for something of its samples, without a word."""

    def loss(self, feats: Any, data_samples: Any, **kwargs: Any) -> dict:
        if not all('weight' in sample for sample in data_samples):
            raise AssertionError
        return super().loss(feats, data_samples, **kwargs)


@pytest.mark.parametrize(
    ('head', 'error', 'said'),
    [
        (_WeightedHead, AttributeError, "no attribute 'weight'; "),
        (
            _AssertingHead,
            AssertionError,
            r"test_checks\.py, line .* has 'raise AssertionError'; ",
        ),
    ],
)
def test_made_up_samples_say_what_they_have(
    head: type,
    error: type[Exception],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(PRETRAIN.module_dict, 'TestHead', head)
    student = cnn_config()
    student['head']['type'] = 'TestHead'
    cfg = dict(
        architecture=student,
        teacher=cnn_config(),
        distiller=cnn_distiller(1),
    )
    with pytest.raises(error, match=rf'{said}.*model\.input_size=0'):
        build(**cfg, input_size=32)
    assert build(**cfg, input_size=0) is not None


def test_the_trial_of_all_losses_draws_no_random_number() -> None:
    """Though MMRazor's connector for masked features does."""
    distiller = cnn_distiller(1)
    distiller['connectors']['student_superpixels'].insert(
        0,
        dict(type='MGDConnector', student_channels=64, teacher_channels=64),
    )
    drawn = []
    for input_size in (32, 0):
        torch.manual_seed(0)
        MODELS.build(
            algorithm_config(
                architecture=cnn_config(),
                teacher=cnn_config(),
                distiller=distiller,
                input_size=input_size,
            )
        )
        drawn.append(torch.rand(1))
    assert drawn[0] == drawn[1]


def test_a_network_without_a_backbone_is_left_alone() -> None:
    """As MMPretrain's wrapper of timm's networks is."""
    teacher = torch_classifier()
    distiller = distiller_config(losses=('loss_kd',))
    distiller['teacher_recorders'] = dict(logits=recorder('layer'))
    assert build(teacher=teacher, distiller=distiller) is not None


def torch_classifier() -> BaseModel:
    class Flat(BaseModel):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, CLASSES)

        def forward(
            self, inputs: Any, data_samples: Any = None, mode: str = 'tensor'
        ) -> Any:
            return self.layer(inputs.mean((2, 3)))

    return Flat()


def test_a_preprocessor_without_batch_augments_is_named() -> None:
    """MMRazor's configs have MMEngine's own, which classifiers cannot use."""
    preprocessor = dict(
        type='ImgDataPreprocessor', mean=[0.0] * 3, std=[1.0] * 3
    )
    with pytest.raises(
        TypeError,
        match="^data_preprocessor.type='ImgDataPreprocessor' takes no batch_a"
        "ugments.*type='ClsDataPreprocessor'.*to_rgb in the place of bgr_to",
    ):
        build(data_preprocessor=preprocessor)


def test_an_algorithm_that_trains_nothing_is_refused() -> None:
    distiller = distiller_config(losses=('loss_distance',))
    with pytest.raises(
        ValueError, match='nothing would be trained: student_trainable=False'
    ):
        build(distiller=distiller, student_trainable=False)
    # A projection of the student's tokens can be learned alone.
    assert build(student_trainable=False) is not None


def test_other_token_grids_are_named_when_built() -> None:
    teacher = vit_config()
    teacher['backbone']['patch_size'] = 4

    with pytest.raises(ValueError, match='same number of images and tokens'):
        build(teacher=teacher)


@pytest.mark.parametrize('loss', ['loss_distance', 'loss_angle'])
@pytest.mark.parametrize(('grid_size', 'count'), [(4, 1), ((4, 2), 2)])
def test_superpixels_without_relations_are_refused_when_built(
    loss: str, grid_size: Any, count: int
) -> None:
    distiller = distiller_config(losses=(loss,))
    for side in ('student', 'teacher'):
        chain = distiller['connectors'][f'{side}_superpixels']
        chain[1]['grid_size'] = grid_size
    name = distiller['distill_losses'][loss]['type']

    with pytest.raises(
        ValueError, match=f'{name} needs K >= 3.*K = {count} .*grid_size'
    ):
        build(distiller=distiller)


def test_a_student_without_distillation_token_is_named_when_built() -> None:
    architecture = student_config()
    architecture['backbone']['type'] = 'VisionTransformer'

    with pytest.raises(TypeError, match='class and a distillation token'):
        build(architecture=architecture)


def test_a_refinement_of_another_width_is_named_when_built() -> None:
    distiller = distiller_config(losses=('loss_distance',))
    chain = distiller['connectors']['student_superpixels']
    chain[1]['refine_channels'] = 7

    with pytest.raises(ValueError, match='set refine_channels=16'):
        build(distiller=distiller)


def test_a_teacher_of_other_classes_is_named_when_built() -> None:
    teacher = vit_config()
    teacher['head']['num_classes'] = CLASSES + 3

    with pytest.raises(ValueError, match='5 classes and the teacher 8'):
        build(teacher=teacher)


def test_a_connector_may_choose_the_classes_that_both_have() -> None:
    teacher = vit_config()
    teacher['head']['num_classes'] = CLASSES + 3
    distiller = distiller_config(losses=('loss_kd',))
    distiller['connectors'] = dict(
        shared=dict(
            type='TorchNNConnector',
            module_name='Linear',
            module_args=dict(in_features=CLASSES + 3, out_features=CLASSES),
        )
    )
    mapping = distiller['loss_forward_mappings']['loss_kd']
    mapping['preds_T']['connector'] = 'shared'

    model = build(teacher=teacher, distiller=distiller)

    losses = losses_of(model)
    assert torch.isfinite(losses['distill.loss_kd'])
    assert 'agreement' not in losses


@pytest.mark.parametrize('training', [True, False])
def test_the_trial_leaves_nothing_behind(
    training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[bool] = []
    loss = FrozenTeacherDistill.loss

    def watched(self: nn.Module, *args: Any) -> dict:
        tried.append(self.training or torch.is_grad_enabled())
        return loss(self, *args)

    monkeypatch.setattr(FrozenTeacherDistill, 'loss', watched)
    cfg = algorithm_config(architecture=cnn_config(), teacher=cnn_config())
    cfg['distiller'] = cnn_distiller(2)
    student = MODELS.build(cnn_config()).train(training)

    def build_at(size: int) -> nn.Module:
        cfg['architecture'] = copy.deepcopy(student)
        torch.manual_seed(3)
        return MODELS.build({**algorithm_config(**cfg), 'input_size': size})

    plain = build_at(0)
    drawn = torch.rand(1)
    model = build_at(32)

    assert tried == [False]
    assert torch.equal(torch.rand(1), drawn)
    assert model.student.training is training
    assert [m.training for m in model.modules()] == [
        m.training for m in plain.modules()
    ]
    assert all(p.grad is None for p in model.parameters())
    for key, value in plain.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key
    recorders = model.distiller.student_recorders.recorders.values()
    assert all(r.data_buffer == [] for r in recorders)


def test_networks_of_several_devices_are_not_tried() -> None:
    teacher = MODELS.build(vit_config()).to('meta')

    # On one device the meta tensors would meet real ones.
    assert build(teacher=teacher) is not None


# -- recorders, weights and types -------------------------------------------


@pytest.mark.parametrize('side', ['student', 'teacher'])
def test_a_recorder_that_never_fires_is_named_when_built(side: str) -> None:
    # The teacher computes no loss, the student no softmax.
    distiller = distiller_config(losses=('loss_kd',))
    source = 'head.loss_module' if side == 'teacher' else 'backbone.patch_norm'
    architecture = student_config()
    if side == 'student':
        model = MODELS.build(architecture)
        model.backbone.add_module('patch_norm', nn.Identity())
        architecture = model
    distiller[f'{side}_recorders']['logits'] = recorder(source)

    with pytest.raises(RuntimeError, match='recorded 0 outputs') as error:
        build(architecture=architecture, distiller=distiller)
    assert f"{side} recorder 'logits' (source {source!r})" in str(error.value)


@pytest.mark.parametrize('weight', [-1.0, -1, float('nan'), float('inf')])
def test_a_weight_that_is_no_positive_number_is_refused(
    weight: float,
) -> None:
    distiller = distiller_config()
    distiller['distill_losses']['loss_distance']['loss_weight'] = weight
    name = r'distiller\.distill_losses\.loss_distance\.loss_weight'

    with pytest.raises(ValueError, match=rf'{name} must be finite and >= 0'):
        build(distiller=distiller)


@pytest.mark.parametrize('weight', ['0.5', True, [1.0], dict(value=1)])
def test_a_weight_of_a_wrong_type_is_refused(weight: Any) -> None:
    distiller = distiller_config()
    distiller['distill_losses']['loss_kd']['loss_weight'] = weight
    name = r'distiller\.distill_losses\.loss_kd\.loss_weight'

    with pytest.raises(TypeError, match=rf'{name} must be a number'):
        build(distiller=distiller)


def test_weights_of_the_students_own_losses_are_looked_at_too() -> None:
    architecture = student_config()
    loss = dict(type='CrossEntropyLoss', loss_weight=-1.0)
    architecture['head']['loss'] = loss

    with pytest.raises(ValueError, match=r'head\.loss_module\.loss_weight'):
        build(architecture=architecture)


@pytest.mark.parametrize(('tau', 'error'), [(0, ValueError), ('4', TypeError)])
def test_a_temperature_that_divides_by_nothing_is_refused(
    tau: Any, error: type
) -> None:
    distiller = distiller_config()
    distiller['distill_losses']['loss_kd']['tau'] = tau

    with pytest.raises(error, match=r'distill_losses\.loss_kd\.tau must be'):
        build(distiller=distiller)


def test_a_weight_of_zero_turns_a_loss_off() -> None:
    distiller = distiller_config()
    distiller['distill_losses']['loss_kd']['loss_weight'] = 0
    assert losses_of(build(distiller=distiller))['distill.loss_kd'] == 0


@pytest.mark.parametrize('value', ['False', 1, None])
def test_permission_for_a_random_teacher_is_a_boolean(value: Any) -> None:
    with pytest.raises(TypeError, match='model.allow_random_teacher must be'):
        build(allow_random_teacher=value)


@pytest.mark.parametrize('value', [3, False, ['teacher.pth'], dict()])
def test_a_checkpoint_is_named_by_a_string(value: Any) -> None:
    with pytest.raises(TypeError, match='model.teacher_ckpt must be the path'):
        build(teacher_ckpt=value)


@pytest.mark.parametrize('part', ['architecture', 'teacher', 'distiller'])
@pytest.mark.parametrize('value', [None, 3, [dict()], 'resnet'])
def test_a_part_that_is_no_config_is_named(part: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f'model.{part} must be a config or'):
        build(**{part: value})


@pytest.mark.parametrize('augment', [3, True, 'Mixup'])
def test_a_batch_augmentation_that_is_no_config_is_named(augment: Any) -> None:
    train_cfg = dict(augments=[augment])
    preprocessor = dict(type='ClsDataPreprocessor', num_classes=CLASSES)
    with pytest.raises((TypeError, KeyError), match='augments|Mixup'):
        build(
            architecture=student_config(train_cfg=train_cfg),
            data_preprocessor=preprocessor,
        )


@pytest.mark.parametrize('probs', [0.5, [0.5], [1.0]])
def test_batch_augmentations_may_have_probabilities(probs: Any) -> None:
    augments = [dict(type='Mixup', alpha=0.8)]
    architecture = student_config(
        train_cfg=dict(augments=augments, probs=probs)
    )
    preprocessor = dict(type='ClsDataPreprocessor', num_classes=CLASSES)
    model = build(architecture=architecture, data_preprocessor=preprocessor)
    data = model.data_preprocessor(raw_batch(), training=True)
    assert data['data_samples'][0].gt_score.sum() == pytest.approx(1)


# -- losses of one class per image ------------------------------------------


def hard_label_config(loss: str, train_cfg: Any, **preprocessor: Any) -> dict:
    """DKD or WSLD on the labels that the student's own loss gets."""
    sides = dict(DKDLoss=('preds_S', 'preds_T'), WSLD=('student', 'teacher'))
    names = zip(sides[loss], (True, False))
    settings = dict(num_classes=CLASSES) if loss == 'WSLD' else {}
    distiller = distiller_config(losses=('loss_kd',))
    distiller['student_recorders']['labels'] = dict(
        type='ModuleInputs', source='head.loss_module'
    )
    distiller['distill_losses']['loss_kd'] = dict(type=loss, **settings)
    distiller['loss_forward_mappings']['loss_kd'] = dict(
        gt_labels=dict(recorder='labels', from_student=True, data_idx=1),
        **{n: dict(recorder='logits', from_student=s) for n, s in names},
    )
    return dict(
        distiller=distiller,
        architecture=student_config(train_cfg=train_cfg),
        data_preprocessor=dict(
            type='ClsDataPreprocessor', num_classes=CLASSES, **preprocessor
        ),
    )


MIXED = dict(
    augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)],
    probs=[0.3, 0.3],
)


@pytest.mark.parametrize('loss', ['DKDLoss', 'WSLD'])
def test_a_loss_of_hard_labels_refuses_mixed_ones(loss: str) -> None:
    said = rf'loss_kd \({loss}\) needs one class per image, but '
    with pytest.raises(
        ValueError, match=said + r'.*augments \(Mixup, CutMix\) .*=None'
    ):
        build(**hard_label_config(loss, MIXED))
    with pytest.raises(ValueError, match=said + '.*to_onehot=True .*leave it'):
        build(**hard_label_config(loss, None, to_onehot=True))

    model = build(**hard_label_config(loss, None))
    data = model.data_preprocessor(raw_batch(), training=True)
    losses = losses_of(model, data['inputs'], data['data_samples'])
    assert losses['distill.loss_kd'] > 0


@pytest.mark.parametrize('kind', ['use_soft', 'use_sigmoid'])
def test_a_loss_of_soft_labels_gets_them_in_the_trial(kind: str) -> None:
    student = cnn_config(
        train_cfg=dict(augments=dict(type='Mixup', alpha=1.0))
    )
    student['head']['loss'] = dict(type='CrossEntropyLoss', **{kind: True})
    distiller = distiller_config(losses=('loss_kd',))
    distiller['student_recorders'] = dict(logits=recorder('head.fc'))

    model = build(
        architecture=student,
        distiller=distiller,
        data_preprocessor=dict(
            type='ClsDataPreprocessor', num_classes=CLASSES
        ),
    )

    data = model.data_preprocessor(raw_batch(), training=True)
    losses = losses_of(model, data['inputs'], data['data_samples'])
    assert losses['student.loss'] > 0


@pytest.mark.parametrize('train_cfg', [MIXED, None])
def test_soft_labels_have_the_classes_of_the_student(train_cfg: Any) -> None:
    cfg = dict(architecture=student_config(train_cfg=train_cfg))
    preprocessor = dict(type='ClsDataPreprocessor', num_classes=CLASSES + 2)
    if train_cfg is None:
        # Hard labels are numbers, whatever the preprocessor would make.
        assert build(**cfg, data_preprocessor=preprocessor) is not None
        return
    with pytest.raises(
        ValueError,
        match=r'data_preprocessor\.num_classes is 7, .* num_classes=5',
    ):
        build(**cfg, data_preprocessor=preprocessor)


@pytest.mark.parametrize('loss', ['DKDLoss', 'WSLD'])
def test_logits_that_a_loss_of_labels_compares_are_counted(loss: str) -> None:
    model = build(**hard_label_config(loss, None))
    inputs, samples = batch()
    assert 0 <= float(model.loss(inputs, samples)['agreement']) <= 1


def test_a_layer_of_the_head_before_its_last_has_no_classes() -> None:
    """It is neither counted as logits nor compared in ``agreement``."""

    def with_hidden(classes: int) -> dict:
        return dict(
            cnn_config(),
            head=dict(
                type='StackedLinearClsHead',
                num_classes=classes,
                in_channels=64,
                mid_channels=[32],
                act_cfg=dict(type='ReLU'),
            ),
        )

    def distiller(loss_kd: bool) -> dict:
        cfg = distiller_config(losses=('loss_kd',) * loss_kd)
        mapping = cfg['loss_forward_mappings']
        for side in ('student', 'teacher'):
            cfg[f'{side}_recorders'] = dict(
                hidden=recorder('head.layers.0'),
                logits=recorder('head.layers.1.fc'),
            )
        cfg['distill_losses']['loss_hidden'] = dict(type='L2Loss')
        cfg['loss_forward_mappings'] = dict(
            loss_hidden=dict(
                s_feature=dict(recorder='hidden', from_student=True),
                t_feature=dict(recorder='hidden', from_student=False),
            ),
            **mapping,
        )
        return cfg

    model = build(
        architecture=with_hidden(CLASSES),
        teacher=with_hidden(CLASSES),
        distiller=distiller(loss_kd=True),
    )
    for network in (model.student, model.teacher):
        torch.nn.init.zeros_(network.head.layers[1].fc.weight)
        torch.nn.init.ones_(network.head.layers[1].fc.bias[2:3])
    assert model.loss(*batch())['agreement'] == 1

    other = build(
        architecture=with_hidden(CLASSES),
        teacher=with_hidden(CLASSES + 2),
        distiller=distiller(loss_kd=False),
    )
    losses = other.loss(*batch())
    assert losses['distill.loss_hidden'] > 0
    assert 'agreement' not in losses


def test_images_of_several_labels_have_no_class_to_agree_on() -> None:
    distiller = distiller_config(losses=('loss_kd',))
    for side in ('student', 'teacher'):
        distiller[f'{side}_recorders'] = dict(logits=recorder('head.fc'))
    cfg = cnn_config()
    cfg['head']['type'] = 'MultiLabelLinearClsHead'
    distiller['distill_losses']['loss_kd'] = dict(type='L2Loss')
    distiller['loss_forward_mappings']['loss_kd'] = dict(
        s_feature=dict(recorder='logits', from_student=True),
        t_feature=dict(recorder='logits', from_student=False),
    )
    model = build(architecture=cfg, teacher=cfg, distiller=distiller)

    samples = [
        DataSample().set_gt_score(torch.zeros(CLASSES)) for _ in range(4)
    ]
    assert 'agreement' not in model.loss(batch()[0], samples)


@pytest.mark.parametrize(
    ('key', 'side'), [('architecture', 'student'), ('teacher', 'teacher')]
)
def test_no_softmax_over_labels_that_are_each_a_yes_or_no(
    key: str, side: str
) -> None:
    distiller = distiller_config(losses=('loss_kd',))
    for recorders in ('student_recorders', 'teacher_recorders'):
        distiller[recorders] = dict(logits=recorder('head.fc'))
    cfg = dict(architecture=cnn_config(), teacher=cnn_config())
    cfg[key]['head']['type'] = 'MultiLabelLinearClsHead'
    cfg['distiller'] = distiller
    with pytest.raises(
        ValueError,
        match=rf"loss_kd \(KLDivergence\) .* the {side}'s "
        r'MultiLabelLinearClsHead predicts .*L2Loss\(normalize=False',
    ):
        build(**cfg)


def test_yes_or_no_labels_are_compared_one_by_one() -> None:
    """What the message above advises."""
    student = cnn_config()
    student['head']['type'] = 'MultiLabelLinearClsHead'
    distiller = distiller_config(losses=('loss_kd',))
    distiller['student_recorders'] = dict(logits=recorder('head.fc'))
    distiller['distill_losses']['loss_kd'] = dict(
        type='L2Loss', normalize=False, div_element=True
    )
    distiller['loss_forward_mappings']['loss_kd'] = dict(
        s_feature=dict(recorder='logits', from_student=True),
        t_feature=dict(recorder='logits', from_student=False),
    )
    model = build(architecture=student, distiller=distiller)
    inputs, samples = batch()
    for sample in samples:
        sample.set_gt_score(torch.eye(CLASSES)[sample.gt_label].squeeze(0))
    assert losses_of(model, inputs, samples)['distill.loss_kd'] > 0


def test_hard_labels_of_another_place_are_left_alone() -> None:
    cfg = hard_label_config('DKDLoss', MIXED)
    architecture = MODELS.build(
        dict(
            cfg['architecture'],
            data_preprocessor=cfg.pop('data_preprocessor'),
            _scope_='mmpretrain',
        )
    )
    architecture.head.answer = nn.Identity()
    recorders = cfg['distiller']['student_recorders']
    recorders['labels']['source'] = 'head.answer'

    # Nothing runs it in this test, so the trial is left out.
    cfg.update(architecture=architecture, input_size=0)
    assert build(**cfg) is not None
