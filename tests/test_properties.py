# Copyright (c) The serkd_mm authors. All rights reserved.
"""What holds for tokens of any size, number, structure and precision.

Every example is one batch as a network could hand it over: from 1e-20 to 1e18,
constant, with coincident tokens, a single token, in half precision or under
autocast.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmrazor.registry import MODELS
from torch import Tensor, nn

from serkd_mm.functional import (
    angle_loss,
    dense_logits,
    distance_loss,
    unit_length,
)
from serkd_mm.models import (
    CSKDLoss,
    FeatureMapTokenizer,
    HardDistillLoss,
    SuperpixelTokenizer,
    TokenAligner,
    TokenFeatureLoss,
    TokenMap,
    TokenResizer,
)

EXAMPLES = settings(max_examples=25, deadline=None, derandomize=True)
HALF = (torch.float16, torch.bfloat16)
# Gradients are of the order of 1 / tokens, which float16 holds in this range.
FLOAT16_RANGE = (-1, 4)
TEACHER = 6


class Batch(NamedTuple):
    """Tokens of both sides and how the step runs."""

    tokens: Tensor
    teacher: Tensor
    hw: tuple[int, int]
    autocast: torch.dtype | None


def constant(shape: tuple, generator: torch.Generator) -> Tensor:
    return torch.rand(shape[0], 1, 1, generator=generator).expand(shape)


def coincident(shape: tuple, generator: torch.Generator) -> Tensor:
    """Two places, one of them the other's opposite."""
    tokens = torch.rand(shape[0], 1, shape[2], generator=generator) - 0.5
    sign = torch.ones(shape[1], 1)
    sign[::3] = -1
    return tokens * sign


def offset(shape: tuple, generator: torch.Generator) -> Tensor:
    """Close together for their distance from the origin."""
    return 1 + 1e-3 * torch.randn(shape, generator=generator)


def outlier(shape: tuple, generator: torch.Generator) -> Tensor:
    """One entry far above all others."""
    tokens = 1e-6 * torch.randn(shape, generator=generator)
    tokens[0, 0, 0] = 1
    return tokens


def normal(shape: tuple, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator) / 4


def zeros(shape: tuple, generator: torch.Generator) -> Tensor:
    return torch.zeros(shape)


STRUCTURES = (normal, constant, coincident, offset, outlier, zeros)


@st.composite
def batches(
    draw: Callable,
    amp: bool = True,
    powers: tuple[int, int] = (-20, 18),
    structures: tuple[Callable, ...] = STRUCTURES,
) -> Batch:
    dtype = draw(st.sampled_from((torch.float32, *HALF)))
    low, high = FLOAT16_RANGE if dtype == torch.float16 else powers
    hw = draw(st.sampled_from([(1, 1), (1, 2), (3, 2), (4, 4)]))
    images = draw(st.integers(1, 2))
    width = draw(st.sampled_from([2, 5, 768]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))

    def side(width: int) -> Tensor:
        scale = 10.0 ** draw(
            st.one_of(st.sampled_from([low, 0, high]), st.floats(low, high))
        )
        make = draw(st.sampled_from(structures))
        tokens = make((images, hw[0] * hw[1], width), generator)
        return (tokens * scale).to(dtype)

    return Batch(
        side(width),
        side(TEACHER),
        hw,
        draw(st.sampled_from((None, *HALF))) if amp else None,
    )


def step(
    batch: Batch, compute: Callable[[Tensor], Tensor], module: nn.Module | None
) -> tuple[Tensor, Tensor]:
    """Value and gradient with respect to the tokens; both finite."""
    tokens = batch.tokens.clone().requires_grad_()
    autocast: Any = contextlib.nullcontext()
    if batch.autocast is not None:
        autocast = torch.autocast('cpu', dtype=batch.autocast)
    with autocast:
        value = compute(tokens)
    assert value.isfinite().all()
    # Mean, as the gradient of a sum of 768 channels is no token's own.
    value.float().mean().backward()
    assert tokens.grad is not None
    assert tokens.grad.isfinite().all()
    for name, parameter in (module or nn.Module()).named_parameters():
        gradient = parameter.grad
        assert gradient is None or gradient.isfinite().all(), name
    return value.detach(), tokens.grad


# -- tokenizers -------------------------------------------------------------


def superpixels(**choices: Any) -> Callable[[Batch], nn.Module]:
    def build(batch: Batch) -> nn.Module:
        width = batch.tokens.shape[2]
        refine = width if choices.get('refine') else None
        kept = {k: v for k, v in choices.items() if k != 'refine'}
        return SuperpixelTokenizer(grid_size=2, refine_channels=refine, **kept)

    return build


