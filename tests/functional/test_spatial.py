# Copyright (c) The serkd_mm authors. All rights reserved.
"""CSKD's mathematics: class scores of every position."""

from __future__ import annotations

import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from serkd_mm.functional import (
    dense_logits,
    local_weight,
    spatial_distill_loss,
)
from serkd_mm.models import CSKDLoss, HardDistillLoss
from tests.references import DTYPES, assert_matches, cskd_reference

TARGETS = ['hard', 'soft']


def reference(
    student: Tensor, teacher: Tensor, grid: tuple[int, int], *args: object
) -> Tensor:
    """CSKD of logits: classifiers that hand on what they are given."""
    as_it_is = torch.eye(student.shape[-1]).double()
    nothing = torch.zeros(student.shape[-1]).double()
    return cskd_reference(
        student.unflatten(1, grid),
        teacher.transpose(1, 2).unflatten(2, grid),
        (as_it_is, nothing),
        (as_it_is, nothing),
        *args,
    )


# -- against the paper's equations ------------------------------------------


@pytest.mark.parametrize('target', TARGETS)
@pytest.mark.parametrize('alpha', [0.0, 0.3, 1.0])
@pytest.mark.parametrize('grid', [(2, 3), (1, 1)])
@pytest.mark.parametrize('dtype', DTYPES)
def test_value_and_gradient_are_the_papers(
    target: str, alpha: float, grid: tuple[int, int], dtype: torch.dtype
) -> None:
    shape = (2, grid[0] * grid[1], 5)
    student = (3 * torch.randn(shape)).to(dtype).requires_grad_()
    teacher = (3 * torch.randn(shape)).to(dtype).requires_grad_()
    leaf = student.detach().double().requires_grad_()

    actual = spatial_distill_loss(student, teacher, alpha, target, 2.0)
    expected = reference(leaf, teacher, grid, alpha, target, 2.0)
    (3 * actual).backward()
    (3 * expected).backward()

    assert actual.dtype == torch.promote_types(dtype, torch.float32)
    assert_matches(actual, expected)
    assert_matches(student.grad, leaf.grad)
    assert teacher.grad is None


def test_logits_of_every_position_are_the_classifiers() -> None:
    classifier = torch.nn.Linear(4, 3)
    tokens = torch.randn(2, 6, 4)

    logits = dense_logits(tokens, classifier.weight, classifier.bias)

    for b in range(2):
        for n in range(6):
            torch.testing.assert_close(logits[b, n], classifier(tokens[b, n]))
    without = dense_logits(tokens, classifier.weight)
    torch.testing.assert_close(without, logits - classifier.bias)


@pytest.mark.parametrize('autocast', [True, False])
def test_logits_have_the_precision_of_the_weight(autocast: bool) -> None:
    tokens = torch.full((1, 2, 4), 300.0).half()
    weight = torch.full((3, 4), 300.0)

    with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        logits = dense_logits(tokens, weight)

    # Which half precision does not reach.
    assert torch.equal(logits, torch.full((1, 2, 3), 360_000.0))


# -- degenerate cases that are known losses ---------------------------------


def test_one_position_makes_deits_hard_distillation() -> None:
    student, teacher = torch.randn(4, 1, 7), torch.randn(4, 1, 7)

    loss = spatial_distill_loss(student, teacher, alpha=0.4)

    known = HardDistillLoss()(student[:, 0], teacher[:, 0])
    torch.testing.assert_close(loss, known)


def test_one_position_makes_the_soft_distillation_of_hinton() -> None:
    student, teacher = torch.randn(4, 1, 7), torch.randn(4, 1, 7)

    loss = spatial_distill_loss(student, teacher, 0.4, 'soft', tau=3.0)

    known = 9 * F.kl_div(
        (student[:, 0] / 3).log_softmax(1),
        (teacher[:, 0] / 3).softmax(1),
        reduction='batchmean',
    )
    torch.testing.assert_close(loss, known)


