# Copyright (c) The serkd_mm authors. All rights reserved.
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from serkd_mm.functional import (
    superpixel,
    superpixel_grid,
    superpixel_tokens,
)
from serkd_mm.ops import superpixel_local
from tests.references import (
    DTYPES,
    TOLERANCE,
    assert_matches,
    superpixel_tokens_reference,
)

AFFINITIES = ['attention', 'rbf']

# (B, C, (H, W), (h, w))
SHAPES = [
    pytest.param(2, 8, (4, 4), (2, 2), id='plain'),
    pytest.param(1, 4, (3, 15), (3, 3), id='one-row-of-five-cells'),
    pytest.param(1, 5, (5, 7), (2, 2), id='grid-does-not-divide'),
    pytest.param(2, 3, (7, 3), (3, 2), id='nothing-is-square'),
    pytest.param(1, 4, (8, 4), (2, 1), id='cells-without-an-edge'),
    pytest.param(2, 4, (1, 6), (1, 1), id='one-token-per-cell'),
    pytest.param(1, 4, (3, 4), (3, 4), id='grid-as-large-as-the-map'),
    pytest.param(2, 4, (2, 3), (5, 4), id='grid-larger-than-the-map'),
    pytest.param(1, 1, (1, 1), (2, 2), id='one-token-one-channel'),
]

TINY = settings(deadline=None, max_examples=15, derandomize=True)


def make_tokens(batch, channels, hw, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, hw[0] * hw[1], channels)
    tokens = torch.randn(shape, generator=generator, dtype=torch.float64)
    return tokens.to(dtype)


def weights_like(tensor, seed=1):
    """An upstream gradient that is not one."""
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(
        tensor.shape, generator=generator, dtype=torch.float64
    )


