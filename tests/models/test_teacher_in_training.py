# Copyright (c) The serkd_mm authors. All rights reserved.
"""Whole trainings, of which nothing may reach the teacher."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tests.engine.runners import images, loader, make_runner

from .builders import (
    CLASSES,
    build,
    cnn_config,
    distiller_config,
    recorder,
    vit_config,
)


def stochastic_vit() -> dict[str, Any]:
    """Dropout and drop-path."""
    return dict(teacher=vit_config(drop_rate=0.3, drop_path_rate=0.4))


def stochastic_cnn() -> dict[str, Any]:
    """Dropout, drop-path and batch norm."""
    teacher = cnn_config()
    teacher['backbone']['drop_path_rate'] = 0.4
    teacher['head'] = dict(
        type='StackedLinearClsHead',
        num_classes=CLASSES,
        in_channels=64,
        mid_channels=[16],
        dropout_rate=0.3,
        norm_cfg=dict(type='BN1d'),
    )
    distiller = distiller_config(losses=('loss_kd', 'loss_distance'))
    distiller['teacher_recorders'] = dict(
        tokens=recorder('backbone.layer3'), logits=recorder('head.layers.1')
    )
    distiller['connectors']['teacher_superpixels'] = [
        dict(type='VisualTokens'),
        dict(type='SuperpixelTokenizer', grid_size=(4, 4), norm='ln'),
    ]
    return dict(teacher=teacher, distiller=distiller)


def everything(module: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters and buffers, saved in checkpoints or not."""
    tensors = (*module.named_parameters(), *module.named_buffers())
    return {name: tensor.detach().clone() for name, tensor in tensors}


def outputs(teacher: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """What every module of the teacher returns for a batch."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable:
        def hook(module: nn.Module, args: tuple, output: Any) -> None:
            if isinstance(output, Tensor):
                found[name] = output.clone()

        return hook

    handles = [
        module.register_forward_hook(keep(name))
        for name, module in teacher.named_modules()
    ]
    with torch.no_grad():
        logits = teacher(inputs, mode='tensor')
    for handle in handles:
        handle.remove()
    return {**found, 'logits': logits}


@pytest.mark.parametrize('settings', [stochastic_vit, stochastic_cnn])
def test_a_training_changes_nothing_of_the_teacher(
    settings: Callable[[], dict], tmp_path: Path
) -> None:
    model = build(**settings())
    teacher = model.teacher
    kinds = {type(module).__name__ for module in teacher.modules()}
    assert {'Dropout', 'DropPath'} <= kinds
    if settings is stochastic_cnn:
        assert any(isinstance(m, _BatchNorm) for m in teacher.modules())
    probe = torch.randn(3, 3, 32, 32)
    before, outputs_before = everything(teacher), outputs(teacher, probe)
    student_before = everything(model.student)

    make_runner(
        tmp_path,
        model,
        # Decay and momentum move what has no gradient, too.
        optim_wrapper=dict(
            optimizer=dict(
                type='SGD', lr=0.05, momentum=0.9, weight_decay=0.1
            ),
            clip_grad=dict(max_norm=1.0),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=2),
        # Validation and averaging change modes and copy models.
        val_dataloader=loader(images(8)),
        val_cfg=dict(),
        val_evaluator=dict(type='Accuracy'),
        custom_hooks=[dict(type='EMAHook')],
    ).train()

    after, outputs_after = everything(teacher), outputs(teacher, probe)
    exactly = dict(rtol=0, atol=0)
    torch.testing.assert_close(after, before, **exactly)
    torch.testing.assert_close(outputs_after, outputs_before, **exactly)
    assert all(p.grad is None for p in teacher.parameters())
    # The training was one.
    student_after = everything(model.student)
    for name, parameter in model.student.named_parameters():
        assert parameter.requires_grad
        assert not torch.equal(student_after[name], student_before[name])
    # And a teacher in train mode would have shown.
    teacher.train()
    assert not torch.equal(
        outputs(teacher, probe)['logits'], outputs_before['logits']
    )
