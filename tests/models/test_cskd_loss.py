# Copyright (c) The serkd_mm authors. All rights reserved.
"""CSKD through recorders and connectors, and in the course of training."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.runner import Runner
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS
from torch import nn
from torch.utils.data import Dataset

from serkd_mm.models import CSKDLoss
from tests.references import assert_matches, cskd_reference

from .builders import (
    CLASSES,
    algorithm_config,
    batch,
    build,
    cnn_config,
    losses_of,
    recorder,
)

WEIGHT = 0.5


@pytest.fixture(autouse=True)
def _own_hub() -> Iterator[None]:
    """No progress but what a test sets."""
    before = copy.deepcopy(MessageHub._instance_dict)
    MessageHub.get_instance('cskd', log_scalars={})
    yield
    MessageHub._instance_dict.clear()
    MessageHub._instance_dict.update(before)


def progress(done: int, total: int) -> None:
    hub = MessageHub.get_current_instance()
    hub.update_info('iter', done)
    hub.update_info('max_iters', total)


def parameter(source: str) -> dict:
    return dict(type='Parameter', source=source)


def distiller_config(**loss: Any) -> dict:
    """A CNN's map of 2x2 positions for the student's 4x4 tokens."""

    def record(name: str, from_student: bool, **extra: Any) -> dict:
        return dict(recorder=name, from_student=from_student, **extra)

    mapping = {}
    for side, from_student in (('S', True), ('T', False)):
        mapping[f'preds_{side}'] = record(
            'tokens',
            from_student,
            connector=f'positions_{side}',
            connector_idx=0,
        )
        for name in ('weight', 'bias'):
            mapping[f'{name}_{side}'] = record(name, from_student)
    return dict(
        type='SeRKDDistiller',
        student_recorders=dict(
            tokens=recorder('backbone.ln1'),
            # For the head to be trained.
            logits=recorder('head.layers.head_dist'),
            weight=parameter('head.layers.head_dist.weight'),
            bias=parameter('head.layers.head_dist.bias'),
        ),
        teacher_recorders=dict(
            tokens=recorder('backbone.layer3'),
            weight=parameter('head.fc.weight'),
            bias=parameter('head.fc.bias'),
        ),
        connectors=dict(
            positions_S=[
                dict(type='VisualTokens', num_prefix_tokens=2),
                dict(type='FeatureMapTokenizer', mode='avg', stride=2),
            ],
            positions_T=dict(type='VisualTokens'),
        ),
        distill_losses=dict(
            loss_spatial=dict(type='CSKDLoss', loss_weight=WEIGHT, **loss)
        ),
        loss_forward_mappings=dict(loss_spatial=mapping),
    )


def teacher_config() -> dict:
    """8x8 positions at 32 pixels become 2x2."""
    cfg = cnn_config()
    cfg['backbone']['strides'] = (2, 2, 4)
    return cfg


def build_cskd(**loss: Any) -> nn.Module:
    model = build(teacher=teacher_config(), distiller=distiller_config(**loss))
    # A decision of its own at every position.
    nn.init.normal_(model.teacher.head.fc.weight)
    return model.eval()


@pytest.mark.parametrize('target', ['hard', 'soft'])
@pytest.mark.parametrize('done', [0, 30])
def test_the_loss_of_the_model_is_the_papers(target: str, done: int) -> None:
    model = build_cskd(target=target, tau=2.0)
    inputs, samples = batch(2)
    progress(done, 100)

    loss = losses_of(model, inputs, samples)['distill.loss_spatial']
    loss.backward()

    model.double()
    head = model.student.head.layers.head_dist
    raw: list = []
    model.student.backbone.ln1.register_forward_hook(
        lambda _m, _a, output: raw.append(output)
    )
    actual_gradient = head.weight.grad.clone()
    model.zero_grad()
    with torch.no_grad():
        (maps,) = model.teacher.backbone(inputs.double())
    model.student.backbone(inputs.double())
    fc = model.teacher.head.fc
    expected = WEIGHT * cskd_reference(
        raw[0][:, 2:].unflatten(1, (4, 4)),
        maps,
        (head.weight, head.bias),
        (fc.weight, fc.bias),
        1 - done / 100,
        target,
        tau=2.0,
    )
    expected.backward()
    assert maps.shape[2:] == (2, 2)
    assert_matches(loss, expected)
    assert_matches(actual_gradient.float(), head.weight.grad, floor=0.01)
    assert all(p.grad is None for p in model.teacher.parameters())


def test_the_loss_trains_the_patches_and_the_distillation_head() -> None:
    model = build_cskd()

    losses_of(model)['distill.loss_spatial'].backward()

    student = model.student
    for trained in (
        student.head.layers.head_dist.bias,
        student.backbone.patch_embed.projection.weight,
    ):
        assert float(trained.grad.abs().sum()) > 0
    assert student.head.layers.head.weight.grad is None


def test_the_loss_is_finite_in_half_precision() -> None:
    model = build_cskd()
    data = batch()
    expected = losses_of(model, *data)['distill.loss_spatial']

    with torch.autocast('cpu', dtype=torch.bfloat16):
        loss = losses_of(model, *data)['distill.loss_spatial']
    loss.backward()

    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=0.1, atol=0.1)
    head = model.student.head.layers.head_dist
    assert torch.isfinite(head.weight.grad).all()


@pytest.mark.parametrize(
    ('schedule', 'expected'), [('linear', 0.75), ('square', 0.5625)]
)
def test_alpha_follows_the_runners_progress(
    schedule: str, expected: float
) -> None:
    loss = CSKDLoss(schedule=schedule)

    assert loss.alpha == 1
    progress(0, 8)
    assert loss.alpha == 1
    progress(2, 8)
    assert loss.alpha == expected


@pytest.mark.parametrize(
    ('setting', 'value'), [('target', 'mean'), ('schedule', 'step')]
)
def test_an_unknown_setting_is_refused_when_built(
    setting: str, value: str
) -> None:
    with pytest.raises(ValueError, match=f"{setting} must be .* '{value}'"):
        MODELS.build(
            dict(type='CSKDLoss', _scope_='mmrazor', **{setting: value})
        )


def test_a_parameter_that_is_not_there_names_the_nearest() -> None:
    cfg = distiller_config()
    cfg['teacher_recorders']['weight']['source'] = 'head.weight'

    with pytest.raises(ValueError, match="'head.weight'.*parameter") as error:
        build(teacher=teacher_config(), distiller=cfg)
    assert 'nearest names: head.fc.weight' in str(error.value)


# -- in the course of training ----------------------------------------------


class Images(Dataset):
    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> dict:
        generator = torch.Generator().manual_seed(index)
        return dict(
            inputs=torch.randn(3, 32, 32, generator=generator),
            data_samples=DataSample().set_gt_label(index % CLASSES),
        )


def run(folder: Path, epochs: int, resume: bool = False) -> list[float]:
    """Alphas of a run of three iterations an epoch, a checkpoint each."""
    cfg = algorithm_config(
        teacher=teacher_config(), distiller=distiller_config()
    )
    runner = Runner(
        model=cfg,
        work_dir=str(folder),
        train_dataloader=dict(
            batch_size=2,
            dataset=Images(),
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='default_collate'),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01)),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1)),
        default_scope='mmpretrain',
        resume=resume,
        log_level='WARNING',
        experiment_name=f'{folder.name}_{resume}',
    )
    loss = runner.model.distiller.distill_losses['loss_spatial']
    alphas: list[float] = []
    loss.register_forward_hook(lambda *_: alphas.append(loss.alpha))
    runner.train()
    return alphas


def test_a_resumed_run_blends_as_a_straight_one(tmp_path: Path) -> None:
    straight = run(tmp_path, 3)
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_1.pth'))

    resumed = run(tmp_path, 3, resume=True)

    assert straight == pytest.approx([1 - i / 9 for i in range(9)])
    assert resumed == straight[3:]
