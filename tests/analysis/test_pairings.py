# Copyright (c) The serkd_mm authors. All rights reserved.
"""Pairings of the model zoo's families, each built and run as suggested.

By default every family is a teacher once and a student once, and of the other
architectures two are tried; ``pytest --all-pairs
tests/analysis/test_pairings.py`` runs all of them.
"""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmrazor.registry import MODELS
from torch import nn

from serkd_mm.analysis import config_text, suggest
from serkd_mm.analysis.pair import random_batch

# The smallest of each.
FAMILIES = {
    'ResNet': 'resnet18_8xb32_in1k',
    'RegNet': 'regnetx-400mf_8xb128_in1k',
    'ConvNeXt': 'convnext-v2-atto_fcmae-pre_3rdparty_in1k',
    'MobileNetV3': 'mobilenet-v3-small-050_3rdparty_in1k',
    'EfficientNet': 'efficientnet-b0_3rdparty_8xb32_in1k',
    'Swin': 'swin-tiny_16xb64_in1k',
    'ViT': 'vit-base-p16_32xb128-mae_in1k',
    'DeiT': 'deit-tiny-distilled_3rdparty_in1k',
    'DeiT-III': 'deit3-small-p16_3rdparty_in1k',
    'DINOv2': 'vit-small-p14_dinov2-pre_3rdparty',
    'MAE': 'vit-base-p16_mae-1600e-pre_8xb128-coslr-100e_in1k',
    'TinyViT': 'tinyvit-5m_3rdparty_in1k',
}
# The smallest of every other architecture that classifies images of 224x224.
ARCHITECTURES = [
    # Keeps attention biases for eval mode.
    'levit-128s_3rdparty_in1k',
    # Makes its rotary tables anew for each image size.
    'vit-tiny-p14_eva02-in21k-pre_3rdparty_in1k-336px',
    'beit-base-p16_beit-in21k-pre_3rdparty_in1k',
    'conformer-tiny-p16_3rdparty_in1k',
    'convmixer-768-32_3rdparty_in1k',
    'convnext-tiny_32xb128-noema_in1k',
    'cspresnext50_3rdparty_8xb32_in1k',
    'davit-tiny_3rdparty_in1k',
    'densenet121_3rdparty_in1k',
    'edgenext-xxsmall_3rdparty_in1k',
    'efficientformer-l1_3rdparty_8xb128_in1k',
    'efficientnetv2-b0_3rdparty_in1k',
    'hivit-tiny-p16_16xb64_in1k',
    'hornet-tiny_3rdparty_in1k',
    'hrnet-w18_3rdparty_8xb32-ssld_in1k',
    'inception-v3_3rdparty_8xb32_in1k',
    'mixmim-base_mixmim-pre_8xb128-coslr-100e_in1k',
    'mlp-mixer-base-p16_3rdparty_64xb64_in1k',
    'mobilenet-v2_8xb32_in1k',
    'mobileone-s0_8xb32_in1k',
    'mobilevit-xxsmall_3rdparty_in1k',
    'mvitv2-tiny_3rdparty_in1k',
    'poolformer-s12_3rdparty_32xb128_in1k',
    'repmlp-base_3rdparty_8xb64_in1k',
    'repvgg-b0_8xb32_in1k',
    'res2net50-w14-s8_3rdparty_8xb32_in1k',
    'resnext50-32x4d_8xb32_in1k',
    'revvit-small_3rdparty_in1k',
    'riformer-s12_in1k',
    'seresnet50_8xb32_in1k',
    'shufflenet-v1-1x_16xb64_in1k',
    'shufflenet-v2-1x_16xb64_in1k',
    't2t-vit-t-14_8xb64_in1k',
    'tnt-small-p16_3rdparty_in1k',
    'twins-svt-small_3rdparty_8xb128_in1k',
    'van-tiny_3rdparty_in1k',
    'vgg11_8xb32_in1k',
    'vig-tiny_3rdparty_in1k',
    'wide-resnet50_3rdparty-timm_8xb32_in1k',
    'xcit-nano-12-p8_3rdparty-dist_in1k',
]
# How far apart teacher and student are in the list, where not all are tried.
SHIFT = 5


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    names = list(FAMILIES)
    everything = metafunc.config.getoption('--all-pairs')
    if 'architecture' in metafunc.fixturenames:
        tried = ARCHITECTURES if everything else ARCHITECTURES[:2]
        metafunc.parametrize('architecture', tried)
        return
    shifts = range(len(names)) if everything else [SHIFT]
    metafunc.parametrize(
        ('teacher', 'student'),
        [
            (name, names[(index + shift) % len(names)])
            for shift in shifts
            for index, name in enumerate(names)
        ],
    )


