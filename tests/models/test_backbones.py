# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmpretrain.registry import MODELS
from torch import nn
from torchvision.models import get_model

from serkd_mm.models import (
    ConvAttentionDeiT,
    ThinResNetCIFAR,
    TorchvisionBackbone,
)
from serkd_mm.models.backbones import torchvision_backbone

from .builders import CLASSES, build, distiller_config, recorder


def layers(depth: int) -> int:
    """Convolutions on the path, with the classifier that follows."""
    convolutions = [
        name
        for name, module in ThinResNetCIFAR(depth).named_modules()
        if isinstance(module, nn.Conv2d) and 'downsample' not in name
    ]
    return len(convolutions) + 1


@pytest.mark.parametrize('depth', [20, 32, 44, 56, 110])
def test_the_network_has_as_many_layers_as_it_says(depth: int) -> None:
    assert layers(depth) == depth


@pytest.mark.parametrize(
    ('depth', 'millions'), [(20, 0.27), (32, 0.46), (56, 0.85), (110, 1.73)]
)
def test_the_size_is_that_of_he_et_al(depth: int, millions: float) -> None:
    network = ThinResNetCIFAR(depth)

    # With a classifier of 10 classes; projections where the paper pads.
    count = sum(p.numel() for p in network.parameters()) + 64 * 10 + 10

    assert count / 1e6 == pytest.approx(millions, abs=0.01)


def test_32_pixels_end_in_8x8_positions_of_64_channels() -> None:
    network = MODELS.build(dict(type='ThinResNetCIFAR', depth=20))

    outputs = network(torch.randn(2, 3, 32, 32))

    assert [tuple(o.shape) for o in outputs] == [(2, 64, 8, 8)]


def test_arguments_of_the_hosts_network_still_count() -> None:
    network = ThinResNetCIFAR(20, out_indices=(0, 1, 2))

    outputs = network(torch.randn(1, 3, 32, 32))

    assert [tuple(o.shape[1:]) for o in outputs] == [
        (16, 32, 32),
        (32, 16, 16),
        (64, 8, 8),
    ]


@pytest.mark.parametrize('depth', [18, '20'])
def test_a_depth_that_there_is_not_is_refused(depth: object) -> None:
    with pytest.raises(ValueError, match=rf'20, 32, .*, got {depth!r}'):
        ThinResNetCIFAR(depth)


# -- networks of torchvision ------------------------------------------------


def keys_of(classifier: str) -> list[tuple[str, str]]:
    """Torchvision's names to MMPretrain's."""
    return [(classifier, 'head.fc.'), (r'^(?!head\.)', 'backbone.')]


@pytest.mark.parametrize(
    ('name', 'channels', 'classifier'),
    [
        ('regnet_y_400mf', 440, r'^fc\.'),
        ('resnet18', 512, r'^fc\.'),
        ('efficientnet_b0', 1280, r'^classifier\.1\.'),
    ],
)
def test_a_teacher_of_torchvision_has_torchvisions_logits(
    tmp_path: Path, name: str, channels: int, classifier: str
) -> None:
    original = get_model(name, weights=None, num_classes=CLASSES)
    for module in original.modules():
        if isinstance(module, nn.BatchNorm2d):
            # As trained: other statistics than those of the start.
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
    nn.init.normal_(list(original.modules())[-1].weight, std=0.5)
    torch.save(original.state_dict(), tmp_path / 'teacher.pth')
    distiller = distiller_config(losses=('loss_kd',))
    distiller['teacher_recorders'] = dict(logits=recorder('head.fc'))

    teacher = build(
        teacher=dict(
            _scope_='mmpretrain',
            type='ImageClassifier',
            backbone=dict(type='TorchvisionBackbone', name=name),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(
                type='LinearClsHead',
                num_classes=CLASSES,
                in_channels=channels,
            ),
        ),
        teacher_ckpt=str(tmp_path / 'teacher.pth'),
        teacher_revise_keys=keys_of(classifier),
        allow_random_teacher=False,
        distiller=distiller,
    ).teacher

    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = original.eval()(images)
        actual = teacher(images, mode='tensor')
    assert float(expected.std()) > 0.1
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6)


def test_a_network_of_torchvision_keeps_its_names() -> None:
    original = get_model('regnet_y_400mf', weights=None)

    backbone = MODELS.build(
        dict(type='TorchvisionBackbone', name='regnet_y_400mf')
    )

    names = [n for n in original.state_dict() if not n.startswith('fc.')]
    assert list(backbone.state_dict()) == names
    assert backbone.trunk_output.block3 is not None


def test_a_network_that_ends_otherwise_is_refused() -> None:
    with pytest.raises(ValueError, match="'mobilenet_v2' is a Mobi") as error:
        TorchvisionBackbone('mobilenet_v2')
    assert 'families RegNet, ResNet, EfficientNet' in str(error.value)


@pytest.mark.parametrize(
    ('name', 'said'),
    [
        # A segmentation network, which would load a backbone from the net.
        ('fcn_resnet50', "'fcn_resnet50' is no classifier of torchvision"),
        ('resnet5', "torchvision; did you mean 'resnet50'"),
        (None, 'None is no classifier'),
    ],
)
def test_what_is_no_classifier_of_torchvision_is_refused(
    name: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(torchvision_backbone, 'get_model')
    with pytest.raises(ValueError, match=said):
        TorchvisionBackbone(name)


@pytest.mark.parametrize(
    ('setting', 'said'),
    [
        (dict(num_conv_layers=2.5), 'num_conv_layers must be a whole number'),
        (dict(position_drop_rate=1.5), r'position_drop_rate must lie in \['),
        (dict(position_drop_rate='0'), 'position_drop_rate must be a number'),
    ],
)
def test_a_wrong_setting_of_early_convolutions_is_refused(
    setting: dict, said: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=said):
        ConvAttentionDeiT('deit-tiny', img_size=32, patch_size=8, **setting)
