# Copyright (c) The serkd_mm authors. All rights reserved.
"""What is refused; a divided teacher at work is in test_distributed.py."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from serkd_mm.models.algorithms.shard import shard_teacher
from tests.models.builders import build


def teacher() -> nn.Module:
    model = nn.Module()
    model.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(2))
    return model


@pytest.mark.parametrize('name', ['layer', 'layers.0', 'backbone.layers'])
def test_what_has_no_layers_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}', .* names: layers$"):
        shard_teacher(teacher(), [name])


def test_in_a_process_of_its_own_the_teacher_stays() -> None:
    model = teacher()
    before = {name: value.clone() for name, value in model.named_parameters()}

    shard_teacher(model, ['layers'])

    for name, value in model.named_parameters():
        assert torch.equal(value, before[name])
        assert type(value) is nn.Parameter


def test_a_torch_without_the_function_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr('torch.distributed.fsdp.fully_shard', raising=False)
    monkeypatch.setattr(
        'serkd_mm.models.algorithms.shard.is_distributed', lambda: True
    )
    with pytest.raises(RuntimeError, match='has no fully_shard; update'):
        shard_teacher(teacher(), ['layers'])


def test_a_compiled_teacher_is_not_divided() -> None:
    with pytest.raises(ValueError, match='exclude each other'):
        build(teacher_compile=True, teacher_shard=['backbone.layers'])


def test_one_name_that_is_no_list_is_refused() -> None:
    with pytest.raises(TypeError, match=r"write \['backbone.layers'\]$"):
        build(teacher_shard='backbone.layers')


def test_a_divided_teacher_keeps_the_layout_that_can_be_divided() -> None:
    model = build(channels_last=True, teacher_shard=['backbone.layers'])
    student, teacher = (
        network.backbone.patch_embed.projection.weight
        for network in (model.student, model.teacher)
    )
    assert student.is_contiguous(memory_format=torch.channels_last)
    assert not student.is_contiguous()
    assert teacher.is_contiguous()
