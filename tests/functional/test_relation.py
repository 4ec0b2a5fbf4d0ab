# Copyright (c) The serkd_mm authors. All rights reserved.
import functools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from serkd_mm.functional import angle_loss, distance_loss
from tests.references import (
    DTYPES,
    angle_loss_reference,
    assert_matches,
    distance_loss_reference,
    rkd_angle,
    rkd_distance,
)

# The readable version; by default another one may be chosen.
readable_distance_loss = functools.partial(distance_loss, impl='reference')
readable_angle_loss = functools.partial(angle_loss, impl='reference')

LOSSES = [
    pytest.param(distance_loss, id='distance'),
    pytest.param(readable_distance_loss, id='distance-readable'),
    pytest.param(angle_loss, id='angle'),
    pytest.param(readable_angle_loss, id='angle-readable'),
]
WITH_REFERENCE = [
    pytest.param(distance_loss, distance_loss_reference, id='distance'),
    pytest.param(
        readable_distance_loss,
        distance_loss_reference,
        id='distance-readable',
    ),
    pytest.param(angle_loss, angle_loss_reference, id='angle'),
    pytest.param(
        readable_angle_loss, angle_loss_reference, id='angle-readable'
    ),
]
WITH_RKD = [
    pytest.param(distance_loss, rkd_distance, id='distance'),
    pytest.param(readable_distance_loss, rkd_distance, id='distance-readable'),
    pytest.param(angle_loss, rkd_angle, id='angle'),
    pytest.param(readable_angle_loss, rkd_angle, id='angle-readable'),
]

# (B, K, C of the student, C of the teacher)
SHAPES = [
    pytest.param(2, 6, 8, 8, id='plain'),
    pytest.param(1, 7, 3, 12, id='teacher-wider'),
    pytest.param(3, 4, 16, 5, id='student-wider'),
    pytest.param(2, 5, 1, 4, id='one-channel'),
    pytest.param(2, 3, 4, 4, id='one-triangle'),
    pytest.param(1, 2, 4, 4, id='one-pair'),
    pytest.param(2, 1, 4, 6, id='one-superpixel'),
]

TINY = settings(deadline=None, max_examples=15, derandomize=True)
UPSTREAM = -3.25


def make_tokens(*shape, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(shape, generator=generator, dtype=torch.float64)
    return tokens.to(dtype)


def make_pair(batch=2, size=6, student=8, teacher=8, **kwargs):
    return (
        make_tokens(batch, size, student, seed=1, **kwargs),
        make_tokens(batch, size, teacher, seed=2, **kwargs),
    )


def value_and_grad(loss, student, teacher, **kwargs):
    student = student.detach().clone().requires_grad_()
    value = loss(student, teacher, **kwargs)
    (grad,) = torch.autograd.grad(UPSTREAM * value, student)
    return value.detach(), grad


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize(
    ('batch', 'size', 'channels', 'teacher_channels'), SHAPES
)
@pytest.mark.parametrize(('loss', 'reference'), WITH_REFERENCE)
def test_value_and_gradient_follow_the_equations(
    loss, reference, batch, size, channels, teacher_channels, dtype
):
    student, teacher = make_pair(
        batch, size, channels, teacher_channels, dtype=dtype
    )
    value, grad = value_and_grad(loss, student, teacher)
    expected, expected_grad = value_and_grad(
        reference, student.double(), teacher.double()
    )
    assert value.shape == ()
    assert value.dtype == (
        torch.float64 if dtype == torch.float64 else torch.float32
    )
    assert grad.dtype == dtype
    # One pair always has distance 1 and one superpixel none at all.
    assert (expected > 1e-3) == (size > 2)
    assert_matches(value, expected, floor=1)
    # Gradients of cosines of collinear tokens are 0 up to float32 rounding.
    collinear = min(student.shape[2], teacher.shape[2]) == 1
    assert_matches(grad, expected_grad, floor=0.2 if collinear else 1e-2)


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize(
    ('batch', 'size', 'channels', 'teacher_channels'), SHAPES
)
def test_batch_normalisation_shares_one_mean_distance(
    batch, size, channels, teacher_channels, dtype
):
    student, teacher = make_pair(
        batch, size, channels, teacher_channels, dtype=dtype
    )
    # Images of very different spread, the other way round for the teacher.
    sizes = torch.arange(1, batch + 1, dtype=dtype)[:, None, None]
    student, teacher = student * sizes, teacher * sizes.flip(0)
    value, grad = value_and_grad(
        distance_loss, student, teacher, normalize='batch'
    )
    expected, expected_grad = value_and_grad(
        distance_loss_reference,
        student.double(),
        teacher.double(),
        normalize='batch',
    )
    assert_matches(value, expected, floor=1)
    assert_matches(grad, expected_grad, floor=1e-2)
    if batch > 1 and size > 1:
        per_image = distance_loss(student, teacher, normalize='image')
        assert abs(per_image - value) > 0.01


def test_the_mean_distance_is_per_image_by_default():
    student, teacher = make_pair()
    student[0] *= 5
    expected = distance_loss_reference(student, teacher, 'image')
    assert_matches(distance_loss(student, teacher), expected)


@pytest.mark.parametrize('size', [2, 3, 9, 16])
@pytest.mark.parametrize(('loss', 'rkd'), WITH_RKD)
def test_one_image_is_one_batch_of_relational_distillation(loss, rkd, size):
    student, teacher = make_pair(1, size, 7, 5)
    value, grad = value_and_grad(loss, student, teacher)
    expected, expected_grad = value_and_grad(
        lambda s, t: rkd(s[0], t[0]), student, teacher
    )
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-6, atol=1e-9)


