# Copyright (c) The serkd_mm authors. All rights reserved.
"""Every config builds and takes a step; networks are swapped by options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS
from torch import Tensor, nn

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'
LEAVES = sorted(
    str(path.relative_to(CONFIGS))
    for path in CONFIGS.rglob('*.py')
    if '_base_' not in path.parts
)
DISTILLED = [name for name in LEAVES if 'serkd' in name]
DEIT = ['serkd_deit-s.py', 'serkd_deit-ti.py']
LOSSES = {
    'student.loss',
    'distill.loss_kd',
    'distill.loss_feature',
    'distill.loss_distance',
    'distill.loss_angle',
}


def read(name: str, **options: Any) -> Config:
    """A config with options, as ``--cfg-options`` would set them."""
    cfg = Config.fromfile(CONFIGS / name)
    if 'teacher' in cfg.model:
        cfg.merge_from_dict(
            {'model.teacher_ckpt': None, 'model.allow_random_teacher': True}
        )
    cfg.merge_from_dict(options)
    return cfg


def build(cfg: Config) -> nn.Module:
    """The model as MMEngine's Runner builds it."""
    model = cfg.model.copy()
    model.setdefault('data_preprocessor', cfg.data_preprocessor)
    built = MODELS.build(model)
    built.init_weights()
    return built.train()


def random_batch(cfg: Config, size: int = 2) -> dict:
    student = cfg.model.get('architecture', cfg.model)
    pixels = student.backbone.get('img_size', 224)
    classes = student.head.num_classes
    return dict(
        inputs=torch.randint(0, 256, (size, 3, pixels, pixels)).float(),
        data_samples=[
            DataSample().set_gt_label(int(label))
            for label in torch.randint(classes, (size,))
        ],
    )


def step(cfg: Config, model: nn.Module) -> dict[str, Tensor]:
    """One step of training; every trainable parameter must take part."""
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper)
    data = model.data_preprocessor(random_batch(cfg), training=True)
    losses = model(**data, mode='loss')
    loss, _ = model.parse_losses(losses)
    optimizer.backward(loss)
    trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
    without = [n for n, p in trainable.items() if p.grad is None]
    broken = [
        n
        for n, p in trainable.items()
        if p.grad is not None and not torch.isfinite(p.grad).all()
    ]
    assert (without, broken) == ([], [])
    assert sum(float(p.grad.abs().sum()) for p in trainable.values()) > 0
    before = {n: p.detach().clone() for n, p in trainable.items()}
    optimizer.step()
    assert any(not torch.equal(p, before[n]) for n, p in trainable.items())
    return losses


def test_all_configs_are_known_to_the_tests() -> None:
    assert set(DEIT) < set(DISTILLED) < set(LEAVES)
    assert len(LEAVES) >= 6


@pytest.mark.slow
@pytest.mark.parametrize('name', LEAVES)
def test_the_config_builds_and_takes_a_step(name: str) -> None:
    cfg = read(name)
    model = build(cfg)

    losses = step(cfg, model)

    assert all(torch.isfinite(value) for value in losses.values())
    if name in DISTILLED:
        assert set(losses) == LOSSES


@pytest.mark.parametrize('name', DISTILLED)
def test_a_config_with_teacher_does_not_start_from_a_random_one(
    name: str,
) -> None:
    cfg = Config.fromfile(CONFIGS / name)

    assert cfg.model.teacher_ckpt
    assert not cfg.model.get('allow_random_teacher', False)


@pytest.mark.parametrize('name', DEIT)
def test_the_deit_configs_have_the_papers_settings(name: str) -> None:
    cfg = read(name)

    losses = cfg.model.distiller.distill_losses
    assert {key: loss.loss_weight for key, loss in losses.items()} == {
        'loss_kd': 1.0,
        'loss_feature': 1.0,
        'loss_distance': 0.5,
        'loss_angle': 1.0,
    }
    assert losses.loss_kd.tau == 1.0
    assert cfg.train_dataloader.batch_size * 8 == 1024
    assert cfg.auto_scale_lr.base_batch_size == 1024
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(1e-3)
    assert cfg.train_cfg.max_epochs == 300
    for side in ('student', 'teacher'):
        chain = cfg.model.distiller.connectors[f'{side}_superpixels']
        assert tuple(chain[1].grid_size) == (2, 2)
        assert chain[1].get('num_iters', 1) == 1


