# Copyright (c) The serkd_mm authors. All rights reserved.
"""The local form gives what the dense form gives."""

from __future__ import annotations

import pytest
import torch

from serkd_mm.functional import superpixel_tokens

SHAPES = [
    ((14, 14), (2, 2)),
    ((7, 5), (2, 3)),
    ((1, 1), (1, 1)),
    ((1, 9), (2, 2)),
    ((9, 1), (2, 2)),
    ((6, 6), (6, 6)),
    ((6, 6), (7, 7)),
    ((8, 8), (1, 1)),
    ((5, 4), (3, 2)),
]


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize('differentiable', [True, False])
@pytest.mark.parametrize('num_iters', [0, 1, 3])
@pytest.mark.parametrize('affinity', ['attention', 'rbf'])
@pytest.mark.parametrize(('hw', 'grid_size'), SHAPES)
def test_local_and_dense_agree_in_value_assignment_and_gradient(
    hw, grid_size, affinity, num_iters, differentiable, dtype
):
    torch.manual_seed(0)
    tokens = torch.randn(2, hw[0] * hw[1], 5, dtype=dtype, requires_grad=True)
    results = []
    for impl in ('dense', 'local'):
        superpixels, assignment = superpixel_tokens(
            tokens,
            hw,
            grid_size,
            num_iters,
            affinity,
            differentiable,
            return_assignment=True,
            impl=impl,
        )
        upstream = torch.linspace(-1, 2, superpixels.numel(), dtype=dtype)
        (grad,) = torch.autograd.grad(
            superpixels, tokens, upstream.view_as(superpixels)
        )
        results.append((superpixels, assignment, grad))
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    for dense, local in zip(*results):
        torch.testing.assert_close(
            local, dense, rtol=tolerance, atol=tolerance
        )


@pytest.mark.parametrize('scale', [1e-20, 1e18])
def test_local_stays_finite_at_extreme_scales(scale):
    tokens = (scale * torch.randn(1, 36, 8)).requires_grad_()
    superpixels = superpixel_tokens(tokens, (6, 6), impl='local')
    superpixels.sum().backward()
    assert torch.isfinite(superpixels).all()
    assert torch.isfinite(tokens.grad).all()


def test_a_superpixel_that_every_token_avoids_agrees_with_dense():
    # The first: its mean is 30, and every token has a far better match.
    tokens = torch.full((1, 16, 4), -20.0, dtype=torch.float64)
    tokens[:, :8] = 60.0
    tokens[0, 0] = -60.0
    dense, local = (
        superpixel_tokens(tokens, (4, 4), impl=impl)
        for impl in ('dense', 'local')
    )
    torch.testing.assert_close(local, dense)


@pytest.mark.parametrize('impl', ['dense', 'local'])
def test_without_gradients_nothing_is_kept_for_them(impl):
    tokens = torch.randn(1, 36, 8, requires_grad=True)
    kept = []
    hooks = torch.autograd.graph.saved_tensors_hooks(kept.append, kept.index)
    with torch.no_grad(), hooks:
        superpixel_tokens(tokens, (6, 6), num_iters=2, impl=impl)
    assert not kept


def test_auto_takes_the_form_that_the_size_wants(monkeypatch):
    from serkd_mm.ops import superpixel_local

    called = []
    cluster = superpixel_local.cluster_local

    def spy(*args):
        called.append(args[1])
        return cluster(*args)

    monkeypatch.setattr(superpixel_local, 'cluster_local', spy)
    superpixel_tokens(torch.randn(1, 14 * 14, 4), (14, 14))
    superpixel_tokens(torch.randn(1, 28 * 28, 4), (28, 28))
    assert called == [(28, 28)]


def test_an_unknown_form_lists_the_valid_ones():
    with pytest.raises(ValueError, match=r"\['auto', 'dense', 'local'\]"):
        superpixel_tokens(torch.randn(1, 4, 2), (2, 2), impl='unfold')
