# Copyright (c) The serkd_mm authors. All rights reserved.
"""Heads and backbones of other tokens are refused before the first batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mmpretrain.registry import MODELS
from torch import nn

from serkd_mm.engine.config_file import read_config
from serkd_mm.engine.launch import train
from serkd_mm.engine.model_checks import check_heads
from serkd_mm.models.heads.check_head import check_head, head_widths_named

from .builders import (
    batch,
    build,
    cnn_config,
    distiller_config,
    losses_of,
    recorder,
    student_config,
    vit_config,
)

TWO, ONE = 'DistilledVisionTransformer', 'VisionTransformer'
MEAN = dict(out_type='avg_featmap')
# Backbone, its settings, head, and what the message says.
MISFITS = [
    (ONE, {}, 'DeiTClsHead', 'no dist_token.*VisionTransformerClsHead'),
    (ONE, {}, 'DeiTDistillHead', 'no dist_token.*DistilledVisionTransformer'),
    (TWO, MEAN, 'DeiTClsHead', "out_type='avg_featmap'; set .*='cls_token'"),
    (TWO, {}, 'VisionTransformerClsHead', "type='DeiTDistillHead'"),
    (TWO, {}, 'LinearClsHead', "type='VisionTransformer'"),
]
FITS = [
    (ONE, {}, 'VisionTransformerClsHead'),
    (ONE, MEAN, 'LinearClsHead'),
    (TWO, {}, 'DeiTClsHead'),
    (TWO, {}, 'DeiTDistillHead'),
    (TWO, MEAN, 'VisionTransformerClsHead'),
    (TWO, MEAN, 'LinearClsHead'),
]


def classifier(backbone: str, settings: dict, head: str) -> nn.Module:
    cfg = student_config()
    cfg['backbone'].update(type=backbone, **settings)
    cfg['head']['type'] = head
    return MODELS.build(cfg)


@pytest.mark.parametrize(('backbone', 'settings', 'head', 'said'), MISFITS)
def test_what_would_fail_at_the_first_batch_is_named(
    backbone: str, settings: dict, head: str, said: str
) -> None:
    network = classifier(backbone, settings, head)
    with pytest.raises((TypeError, ValueError)):
        network(*batch(), mode='loss')

    with pytest.raises(
        TypeError, match=rf'model\.head is a {head} .* a {backbone}, .*{said}'
    ):
        check_heads(network)


@pytest.mark.parametrize(('backbone', 'settings', 'head'), FITS)
def test_what_trains_is_left_alone(
    backbone: str, settings: dict, head: str
) -> None:
    network = classifier(backbone, settings, head)
    assert network(*batch(), mode='loss')['loss'].isfinite()
    check_heads(network)


def test_other_modules_are_left_alone() -> None:
    check_heads(MODELS.build(cnn_config()))
    check_head('model', nn.Linear(2, 2))


def test_the_distillation_token_may_be_that_of_an_inner_module() -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = MODELS.build(student_config()['backbone'])

        def forward(self, images: Any) -> Any:
            return self.net(images)

    network = MODELS.build(student_config())
    network.backbone = Wrapped()
    check_heads(network)


@pytest.mark.parametrize('side', ['architecture', 'teacher'])
def test_both_networks_of_a_distillation_are_looked_at(side: str) -> None:
    # Two images are as many as the tokens that this head takes them for.
    networks = dict(architecture=vit_config(), teacher=vit_config())
    networks[side]['head']['type'] = 'DeiTClsHead'
    distiller = distiller_config(
        losses=('loss_kd',),
        student_recorders=dict(logits=recorder('head.layers.head')),
    )

    with pytest.raises(TypeError, match=rf'model\.{side}\.head is a DeiTCls'):
        build(distiller=distiller, **networks)
    networks[side]['head']['type'] = 'VisionTransformerClsHead'
    assert losses_of(build(distiller=distiller, **networks))


def test_soft_labels_have_the_classes_of_a_plain_classifier() -> None:
    preprocessor = dict(type='ClsDataPreprocessor', num_classes=7)
    cfg = student_config(data_preprocessor=preprocessor)
    check_heads(MODELS.build(cfg))

    preprocessor['to_onehot'] = True
    with pytest.raises(ValueError, match='num_classes is 7.*num_classes=5'):
        check_heads(MODELS.build(cfg))


def test_a_plain_student_is_refused_before_training(tmp_path: Path) -> None:
    cfg = read_config('serkd_mm::quickstart/student.py')
    cfg.work_dir = str(tmp_path)
    cfg.model.backbone.type = ONE

    with pytest.raises(TypeError, match=r'model\.head is a DeiTDistillHead'):
        train(cfg)


@pytest.mark.parametrize('side', ['architecture', 'teacher'])
def test_a_head_of_another_width_than_the_features(side: str) -> None:
    networks = dict(architecture=student_config(), teacher=vit_config())
    head = networks[side]['head']
    width = head['in_channels']
    head['in_channels'] = 2 * width
    with pytest.raises(
        ValueError,
        match=rf'model\.{side}\.head\.\S+ takes {2 * width} channels, but '
        rf'gets {width}; set model\.{side}\.head\.in_channels={width}',
    ):
        build(**networks)


def test_a_width_inside_the_backbone_is_not_the_heads() -> None:
    network = nn.ModuleDict(dict(backbone=nn.Linear(4, 2)))
    with (
        head_widths_named('model.teacher', network),
        pytest.raises(RuntimeError, match='shapes'),
    ):
        network['backbone'](torch.ones(1, 3))


def test_heads_are_left_as_they_were() -> None:
    network = MODELS.build(vit_config())
    with head_widths_named('model.teacher', network):
        pass
    assert not any(m._forward_pre_hooks for m in network.modules())
