# Copyright (c) The serkd_mm authors. All rights reserved.
"""Mistakes that show when the algorithm is built."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from mmrazor.registry import MODELS
from torch import nn

from serkd_mm.models.algorithms import FrozenTeacherDistill

from .builders import (
    CLASSES,
    algorithm_config,
    build,
    cnn_config,
    distiller_config,
    losses_of,
    recorder,
    student_config,
    vit_config,
)


def cnn_distiller(stride: int, layer: str = 'layer3') -> dict:
    """Relations of pooled windows of two CNNs."""
    cfg = distiller_config(losses=('loss_distance',))
    for side in ('student', 'teacher'):
        cfg[f'{side}_recorders'] = dict(tokens=recorder(f'backbone.{layer}'))
        cfg['connectors'][f'{side}_superpixels'] = [
            dict(type='FeatureMapTokenizer', stride=stride),
            dict(type='SuperpixelTokenizer', grid_size=(2, 2)),
        ]
    return cfg


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


def test_other_token_grids_are_named_when_built() -> None:
    teacher = vit_config()
    teacher['backbone']['patch_size'] = 4

    with pytest.raises(ValueError, match='same number of images and tokens'):
        build(teacher=teacher)


def test_a_student_without_distillation_token_is_named_when_built() -> None:
    architecture = student_config()
    architecture['backbone']['type'] = 'VisionTransformer'

    with pytest.raises(TypeError, match='class and a distillation token'):
        build(architecture=architecture)


def test_a_teacher_of_other_classes_is_named_when_built() -> None:
    teacher = vit_config()
    teacher['head']['num_classes'] = CLASSES + 3

    with pytest.raises(ValueError, match='5 classes and the teacher 8'):
        build(teacher=teacher)


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
