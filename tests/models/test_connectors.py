# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

from typing import Any

import pytest
import torch
from mmrazor.registry import MODELS

from serkd_mm.functional import superpixel_tokens
from serkd_mm.models import (
    FeatureMapTokenizer,
    SuperpixelTokenizer,
    TokenMap,
    TokenResizer,
    VisualTokens,
)
from serkd_mm.models.connectors import superpixel_tokenizer
from serkd_mm.models.connectors.token_map import grid_like, is_grid_of


def token_map(height: int = 4, width: int = 6, channels: int = 8) -> TokenMap:
    tokens = torch.randn(2, height * width, channels)
    return TokenMap(tokens, (height, width))


# -- visual tokens ----------------------------------------------------------


@pytest.mark.parametrize('prefix', [0, 1, 2, 5])
def test_prefix_tokens_are_taken_off(prefix: int) -> None:
    sequence = torch.randn(2, prefix + 9, 4)

    tokens, hw = VisualTokens(num_prefix_tokens=prefix)(sequence)

    assert torch.equal(tokens, sequence[:, prefix:])
    assert hw == (3, 3)


def test_a_grid_that_is_no_square_can_be_named() -> None:
    sequence = torch.randn(2, 1 + 12, 4)

    tokens, hw = VisualTokens(num_prefix_tokens=1, hw=[3, 4])(sequence)

    assert tokens.shape == (2, 12, 4)
    assert hw == (3, 4)


def test_a_map_becomes_tokens_row_by_row() -> None:
    maps = torch.randn(2, 5, 3, 4)

    # The prefix belongs to sequences.
    tokens, hw = VisualTokens(num_prefix_tokens=2)(maps)

    assert hw == (3, 4)
    assert tokens.shape == (2, 12, 5)
    for y in range(3):
        for x in range(4):
            assert torch.equal(tokens[:, 4 * y + x], maps[:, :, y, x])


def test_a_count_that_fills_no_square_names_the_nearest() -> None:
    with pytest.raises(ValueError, match='leaves 197 visual') as error:
        VisualTokens(num_prefix_tokens=1)(torch.randn(1, 198, 4))

    text = str(error.value)
    assert 'L=198' in text
    assert '14x14=196 (num_prefix_tokens=2)' in text


@pytest.mark.parametrize(
    ('count', 'nearest'), [(2, '1x1=1'), (3, '2x2=4'), (12, '3x3=9')]
)
def test_the_nearest_square_is_the_nearest(count: int, nearest: str) -> None:
    with pytest.raises(ValueError, match=rf'square is {nearest}\b'):
        VisualTokens()(torch.randn(1, count, 4))


def test_tokens_of_a_wide_image_are_no_forgotten_prefix() -> None:
    with pytest.raises(ValueError, match='128 visual') as error:
        VisualTokens(num_prefix_tokens=2)(torch.randn(1, 130, 4))

    assert 'num_prefix_tokens=9' not in str(error.value)
    assert 'or its hw for images that are no squares' in str(error.value)


def test_a_count_that_does_not_fill_the_named_grid_is_refused() -> None:
    with pytest.raises(ValueError, match=r'not fill hw=\(3, 5\)'):
        VisualTokens(hw=(3, 5))(torch.randn(1, 16, 4))


def test_suffix_tokens_are_taken_off() -> None:
    sequence = torch.randn(2, 1 + 9 + 4, 4)
    connector = VisualTokens(num_prefix_tokens=1, num_suffix_tokens=4)

    tokens, hw = connector(sequence)

    assert torch.equal(tokens, sequence[:, 1:10])
    assert hw == (3, 3)
    with pytest.raises(
        ValueError,
        match=r'less num_prefix_tokens=1 and num_suffix_tokens=4 leaves 8 .* '
        r'3x3=9 \(num_prefix_tokens=0\)',
    ):
        connector(sequence[:, :-1])
    with pytest.raises(ValueError, match="num_suffix_tokens .* got '1'"):
        VisualTokens(num_suffix_tokens='1')


def test_a_sequence_of_nothing_but_prefix_is_refused() -> None:
    with pytest.raises(ValueError, match='leaves 0 visual tokens'):
        VisualTokens(num_prefix_tokens=2)(torch.randn(1, 2, 4))


@pytest.mark.parametrize('record', [(), [torch.zeros(1, 4, 4)], None])
def test_a_record_that_is_no_tensor_points_to_data_idx(record: Any) -> None:
    with pytest.raises(TypeError, match='data_idx') as error:
        VisualTokens()(record)
    assert type(record).__name__ in str(error.value)


@pytest.mark.parametrize('shape', [(4, 4), (1, 2, 3, 4, 5)])
def test_other_dimensions_are_refused_with_their_shape(shape: tuple) -> None:
    with pytest.raises(ValueError, match='got shape') as error:
        VisualTokens()(torch.zeros(shape))
    assert str(shape) in str(error.value)