def neighbourhood(hw, grid_size):
    """``(N, K)``: whether superpixel k is around token n's own cell."""
    cols = math.ceil(hw[1] / grid_size[1])
    rows = math.ceil(hw[0] / grid_size[0])
    return torch.tensor(
        [
            [
                abs(k // cols - y // grid_size[0]) <= 1
                and abs(k % cols - x // grid_size[1]) <= 1
                for k in range(rows * cols)
            ]
            for y in range(hw[0])
            for x in range(hw[1])
        ]
    )


@pytest.mark.parametrize(
    ('hw', 'grid_size', 'expected'),
    [
        ((14, 14), (2, 2), (7, 7)),
        ((5, 7), (2, 2), (3, 4)),
        ((7, 3), (3, 2), (3, 2)),
        ((4, 6), (1, 1), (4, 6)),
        ((4, 6), (4, 6), (1, 1)),
        ((4, 6), (9, 5), (1, 2)),
    ],
)
def test_the_grid_is_the_map_over_the_cell_rounded_up(hw, grid_size, expected):
    assert tuple(superpixel_grid(hw, grid_size)) == expected


@pytest.mark.parametrize('num_iters', [1, 3])
@pytest.mark.parametrize('affinity', AFFINITIES)
@pytest.mark.parametrize(('batch', 'channels', 'hw', 'grid_size'), SHAPES)
def test_value_and_gradient_follow_the_equations(
    batch, channels, hw, grid_size, affinity, num_iters
):
    # The reference sees the rounded tokens, so that one run of it serves
    # every dtype: tokens on a coarse lattice are exact in all of them.
    coarse = make_tokens(batch, channels, hw).mul(16).round().div(16)
    assert all(torch.equal(coarse.to(d).double(), coarse) for d in DTYPES)

    leaf = coarse.clone().requires_grad_()
    expected, expected_assignment = superpixel_tokens_reference(
        leaf, hw, grid_size, num_iters, affinity
    )
    upstream = weights_like(expected).mul(16).round().div(16)
    upstream_q = weights_like(expected_assignment, seed=2)
    (expected_grad,) = torch.autograd.grad(expected, leaf, upstream)

    for dtype in DTYPES:
        tokens = coarse.to(dtype).requires_grad_()
        superpixels, assignment = superpixel_tokens(
            tokens,
            hw,
            grid_size,
            num_iters,
            affinity,
            return_assignment=True,
        )
        assert superpixels.dtype == dtype
        assert assignment.dtype == (
            torch.float64 if dtype == torch.float64 else torch.float32
        )
        assert_matches(superpixels, expected)
        assert_matches(assignment, expected_assignment)
        grad = torch.autograd.grad(
            superpixels, tokens, upstream.to(dtype), retain_graph=True
        )[0]
        assert grad.dtype == dtype
        assert_matches(grad, expected_grad, floor=1)

        alone = superpixel_tokens(tokens, hw, grid_size, num_iters, affinity)
        assert torch.equal(alone, superpixels)

    # The assignment itself can be differentiated too.
    tokens = coarse.clone().requires_grad_()
    _, assignment = superpixel_tokens(
        tokens, hw, grid_size, num_iters, affinity, return_assignment=True
    )
    grad = torch.autograd.grad(
        assignment, tokens, upstream_q, allow_unused=True
    )[0]
    expected_grad = torch.autograd.grad(
        superpixel_tokens_reference(leaf, hw, grid_size, num_iters, affinity)[
            1
        ],
        leaf,
        upstream_q,
        allow_unused=True,
    )[0]
    zeros = torch.zeros_like(tokens)
    assert_matches(
        zeros if grad is None else grad,
        zeros if expected_grad is None else expected_grad,
        floor=1,
    )


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize(('batch', 'channels', 'hw', 'grid_size'), SHAPES)
def test_no_iteration_gives_the_averages_of_the_cells(
    batch, channels, hw, grid_size, dtype
):
    tokens = make_tokens(batch, channels, hw, dtype).requires_grad_()
    superpixels, assignment = superpixel_tokens(
        tokens, hw, grid_size, num_iters=0, return_assignment=True
    )
    leaf = tokens.detach().double().requires_grad_()
    expected, expected_assignment = superpixel_tokens_reference(
        leaf, hw, grid_size, 0, 'attention'
    )
    assert superpixels.dtype == dtype
    assert_matches(superpixels, expected)
    assert torch.equal(assignment.double(), expected_assignment)

    upstream = weights_like(expected).to(dtype)
    (grad,) = torch.autograd.grad(superpixels, tokens, upstream)
    (expected_grad,) = torch.autograd.grad(expected, leaf, upstream.double())
    assert_matches(grad, expected_grad)


@pytest.mark.parametrize('num_iters', [1, 2, 3])
@pytest.mark.parametrize('affinity', AFFINITIES)
@pytest.mark.parametrize(
    ('hw', 'grid_size'), [((4, 5), (2, 2)), ((3, 4), (1, 2)), ((2, 2), (2, 2))]
)
def test_gradcheck_in_float64(hw, grid_size, affinity, num_iters):
    tokens = make_tokens(2, 3, hw).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: superpixel_tokens(
            x, hw, grid_size, num_iters, affinity, return_assignment=True
        ),
        tokens,
    )


@pytest.mark.parametrize('num_iters', [1, 2, 3])
@pytest.mark.parametrize('affinity', AFFINITIES)
@pytest.mark.parametrize(('batch', 'channels', 'hw', 'grid_size'), SHAPES)
def test_rows_sum_to_one_and_stay_around_the_starting_cell(
    batch, channels, hw, grid_size, affinity, num_iters
):
    tokens = make_tokens(batch, channels, hw, torch.float32)
    _, assignment = superpixel_tokens(
        tokens, hw, grid_size, num_iters, affinity, return_assignment=True
    )
    near = neighbourhood(hw, grid_size)
    assert assignment.shape == (batch, *near.shape)
    torch.testing.assert_close(
        assignment.sum(-1), torch.ones(batch, near.shape[0])
    )
    assert (assignment[:, ~near] == 0).all()
    assert (assignment[:, near] > 0).all()


@pytest.mark.parametrize('affinity', AFFINITIES)
@pytest.mark.parametrize('value', [0.0, 1e-3, -20.0])
def test_missing_neighbours_get_exactly_no_mass(affinity, value):
    # On a constant map every existing neighbour is equally likely: 4 at a
    # corner, 6 at an edge, 9 inside. Padding would share with absent ones.
    tokens = torch.full((1, 36, 3), value)
    _, assignment = superpixel_tokens(
        tokens, (6, 6), (2, 2), 1, affinity, return_assignment=True
    )
    near = neighbourhood((6, 6), (2, 2)).float()
    assert near.sum(-1).unique().tolist() == [4, 6, 9]
    torch.testing.assert_close(
        assignment[0], near / near.sum(-1, keepdim=True)
    )


def test_the_neighbourhood_does_not_move_with_the_iterations():
    # Token 0 looks exactly like the far end of the map and nothing like its
    # own surroundings. It still may not go there.
    tokens = torch.zeros(1, 8, 1)
    tokens[:, 0] = 5
    tokens[:, 6:] = 5
    _, assignment = superpixel_tokens(
        tokens, (1, 8), (1, 1), 8, 'rbf', return_assignment=True
    )
    assert (assignment[0, 0, 2:] == 0).all()
    assert (assignment[0, 7, :6] == 0).all()


@pytest.mark.parametrize('affinity', AFFINITIES)
def test_superpixels_come_from_the_assignment_that_is_returned(affinity):
    tokens = make_tokens(2, 4, (5, 6))
    superpixels, assignment = superpixel_tokens(
        tokens, (5, 6), (2, 2), 2, affinity, return_assignment=True
    )
    mass = assignment.sum(1)[..., None]
    average = assignment.transpose(1, 2) @ tokens / mass
    torch.testing.assert_close(superpixels, average)


def test_both_affinities_differ():
    tokens = make_tokens(1, 4, (4, 4))
    attention = superpixel_tokens(tokens, (4, 4), affinity='attention')
    rbf = superpixel_tokens(tokens, (4, 4), affinity='rbf')
    assert (attention - rbf).abs().max() > 1e-2


def test_defaults_are_those_of_the_paper():
    tokens = make_tokens(2, 4, (6, 4))
    expected, _ = superpixel_tokens_reference(
        tokens, (6, 4), (2, 2), 1, 'attention'
    )
    assert_matches(superpixel_tokens(tokens, (6, 4)), expected)


@pytest.mark.parametrize('num_iters', [1, 3])
@pytest.mark.parametrize('affinity', AFFINITIES)
@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize(('batch', 'channels', 'hw', 'grid_size'), SHAPES)
def test_a_constant_assignment_gives_the_gradient_of_a_fixed_mean(
    batch, channels, hw, grid_size, dtype, affinity, num_iters
):
    tokens = make_tokens(batch, channels, hw, dtype).requires_grad_()
    superpixels, assignment = superpixel_tokens(
        tokens,
        hw,
        grid_size,
        num_iters,
        affinity,
        differentiable_assignment=False,
        return_assignment=True,
    )
    with torch.no_grad():
        expected, fixed = superpixel_tokens_reference(
            tokens, hw, grid_size, num_iters, affinity
        )
    assert_matches(superpixels, expected)
    assert_matches(assignment, fixed)
    assert not assignment.requires_grad

    upstream = weights_like(expected).to(dtype)
    (grad,) = torch.autograd.grad(superpixels, tokens, upstream)
    share = fixed / fixed.sum(1, keepdim=True)
    assert_matches(grad, share @ upstream.double())


@pytest.mark.parametrize('differentiable', [True, False])
def test_no_graph_without_a_gradient(differentiable):
    superpixels = superpixel_tokens(
        make_tokens(1, 4, (4, 4)),
        (4, 4),
        differentiable_assignment=differentiable,
    )
    assert not superpixels.requires_grad


@pytest.mark.parametrize('num_iters', [1, 3])
@pytest.mark.parametrize('affinity', AFFINITIES)
@pytest.mark.parametrize(('flipped', 'axis'), [('rows', 1), ('columns', 2)])
def test_flipping_the_map_flips_the_superpixels(
    flipped, axis, affinity, num_iters
):
    hw, grid_size = (6, 8), (2, 2)
    maps = make_tokens(2, 5, hw).unflatten(1, hw)
    plain = superpixel_tokens(
        maps.flatten(1, 2), hw, grid_size, num_iters, affinity
    )
    mirrored = superpixel_tokens(
        maps.flip(axis).flatten(1, 2), hw, grid_size, num_iters, affinity
    )
    expected = plain.unflatten(1, (3, 4)).flip(axis).flatten(1, 2)
    assert (expected - plain).abs().max() > 1e-2
    torch.testing.assert_close(mirrored, expected)


@pytest.mark.parametrize('affinity', AFFINITIES)
def test_images_of_a_batch_do_not_see_each_other(affinity):
    tokens = make_tokens(3, 4, (5, 4))
    together = superpixel_tokens(tokens, (5, 4), (2, 2), 2, affinity)
    changed = tokens.clone()
    changed[1] = 7
    alone = superpixel_tokens(changed, (5, 4), (2, 2), 2, affinity)
    torch.testing.assert_close(alone[[0, 2]], together[[0, 2]])
    torch.testing.assert_close(alone[1], torch.full_like(alone[1], 7))


@pytest.mark.parametrize('affinity', AFFINITIES)
def test_a_permuted_view_counts_like_its_copy(affinity):
    maps = make_tokens(2, 4, (4, 6)).transpose(1, 2).contiguous()
    view = maps.transpose(1, 2)
    assert not view.is_contiguous()
    torch.testing.assert_close(
        superpixel_tokens(view, (4, 6), affinity=affinity),
        superpixel_tokens(view.contiguous(), (4, 6), affinity=affinity),
    )


def test_the_tokens_are_left_as_they_were():
    tokens = make_tokens(2, 4, (4, 4))
    before = tokens.clone()
    superpixel_tokens(tokens, (4, 4), num_iters=2)
    assert torch.equal(tokens, before)


@pytest.mark.parametrize('affinity', AFFINITIES)
@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('value', [0.0, 0.1, -3.0, 40.0])
def test_a_constant_map_stays_constant(value, dtype, affinity):
    tokens = torch.full((2, 35, 4), value, dtype=dtype)
    superpixels = superpixel_tokens(tokens, (5, 7), (2, 2), 3, affinity)
    expected = torch.full((2, 12, 4), value, dtype=dtype)
    torch.testing.assert_close(
        superpixels, expected, rtol=TOLERANCE[dtype], atol=0
    )


@TINY
@given(
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    h=st.integers(1, 4),
    w=st.integers(1, 4),
    scale=st.sampled_from([1e-4, 1.0, 30.0, 1e4]),
    num_iters=st.integers(0, 3),
    affinity=st.sampled_from(AFFINITIES),
    seed=st.integers(0, 100),
)
def test_superpixels_are_convex_combinations(
    height, width, h, w, scale, num_iters, affinity, seed
):
    tokens = scale * make_tokens(2, 3, (height, width), seed=seed)
    tokens = tokens.float()
    superpixels, assignment = superpixel_tokens(
        tokens,
        (height, width),
        (h, w),
        num_iters,
        affinity,
        return_assignment=True,
    )
    slack = 1e-5 * tokens.abs().max()
    low = tokens.amin(1, keepdim=True) - slack
    high = tokens.amax(1, keepdim=True) + slack
    assert ((superpixels >= low) & (superpixels <= high)).all()
    assert (assignment >= 0).all()
    torch.testing.assert_close(
        assignment.sum(-1), torch.ones(2, height * width)
    )


@pytest.mark.parametrize(
    ('affinity', 'values', 'width'),
    [
        # The first cell loses its only token to a far longer neighbour.
        ('attention', [1000.0, 3000.0, 9000.0, 2000.0, 1000.0], 1),
        # The middle average lies between two tokens that each have a twin.
        ('rbf', [900.0, 900.0, 900.0, 100.0, 100.0, 100.0], 2),
    ],
)
@pytest.mark.parametrize('num_iters', [1, 3])
def test_a_superpixel_that_lost_all_mass_stays_among_its_tokens(
    affinity, values, width, num_iters
):
    tokens = torch.tensor(values).view(1, -1, 1).requires_grad_()
    superpixels, assignment = superpixel_tokens(
        tokens,
        (1, len(values)),
        (1, width),
        num_iters,
        affinity,
        return_assignment=True,
    )
    if num_iters == 1:
        assert (assignment.sum(1) == 0).any()
    assert (superpixels >= min(values) * (1 - 1e-5)).all()
    assert (superpixels <= max(values) * (1 + 1e-5)).all()
    (grad,) = torch.autograd.grad(superpixels.sum(), tokens)
    assert grad.isfinite().all()


EXTREMES = [
    pytest.param(torch.float32, 1e-20, id='float32-tiny'),
    pytest.param(torch.float32, 1e3, id='float32-sharp'),
    pytest.param(torch.float32, 1e10, id='float32-large'),
    pytest.param(torch.float32, 1e18, id='float32-huge'),
    pytest.param(torch.float32, 3e38, id='float32-almost-max'),
    pytest.param(torch.float16, torch.finfo(torch.float16).max, id='half-max'),
    pytest.param(
        torch.bfloat16, torch.finfo(torch.bfloat16).max, id='bfloat16-max'
    ),
    pytest.param(torch.float16, 6e-8, id='half-tiny'),
    pytest.param(torch.bfloat16, 1e-20, id='bfloat16-tiny'),
    pytest.param(torch.bfloat16, 1e18, id='bfloat16-huge'),
]


@pytest.mark.parametrize('num_iters', [0, 1, 3])
@pytest.mark.parametrize('affinity', AFFINITIES)
@pytest.mark.parametrize(('dtype', 'scale'), EXTREMES)
def test_value_is_finite_at_extreme_scales(dtype, scale, affinity, num_iters):
    signs = make_tokens(2, 4, (5, 6)).sign() * scale
    superpixels = superpixel_tokens(
        signs.to(dtype), (5, 6), (2, 2), num_iters, affinity
    )
    assert superpixels.isfinite().all()
    assert (superpixels.double().abs() <= scale * 1.01).all()


@pytest.mark.parametrize('differentiable', [True, False])
@pytest.mark.parametrize('affinity', AFFINITIES)
@pytest.mark.parametrize(
    ('dtype', 'scale'),
    [
        (torch.float32, 1e-20),
        (torch.float32, 1e3),
        (torch.float32, 1e6),
        (torch.float16, 100.0),
        (torch.bfloat16, 1e3),
    ],
)
def test_gradient_is_finite_at_extreme_scales(
    dtype, scale, affinity, differentiable
):
    tokens = (scale * make_tokens(2, 4, (5, 6))).to(dtype).requires_grad_()
    superpixels = superpixel_tokens(
        tokens,
        (5, 6),
        (2, 2),
        2,
        affinity,
        differentiable_assignment=differentiable,
    )
    (grad,) = torch.autograd.grad(superpixels.float().sum(), tokens)
    assert grad.isfinite().all()


@pytest.mark.parametrize('affinity', AFFINITIES)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)
def test_autocast_changes_nothing(dtype, affinity):
    tokens = make_tokens(2, 16, (5, 6), dtype).requires_grad_()
    arguments = ((5, 6), (2, 2), 2, affinity)
    outside = superpixel_tokens(tokens, *arguments)
    upstream = weights_like(outside).to(dtype)
    (grad_outside,) = torch.autograd.grad(outside, tokens, upstream)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        inside, assignment = superpixel_tokens(
            tokens, *arguments, return_assignment=True
        )
    (grad_inside,) = torch.autograd.grad(inside, tokens, upstream)
    assert inside.dtype == dtype
    assert assignment.dtype == torch.float32
    assert torch.equal(inside, outside)
    assert torch.equal(grad_inside, grad_outside)


