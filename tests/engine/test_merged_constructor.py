# Copyright (c) The serkd_mm authors. All rights reserved.
"""Fewer groups, the same settings for every parameter."""

from __future__ import annotations

import copy
import inspect
import re

import pytest
import torch
from mmengine.optim import (
    DefaultOptimWrapperConstructor,
    build_optim_wrapper,
)
from torch import nn

from serkd_mm.engine.optimizers import PARAMWISE_KEYS

from ..models.builders import build

PARAMWISE = dict(
    norm_decay_mult=0.0,
    bias_decay_mult=0.0,
    custom_keys={'.cls_token': dict(decay_mult=0.0)},
)


def wrapper(model: nn.Module, constructor: str):
    cfg = dict(
        constructor=constructor,
        optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
        paramwise_cfg=PARAMWISE,
    )
    return build_optim_wrapper(model, copy.deepcopy(cfg))


def settings(optimizer: torch.optim.Optimizer) -> dict:
    return {
        id(parameter): (group['lr'], group['weight_decay'])
        for group in optimizer.param_groups
        for parameter in group['params']
    }


def test_every_parameter_keeps_its_settings_in_fewer_groups() -> None:
    model = build()
    default = wrapper(model, 'DefaultOptimWrapperConstructor').optimizer
    merged = wrapper(model, 'MergedOptimWrapperConstructor').optimizer
    assert settings(merged) == settings(default)
    assert len(settings(merged)) == len(list(model.parameters()))
    assert len(default.param_groups) > 20
    assert len(merged.param_groups) <= 3


def test_a_setting_without_effect_is_refused() -> None:
    cfg = dict(
        constructor='MergedOptimWrapperConstructor',
        optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
        paramwise_cfg=dict(layer_decay_rate=0.5, **PARAMWISE),
    )
    with pytest.raises(
        ValueError,
        match=r'paramwise_cfg\.layer_decay_rate has no effect .* set '
        r"optim_wrapper\.constructor .*'LearningRateDecayOptim",
    ):
        build_optim_wrapper(nn.Linear(2, 2), cfg)


def test_every_setting_of_the_default_is_known() -> None:
    source = inspect.getsource(DefaultOptimWrapperConstructor)
    read = re.findall(r"paramwise_cfg\.get\(\s*'(\w+)'", source)
    assert set(read) == set(PARAMWISE_KEYS)


def test_a_step_changes_the_parameters_as_the_default_does() -> None:
    torch.manual_seed(0)
    models = [nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))]
    models.append(copy.deepcopy(models[0]))
    inputs = torch.randn(3, 4)
    names = ('DefaultOptimWrapperConstructor', 'MergedOptimWrapperConstructor')
    for model, name in zip(models, names):
        optim_wrapper = wrapper(model, name)
        for _ in range(3):
            optim_wrapper.update_params(model(inputs).square().mean())
    for default, merged in zip(*(model.parameters() for model in models)):
        torch.testing.assert_close(merged, default)