@pytest.mark.parametrize('count', [-1, '2', 2.0, True, None])
def test_a_prefix_that_is_no_count_is_refused(count: Any) -> None:
    with pytest.raises(ValueError, match='an integer >= 0, got') as error:
        VisualTokens(num_prefix_tokens=count)
    assert repr(count) in str(error.value)


# -- superpixel tokens ------------------------------------------------------


@pytest.mark.parametrize('differentiable', [True, False])
def test_superpixels_are_those_of_the_function(differentiable: bool) -> None:
    tokens, hw = token_map()
    tokens.requires_grad_()
    settings = dict(
        grid_size=(2, 3),
        num_iters=2,
        affinity='rbf',
        differentiable_assignment=differentiable,
    )

    actual = SuperpixelTokenizer(**settings)(TokenMap(tokens, hw))

    expected = superpixel_tokens(tokens, hw, **settings)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)
    upstream = torch.randn_like(expected)
    (slope,) = torch.autograd.grad(actual, tokens, upstream)
    (wanted,) = torch.autograd.grad(expected, tokens, upstream)
    torch.testing.assert_close(slope, wanted, rtol=0, atol=0)


@pytest.mark.parametrize('impl', ['dense', 'local'])
def test_the_clustering_has_the_form_that_is_named(
    impl: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = []

    def noted(*args: Any, **kwargs: Any) -> Any:
        named.append(kwargs['impl'])
        return superpixel_tokens(*args, **kwargs)

    monkeypatch.setattr(superpixel_tokenizer, 'superpixel_tokens', noted)

    SuperpixelTokenizer(impl=impl)(token_map())

    assert named == [impl]


def test_layer_norm_makes_the_length_of_tokens_not_matter() -> None:
    tokens, hw = token_map()
    tokenizer = SuperpixelTokenizer(norm='ln')
    mean = tokens.mean(-1, keepdim=True)
    by_hand = (tokens - mean) / tokens.std(-1, correction=0, keepdim=True)

    actual = tokenizer(TokenMap(tokens, hw))

    torch.testing.assert_close(
        actual, superpixel_tokens(by_hand, hw), rtol=1e-4, atol=1e-4
    )
    larger = tokenizer(TokenMap(50 * tokens + 3, hw))
    torch.testing.assert_close(larger, actual, rtol=1e-3, atol=1e-3)


def test_unit_length_makes_the_length_of_tokens_not_matter() -> None:
    tokens, hw = token_map()
    tokenizer = SuperpixelTokenizer(norm='l2')
    by_hand = tokens / tokens.square().sum(-1, keepdim=True).sqrt()

    actual = tokenizer(TokenMap(tokens, hw))

    torch.testing.assert_close(actual, superpixel_tokens(by_hand, hw))
    torch.testing.assert_close(tokenizer(TokenMap(50 * tokens, hw)), actual)


def test_without_norm_tokens_stay_as_they_are() -> None:
    tokens, hw = token_map()

    actual = SuperpixelTokenizer()(TokenMap(tokens, hw))

    assert torch.equal(actual, superpixel_tokens(tokens, hw))


def test_the_association_gives_the_superpixels() -> None:
    feature = token_map()
    tokenizer = SuperpixelTokenizer()

    assignment = tokenizer.assignment(feature)

    weights = assignment / assignment.sum(1, keepdim=True)
    means = weights.transpose(1, 2) @ feature.tokens
    torch.testing.assert_close(tokenizer(feature), means)
    assert assignment.shape == (2, 24, 6)
    torch.testing.assert_close(assignment.sum(-1), torch.ones(2, 24))


def test_the_refinement_starts_as_the_identity_and_learns() -> None:
    feature = token_map()
    refined = SuperpixelTokenizer(refine_channels=8)
    plain = SuperpixelTokenizer()(feature)
    target = torch.randn_like(plain)
    optimizer = torch.optim.SGD(refined.parameters(), lr=0.5)

    torch.testing.assert_close(refined(feature), plain, rtol=0, atol=0)
    errors = []
    for _ in range(20):
        loss = (refined(feature) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        errors.append(float(loss))

    assert errors[-1] < 0.9 * errors[0]


@pytest.mark.parametrize('channels', [0, -8, 2.5, '8', True])
def test_a_width_of_the_refinement_is_a_positive_integer(channels) -> None:
    with pytest.raises(
        ValueError, match=f'refine_channels must .* got {channels!r}'
    ):
        SuperpixelTokenizer(refine_channels=channels)


def test_the_refinement_sees_the_neighbours_on_the_grid() -> None:
    tokens = torch.zeros(1, 24, 8, requires_grad=True)
    tokenizer = SuperpixelTokenizer(
        grid_size=1, num_iters=0, refine_channels=8
    )
    with torch.no_grad():
        tokenizer.refine.weight.fill_(1.0)

    superpixels = tokenizer(TokenMap(tokens, (4, 6)))
    # Row 1, column 2 of the grid of 4x6.
    (grad,) = torch.autograd.grad(superpixels[0, 8, 0], tokens)

    seen = grad[0, :, 0].reshape(4, 6)
    expected = torch.zeros(4, 6)
    expected[0:3, 1:4] = 1
    expected[1, 2] = 2
    assert torch.equal(seen, expected)
    assert grad[0, :, 1:].abs().sum() == 0


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('autocast', [True, False])
def test_the_refinement_does_not_round_superpixels(
    autocast: bool, dtype: torch.dtype
) -> None:
    tokens = 1e5 * torch.randn(2, 24, 8)
    tokenizer = SuperpixelTokenizer(
        grid_size=1, num_iters=0, refine_channels=8
    )
    torch.nn.init.normal_(tokenizer.refine.weight)

    with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        superpixels = tokenizer(TokenMap(tokens.to(dtype), (4, 6)))

    expected = tokenizer.double()(TokenMap(tokens.double(), (4, 6)))
    assert superpixels.dtype == dtype
    torch.testing.assert_close(
        superpixels.double(), expected, rtol=1e-5, atol=1.0
    )


@pytest.mark.parametrize('channels', [1, 7, 16])
def test_a_refinement_of_another_width_says_what_to_set(
    channels: int,
) -> None:
    with pytest.raises(
        ValueError,
        match=f'have 8 channels.*refine_channels={channels}; '
        'set refine_channels=8',
    ):
        SuperpixelTokenizer(refine_channels=channels)(token_map())


def test_tokens_without_grid_point_to_visual_tokens() -> None:
    with pytest.raises(TypeError, match='put VisualTokens before it') as error:
        SuperpixelTokenizer()(torch.randn(1, 4, 8))
    assert 'got Tensor' in str(error.value)


@pytest.mark.parametrize(
    'connector',
    [
        SuperpixelTokenizer(),
        TokenResizer(2),
        FeatureMapTokenizer(2, 'avg'),
        FeatureMapTokenizer(2, 'conv'),
    ],
    ids=lambda connector: type(connector).__name__,
)
@pytest.mark.parametrize('dtype', [torch.int64, torch.bool, torch.complex64])
def test_tokens_that_are_not_floating_point_are_refused(
    connector: torch.nn.Module, dtype: torch.dtype
) -> None:
    tokens, hw = token_map(4, 4)
    name = type(connector).__name__
    with pytest.raises(TypeError, match=f'of {name} must be floating point'):
        connector(TokenMap(tokens.to(dtype), hw))


def test_an_unknown_norm_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[None, 'ln', 'l2'\], got 'bn'"):
        SuperpixelTokenizer(norm='bn')


def test_connectors_are_built_from_lists_of_a_config() -> None:
    cfg = dict(type='SuperpixelTokenizer', grid_size=[2, 3], _scope_='mmrazor')

    tokenizer = MODELS.build(cfg)

    assert tokenizer.grid_size == (2, 3)
    assert tokenizer(token_map()).shape == (2, 4, 8)


def test_zero_tokens_stay_finite_with_unit_length_in_half_precision() -> None:
    tokens = torch.zeros(1, 16, 8, dtype=torch.float16)
    superpixels = SuperpixelTokenizer(norm='l2')(TokenMap(tokens, (4, 4)))
    assert torch.isfinite(superpixels).all()


@pytest.mark.parametrize('norm', [None, 'ln', 'l2'])
def test_half_precision_is_not_rounded_again(norm: str | None) -> None:
    """Neither by the norm nor as means, which differ little."""
    tokens = (torch.randn(1, 1, 64) + 0.03 * torch.randn(2, 64, 64)).bfloat16()
    tokenizer = SuperpixelTokenizer(norm=norm)
    with torch.autocast('cpu', torch.bfloat16):
        superpixels = tokenizer(TokenMap(tokens, (8, 8)))
    expected = tokenizer(TokenMap(tokens.double(), (8, 8)))
    assert superpixels.dtype == torch.float32
    torch.testing.assert_close(
        superpixels.double(), expected, rtol=1e-5, atol=1e-5
    )


def test_a_grid_of_a_flat_image_has_one_row_at_least() -> None:
    assert grid_like(2, (8, 800)) == (1, 2)


def test_no_grid_has_cells_within_a_pixel() -> None:
    assert is_grid_of((4, 4), (4, 4))
    assert not is_grid_of((8, 8), (4, 4))


def test_a_grid_of_other_tokens_is_named_where_it_is_used() -> None:
    wrong = TokenMap(torch.randn(2, 12, 4), (4, 4))
    for kind in (
        dict(type='mmrazor.FeatureMapTokenizer'),
        dict(type='mmrazor.TokenResizer', hw=2),
    ):
        connector = MODELS.build(kind)
        with pytest.raises(
            ValueError, match=r'hw=\(4, 4\), 16 .*\(2, 12, 4\)'
        ):
            connector(wrong)