def test_distances_beyond_the_huber_corner_count_linearly():
    # Distances 1, 1 and 100 times as far apart: psi of the teacher exceeds
    # that of the student by more than 1.
    student = torch.tensor([[[0.0], [1.0], [2.0], [3.0]]])
    teacher = torch.tensor([[[0.0], [0.1], [0.2], [50.0]]])
    psi_s = (student - student.mT).abs()[0] / (20 / 12)
    psi_t = (teacher - teacher.mT).abs()[0] / ((2 * 150.1) / 12)
    size = (psi_s - psi_t).abs()
    assert (size > 1).any()
    assert (size < 1).any()
    expected = torch.where(size < 1, size**2 / 2, size - 0.5).mean()
    torch.testing.assert_close(distance_loss(student, teacher), expected)


def test_an_angle_is_compared_by_its_cosine():
    # A right-angled isosceles triangle against an equilateral one: cosines
    # 0, r, r against 1/2 each, every angle in two of the 27 triples.
    student = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]])
    teacher = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(0.75)]]])
    flat = (math.sqrt(0.5) - 0.5) ** 2
    expected = 2 * 0.5 * (0.25 + 2 * flat) / 27
    assert angle_loss(student, teacher).item() == pytest.approx(expected)


@pytest.mark.parametrize(
    'loss',
    [
        *LOSSES,
        pytest.param(
            lambda s, t: distance_loss(s, t, normalize='batch'),
            id='distance-batch',
        ),
    ],
)
@pytest.mark.parametrize('shape', [(2, 5, 3), (1, 3, 2), (2, 4, 1)], ids=str)
def test_gradcheck_in_float64(loss, shape):
    student = make_tokens(*shape, seed=1).requires_grad_()
    teacher = make_tokens(*shape, seed=2)
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher), student)


