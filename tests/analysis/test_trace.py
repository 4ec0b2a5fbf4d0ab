# Copyright (c) The serkd_mm authors. All rights reserved.
"""Tokens and logits of a network are found by running it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mmpretrain import get_model
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from serkd_mm.analysis import NetworkTrace, TokenSource, trace_network

from ..models.builders import (
    CLASSES,
    cnn_config,
    student_config,
    vit_config,
)

SIZE = (32, 32)


def trace(cfg: dict, size: tuple[int, int] = SIZE) -> NetworkTrace:
    return trace_network(MODELS.build(cfg), size)


# What people would write by hand, see the README.
BY_HAND: dict[str, list[tuple]] = {
    'resnet18_8xb32_in1k': [
        ('backbone.relu', 112, 64),
        ('backbone.layer1', 56, 64),
        ('backbone.layer2', 28, 128),
        ('backbone.layer3', 14, 256),
        ('backbone.layer4', 7, 512),
    ],
    'convnext-v2-atto_fcmae-pre_3rdparty_in1k': [
        ('backbone.stages.0', 56, 40),
        ('backbone.stages.1', 28, 80),
        ('backbone.stages.2', 14, 160),
        ('backbone.stages.3', 7, 320),
    ],
    # Stages return two things.
    'swin-tiny_16xb64_in1k': [
        ('backbone.stages.0.blocks.1', 56, 96),
        ('backbone.stages.1.blocks.1', 28, 192),
        ('backbone.stages.2.blocks.5', 14, 384),
        ('backbone.norm3', 7, 768),
    ],
    # Blocks return tokens and their grid.
    'mvitv2-tiny_3rdparty_in1k': [
        ('backbone.blocks.0', 56, 96, 0),
        ('backbone.blocks.2', 28, 192, 0),
        ('backbone.blocks.7', 14, 384, 0),
        ('backbone.norm3', 7, 768),
    ],
    # A stage is a list of maps.
    'hrnet-w18_3rdparty_8xb32_in1k': [
        ('backbone.bn1', 112, 64),
        ('backbone.stage4', 56, 18, 0),
        ('backbone.stage4', 28, 36, 1),
        ('backbone.stage4', 14, 72, 2),
        ('backbone.stage4', 7, 144, 3),
    ],
    # Stages end in the next one's grid.
    'tinyvit-5m_3rdparty_in1k': [
        ('backbone.stages.0.blocks.1', 56, 64),
        ('backbone.stages.1.blocks.1', 28, 128),
        ('backbone.stages.2.blocks.5', 14, 160),
        ('backbone.stages.3', 7, 320),
    ],
}


@pytest.mark.parametrize('name', BY_HAND)
def test_the_last_module_of_every_grid_is_found(name: str) -> None:
    found = trace_network(get_model(name), (224, 224))

    expected = [(*part, None)[:4] for part in BY_HAND[name]]
    assert [
        (t.source, t.hw[0], t.channels, t.index) for t in found.tokens
    ] == expected
    assert all(t.hw[0] == t.hw[1] for t in found.tokens)
    assert {t.num_prefix_tokens for t in found.tokens} == {0}
    assert (found.logits, found.num_classes) == ('head.fc', 1000)


@pytest.mark.parametrize(
    ('options', 'source'),
    [({}, 'backbone.ln1'), ({'final_norm': False}, 'backbone.layers.1')],
)
def test_a_class_token_is_counted(options: dict, source: str) -> None:
    found = trace(vit_config(**options))

    assert found.tokens == (TokenSource(source, (4, 4), 32, 1, False),)
    assert found.logits == 'head.layers.head'
    assert found.num_classes == CLASSES


def test_a_distillation_token_is_counted_and_the_mean_is_the_prediction() -> (
    None
):
    found = trace(student_config())

    assert found.tokens[0].num_prefix_tokens == 2
    # Neither of the two linear layers puts the prediction out.
    assert found.logits == 'head'


class Mixer(nn.Module):
    """Patches of 8 pixels and other tokens, mixed over all positions."""

    def __init__(self, others: int, behind: bool = False) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 8, 8)
        self.others = nn.Parameter(torch.randn(1, others, 8))
        self.behind = behind
        self.joined = nn.Identity()
        self.mix = nn.Linear(16 + others, 16 + others)
        self.norm = nn.LayerNorm(8)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        parts = [self.others.expand(len(tokens), -1, -1), tokens]
        tokens = self.joined(torch.cat(parts[:: -1 if self.behind else 1], 1))
        return self.norm(self.mix(tokens.mT).mT)


class Network(nn.Module):
    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> Any:
        return self.backbone(images)


def test_register_tokens_are_counted_before_they_are_mixed() -> None:
    *_, last = trace_network(Network(Mixer(5)), SIZE).tokens

    assert last == TokenSource('backbone.norm', (4, 4), 8, 5, False)


@pytest.mark.parametrize('others', [1, 4])
def test_tokens_behind_the_visual_ones_are_counted_too(others: int) -> None:
    *_, last = trace_network(Network(Mixer(others, behind=True)), SIZE).tokens

    assert last == TokenSource(
        'backbone.norm', (4, 4), 8, 0, False, num_suffix_tokens=others
    )


def test_the_grid_of_oblong_images_has_their_shape() -> None:
    found = trace(vit_config(), size=(48, 80))

    assert found.tokens[0].hw == (6, 10)
    assert found.tokens[0].num_prefix_tokens == 1


def test_a_map_with_channels_last_is_no_map() -> None:
    class ChannelsLast(nn.Conv2d):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images).permute(0, 2, 3, 1)

    backbone = nn.Sequential(ChannelsLast(3, 64, 8, 8))

    assert trace_network(Network(backbone), SIZE).tokens == ()


def test_pooled_channels_are_no_tokens() -> None:
    class Pooled(nn.Conv2d):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images).mean((2, 3)).unsqueeze(-1)

    backbone = nn.Sequential(Pooled(3, 64, 8, 8))

    assert trace_network(Network(backbone), SIZE).tokens == ()


def test_a_module_that_runs_twice_is_not_taken() -> None:
    backbone = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.ReLU())
    backbone.append(backbone[1])
    backbone.append(nn.Conv2d(4, 4, 2, 2))

    found = trace_network(Network(backbone), SIZE)

    assert [t.source for t in found.tokens] == ['backbone.0', 'backbone.3']


def test_a_sequence_of_sequences_is_a_list_of_stages() -> None:
    cfg = dict(type='TorchvisionBackbone', name='regnet_y_400mf')

    found = trace_network(Network(MODELS.build(cfg)), (64, 64))

    assert [(t.source, t.hw[0]) for t in found.tokens] == [
        ('backbone.stem', 32),
        ('backbone.trunk_output.block1', 16),
        ('backbone.trunk_output.block2', 8),
        ('backbone.trunk_output.block3', 4),
        ('backbone.trunk_output', 2),
    ]


@pytest.mark.parametrize('features_only', [True, False])
def test_a_backbone_that_is_a_network_of_timm_has_its_stages(
    features_only: bool,
) -> None:
    pytest.importorskip('timm')
    backbone = dict(
        type='TIMMBackbone',
        model_name='resnet10t',
        features_only=features_only,
    )
    found = trace(dict(type='ImageClassifier', backbone=backbone), (64, 64))
    inside = 'backbone.timm_model.layer'
    grids = {tokens.hw: tokens for tokens in found.tokens}
    if features_only:  # in which stages are items of the output
        assert grids[8, 8].index == 2
        assert grids[4, 4].index == 3
    else:
        assert grids[8, 8].source == f'{inside}2'
        assert grids[4, 4].source == f'{inside}3'


def test_a_network_without_head_says_what_it_ends_in() -> None:
    found = trace(dict(vit_config(), head=None))

    assert (found.logits, found.num_classes) == (None, None)
    assert found.features == (32,)
    found = trace(dict(cnn_config(), head=None, neck=None))
    assert found.features == (64, 8, 8)


def test_nothing_is_left_behind() -> None:
    model = MODELS.build(cnn_config())

    trace_network(model, SIZE)

    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert all(p.grad is None for p in model.parameters())


def test_a_random_mask_is_refused() -> None:
    class Masked(nn.Conv2d):
        def forward(self, images: Tensor) -> Tensor:
            tokens = super().forward(images).flatten(2)
            return tokens[..., torch.randperm(16)[:9]].mT

    with pytest.raises(ValueError, match='something else every time'):
        trace_network(Network(nn.Sequential(Masked(3, 4, 8, 8))), SIZE)


def test_a_size_that_does_not_run_names_the_module() -> None:
    with pytest.raises(ValueError, match=r'36x36 pixels, in backbone\.1 '):
        trace_network(
            Network(nn.Sequential(nn.Flatten(), nn.Linear(3072, 4))), (36, 36)
        )


def test_a_network_without_backbone_is_refused() -> None:
    with pytest.raises(ValueError, match="Linear has no module named 'back"):
        trace_network(nn.Linear(3, 4), SIZE)


def test_a_network_that_puts_out_no_tensor_is_refused() -> None:
    class Counting(Network):
        def forward(self, images: Tensor) -> Any:
            return len(self.backbone(images))

    with pytest.raises(ValueError, match='Counting puts out int and no tens'):
        trace_network(Counting(nn.Conv2d(3, 8, 8, 8)), SIZE)