def suggested(teacher: str, student: str, path: Path) -> tuple:
    """A suggestion, its config read back and the algorithm of it."""
    suggestion = suggest(teacher, student)
    path.write_text(config_text(suggestion, path))
    cfg = Config.fromfile(path)
    return suggestion, cfg, build(copy.deepcopy(cfg))


def build(cfg: Config) -> nn.Module:
    """The algorithm as a runner builds it, without the checkpoints."""
    cfg.model.update(teacher_ckpt=None, allow_random_teacher=True)
    cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    return MODELS.build(cfg.model).train()


def watch(model: nn.Module) -> dict[str, tuple]:
    """Shapes that the connectors will give."""
    shapes: dict[str, tuple] = {}
    for name, connector in model.distiller.connectors.items():
        connector.register_forward_hook(
            lambda module, args, output, name=name: shapes.update(
                {name: tuple(getattr(output, 'tokens', output).shape)}
            )
        )
    return shapes


@pytest.mark.slow
def test_a_suggested_pair_builds_and_learns(
    teacher: str, student: str, tmp_path: Path
) -> None:
    suggestion, cfg, model = suggested(
        FAMILIES[teacher], FAMILIES[student], tmp_path / 'pair.py'
    )
    assert cfg.model.teacher_ckpt.startswith('https://download.openmmlab.com/')
    shapes = watch(model)
    build_optim_wrapper(model, cfg.optim_wrapper)

    data = random_batch(model.student, suggestion.size, 2)
    losses = model(**model.data_preprocessor(data, True), mode='loss')

    names = ['distill.loss_feature', 'distill.loss_distance']
    names.append('distill.loss_angle')
    logits = ['distill.loss_kd'] if teacher != 'DINOv2' else []
    # Without the teacher's logits, labels train the distillation token.
    labels = ['student.loss']
    if not logits and student == 'DeiT':
        labels.append('student.loss_dist_head')
    assert {n for n in losses if 'loss' in n} == {*labels, *logits, *names}
    assert all(0 < float(losses[n]) < 100 for n in [*labels, *names])
    assert all(0 <= float(losses[name]) < 100 for name in logits)
    side = 16 if teacher == student == 'DINOv2' else 14
    assert suggestion.hw == (side, side)
    for name in ('student', 'teacher'):
        assert shapes[f'{name}_tokens'][:2] == (2, side**2)
        assert shapes[f'{name}_superpixels'][:2] == (2, side**2 // 4)
    # The relations teach the student from its first layer on.
    sum(losses[name] for name in names[1:]).backward()
    first = next(iter(model.student.backbone.parameters()))
    assert float(first.grad.abs().sum()) > 0


@pytest.mark.slow
@pytest.mark.parametrize('role', ['teacher', 'student'])
def test_an_architecture_teaches_and_learns(
    architecture: str, role: str, tmp_path: Path
) -> None:
    pair = dict(teacher=FAMILIES['DeiT-III'], student=FAMILIES['DeiT'])
    pair[role] = architecture
    suggestion, _, model = suggested(**pair, path=tmp_path / 'pair.py')

    data = random_batch(model.student, suggestion.size, 2)
    losses = model(**model.data_preprocessor(data, True), mode='loss')
    loss, _ = model.parse_losses(losses)
    loss.backward()

    # Of others several processes would wait for it.
    without = [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.grad is None
    ]
    assert not without
    assert all(
        bool(parameter.grad.isfinite().all())
        for parameter in model.parameters()
        if parameter.requires_grad
    )