@pytest.mark.parametrize('hw', [(4, 5), (2, 4), (16, 2)])
def test_a_map_of_another_size_is_refused(hw):
    with pytest.raises(ValueError, match='16') as error:
        superpixel_tokens(torch.zeros(1, 16, 4), hw)
    assert str(hw[0]) in str(error.value)
    assert str(hw[1]) in str(error.value)


@pytest.mark.parametrize('dtype', [torch.int64, torch.uint8, torch.bool])
def test_tokens_that_are_no_floats_are_refused(dtype):
    with pytest.raises(TypeError, match=str(dtype)):
        superpixel_tokens(torch.zeros(1, 16, 4, dtype=dtype), (4, 4))


@pytest.mark.parametrize('shape', [(16,), (16, 4), (1, 4, 4, 4)])
def test_tokens_need_three_axes(shape):
    with pytest.raises(ValueError, match='B, N, C') as error:
        superpixel_tokens(torch.zeros(shape), (4, 4))
    assert str(tuple(shape)) in str(error.value)


def test_an_unknown_affinity_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match='cosine') as error:
        superpixel_tokens(torch.zeros(1, 16, 4), (4, 4), affinity='cosine')
    assert 'attention' in str(error.value)
    assert 'rbf' in str(error.value)


@pytest.mark.parametrize('grid_size', [(0, 2), (2, 0), (-1, 2)])
def test_a_cell_without_tokens_is_refused(grid_size):
    with pytest.raises(ValueError, match='grid_size'):
        superpixel_tokens(torch.zeros(1, 16, 4), (4, 4), grid_size)
    with pytest.raises(ValueError, match='grid_size'):
        superpixel_grid((4, 4), grid_size)


