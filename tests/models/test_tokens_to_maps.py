# Copyright (c) The serkd_mm authors. All rights reserved.
"""Losses of feature maps between transformers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mmrazor.models.losses import ChannelWiseDivergence

from serkd_mm.models import TokensToMaps, VisualTokens

from .builders import (
    STUDENT_WIDTH,
    TEACHER_WIDTH,
    batch,
    build,
    distiller_config,
    losses_of,
    vit_config,
)


def test_each_token_is_at_its_place() -> None:
    tokens = torch.arange(2 * 7 * 3.0).reshape(2, 7, 3)

    maps = TokensToMaps()(VisualTokens(1, hw=(2, 3))(tokens))

    assert maps.shape == (2, 3, 2, 3)
    for row in range(2):
        for column in range(3):
            token = tokens[:, 1 + 3 * row + column]
            assert torch.equal(maps[:, :, row, column], token)


def test_tokens_without_a_grid_are_refused() -> None:
    with pytest.raises(TypeError, match='put VisualTokens before it'):
        TokensToMaps()(torch.zeros(1, 4, 3))


def maps_distiller(loss: dict, *behind: dict) -> dict:
    distiller = distiller_config(losses=())
    chains = distiller['connectors']
    distiller['connectors'] = {
        side: [chains[f'{side}_tokens'], dict(type='TokensToMaps')]
        for side in ('student', 'teacher')
    }
    distiller['connectors']['student'] += behind
    distiller['distill_losses'] = dict(loss_maps=loss)
    distiller['loss_forward_mappings'] = dict(
        loss_maps=dict(
            preds_S=dict(
                recorder='tokens', from_student=True, connector='student'
            ),
            preds_T=dict(
                recorder='tokens', from_student=False, connector='teacher'
            ),
        )
    )
    return distiller


def test_masked_features_of_transformers_are_distilled() -> None:
    generation = dict(
        type='MGDConnector',
        student_channels=STUDENT_WIDTH,
        teacher_channels=TEACHER_WIDTH,
        lambda_mgd=0.5,
    )
    model = build(distiller=maps_distiller(dict(type='MGDLoss'), generation))

    loss = losses_of(model)['distill.loss_maps']
    loss.backward()

    assert loss > 0
    learned = (
        model.student.backbone.patch_embed.projection.weight,
        *model.distiller.connectors['student'].parameters(),
    )
    assert all(p.grad is not None and p.grad.any() for p in learned)


def test_a_loss_of_maps_gets_those_of_both_networks() -> None:
    teacher = vit_config(STUDENT_WIDTH)
    settings: dict[str, Any] = dict(tau=2.0, loss_weight=3.0)
    loss = dict(type='ChannelWiseDivergence', **settings)
    model = build(teacher=teacher, distiller=maps_distiller(loss)).eval()
    images, samples = batch()

    found = losses_of(model, images, samples)['distill.loss_maps']

    maps = []
    for network, prefix in ((model.student, 2), (model.teacher, 1)):
        recorded: list[torch.Tensor] = []
        handle = network.backbone.ln1.register_forward_hook(
            lambda *args, kept=recorded: kept.append(args[-1])
        )
        network(images)
        handle.remove()
        tokens = recorded[0][:, prefix:]
        side = round(tokens.shape[1] ** 0.5)
        rows = [
            torch.stack([tokens[:, side * y + x] for x in range(side)], dim=-1)
            for y in range(side)
        ]
        maps.append(torch.stack(rows, dim=-2))
    torch.testing.assert_close(found, ChannelWiseDivergence(**settings)(*maps))
