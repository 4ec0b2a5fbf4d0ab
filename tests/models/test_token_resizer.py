# Copyright (c) The serkd_mm authors. All rights reserved.
"""Tokens of one grid brought to another over the same image."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from serkd_mm.models import (
    SuperpixelTokenizer,
    TokenMap,
    TokenResizer,
    VisualTokens,
)


def tokens_of(maps: torch.Tensor) -> TokenMap:
    return VisualTokens()(maps)


def ramp(size: int) -> TokenMap:
    """Tokens that hold the image coordinates of the middle of their cell."""
    middle = (torch.arange(size) + 0.5) / size
    grid = torch.meshgrid(middle, middle, indexing='ij')
    return tokens_of(torch.stack(grid).unsqueeze(0))


@pytest.mark.parametrize(('before', 'after'), [(16, 14), (19, 18), (37, 14)])
def test_cells_of_both_grids_cover_the_same_parts_of_the_image(
    before: int, after: int
) -> None:
    resized = TokenResizer(hw=(after, after))(ramp(before))

    assert resized.hw == (after, after)
    middle = resized.tokens.unflatten(1, resized.hw)[0, 1:-1, 1:-1]
    expected = ramp(after).tokens.unflatten(1, resized.hw)[0, 1:-1, 1:-1]
    # To a tenth of a cell.
    torch.testing.assert_close(middle, expected, atol=0.1 / after, rtol=0)


def test_every_token_counts_where_the_grid_gets_coarser() -> None:
    maps = torch.randn(1, 1, 16, 16, requires_grad=True)

    TokenResizer(hw=(4, 4))(tokens_of(maps)).tokens.sum().backward()

    assert float(maps.grad.min()) > 0
    assert float(maps.grad.sum()) == pytest.approx(16, rel=1e-5)


def test_whole_cells_are_averaged_about_their_middle() -> None:
    maps = torch.randn(2, 3, 8, 8)

    resized = TokenResizer(hw=[4, 4])(tokens_of(maps)).tokens

    # Windows of 4 positions at a distance of 2, weights 1 3 3 1 each way.
    kernel = torch.tensor([1.0, 3, 3, 1]) / 8
    weights = torch.outer(kernel, kernel).expand(3, 1, 4, 4)
    inner = F.conv2d(maps, weights, stride=2, groups=3, padding=1)
    actual = resized.transpose(1, 2).unflatten(2, (4, 4))
    torch.testing.assert_close(actual[..., 1:3, 1:3], inner[..., 1:3, 1:3])


def test_tokens_of_the_wanted_grid_stay_as_they_are() -> None:
    feature = tokens_of(torch.randn(2, 3, 4, 6))

    assert TokenResizer(hw=(4, 6))(feature) is feature


def test_gradients_are_right() -> None:
    maps = torch.randn(1, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    resizer = TokenResizer(hw=(3, 3))

    assert torch.autograd.gradcheck(
        lambda m: resizer(tokens_of(m)).tokens, maps
    )


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_stays_half_precision(dtype: torch.dtype) -> None:
    maps = torch.randn(1, 2, 8, 8)

    resizer = TokenResizer(hw=(5, 5))
    resized = resizer(tokens_of(maps.to(dtype))).tokens

    assert resized.dtype is dtype
    torch.testing.assert_close(
        resized.float(), resizer(tokens_of(maps)).tokens, atol=0.02, rtol=0.02
    )


def test_superpixels_can_be_made_of_the_tokens() -> None:
    chain = nn.Sequential(
        VisualTokens(num_prefix_tokens=1),
        TokenResizer(hw=(14, 14)),
        SuperpixelTokenizer(grid_size=(2, 2)),
    )

    assert chain(torch.randn(2, 257, 6)).shape == (2, 49, 6)


def test_one_number_stands_for_both_sides() -> None:
    assert TokenResizer(hw=14).hw == (14, 14)


@pytest.mark.parametrize(
    'hw', [(14,), (14, 0), (7.0, 7), (True, 2), ('a', 1), None]
)
def test_a_grid_that_is_none_is_refused(hw: Any) -> None:
    with pytest.raises(ValueError, match='hw must be a positive int') as error:
        TokenResizer(hw=hw)
    assert repr(hw) in str(error.value)


def test_a_record_without_grid_points_to_visual_tokens() -> None:
    with pytest.raises(TypeError, match='got Tensor; put VisualTokens before'):
        TokenResizer(hw=(2, 2))(torch.zeros(2, 16, 4))
