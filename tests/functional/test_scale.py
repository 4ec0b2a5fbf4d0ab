# Copyright (c) The serkd_mm authors. All rights reserved.
"""What has no length is refused; what lengths are is in test_properties."""

from __future__ import annotations

import math
from collections import namedtuple

import pytest
import torch
from torch import Tensor

from serkd_mm.functional import batch_as_tokens, scale, unit_length
from serkd_mm.functional.scale import power_of_two_scale


@pytest.mark.parametrize(
    ('tokens', 'error', 'said'),
    [
        # Would be taken for one image per token.
        (torch.ones(3, 4), ValueError, r'got shape \(3, 4\)'),
        (torch.ones(0, 3, 4), ValueError, r'got shape \(0, 3, 4\)'),
        (torch.ones(1, 3, 4).long(), TypeError, 'got torch.int64'),
    ],
)
def test_what_are_no_tokens_has_no_length(
    tokens: Tensor, error: type, said: str
) -> None:
    with pytest.raises(error, match=f'tokens must be .*{said}'):
        unit_length(tokens)


@pytest.mark.parametrize(
    ('embeddings', 'error', 'said'),
    [
        (torch.ones(4), ValueError, r'got shape \(4,\)'),
        (torch.ones(0, 3), ValueError, r'got shape \(0, 3\)'),
        (torch.ones(2, 3).long(), TypeError, 'got torch.int64'),
    ],
)
def test_what_are_no_embeddings_are_no_tokens(
    embeddings: Tensor, error: type, said: str
) -> None:
    with pytest.raises(error, match=f'embeddings must be .*{said}'):
        batch_as_tokens(embeddings)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_tokens_have_a_direction_beside_long_ones(
    dtype: torch.dtype,
) -> None:
    tokens = torch.tensor([[[8.0, 0.0], [0.25, 0.25], [0.03, -0.04]]])
    unit = unit_length(tokens.to(dtype))
    expected = torch.tensor([[[1.0, 0.0], [0.5**0.5, 0.5**0.5], [0.6, -0.8]]])
    torch.testing.assert_close(unit.float(), expected, rtol=0, atol=0.01)


def test_a_token_of_rounding_errors_is_zero_and_sends_no_gradient() -> None:
    tokens = torch.tensor([[[3.0, -4.0], [1e-7, 1e-7]]], requires_grad=True)

    unit = unit_length(tokens)
    unit[0, 1].sum().backward()

    expected = torch.tensor([[[0.6, -0.8], [0.0, 0.0]]])
    torch.testing.assert_close(unit, expected)
    assert not tokens.grad.any()


def test_a_token_that_is_no_number_stays_so() -> None:
    assert unit_length(torch.tensor([[[math.nan, 1.0]]])).isnan().all()


def test_no_image_of_a_batch_is_short_for_another() -> None:
    images = torch.tensor([[1e20, 1e20], [3.0, 4.0], [0.0, 0.0]])
    (tokens,) = batch_as_tokens(images)
    half = 0.5**0.5
    expected = torch.tensor([[half, half], [0.6, 0.8], [0.0, 0.0]])
    torch.testing.assert_close(tokens, expected)


@pytest.mark.parametrize(
    ('tokens', 'said'),
    [
        (None, 'got NoneType$'),
        (
            namedtuple('TokenMap', 'tokens hw')(torch.ones(1, 4, 3), (2, 2)),
            r'got TokenMap; .*\(connector_idx=0: the tokens of a TokenMap\)$',
        ),
        ([torch.ones(1, 4, 3)], 'got list; .* data_idx names an item'),
    ],
)
def test_what_is_no_tensor_is_named(tokens: object, said: str) -> None:
    for check in (unit_length, batch_as_tokens):
        with pytest.raises(TypeError, match=f'must be a tensor, {said}'):
            check(tokens)


@pytest.fixture(params=['frexp', 'bits'])
def _way(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices = ('cpu',) if request.param == 'frexp' else ()
    monkeypatch.setattr(scale, 'FREXP_DEVICES', devices)


@pytest.mark.usefixtures('_way')
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_the_scale_is_the_power_of_two_above_the_largest_magnitude(
    dtype: torch.dtype,
) -> None:
    largest = torch.finfo(dtype).max
    values = [0.75, 1.0, -4.0, 5.0, -(2.0**-67), 2.0**-66, 1e-44, -largest]
    tokens = torch.tensor(values, dtype=dtype)[:, None, None] * torch.tensor(
        [[1.0], [-0.5]], dtype=dtype
    )

    found = power_of_two_scale(tokens).flatten().tolist()

    most = math.frexp(largest)[1] - 2
    powers = [min(max(math.frexp(v)[1], -66), most) for v in values]
    assert found == [2.0**power for power in powers]


@pytest.mark.usefixtures('_way')
@pytest.mark.parametrize('value', [0.0, math.inf, -math.inf, math.nan])
def test_zeros_and_what_is_not_finite_have_the_scale_1(value: float) -> None:
    tokens = torch.tensor([[[value, 0.0]], [[value, 3.0]]])
    of_zeros = [1.0, 4.0 if value == 0 else 1.0]
    assert power_of_two_scale(tokens).flatten().tolist() == of_zeros