@pytest.mark.parametrize(
    ('impl', 'tables'),
    [('dense', superpixel._neighbourhood), ('local', superpixel_local._bands)],
)
def test_tables_are_built_once_per_shape(impl, tables):
    tokens = torch.randn(2, 11 * 13, 4)
    tables.cache_clear()
    for _ in range(3):
        superpixel_tokens(tokens, (11, 13), (3, 2), num_iters=2, impl=impl)
    assert tables.cache_info().misses == 1
    superpixel_tokens(tokens, (13, 11), (3, 2), impl=impl)
    assert tables.cache_info().misses == 2


def test_a_size_is_no_tensor_of_several():
    # A tensor of one number is a number.
    with pytest.raises(ValueError, match=r'hw must be .*tensor\(\[4, 4\]\)'):
        superpixel_tokens(torch.zeros(1, 16, 4), torch.tensor([4, 4]))


def test_a_negative_number_of_iterations_is_refused():
    with pytest.raises(ValueError, match='num_iters.*-1'):
        superpixel_tokens(torch.zeros(1, 16, 4), (4, 4), num_iters=-1)


@pytest.mark.skipif(
    not hasattr(torch.library, 'register_autograd'),
    reason='Dynamo before PyTorch 2.4 takes no cached function into a graph',
)
@pytest.mark.parametrize('impl', ['dense', 'local'])
def test_compiled_surroundings_stay_one_graph(impl):
    torch.compiler.reset()
    tokens = torch.randn(2, 35, 6)

    def surrounded(tokens):
        return 2 * superpixel_tokens(tokens.tanh(), (5, 7), 2, impl=impl)

    def run(function):
        leaf = tokens.clone().requires_grad_()
        value = function(leaf)
        (grad,) = torch.autograd.grad(value.square().sum(), leaf)
        return value, grad

    compiled = torch.compile(surrounded, backend='aot_eager', fullgraph=True)
    torch.testing.assert_close(run(compiled), run(surrounded))


