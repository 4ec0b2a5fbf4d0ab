# Copyright (c) The serkd_mm authors. All rights reserved.
"""Settings that do not fit the model or the images are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from torch import nn

from serkd_mm.engine.model_checks import (
    check_batch_norm,
    check_batches,
    check_instance_losses,
    check_teacher_loop,
    check_unused_parameters,
)

from ..models.builders import (
    build,
    cnn_config,
    distiller_config,
    recorder,
    vit_config,
)
from .runs import Points, build_runner

IDLE = dict(type='SeRKDDistiller')


# -- batch norm -------------------------------------------------------------


def batch_config(batch_size: int) -> Config:
    return Config(dict(train_dataloader=dict(batch_size=batch_size)))


def test_batch_norm_over_one_image_is_refused() -> None:
    norm = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    with pytest.raises(
        ValueError, match=r'train_dataloader\.batch_size is 1.*norm \(1\)'
    ):
        check_batch_norm(batch_config(1), norm)
    check_batch_norm(batch_config(2), norm)
    check_batch_norm(Config(dict(train_dataloader=None)), norm)


def test_norms_that_need_no_batch_may_have_one_image() -> None:
    class Frozen(nn.BatchNorm2d):
        def train(self, mode: bool = True) -> Frozen:
            return super().train(False)

    check_batch_norm(batch_config(1), nn.LayerNorm(4))
    check_batch_norm(batch_config(1), nn.Sequential(Frozen(4)))


def test_batch_norm_of_the_teacher_may_see_one_image() -> None:
    distiller = distiller_config(losses=('loss_kd',))
    distiller['teacher_recorders'] = dict(logits=recorder('head.fc'))
    model = build(teacher=cnn_config(), distiller=distiller)
    check_batch_norm(batch_config(1), model)
    student = build(
        architecture=cnn_config(), teacher=cnn_config(), distiller=IDLE
    )
    with pytest.raises(ValueError, match='architecture.backbone.bn1'):
        check_batch_norm(batch_config(1), student)


# -- losses between images --------------------------------------------------


@pytest.mark.parametrize('loss', ['InstanceDistanceLoss', 'InstanceAngleLoss'])
def test_two_images_have_no_relations(loss: str) -> None:
    logits = dict(recorder='logits')
    distiller = distiller_config(
        losses=(),
        distill_losses=dict(loss_images=dict(type=loss)),
        loss_forward_mappings=dict(
            loss_images=dict(
                preds_S=dict(logits, from_student=True),
                preds_T=dict(logits, from_student=False),
            )
        ),
    )
    model = build(distiller=distiller)

    for size in (1, 2):
        with pytest.raises(
            ValueError,
            match=rf'train_dataloader\.batch_size is {size}.*loss_images '
            rf'\({loss}\)',
        ):
            check_instance_losses(batch_config(size), model)
    check_instance_losses(batch_config(3), model)
    check_instance_losses(Config(dict(train_dataloader=None)), model)


# -- batches ----------------------------------------------------------------


def loader(images: int, batch_size: int, **settings: Any) -> dict:
    return dict(
        dataset=Points(images),
        batch_size=batch_size,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=True),
        **settings,
    )


@pytest.mark.parametrize(
    ('settings', 'said'),
    [
        (
            loader(5, 6, drop_last=True),
            r'5 images per process, batch_size=6, drop_last=True; lower '
            r'train_dataloader\.batch_size, or set '
            r'train_dataloader\.drop_last=False$',
        ),
        (loader(0, 6), '0 images .* the dataset is empty$'),
    ],
)
@pytest.mark.parametrize('by_epoch', [True, False])
def test_a_training_set_without_a_batch_is_refused(
    settings: dict, said: str, by_epoch: bool, tmp_path: Path
) -> None:
    length = 'max_epochs' if by_epoch else 'max_iters'
    runner = build_runner(
        tmp_path,
        train_dataloader=settings,
        train_cfg={'by_epoch': by_epoch, length: 1},
    )
    match = f'^train_dataloader gives 0 batches: {said}'
    with pytest.raises(ValueError, match=match):
        check_batches(runner)


@pytest.mark.parametrize(
    'settings', [loader(6, 6, drop_last=True), loader(5, 6)]
)
def test_one_batch_is_enough(settings: dict, tmp_path: Path) -> None:
    runner = build_runner(tmp_path, train_dataloader=settings)
    check_batches(runner)
    runner.train()
    assert runner.iter == runner.epoch


# -- several processes, other loops -----------------------------------------


class Wrapper(nn.Module):
    """What PyTorch's wrapper says of itself."""

    def __init__(self, module: nn.Module, find_unused: bool) -> None:
        super().__init__()
        self.module = module
        self.find_unused_parameters = find_unused


def test_distillation_that_stops_is_told_to_the_processes() -> None:
    cfg = Config(dict(custom_hooks=[dict(type='mmrazor.StopDistillHook')]))
    learns, fixed = nn.Module(), nn.Module()  # of MMRazor
    learns.distiller = build().distiller
    fixed.distiller = build(distiller=distiller_config(('loss_kd',))).distiller
    with pytest.raises(
        ValueError,
        match=r'^custom_hooks\.0 \(StopDistillHook\) ends .* distiller\.'
        r"distill_losses\.loss_feature.*'FrozenTeacherDistill', or "
        r'find_unused_parameters=True$',
    ):
        check_unused_parameters(cfg, Wrapper(learns, False))
    check_unused_parameters(cfg, Wrapper(learns, True))
    check_unused_parameters(cfg, Wrapper(fixed, False))
    check_unused_parameters(cfg, learns)
    check_unused_parameters(cfg, Wrapper(build(), False))
    check_unused_parameters(Config(), Wrapper(learns, False))


def test_a_loop_that_mistakes_the_teachers_normalisation_is_refused() -> None:
    loop = dict(type='mmrazor.SingleTeacherDistillValLoop')
    cfg = Config(dict(val_cfg=loop))
    plain = build()
    teacher = vit_config()
    teacher['data_preprocessor'] = dict(
        type='ClsDataPreprocessor', mean=[1.0] * 3, std=[2.0] * 3
    )
    other = build(
        teacher=teacher,
        data_preprocessor=dict(mean=[0.0] * 3, std=[1.0] * 3),
    )
    with pytest.raises(
        ValueError, match=r"^val_cfg\.type='SingleTeacherDistillValLoop'.*Tea"
    ):
        check_teacher_loop(cfg, other)
    check_teacher_loop(cfg, plain)
    check_teacher_loop(Config(dict(val_cfg=dict())), other)