@pytest.mark.parametrize('loss', LOSSES)
def test_no_gradient_reaches_the_teacher(loss):
    student, teacher = make_pair()
    student.requires_grad_()
    teacher.requires_grad_()
    loss(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad.abs().max() > 1e-3
    assert not loss(student.detach(), teacher).requires_grad


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('loss', LOSSES)
def test_identical_inputs_cost_exactly_nothing(loss, dtype):
    student = make_tokens(3, 9, 33, dtype=dtype)
    value, grad = value_and_grad(loss, student, student.clone())
    assert value.item() == 0
    assert (grad == 0).all()


@pytest.mark.parametrize('loss', LOSSES)
def test_one_superpixel_has_no_relations(loss):
    value, grad = value_and_grad(loss, *make_pair(2, 1, 4, 6))
    assert value.item() == 0
    assert (grad == 0).all()


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('offset', [0.0, 0.1, 1.0, 100.0])
@pytest.mark.parametrize(('loss', 'reference'), WITH_REFERENCE)
def test_a_student_that_collapsed_gets_no_gradient(
    loss, reference, offset, dtype
):
    point = make_tokens(2, 1, 37, dtype=dtype) + offset
    student = point.expand(2, 7, 37)
    teacher = make_tokens(2, 7, 5, dtype=dtype, seed=2)
    value, grad = value_and_grad(loss, student, teacher)
    assert_matches(value, reference(student, teacher))
    assert (grad == 0).all()


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('loss', LOSSES)
def test_two_collapsed_sides_agree(loss, dtype):
    student = make_tokens(2, 1, 37, dtype=dtype).expand(2, 7, 37)
    teacher = make_tokens(2, 1, 5, dtype=dtype, seed=2).expand(2, 7, 5)
    value, grad = value_and_grad(loss, student, teacher)
    assert value.item() == 0
    assert (grad == 0).all()


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize(('loss', 'reference'), WITH_REFERENCE)
@pytest.mark.parametrize('side', ['student', 'teacher', 'both'])
def test_coincident_tokens_count_as_zero(side, loss, reference, dtype):
    student, teacher = make_pair(2, 6, 19, 7, dtype=dtype)
    for name, tokens in (('student', student), ('teacher', teacher)):
        if side in (name, 'both'):
            tokens[0, 5] = tokens[0, 1]
            tokens[1, 4] = tokens[1, 0]
            tokens[1, 3] = tokens[1, 0]
    value, grad = value_and_grad(loss, student, teacher)
    expected, expected_grad = value_and_grad(
        reference, student.double(), teacher.double()
    )
    assert_matches(value, expected)
    assert_matches(grad, expected_grad)


@pytest.mark.parametrize('loss', LOSSES)
def test_coincident_tokens_get_equal_gradients(loss):
    # Neither pushes the other: with the same surroundings and the same
    # relations asked of them they move together.
    student, teacher = make_pair(1, 6, 5, 5, dtype=torch.float32)
    student[0, 4] = student[0, 2]
    teacher[0, 4] = teacher[0, 2]
    _, grad = value_and_grad(loss, student, teacher)
    assert grad[0, 2].abs().max() > 1e-3
    torch.testing.assert_close(grad[0, 4], grad[0, 2])


@pytest.mark.parametrize('loss', LOSSES)
def test_tokens_one_rounding_apart_count_as_coincident(loss):
    # The direction between them is noise. Its gradient, a thousand times
    # that of other tokens, would be the spike of a clamped square root.
    student, teacher = make_pair(24, 8, 64, 64, dtype=torch.float32)
    student[:, 5] = student[:, 1]
    value, grad = value_and_grad(loss, student, teacher)
    towards = make_tokens(24, 64, dtype=torch.float32, seed=3)
    student[:, 5] = torch.nextafter(student[:, 1], towards)
    assert (student[:, 5] != student[:, 1]).any(-1).all()
    near_value, near_grad = value_and_grad(loss, student, teacher)
    torch.testing.assert_close(near_value, value, rtol=1e-4, atol=0)
    torch.testing.assert_close(
        near_grad, grad, rtol=0, atol=1e-2 * grad.abs().max().item()
    )


@pytest.mark.parametrize('loss', LOSSES)
def test_a_large_common_offset_is_harmless_in_float32(loss):
    # Exact in float32, and far beyond what uncentred squares can carry.
    student, teacher = make_pair(2, 7, 6, 6)
    student, teacher = (
        x.mul(16).round().div(16).float() for x in (student, teacher)
    )
    value, grad = value_and_grad(loss, student, teacher)
    far_value, far_grad = value_and_grad(loss, student + 4096, teacher - 8192)
    torch.testing.assert_close(far_value, value, rtol=1e-3, atol=0)
    torch.testing.assert_close(
        far_grad, grad, rtol=0, atol=1e-3 * grad.abs().max().item()
    )


@pytest.mark.parametrize('impl', ['reference', 'chunked'])
@pytest.mark.parametrize('loss', LOSSES)
def test_small_differences_far_from_the_origin_are_differences(loss, impl):
    # Of 768 channels, four differ between tokens, by some 4e-6; the sum is
    # exact.
    teacher = make_tokens(1, 9, 768, dtype=torch.float32, seed=2)
    near = torch.zeros(1, 9, 768)
    near[..., :4] = make_tokens(1, 9, 4).mul(2).round() * 2**-19
    value, grad = value_and_grad(loss, near, teacher, impl=impl)
    far_value, far_grad = value_and_grad(loss, near + 1, teacher, impl=impl)
    torch.testing.assert_close(far_value, value, rtol=1e-4, atol=0)
    torch.testing.assert_close(
        far_grad, grad, rtol=0, atol=1e-4 * grad.abs().max().item()
    )


@pytest.mark.parametrize('side', ['student', 'teacher'])
@pytest.mark.parametrize(('loss', 'reference'), WITH_REFERENCE)
def test_neighbours_a_hundredth_apart_are_told_apart(loss, reference, side):
    # Two tight groups: subtracting Gram entries loses most digits here.
    centres = torch.tensor([-1.0, 1.0]).repeat_interleave(4)[None, :, None]
    grouped = centres + 0.01 * make_tokens(2, 8, 32, dtype=torch.float32)
    plain = make_tokens(2, 8, 32, dtype=torch.float32, seed=2)
    pair = (grouped, plain) if side == 'student' else (plain, grouped)
    value, grad = value_and_grad(loss, *pair)
    expected, expected_grad = value_and_grad(
        reference, *(x.double() for x in pair)
    )
    assert_matches(value, expected)
    torch.testing.assert_close(
        grad.double(),
        expected_grad,
        rtol=0,
        atol=2e-3 * expected_grad.abs().max().item(),
    )


def _signs(*shape, seed):
    return make_tokens(*shape, seed=seed).sign()


EXTREMES = [
    *((torch.float32, scale) for scale in (1e-20, 1e-12, 1e9, 1e18)),
    (torch.float32, torch.finfo(torch.float32).max),
    (torch.float16, torch.finfo(torch.float16).max),
    (torch.bfloat16, torch.finfo(torch.bfloat16).max),
    (torch.bfloat16, 1e-20),
]


@pytest.mark.parametrize(('dtype', 'scale'), EXTREMES)
@pytest.mark.parametrize('kind', ['signs', 'normal', 'teacher-plain'])
@pytest.mark.parametrize(('loss', 'reference'), WITH_REFERENCE)
def test_extreme_scales_are_as_good_as_any(
    loss, reference, kind, dtype, scale
):
    make = _signs if kind == 'signs' else make_tokens
    student, teacher = (make(2, 6, 40, seed=s) for s in (1, 2))
    student = (student / student.abs().max() * scale).to(dtype)
    teacher = teacher / teacher.abs().max()
    if kind != 'teacher-plain':
        teacher = teacher * scale
    teacher = teacher.to(dtype)
    value, grad = value_and_grad(loss, student, teacher)
    assert grad.isfinite().all()
    expected, expected_grad = value_and_grad(
        reference, student.double(), teacher.double()
    )
    assert_matches(value, expected)
    if expected_grad.abs().max() > 1e3 * torch.finfo(dtype).tiny:
        assert_matches(grad, expected_grad)


@pytest.mark.parametrize('normalize', ['image', 'batch'])
@pytest.mark.parametrize('spread', [1e2, 1e18])
def test_images_of_one_batch_may_differ_in_scale(spread, normalize):
    student, teacher = make_pair(3, 5, 4, 4, dtype=torch.float32)
    scales = torch.tensor([1 / spread, 1.0, spread])[:, None, None]
    student = student * scales
    value, grad = value_and_grad(
        distance_loss, student, teacher, normalize=normalize
    )
    expected, expected_grad = value_and_grad(
        distance_loss_reference,
        student.double(),
        teacher.double(),
        normalize=normalize,
    )
    assert value.isfinite()
    assert grad.isfinite().all()
    if normalize == 'image' or spread < 1e18:
        assert_matches(value, expected)
        for b in range(3):
            assert_matches(grad[b], expected_grad[b])


@TINY
@given(
    dtype=st.sampled_from(
        [torch.float32, torch.float16, torch.bfloat16, torch.float64]
    ),
    data=st.data(),
    size=st.integers(1, 5),
    channels=st.integers(1, 3),
)
@pytest.mark.parametrize('loss', LOSSES)
def test_any_finite_input_gives_finite_numbers(
    loss, dtype, data, size, channels
):
    # Zeros, ties, tiny and largest values beside each other.
    top = torch.finfo(dtype).max
    small = 1e-3 if dtype == torch.float16 else 1e-20
    entry = st.sampled_from([0.0, small, -small, 1.0, -1.0, 3.0, top, -top])

    def draw():
        entries = st.lists(
            entry, min_size=size * channels, max_size=size * channels
        )
        flat = torch.tensor(data.draw(entries), dtype=torch.float64)
        return flat.view(1, size, channels).to(dtype)

    value, grad = value_and_grad(loss, draw(), draw())
    assert value.isfinite()
    assert 0 <= value.item() <= size
    assert grad.isfinite().all()


def _rotation(channels, seed):
    return torch.linalg.qr(make_tokens(channels, channels, seed=seed))[0]


@TINY
@given(
    batch=st.integers(1, 3),
    size=st.integers(2, 6),
    shift=st.floats(-50, 50),
    log_scale=st.floats(-4, 4),
    seed=st.integers(0, 1000),
)
@pytest.mark.parametrize('side', [0, 1], ids=['student', 'teacher'])
@pytest.mark.parametrize('loss', LOSSES)
def test_moving_turning_and_scaling_a_side_changes_nothing(
    loss, side, batch, size, shift, log_scale, seed
):
    pair = [
        make_tokens(batch, size, 4, seed=seed),
        make_tokens(batch, size, 5, seed=seed + 1),
    ]
    before = loss(*pair)
    channels = pair[side].shape[-1]
    scales = 10**log_scale * torch.arange(1.0, batch + 1)[:, None, None]
    shifts = shift * make_tokens(batch, 1, channels, seed=seed + 2)
    rotation = _rotation(channels, seed + 3)
    pair[side] = scales * (pair[side] @ rotation) + shifts
    torch.testing.assert_close(loss(*pair), before, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize('normalize', ['image', 'batch'])
def test_a_common_scale_drops_out_of_both_normalisations(normalize):
    student, teacher = make_pair()
    before = distance_loss(student, teacher, normalize)
    torch.testing.assert_close(
        distance_loss(student * 70, teacher / 9, normalize), before
    )


@pytest.mark.parametrize('loss', LOSSES)
def test_gradient_neither_moves_nor_scales_the_superpixels(loss):
    student, teacher = make_pair(2, 6, 5, 7)
    _, grad = value_and_grad(loss, student + 3, teacher)
    zeros = torch.zeros(2, 5, dtype=torch.float64)
    torch.testing.assert_close(grad.sum(1), zeros)
    torch.testing.assert_close(
        (grad * student).sum((1, 2)), torch.zeros(2, dtype=torch.float64)
    )


@TINY
@given(order=st.permutations(range(6)))
@pytest.mark.parametrize('loss', LOSSES)
def test_relabelling_both_sides_changes_nothing(loss, order):
    student, teacher = make_pair()
    value, grad = value_and_grad(loss, student, teacher)
    relabelled, relabelled_grad = value_and_grad(
        loss, student[:, order], teacher[:, order]
    )
    torch.testing.assert_close(relabelled, value)
    torch.testing.assert_close(relabelled_grad, grad[:, order])


@pytest.mark.parametrize('loss', LOSSES)
def test_relabelling_one_side_does_matter(loss):
    student, teacher = make_pair()
    before = loss(student, teacher)
    after = loss(student, teacher.roll(1, dims=1))
    assert abs(after - before) > 1e-3


@pytest.mark.parametrize('batch', [1, 2, 5])
@pytest.mark.parametrize('loss', LOSSES)
def test_a_batch_is_the_mean_of_its_images(loss, batch):
    student, teacher = make_pair(batch, 6, 4, 9)
    student = student * torch.arange(1, batch + 1)[:, None, None]
    value, grad = value_and_grad(loss, student, teacher)
    images = [
        value_and_grad(loss, student[b : b + 1], teacher[b : b + 1])
        for b in range(batch)
    ]
    torch.testing.assert_close(
        value, torch.stack([v for v, _ in images]).mean()
    )
    torch.testing.assert_close(grad, torch.cat([g for _, g in images]) / batch)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize('loss', LOSSES)
def test_autocast_changes_nothing(loss, dtype):
    # Strongly correlated tokens are what bfloat16 products cannot resolve.
    student, teacher = make_pair(2, 9, 16, 8)
    student, teacher = (1 + x / 10 for x in (student, teacher))
    student = student.to(dtype).requires_grad_()
    teacher = teacher.to(dtype)
    outside = loss(student, teacher)
    (grad_outside,) = torch.autograd.grad(outside, student)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        inside = loss(student, teacher)
    (grad_inside,) = torch.autograd.grad(inside, student)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, outside)
    assert torch.equal(grad_inside, grad_outside)


@pytest.mark.parametrize('loss', LOSSES)
def test_a_half_teacher_goes_with_a_float32_student(loss):
    student, teacher = make_pair(dtype=torch.float32)
    teacher = teacher.half()
    value = loss(student, teacher)
    assert value.dtype == torch.float32
    assert torch.equal(value, loss(student, teacher.float()))


class LargestTensor(TorchDispatchMode):
    """Records the most elements that one operation hands back."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_flatten(out)[0]:
            if isinstance(leaf, torch.Tensor):
                self.numel = max(self.numel, leaf.numel())
        return out


@pytest.mark.parametrize('loss', LOSSES)
def test_no_loss_forms_differences_between_tokens(loss):
    batch, size, channels = 2, 20, 512
    student, teacher = make_pair(
        batch, size, channels, channels, dtype=torch.float32
    )
    student.requires_grad_()
    with LargestTensor() as largest:
        loss(student, teacher).backward()
    assert student.grad.abs().max() > 0
    # The relations of each image are there, the differences are not.
    assert largest.numel >= batch * size**2
    assert largest.numel < batch * size**2 * channels


def test_the_memory_proxy_sees_differences():
    student = make_tokens(2, 20, 16).requires_grad_()
    with LargestTensor() as largest:
        (student[:, None] - student[:, :, None]).square().sum().backward()
    assert largest.numel == 2 * 20 * 20 * 16


@pytest.mark.parametrize('loss', LOSSES)
def test_the_inputs_are_left_as_they_were(loss):
    student, teacher = make_pair()
    copies = student.clone(), teacher.clone()
    loss(student, teacher)
    assert torch.equal(student, copies[0])
    assert torch.equal(teacher, copies[1])


@pytest.mark.parametrize(
    ('student', 'teacher'),
    [((2, 6, 4), (2, 5, 4)), ((3, 5, 4), (2, 5, 4)), ((1, 5, 4), (7, 5, 4))],
    ids=str,
)
@pytest.mark.parametrize('loss', LOSSES)
def test_sides_that_do_not_pair_up_are_refused(loss, student, teacher):
    with pytest.raises(ValueError, match='student') as error:
        loss(torch.zeros(student), torch.zeros(teacher))
    message = str(error.value)
    assert 'teacher' in message
    differing = next(
        pair for pair in zip(student, teacher) if pair[0] != pair[1]
    )
    assert all(str(size) in message for size in differing)


@pytest.mark.parametrize('shape', [(5, 4), (5,), (1, 2, 5, 4)], ids=str)
@pytest.mark.parametrize('loss', LOSSES)
def test_superpixels_need_three_axes(loss, shape):
    with pytest.raises(ValueError, match='B, K, C') as error:
        loss(torch.zeros(shape), torch.zeros(shape))
    assert str(tuple(shape)) in str(error.value)


@pytest.mark.parametrize('loss', LOSSES)
def test_superpixels_that_are_no_floats_are_refused(loss):
    integers = torch.zeros(1, 3, 2, dtype=torch.int64)
    with pytest.raises(TypeError, match='int64'):
        loss(integers, torch.zeros(1, 3, 2))
    with pytest.raises(TypeError, match='int64'):
        loss(torch.zeros(1, 3, 2), integers)


def test_an_unknown_normalisation_is_answered_with_the_known_ones():
    student, teacher = make_pair()
    with pytest.raises(ValueError, match='channel') as error:
        distance_loss(student, teacher, normalize='channel')
    assert 'image' in str(error.value)
    assert 'batch' in str(error.value)


def test_an_implementation_that_the_distance_loss_lacks_is_refused():
    student, teacher = make_pair()
    with pytest.raises(ValueError, match="'auto'.*'chunked'.*got 'fast'"):
        distance_loss(student, teacher, impl='fast')
    for impl in ('chunked', 'triton'):
        with pytest.raises(ValueError, match="'image', got 'batch'.*refer"):
            distance_loss(student, teacher, 'batch', impl=impl)


@pytest.mark.parametrize('noise', [1e-3, 1e-4, 1e-5])
@pytest.mark.parametrize('impl', ['reference', 'chunked'])
def test_relations_within_tight_clusters_are_no_noise(noise, impl):
    centres = torch.tensor([-1.0, 1.0]).repeat_interleave(4)[None, :, None]
    student = centres + noise * make_tokens(1, 8, 32, dtype=torch.float32)
    teacher = make_tokens(1, 8, 32, dtype=torch.float32, seed=2)
    distance = distance_loss(student, teacher, impl=impl)
    expected = distance_loss_reference(student, teacher, 'image')
    torch.testing.assert_close(distance.double(), expected, rtol=1e-5, atol=0)
    angle = angle_loss(student, teacher, impl=impl)
    expected = angle_loss_reference(student, teacher)
    # Cosines between clusters lose what float32 tokens have lost.
    torch.testing.assert_close(
        angle.double(), expected, rtol=1e-7 / noise + 1e-5, atol=0
    )


@pytest.mark.parametrize('scale', [1e-20, 1.0, 1e18])
@pytest.mark.parametrize('loss', LOSSES)
def test_equal_tokens_of_many_channels_are_coincident(loss, scale):
    # The sums over channels are not rounded alike in all pairs.
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        entry = torch.rand(1, 1, 1, generator=generator)
        student = (entry * scale).expand(1, 6, 768).contiguous()
        teacher = make_tokens(1, 6, 6, dtype=torch.float32, seed=seed)
        value, grad = value_and_grad(loss, student, teacher)
        other, _ = value_and_grad(loss, torch.zeros(1, 6, 1), teacher)
        assert value == other
        assert (grad == 0).all()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize('loss', LOSSES)
def test_half_tokens_one_rounding_apart_count_as_coincident(loss, dtype):
    student, teacher = make_pair(4, 6, 16, 16, dtype=dtype)
    student[:, 5] = student[:, 1]
    value, grad = value_and_grad(loss, student, teacher)
    # The last bit of one entry.
    step = torch.zeros_like(student)
    step[:, 5, 0] = torch.finfo(dtype).eps * student[:, 5, 0].abs() / 2
    moved = student + step
    moved = torch.where(moved == student, student + 2 * step, moved)
    assert (moved != student).any(-1)[:, 5].all()
    near_value, near_grad = value_and_grad(loss, moved, teacher)
    torch.testing.assert_close(near_value, value, rtol=1e-2, atol=0)
    torch.testing.assert_close(
        near_grad, grad, rtol=0, atol=0.05 * grad.abs().max().item()
    )


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(('loss', 'reference'), WITH_REFERENCE)
def test_half_tokens_are_compared_beside_a_large_one(loss, reference, dtype):
    """As where a network gives a few tokens far larger entries."""
    student, teacher = make_pair(2, 12, 16, 16, dtype=dtype)
    student[0, 3, 5] = 3000
    teacher[1, 2, 7] = -3000
    value, grad = value_and_grad(loss, student, teacher)
    expected, expected_grad = value_and_grad(
        reference, student.double(), teacher.double()
    )
    assert_matches(value, expected)
    assert_matches(grad, expected_grad)


@pytest.mark.parametrize('impl', ['reference', 'chunked'])
def test_sides_on_two_devices_are_refused(impl):
    student = torch.zeros(1, 4, 3)
    with pytest.raises(ValueError, match='on one device, got cpu and meta'):
        angle_loss(student, student.to('meta'), impl)
    with pytest.raises(ValueError, match='on one device, got cpu and meta'):
        distance_loss(student, student.to('meta'), impl=impl)
