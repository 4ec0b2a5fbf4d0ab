# Copyright (c) The serkd_mm authors. All rights reserved.
"""Every way to the distances gives those of the readable function.

The Triton kernel is tested as in :mod:`.test_relation_impls`.
"""

import pytest
import torch

from serkd_mm.functional import (
    angle_loss,
    distance_loss,
    distances,
)
from serkd_mm.functional.distances import (
    inverse_distances,
    squared_distances,
)
from serkd_mm.functional.scale import power_of_two_scale
from serkd_mm.ops import pieces
from serkd_mm.ops.distances_triton import distances_by_kernel
from serkd_mm.ops.pair_distances import distances_from_differences
from serkd_mm.ops.relation_fused import _measure_gram

from .test_relation_impls import DEVICE, needs_triton

# Gram matrices are the way of devices without kernels.
WAYS = ['differences', 'gram', pytest.param('triton', marks=needs_triton)]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def make_tokens(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def measure_all(way, tokens):
    dtype = torch.promote_types(tokens.dtype, torch.float32)
    if way == 'differences':
        return distances_from_differences(tokens, dtype)
    if way == 'gram':
        batch, num, _ = tokens.shape
        found = torch.empty(2, batch, num, num, dtype=dtype)
        unit = _measure_gram(tokens, *found)
        return (*found, unit)
    if dtype == torch.float64:
        pytest.skip('computes in float32')
    batch, num, _ = tokens.shape
    found = torch.empty(2, batch, num, num, device=DEVICE)
    unit = distances_by_kernel(tokens.to(DEVICE), *found)
    return (*found.cpu(), unit.cpu())


def measure(way, tokens):
    return measure_all(way, tokens)[:2]


@pytest.mark.parametrize('scale', [1, 2.0**-20, 1e4])
@pytest.mark.parametrize('num', [1, 2, 7, 50])
@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('way', WAYS)
def test_all_ways_agree(way, dtype, num, scale):
    tokens = (scale * make_tokens(3, num, 12)).to(dtype)
    tokens[:, -1] = tokens[:, 0]
    tokens[2] = 0
    squared, inverse, unit = measure_all(way, tokens)
    expected, apart, _ = squared_distances(tokens, (1, 2), torch.float64)

    assert torch.equal(unit, power_of_two_scale(tokens.to(unit.dtype)))
    assert squared.dtype == inverse.dtype
    assert squared.dtype == torch.promote_types(dtype, torch.float32)
    assert torch.equal(squared > 0, apart)
    assert torch.equal(inverse > 0, apart)
    torch.testing.assert_close(squared.double(), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(
        inverse.double(), inverse_distances(expected, apart), rtol=1e-5, atol=0
    )


@pytest.mark.parametrize('way', WAYS)
def test_a_tight_cluster_keeps_its_distances(way):
    """A Gram matrix in float32 leaves none of their digits."""
    tokens = (make_tokens(1, 6, 64) * 1e-5 + 1).float()
    difference = (tokens[:, None] - tokens[:, :, None]).double()
    squared, _ = measure(way, tokens)

    # The unit of entries just above 1 is 2.
    expected = difference.square().sum(-1) / 2**2
    torch.testing.assert_close(squared.double(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('way', WAYS)
def test_pairs_below_the_resolution_coincide(way, dtype):
    tokens = torch.ones(1, 3, 4, dtype=dtype)
    eps = torch.finfo(dtype).eps
    # One unit in the last place apart, and far apart.
    tokens[0, 1, 0] += eps
    tokens[0, 2] = -1
    squared, inverse = measure(way, tokens)
    _, apart, _ = squared_distances(tokens, (1, 2), torch.float64)

    assert torch.equal(squared > 0, apart)
    assert torch.equal(inverse > 0, apart)
    assert not apart[0, 0, 1]
    assert apart[0, 0, 2]


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('way', WAYS)
def test_one_large_entry_does_not_hide_the_other_tokens(way, dtype):
    tokens = make_tokens(2, 20, 16)
    tokens[0, 3, 5] = 3000
    tokens = tokens.to(dtype)
    squared, inverse = measure(way, tokens)
    expected, apart, _ = squared_distances(tokens, (1, 2), torch.float32)

    assert (apart | torch.eye(20, dtype=torch.bool)).all()
    assert torch.equal(squared > 0, apart)
    assert torch.equal(inverse > 0, apart)
    torch.testing.assert_close(squared.double(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize('way', WAYS)
def test_magnitudes_at_the_ends_of_the_range_stay_finite(way):
    tokens = make_tokens(2, 5, 8).float()
    tokens[0] *= 1e37
    tokens[1] *= 1e-18
    squared, inverse = measure(way, tokens)
    assert squared.isfinite().all()
    assert inverse.isfinite().all()
    off_diagonal = ~torch.eye(5, dtype=torch.bool)
    assert (squared[:, off_diagonal] > 0).all()


@pytest.mark.parametrize('way', WAYS)
def test_not_a_number_stays(way):
    tokens = make_tokens(1, 4, 3).float()
    tokens[0, 2, 1] = float('nan')
    squared, inverse = measure(way, tokens)
    others = torch.tensor([0, 1, 3])
    assert squared[0, 2, others].isnan().all()
    assert inverse[0, 2, others].isnan().all()


@pytest.mark.parametrize('way', ['differences', 'gram'])
def test_images_taken_one_by_one_give_the_same(way, monkeypatch):
    tokens = make_tokens(3, 5, 4).float()
    tokens[1] *= 100
    expected = measure_all(way, tokens)
    monkeypatch.setattr(pieces, 'CPU_BYTES', 1)
    for found, whole in zip(measure_all(way, tokens), expected):
        torch.testing.assert_close(found, whole)


def test_the_default_device_does_not_matter() -> None:
    tokens = make_tokens(1, 23, 3).float()
    with torch.device('meta'):
        squared, _ = measure('differences', tokens)
    expected, *_ = squared_distances(tokens, (1, 2), torch.float64)
    torch.testing.assert_close(squared.double(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('num', [1, 2, 50])
def test_without_products_in_float64_less_is_exact(num, dtype, monkeypatch):
    tokens = (make_tokens(3, num, 12) + 1).to(dtype)
    tokens[:, -1] = tokens[:, 0]
    tokens[2] = 0
    expected, apart, _ = squared_distances(tokens, (1, 2), torch.float32)
    assert expected.dtype == torch.float64
    monkeypatch.setattr(distances, 'FLOAT64_DEVICES', ())

    found, found_apart, _ = squared_distances(tokens, (1, 2), torch.float32)

    assert found.dtype == torch.float32
    assert torch.equal(found_apart, apart)
    torch.testing.assert_close(found.double(), expected, rtol=2e-5, atol=0)


@pytest.mark.parametrize('loss', [angle_loss, distance_loss])
def test_losses_without_products_in_float64(loss, monkeypatch):
    teacher = make_tokens(3, 9, 12).float()
    tokens = (make_tokens(3, 9, 8, seed=1) + 1).float().requires_grad_()
    value = loss(tokens, teacher, impl='reference')
    (grad,) = torch.autograd.grad(value, tokens)
    monkeypatch.setattr(distances, 'FLOAT64_DEVICES', ())

    found = loss(tokens, teacher, impl='reference')

    torch.testing.assert_close(found, value, rtol=1e-5, atol=0)
    (slope,) = torch.autograd.grad(found, tokens)
    torch.testing.assert_close(slope, grad, rtol=1e-4, atol=1e-7)


@needs_triton
@pytest.mark.parametrize('num', [3, 64, 65])
@pytest.mark.parametrize('layout', ['visual tokens', 'channels first'])
def test_triton_reads_any_layout(layout, num):
    tokens = make_tokens(2, num + 2, 40).float()
    if layout == 'channels first':
        tokens = tokens.mT.contiguous().mT
    tokens = tokens[:, 2:]
    expected = measure('differences', tokens)
    torch.testing.assert_close(measure('triton', tokens), expected)