@pytest.mark.skipif(
    not hasattr(torch.library, 'register_autograd'),
    reason='PyTorch before 2.4 does not compile them, and says so',
)
@pytest.mark.parametrize('impl', ['dense', 'local'])
def test_compiled_surroundings_take_other_maps(impl):
    # From the second size on PyTorch keeps sizes symbolic.
    torch.compiler.reset()

    def surrounded(feature):
        tokens = feature.tanh().flatten(2).transpose(1, 2)
        return 2 * superpixel_tokens(tokens, feature.shape[2:], 2, impl=impl)

    compiled = torch.compile(surrounded, backend='aot_eager', fullgraph=True)
    for hw in ((8, 8), (6, 6), (5, 7), (10, 8)):
        leaf = torch.randn(2, 6, *hw, requires_grad=True)
        grads = [
            torch.autograd.grad(function(leaf).square().sum(), leaf)
            for function in (compiled, surrounded)
        ]
        torch.testing.assert_close(*grads)


@pytest.mark.parametrize('impl', ['dense', 'local'])
def test_inference_mode_leaves_nothing_that_training_cannot_use(impl):
    # A size that no other test has, so that its tables are made here.
    tokens, size = torch.randn(1, 13 * 11, 3), (13, 11)
    with torch.inference_mode():
        superpixel_tokens(tokens, size, (2, 2), impl=impl)
    tokens.requires_grad_()

    superpixel_tokens(tokens, size, (2, 2), impl=impl).sum().backward()

    assert tokens.grad.isfinite().all()
