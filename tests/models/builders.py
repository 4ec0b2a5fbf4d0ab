# Copyright (c) The serkd_mm authors. All rights reserved.
"""Tiny models: 32 pixels, 8-pixel patches, so a grid of 4x4 tokens."""

from __future__ import annotations

import copy
from typing import Any

import torch
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS
from torch import Tensor, nn

CLASSES = 5
TEACHER_WIDTH = 32
STUDENT_WIDTH = 16
# MMPretrain's default is a head of zeros, whose logits say nothing.
HEAD_INIT = dict(type='Normal', layer='Linear', std=0.1)
# Preprocessing.
BASE = dict(type='ClsDataPreprocessor', num_classes=CLASSES)
RGB = dict(
    BASE,
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=True,
)
OTHER_RGB = dict(
    BASE, mean=[127.5, 120.0, 110.0], std=[127.5, 60.0, 50.0], to_rgb=True
)
LOSSES = ('loss_kd', 'loss_feature', 'loss_distance', 'loss_angle')


def vit_config(width: int = TEACHER_WIDTH, **backbone: Any) -> dict:
    """A ViT with class token: a teacher."""
    return dict(
        _scope_='mmpretrain',
        type='ImageClassifier',
        backbone=dict(
            type='VisionTransformer',
            arch=dict(
                embed_dims=width,
                num_layers=2,
                num_heads=2,
                feedforward_channels=2 * width,
            ),
            img_size=32,
            patch_size=8,
            **backbone,
        ),
        head=dict(
            type='VisionTransformerClsHead',
            num_classes=CLASSES,
            in_channels=width,
            init_cfg=HEAD_INIT,
        ),
    )


def student_config(**classifier: Any) -> dict:
    """A DeiT with class and distillation token."""
    return dict(
        _scope_='mmpretrain',
        type='ImageClassifier',
        backbone=dict(
            type='DistilledVisionTransformer',
            arch=dict(
                embed_dims=STUDENT_WIDTH,
                num_layers=2,
                num_heads=2,
                feedforward_channels=2 * STUDENT_WIDTH,
            ),
            img_size=32,
            patch_size=8,
        ),
        head=dict(
            type='DeiTDistillHead',
            num_classes=CLASSES,
            in_channels=STUDENT_WIDTH,
            init_cfg=HEAD_INIT,
        ),
        **classifier,
    )


def cnn_config(**classifier: Any) -> dict:
    """A ResNet-20 with 8x8 positions of 64 channels."""
    return dict(
        _scope_='mmpretrain',
        type='ImageClassifier',
        backbone=dict(type='ThinResNetCIFAR', depth=20),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=CLASSES, in_channels=64),
        **classifier,
    )


def recorder(source: str) -> dict:
    return dict(type='ModuleOutputs', source=source)


def distiller_config(losses: tuple = LOSSES, **overrides: Any) -> dict:
    """SeRKD between the two ViTs, with some of its losses."""

    def pair(name: str, **extra: Any) -> dict:
        sides = (('preds_S', True), ('preds_T', False))
        return {
            argument: dict(
                recorder='tokens',
                from_student=from_student,
                connector=f'{"student" if from_student else "teacher"}_{name}',
                **extra,
            )
            for argument, from_student in sides
        }

    def superpixels(prefix: int) -> list:
        return [
            dict(type='VisualTokens', num_prefix_tokens=prefix),
            dict(type='SuperpixelTokenizer', grid_size=(2, 2), norm='ln'),
        ]

    modules = dict(
        loss_kd=dict(type='KLDivergence'),
        loss_feature=dict(
            type='TokenFeatureLoss',
            student_channels=STUDENT_WIDTH,
            teacher_channels=TEACHER_WIDTH,
        ),
        loss_distance=dict(type='TokenDistanceLoss', loss_weight=0.5),
        loss_angle=dict(type='TokenAngleLoss'),
    )
    mappings = dict(
        loss_kd=dict(
            preds_S=dict(recorder='logits', from_student=True),
            preds_T=dict(recorder='logits', from_student=False),
        ),
        loss_feature=pair('tokens', connector_idx=0),
        loss_distance=pair('superpixels'),
        loss_angle=pair('superpixels'),
    )
    cfg = dict(
        type='SeRKDDistiller',
        student_recorders=dict(
            tokens=recorder('backbone.ln1'),
            logits=recorder('head.layers.head_dist'),
        ),
        teacher_recorders=dict(
            tokens=recorder('backbone.ln1'),
            logits=recorder('head.layers.head'),
        ),
        connectors=dict(
            student_tokens=dict(type='VisualTokens', num_prefix_tokens=2),
            teacher_tokens=dict(type='VisualTokens', num_prefix_tokens=1),
            student_superpixels=superpixels(2),
            teacher_superpixels=superpixels(1),
        ),
        distill_losses={name: modules[name] for name in losses},
        loss_forward_mappings={name: mappings[name] for name in losses},
    )
    return {**cfg, **overrides}


def cnn_distiller(stride: int, grid_size: int = 1) -> dict:
    """Relations of pooled windows of two CNNs."""
    cfg = distiller_config(losses=('loss_distance',))
    for side in ('student', 'teacher'):
        cfg[f'{side}_recorders'] = dict(tokens=recorder('backbone.layer3'))
        cfg['connectors'][f'{side}_superpixels'] = [
            dict(type='FeatureMapTokenizer', stride=stride),
            dict(type='SuperpixelTokenizer', grid_size=grid_size),
        ]
    return cfg


def algorithm_config(**overrides: Any) -> dict:
    cfg = dict(
        _scope_='mmrazor',
        type='FrozenTeacherDistill',
        architecture=student_config(),
        teacher=vit_config(),
        allow_random_teacher=True,
        distiller=distiller_config(),
    )
    # Building writes into configs; those of the caller stay as they are.
    return {
        key: copy.deepcopy(value) if isinstance(value, dict) else value
        for key, value in {**cfg, **overrides}.items()
    }


def build(**overrides: Any) -> nn.Module:
    """An algorithm with initialised student and a random teacher."""
    model = MODELS.build(algorithm_config(**overrides))
    model.init_weights()
    return model.train()


class EvalCache(nn.Module):
    """Keeps what it computes of its weight for eval mode, as LeViT does."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def train(self, mode: bool = True) -> EvalCache:
        if not mode:
            self.cached = self.weight.detach() * 2
        return super().train(mode)


def raw_batch(size: int = 4, pixels: int = 32) -> dict:
    """What a data loader hands over: pixels in [0, 255] and labels."""
    return dict(
        inputs=torch.randint(0, 256, (size, 3, pixels, pixels)).float(),
        data_samples=[
            DataSample().set_gt_label(i % CLASSES) for i in range(size)
        ],
    )


def batch(size: int = 4, pixels: int = 32) -> tuple[Tensor, list[DataSample]]:
    """A batch as it is after preprocessing."""
    raw = raw_batch(size, pixels)
    return torch.randn(size, 3, pixels, pixels), raw['data_samples']


def losses_of(model: nn.Module, *args: Any) -> dict[str, Tensor]:
    return model(*(args or batch()), mode='loss')


def total(losses: dict[str, Tensor]) -> Tensor:
    return sum(value for name, value in losses.items() if 'loss' in name)