def test_at_the_end_every_position_learns_the_teachers_own_logits() -> None:
    head = torch.nn.Linear(6, 5)
    maps = torch.randn(3, 6, 2, 2)
    whole_image = head(F.adaptive_avg_pool2d(maps, 1).flatten(1))
    local = dense_logits(
        maps.flatten(2).transpose(1, 2), head.weight, head.bias
    )
    student = torch.randn(3, 4, 5)

    loss = spatial_distill_loss(student, local, alpha=0.0)

    everywhere = whole_image.argmax(1).repeat_interleave(4)
    expected = F.cross_entropy(student.flatten(0, 1), everywhere)
    torch.testing.assert_close(loss, expected)


# -- invariants -------------------------------------------------------------


@pytest.mark.parametrize('target', TARGETS)
def test_the_order_of_the_positions_does_not_matter(target: str) -> None:
    student, teacher = torch.randn(2, 6, 5), torch.randn(2, 6, 5)
    order = torch.randperm(6)

    loss = spatial_distill_loss(student, teacher, 0.7, target)
    other = spatial_distill_loss(
        student[:, order], teacher[:, order], 0.7, target
    )

    torch.testing.assert_close(loss, other)


@pytest.mark.parametrize('target', TARGETS)
def test_a_constant_added_to_all_classes_does_not_matter(target: str) -> None:
    student, teacher = torch.randn(2, 6, 5), torch.randn(2, 6, 5)

    loss = spatial_distill_loss(student, teacher, 0.7, target)
    other = spatial_distill_loss(student + 3, teacher - 2, 0.7, target)

    torch.testing.assert_close(loss, other)


def test_the_soft_loss_of_the_blend_itself_is_zero() -> None:
    teacher = torch.randn(2, 6, 5).double()
    blend = 0.3 * teacher + 0.7 * teacher.mean(1, keepdim=True)

    loss = spatial_distill_loss(blend, teacher, 0.3, 'soft', tau=2.0)

    assert abs(float(loss)) < 1e-12


@pytest.mark.parametrize('target', TARGETS)
def test_autocast_does_not_change_the_loss(target: str) -> None:
    student, teacher = torch.randn(2, 6, 5), 50 * torch.randn(2, 6, 5)

    expected = spatial_distill_loss(student, teacher, 0.7, target)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        loss = spatial_distill_loss(student, teacher, 0.7, target)

    assert torch.isfinite(loss)
    assert torch.equal(loss, expected)


def test_the_gradient_is_the_numerical_one() -> None:
    student = torch.randn(2, 3, 4).double().requires_grad_()
    teacher = torch.randn(2, 3, 4).double()
    for target in TARGETS:
        assert torch.autograd.gradcheck(
            lambda x, t=target: spatial_distill_loss(x, teacher, 0.4, t, 2.0),
            student,
        )


# -- the schedule -----------------------------------------------------------


@pytest.mark.parametrize(
    ('schedule', 'half'),
    [('linear', 0.5), ('square', 0.25), ('cos', math.sqrt(0.5))],
)
def test_the_local_weight_falls_from_one_to_zero(
    schedule: str, half: float
) -> None:
    weights = [local_weight(i / 10, schedule) for i in range(11)]

    assert weights[0] == 1
    assert weights[5] == pytest.approx(half)
    assert weights[10] == pytest.approx(0, abs=1e-15)
    assert all(a > b for a, b in zip(weights, weights[1:]))


# -- mistakes ---------------------------------------------------------------


@pytest.mark.parametrize('progress', [-0.1, 1.1, float('nan')])
def test_a_progress_that_is_no_share_is_refused(progress: float) -> None:
    with pytest.raises(ValueError, match=r'in \[0, 1\], got ' + str(progress)):
        local_weight(progress)


def test_an_unknown_schedule_or_target_is_refused() -> None:
    with pytest.raises(ValueError, match="'square', 'cos'], got 'step'"):
        local_weight(0.5, 'step')
    logits = torch.zeros(1, 2, 3)
    with pytest.raises(ValueError, match="'hard', 'soft'], got 'mean'"):
        spatial_distill_loss(logits, logits, target='mean')


@pytest.mark.parametrize(
    ('student', 'teacher'),
    [
        ((2, 196, 10), (2, 49, 10)),
        ((2, 49, 10), (2, 49, 1000)),
        ((2, 10), (2, 10)),
    ],
)
def test_other_positions_or_classes_are_refused(
    student: tuple, teacher: tuple
) -> None:
    with pytest.raises(ValueError, match='must both be') as error:
        spatial_distill_loss(torch.zeros(student), torch.zeros(teacher))

    assert f'{student} and {teacher}' in str(error.value)
    assert 'FeatureMapTokenizer' in str(error.value)


