# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

import pytest
import torch
from mmpretrain.registry import MODELS
from torch import nn

from serkd_mm.models import ThinResNetCIFAR


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


def test_another_depth_is_refused() -> None:
    with pytest.raises(KeyError, match='18'):
        ThinResNetCIFAR(18)