TOKENIZERS: dict[str, Callable[[Batch], nn.Module]] = {
    'superpixels': superpixels(),
    'superpixels, 3 iterations': superpixels(num_iters=3),
    'superpixels, rbf': superpixels(affinity='rbf', num_iters=2),
    'superpixels, local': superpixels(impl='local', num_iters=2),
    'superpixels, ln': superpixels(norm='ln'),
    'superpixels, ln, rbf': superpixels(norm='ln', affinity='rbf'),
    'superpixels, l2': superpixels(norm='l2', num_iters=2),
    'superpixels, refined': superpixels(refine=True),
    'superpixels, ln, refined': superpixels(norm='ln', refine=True),
    'average': lambda batch: FeatureMapTokenizer(stride=batch.hw),
    'maximum': lambda batch: FeatureMapTokenizer(batch.hw, mode='max'),
    'convolution': lambda batch: FeatureMapTokenizer(batch.hw, mode='conv'),
    'resized': lambda batch: TokenResizer((3, 3)),
}


def tokens_of(tokenizer: nn.Module, batch: Batch) -> Callable:
    def compute(tokens: Tensor) -> Tensor:
        found = tokenizer(TokenMap(tokens, batch.hw))
        return found.tokens if isinstance(found, TokenMap) else found

    return compute


@pytest.mark.parametrize('name', list(TOKENIZERS))
@EXAMPLES
@given(batch=batches())
def test_tokenizers_stay_finite(name: str, batch: Batch) -> None:
    tokenizer = TOKENIZERS[name](batch)
    value, _ = step(batch, tokens_of(tokenizer, batch), tokenizer)
    assert value.shape[::2] == batch.tokens.shape[::2]


@EXAMPLES
@given(batch=batches())
def test_the_aligner_stays_finite(batch: Batch) -> None:
    aligner = TokenAligner(batch.tokens.shape[2])
    # Its convolution takes tokens of its own precision, or autocast's.
    tokens = batch.tokens if batch.autocast else batch.tokens.float()
    batch = batch._replace(tokens=tokens)
    step(batch, tokens_of(aligner, batch), aligner)


@pytest.mark.parametrize(
    'name', [name for name in TOKENIZERS if ', l' not in name]
)
@EXAMPLES
@given(batch=batches())
def test_tokens_stay_within_what_they_are_made_of(
    name: str, batch: Batch
) -> None:
    tokenizer = TOKENIZERS[name](batch)
    if name == 'resized' and batch.hw[0] * batch.hw[1] > 9:
        return  # antialiasing has negative weights
    value, _ = step(batch, tokens_of(tokenizer, batch), None)
    tokens = batch.tokens.double()
    slack = 32 * torch.finfo(batch.tokens.dtype).eps * tokens.abs().amax()
    value = value.double()
    assert (value <= tokens.amax(1, keepdim=True) + slack).all()
    assert (value >= tokens.amin(1, keepdim=True) - slack).all()


@EXAMPLES
@given(batch=batches(amp=False), power=st.integers(-40, 40))
def test_unit_length_knows_directions_only(batch: Batch, power: int) -> None:
    tokens = batch.tokens.float() / batch.tokens.float().abs().amax().clamp(
        min=1e-30
    )
    unit = unit_length(tokens)
    length = unit.norm(dim=-1)
    assert ((length - 1).abs() < 1e-5).logical_or(length == 0).all()
    assert torch.equal(unit_length(tokens * 2.0**power), unit)


# -- losses -----------------------------------------------------------------

# The functions, which take a single token too.
RELATIONS: dict[str, Callable[..., Tensor]] = {
    'distance': distance_loss,
    'distance of the batch': partial(distance_loss, normalize='batch'),
    'angle': angle_loss,
    'angle, readable': partial(angle_loss, impl='reference'),
}


@pytest.mark.parametrize('name', list(RELATIONS))
@EXAMPLES
@given(batch=batches())
def test_relation_losses_stay_finite_and_in_range(
    name: str, batch: Batch
) -> None:
    loss = RELATIONS[name]
    value, _ = step(batch, lambda x: loss(x, batch.teacher), None)
    assert value.dtype == torch.float32
    count = batch.tokens.shape[0] * batch.tokens.shape[1] ** 2
    assert 0 <= value <= (count if 'distance' in name else 2)


@pytest.mark.parametrize('name', list(RELATIONS))
@EXAMPLES
@given(batch=batches())
def test_nothing_is_learned_from_oneself(name: str, batch: Batch) -> None:
    loss = RELATIONS[name]
    value, gradient = step(batch, lambda x: loss(x, batch.tokens), None)
    assert value == 0
    assert (gradient == 0).all()


