# Copyright (c) The serkd_mm authors. All rights reserved.
"""Networks are found by name or config; names that are none get help."""

from __future__ import annotations

from pathlib import Path

import pytest

from serkd_mm.analysis import find_network, read_config

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
WEIGHTS = 'https://download.openmmlab.com/'


def test_a_name_gives_config_path_and_weights() -> None:
    network = find_network('ResNet18_8xb32_in1k')

    assert network.path == 'mmpretrain::resnet/resnet18_8xb32_in1k.py'
    assert read_config(network.path).model == network.cfg.model
    assert network.checkpoint is not None
    assert network.checkpoint.startswith(WEIGHTS)
    assert network.checkpoint.endswith(
        'resnet18_8xb32_in1k_20210831-fbbb1da6.pth'
    )
    assert network.pretrained is None
    assert type(network.build().backbone).__name__ == 'ResNet'


def test_a_fine_tuned_network_knows_what_it_started_from() -> None:
    name = 'vit-base-p16_mae-300e-pre_8xb128-coslr-100e_in1k'

    network = find_network(name)

    # The zoo has the pre-training's weights and not the fine-tuned ones.
    assert network.checkpoint is None
    assert network.pretrained is not None
    assert 'coslr-300e' in network.pretrained


@pytest.mark.parametrize(
    ('name', 'path'),
    [
        ('serkd_mm::quickstart/teacher.py',) * 2,
        ('teacher.py', (CONFIGS / 'quickstart/teacher.py').as_posix()),
    ],
)
def test_a_config_is_a_network_too(
    name: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(CONFIGS / 'quickstart')

    network = find_network(name)

    assert (network.name, network.path) == (name, path)
    assert network.checkpoint is None
    assert network.build().backbone.embed_dims == 96


@pytest.mark.parametrize(
    ('name', 'nearest'),
    [
        ('resnet50', 'resnet50_8xb32_in1k'),
        ('dinov2', 'vit-base-p14_dinov2-pre_3rdparty'),
        ('swin_t', 'swin-tiny_16xb64_in1k'),
        ('deit-tini', 'deit-tiny-distilled_3rdparty_in1k'),
    ],
)
def test_an_unknown_name_gets_the_nearest_ones(
    name: str, nearest: str
) -> None:
    with pytest.raises(ValueError, match='neither a name') as error:
        find_network(name)
    assert repr(name) in str(error.value)
    assert f'nearest names: {nearest}' in str(error.value)


def test_a_distillation_is_not_one_network() -> None:
    with pytest.raises(ValueError, match='a student and a teacher; name the'):
        find_network(str(CONFIGS / 'serkd_deit-s.py'))


def test_a_config_that_is_not_there_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"'no\.py' is not a file"):
        find_network('no.py')


def test_a_config_of_the_zoo_that_does_not_load_says_so() -> None:
    with pytest.raises(ValueError, match='cannot be read by this MMPretrain'):
        find_network('swinv2-base-w12_3rdparty_in21k-192px')