def test_tokens_of_another_width_than_the_classifiers_are_refused() -> None:
    for shape in ((2, 9, 32), (9, 64)):
        message = rf'\(B, N, 64\) tokens, got shape {re.escape(str(shape))}'
        with pytest.raises(ValueError, match=message):
            dense_logits(torch.zeros(shape), torch.zeros(10, 64))
    with pytest.raises(ValueError, match=r'\(classes, C\), got shape \(32,\)'):
        dense_logits(torch.zeros(2, 9, 32), torch.zeros(32))
    for shape in ((3,), (9, 10)):
        with pytest.raises(ValueError, match=r'bias must be \(10,\), one for'):
            dense_logits(
                torch.zeros(2, 9, 32), torch.zeros(10, 32), torch.zeros(shape)
            )


@pytest.mark.parametrize('alpha', [-0.1, 2.0, float('nan')])
def test_a_weight_that_is_no_share_is_refused(alpha: float) -> None:
    logits = torch.zeros(1, 2, 3)
    with pytest.raises(ValueError, match=rf'alpha must .* got {alpha}'):
        spatial_distill_loss(logits, logits, alpha=alpha)


@pytest.mark.parametrize('tau', [0.0, -1.0, float('inf'), float('nan')])
def test_a_temperature_is_positive(tau: float) -> None:
    logits = torch.zeros(1, 2, 3)
    message = f'tau must be a positive number, got {tau}'
    with pytest.raises(ValueError, match=message):
        spatial_distill_loss(logits, logits, target='soft', tau=tau)
    with pytest.raises(ValueError, match=message):
        CSKDLoss(tau=tau)


@pytest.mark.parametrize('alpha', ['1', None, True])
def test_a_weight_that_is_no_number_is_refused(alpha: object) -> None:
    logits = torch.zeros(1, 2, 3)
    with pytest.raises(TypeError, match=f'alpha must be a nu.*got {alpha!r}'):
        spatial_distill_loss(logits, logits, alpha=alpha)
    with pytest.raises(TypeError, match='progress must be a number'):
        local_weight(alpha)
    with pytest.raises(TypeError, match='tau must be a number'):
        CSKDLoss(tau=alpha)


def test_a_class_that_is_ruled_out_is_never_the_decision() -> None:
    student = torch.randn(2, 4, 3)
    teacher = torch.tensor([2.0, 1.0, -math.inf]).expand(2, 4, 3)
    first = torch.tensor([9.0, 0.0, 0.0]).expand(2, 4, 3)
    for alpha in (0.0, 0.5, 1.0):
        loss = spatial_distill_loss(student, teacher, alpha)
        assert torch.equal(loss, spatial_distill_loss(student, first, alpha))


def test_a_teacher_without_a_decision_has_no_loss() -> None:
    student, teacher = torch.zeros(2, 4, 3), torch.zeros(2, 4, 3)
    teacher[1, 2, 0] = math.nan
    for target in ('hard', 'soft'):
        assert spatial_distill_loss(student, teacher, target=target).isnan()
    assert HardDistillLoss()(student[1], teacher[1]).isnan()


@pytest.mark.parametrize('thing', [None, [torch.zeros(1, 2, 3)]])
def test_what_is_no_tensor_is_named(thing: object) -> None:
    logits = torch.zeros(1, 2, 3)
    kind = type(thing).__name__
    with pytest.raises(TypeError, match=f'teacher logits must .* got {kind}'):
        spatial_distill_loss(logits, thing)
    with pytest.raises(TypeError, match=f'tokens must be a .* got {kind}'):
        dense_logits(thing, torch.zeros(3, 3))
    with pytest.raises(TypeError, match=f'student logits must .* got {kind}'):
        HardDistillLoss()(thing, logits[0])


def test_no_images_and_integers_are_refused() -> None:
    none, whole = torch.zeros(0, 2, 3), torch.zeros(1, 2, 3).long()
    with pytest.raises(ValueError, match='student logits must be a non-empty'):
        spatial_distill_loss(none, none)
    with pytest.raises(TypeError, match='student logits must be floating'):
        spatial_distill_loss(whole, whole)
