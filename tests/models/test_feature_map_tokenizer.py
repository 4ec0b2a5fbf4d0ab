# Copyright (c) The serkd_mm authors. All rights reserved.
"""Tokens of feature maps against loops over their windows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mmrazor.registry import MODELS
from torch import Tensor, nn

from serkd_mm.models import (
    FeatureMapTokenizer,
    SuperpixelTokenizer,
    TokenMap,
    VisualTokens,
)

WINDOWS = [1, 2, (2, 3), (4, 6)]


def build(**settings: Any) -> nn.Module:
    return MODELS.build(
        dict(type='FeatureMapTokenizer', _scope_='mmrazor', **settings)
    )


def looped(maps: Tensor, window: tuple[int, int], weights: Tensor) -> Tensor:
    """Weighted sums of the windows, ``(B, N, C)``, one number at a time."""
    images, channels, height, width = maps.shape
    rows, cols = height // window[0], width // window[1]
    tokens = torch.zeros(images, rows * cols, channels, dtype=maps.dtype)
    for b in range(images):
        for n in range(rows * cols):
            top, left = n // cols * window[0], n % cols * window[1]
            for c in range(channels):
                for y in range(window[0]):
                    for x in range(window[1]):
                        value = maps[b, c, top + y, left + x]
                        tokens[b, n, c] += weights[y, x] * value
    return tokens


def pair(stride: int | tuple[int, int]) -> tuple[int, int]:
    return (stride, stride) if isinstance(stride, int) else stride


@pytest.mark.parametrize('stride', WINDOWS)
@pytest.mark.parametrize('mode', ['avg', 'conv'])
def test_tokens_start_as_the_means_of_the_windows(
    mode: str, stride: int | tuple[int, int]
) -> None:
    maps = torch.randn(2, 3, 4, 6)
    height, width = pair(stride)
    weights = torch.full((height, width), 1 / (height * width))

    tokens, hw = build(mode=mode, stride=stride)(maps)

    torch.testing.assert_close(tokens, looped(maps, (height, width), weights))
    assert hw == (4 // height, 6 // width)


@pytest.mark.parametrize('stride', WINDOWS)
def test_max_tokens_are_the_largest_values_of_the_windows(
    stride: int | tuple[int, int],
) -> None:
    maps = torch.randn(2, 3, 4, 6)
    height, width = pair(stride)

    tokens, hw = build(mode='max', stride=stride)(maps)

    assert hw == (4 // height, 6 // width)
    for n in range(hw[0] * hw[1]):
        top, left = n // hw[1] * height, n % hw[1] * width
        window = maps[:, :, top : top + height, left : left + width]
        assert torch.equal(tokens[:, n], window.flatten(2).amax(-1))


def test_the_convolution_weighs_every_channel_with_its_one_kernel() -> None:
    tokenizer = build(mode='conv', stride=(2, 3))
    kernel = torch.randn(2, 3)
    with torch.no_grad():
        tokenizer.kernel.copy_(kernel[None, None])

    # One module for two widths.
    for channels in (5, 2):
        maps = torch.randn(2, channels, 4, 6)
        tokens, _ = tokenizer(maps)
        torch.testing.assert_close(tokens, looped(maps, (2, 3), kernel))

    assert [tuple(p.shape) for p in tokenizer.parameters()] == [(1, 1, 2, 3)]


@pytest.mark.parametrize('mode', ['max', 'avg'])
def test_pooling_has_no_parameters(mode: str) -> None:
    assert not list(build(mode=mode, stride=2).parameters())


def test_the_kernel_stays_the_average_when_weights_are_initialised() -> None:
    tokenizer = build(mode='conv', stride=4)

    tokenizer.init_weights()

    expected = torch.full((1, 1, 4, 4), 1 / 16)
    assert torch.equal(tokenizer.kernel.detach(), expected)


def test_the_kernels_gradient_sums_over_images_windows_and_channels() -> None:
    tokenizer = build(mode='conv', stride=2)
    maps = torch.randn(2, 3, 4, 4)
    upstream = torch.randn(2, 4, 3)

    (tokenizer(maps).tokens * upstream).sum().backward()

    expected = torch.zeros(2, 2)
    for n in range(4):
        top, left = n // 2 * 2, n % 2 * 2
        window = maps[:, :, top : top + 2, left : left + 2]
        expected += (window * upstream[:, n, :, None, None]).sum((0, 1))
    torch.testing.assert_close(tokenizer.kernel.grad[0, 0], expected)


@pytest.mark.parametrize('mode', ['max', 'avg', 'conv'])
def test_gradients_of_the_map_are_right(mode: str) -> None:
    tokenizer = build(mode=mode, stride=(2, 3)).double()
    maps = torch.randn(2, 2, 4, 6, dtype=torch.float64, requires_grad=True)

    assert torch.autograd.gradcheck(lambda m: tokenizer(m).tokens, maps)


@pytest.mark.parametrize(
    'dtype', [torch.bfloat16, torch.float32, torch.float64]
)
@pytest.mark.parametrize('autocast', [True, False])
def test_the_convolution_has_the_precision_of_the_map(
    autocast: bool, dtype: torch.dtype
) -> None:
    maps = torch.randn(2, 3, 4, 6).to(dtype)

    with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        tokens, _ = build(mode='conv', stride=2)(maps)

    expected = looped(maps.double(), (2, 2), torch.full((2, 2), 1 / 4))
    torch.testing.assert_close(tokens, expected.to(dtype))


@pytest.mark.parametrize('mode', ['max', 'avg', 'conv'])
def test_a_token_map_is_pooled_as_its_feature_map(mode: str) -> None:
    maps = torch.randn(2, 3, 4, 6)
    tokenizer = build(mode=mode, stride=2)

    behind = tokenizer(VisualTokens()(maps))

    assert isinstance(behind, TokenMap)
    assert behind.hw == (2, 3)
    torch.testing.assert_close(behind.tokens, tokenizer(maps).tokens)


def test_superpixels_can_be_made_of_the_tokens() -> None:
    maps = torch.randn(2, 3, 8, 12)
    chain = nn.Sequential(
        FeatureMapTokenizer(stride=2, mode='avg'), SuperpixelTokenizer()
    )

    assert chain(maps).shape == (2, 2 * 3, 3)


@pytest.mark.parametrize('stride', [3, (2, 4), (8, 2)])
def test_a_stride_that_does_not_divide_the_map_names_both(
    stride: int | tuple[int, int],
) -> None:
    with pytest.raises(ValueError, match='H=4, W=6') as error:
        build(stride=stride)(torch.zeros(1, 2, 4, 6))
    assert f'stride {pair(stride)}' in str(error.value)


@pytest.mark.parametrize('stride', [0, -1, (2, 0), (2, 2, 2), 1.5])
def test_a_stride_that_is_no_size_is_refused(stride: Any) -> None:
    with pytest.raises(ValueError, match='stride must be a positive') as error:
        FeatureMapTokenizer(stride=stride)
    assert repr(stride) in str(error.value)


def test_an_unknown_mode_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'max', 'avg', 'conv'.*'mean'"):
        FeatureMapTokenizer(mode='mean')


@pytest.mark.parametrize('record', [(), [torch.zeros(1, 2, 4, 4)], None])
def test_a_record_that_is_no_tensor_points_to_data_idx(record: Any) -> None:
    with pytest.raises(TypeError, match='data_idx') as error:
        FeatureMapTokenizer()(record)
    assert type(record).__name__ in str(error.value)


def test_a_sequence_points_to_visual_tokens() -> None:
    with pytest.raises(ValueError, match=r'VisualTokens before') as error:
        FeatureMapTokenizer()(torch.zeros(2, 16, 4))
    assert '(2, 16, 4)' in str(error.value)