@pytest.mark.parametrize(
    ('name', 'arch', 'width'),
    [
        ('serkd_deit-s.py', 'deit-small', 384),
        ('serkd_deit-ti.py', 'deit-tiny', 192),
    ],
)
def test_the_deit_configs_name_their_student(
    name: str, arch: str, width: int
) -> None:
    model = read(name).model

    assert model.architecture.backbone.arch == arch
    assert model.architecture.head.in_channels == width
    feature = model.distiller.distill_losses.loss_feature
    assert (feature.student_channels, feature.teacher_channels) == (width, 768)


# -- swaps ------------------------------------------------------------------

TEACHER = 'model.teacher.cfg_path'
TOKENS = 'model.distiller.teacher_recorders.tokens.source'
LOGITS = 'model.distiller.teacher_recorders.logits.source'
FEATURE = 'model.distiller.distill_losses.loss_feature'
CONNECTORS = 'model.distiller.connectors'

# Teachers for the student of serkd_deit-ti.py, all with 14x14 positions.
TEACHERS = {
    'ResNet-50': {
        TEACHER: 'mmpretrain::resnet/resnet50_8xb32_in1k.py',
        TOKENS: 'backbone.layer3',
        f'{FEATURE}.teacher_channels': 1024,
    },
    'Swin-T': {
        TEACHER: 'mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py',
        TOKENS: 'backbone.stages.2.blocks.5',
        f'{FEATURE}.teacher_channels': 384,
        # A sequence without class token.
        f'{CONNECTORS}.teacher_tokens.num_prefix_tokens': 0,
        f'{CONNECTORS}.teacher_superpixels.0.num_prefix_tokens': 0,
    },
    'ConvNeXt-T': {
        TEACHER: 'mmpretrain::convnext/convnext-tiny_32xb128_in1k.py',
        TOKENS: 'backbone.stages.2',
        f'{FEATURE}.teacher_channels': 384,
    },
    'DeiT-S distilled': {
        TEACHER: 'mmpretrain::deit/deit-small-distilled_4xb256_in1k.py',
        TOKENS: 'backbone.ln1',
        # The mean of both heads.
        LOGITS: 'head',
        f'{FEATURE}.teacher_channels': 384,
        f'{CONNECTORS}.teacher_tokens.num_prefix_tokens': 2,
        f'{CONNECTORS}.teacher_superpixels.0.num_prefix_tokens': 2,
    },
}


@pytest.mark.slow
@pytest.mark.parametrize('teacher', list(TEACHERS))
def test_another_teacher_is_a_matter_of_options(teacher: str) -> None:
    cfg = read('serkd_deit-ti.py', **TEACHERS[teacher])
    model = build(cfg)

    losses = step(cfg, model)

    assert set(losses) == LOSSES
    assert all(torch.isfinite(value) for value in losses.values())


@pytest.mark.slow
def test_a_cnn_student_learns_from_a_vit() -> None:
    # A CNN has one head, whose logits labels and teacher train.
    cfg = read(
        'serkd_deit-ti.py',
        **{
            'model.architecture.backbone': dict(
                _delete_=True, type='ResNet', depth=18
            ),
            'model.architecture.neck': dict(type='GlobalAveragePooling'),
            'model.architecture.head': dict(
                _delete_=True,
                type='LinearClsHead',
                num_classes=1000,
                in_channels=512,
            ),
            'model.distiller.student_recorders.tokens.source': (
                'backbone.layer3'
            ),
            'model.distiller.student_recorders.logits.source': 'head.fc',
            f'{FEATURE}.student_channels': 256,
        },
    )
    model = build(cfg)

    losses = step(cfg, model)

    assert type(model.student.backbone).__name__ == 'ResNet'
    assert set(losses) == LOSSES
    assert all(torch.isfinite(value) for value in losses.values())


def test_a_teacher_with_another_grid_says_what_to_change() -> None:
    cfg = read(
        'quickstart/serkd.py',
        **{
            'model.teacher': dict(
                _delete_=True,
                _scope_='mmpretrain',
                type='ImageClassifier',
                backbone=dict(type='ThinResNetCIFAR', depth=20),
                neck=dict(type='GlobalAveragePooling'),
                head=dict(
                    type='LinearClsHead', num_classes=10, in_channels=64
                ),
            ),
            TOKENS: 'backbone.layer2',
            LOGITS: 'head.fc',
            f'{FEATURE}.teacher_channels': 32,
        },
    )
    model = build(cfg)

    with pytest.raises(ValueError, match='same token grid') as error:
        step(cfg, model)
    assert '(2, 64, 48) and (2, 256, 32)' in str(error.value)