@pytest.mark.parametrize('name', list(RELATIONS))
@EXAMPLES
@given(batch=batches(amp=False, powers=(-10, 10)), power=st.integers(-24, 24))
def test_relations_have_no_unit(name: str, batch: Batch, power: int) -> None:
    loss = RELATIONS[name]
    if batch.tokens.dtype == torch.float16:
        batch = batch._replace(tokens=batch.tokens.float())
    scaled = batch._replace(tokens=batch.tokens / 2.0**power)
    value, gradient = step(batch, lambda x: loss(x, batch.teacher), None)
    other, stretched = step(scaled, lambda x: loss(x, batch.teacher), None)
    # Powers of two: not a bit of the value may change.
    assert torch.equal(value, other)
    tiny = torch.finfo(gradient.dtype).tiny * 2.0 ** (2 * abs(power))
    torch.testing.assert_close(
        gradient * 2.0**power, stretched, rtol=1e-5, atol=float(tiny)
    )


@EXAMPLES
@given(
    # An outlier leaves too few bits to the others' cosines.
    batch=batches(amp=False, structures=(normal, constant, coincident, zeros))
)
def test_both_forms_of_the_angle_loss_agree(batch: Batch) -> None:
    found = [
        step(batch, lambda x, i=impl: angle_loss(x, batch.teacher, i), None)
        for impl in ('reference', 'chunked')
    ]
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-4, atol=1e-6)
    largest = found[0][1].double().abs().amax().item()
    # Gradients are of the order of 1 / tokens, or rounding of that.
    unit = 1 / max(batch.tokens.double().abs().amax().item(), 1e-30)
    torch.testing.assert_close(
        *(gradient for _, gradient in found),
        rtol=2e-2,
        atol=1e-3 * largest + 1e-6 * unit,
    )


@EXAMPLES
@given(batch=batches())
def test_the_feature_loss_stays_finite(batch: Batch) -> None:
    loss = TokenFeatureLoss(batch.tokens.shape[2], TEACHER)
    value, _ = step(batch, lambda x: loss(x, batch.teacher), loss)
    assert value >= 0


@EXAMPLES
@given(batch=batches())
def test_the_feature_loss_of_ones_own_tokens_is_nothing(batch: Batch) -> None:
    width = batch.tokens.shape[2]
    loss = TokenFeatureLoss(width, width)
    with torch.no_grad():
        loss.projection.weight.copy_(torch.eye(width))
        loss.projection.bias.zero_()
    value, gradient = step(batch, lambda x: loss(x, batch.tokens), loss)
    assert value == 0
    assert (gradient == 0).all()


def kl_divergence() -> nn.Module:
    return MODELS.build(dict(type='KLDivergence', _scope_='mmrazor', tau=2.0))


LOGITS: dict[str, Callable[[], nn.Module]] = {
    'hard': HardDistillLoss,
    'soft': kl_divergence,
}


@pytest.mark.parametrize('name', list(LOGITS))
@EXAMPLES
@given(batch=batches())
def test_losses_of_logits_stay_finite(name: str, batch: Batch) -> None:
    teacher = batch.tokens[:, -1].roll(1, dims=1)
    loss = LOGITS[name]()
    step(batch, lambda x: loss(x[:, 0], teacher), None)


@pytest.mark.parametrize('target', ['hard', 'soft'])
@EXAMPLES
@given(batch=batches())
def test_the_loss_of_dense_logits_stays_finite(
    target: str, batch: Batch
) -> None:
    loss = CSKDLoss(target=target)
    width = batch.tokens.shape[2]
    generator = torch.Generator().manual_seed(0)
    weights = [
        torch.randn(4, c, generator=generator) / math.sqrt(c)
        for c in (width, TEACHER)
    ]
    step(
        batch,
        lambda x: loss(x, batch.teacher, *weights),
        None,
    )
    assert dense_logits(batch.tokens, weights[0]).isfinite().all()


# -- both together ----------------------------------------------------------


@pytest.mark.parametrize('norm', ['ln', 'l2', None])
@EXAMPLES
@given(batch=batches())
def test_relations_of_superpixels_stay_finite(
    norm: str | None, batch: Batch
) -> None:
    student = SuperpixelTokenizer(norm=norm)
    teacher = SuperpixelTokenizer(norm=norm)
    losses = (distance_loss, angle_loss)

    def compute(tokens: Tensor) -> Tensor:
        with torch.no_grad():
            expected = teacher(TokenMap(batch.teacher, batch.hw))
        found = student(TokenMap(tokens, batch.hw))
        return sum(loss(found, expected) for loss in losses)

    step(batch, compute, student)
