# Copyright (c) The serkd_mm authors. All rights reserved.
"""The losses against values worked out by hand and the functions."""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest
import torch
from mmrazor.registry import MODELS
from torch import Tensor, nn

from serkd_mm import functional
from serkd_mm.models import (
    InstanceAngleLoss,
    InstanceDistanceLoss,
    TokenAngleLoss,
    TokenDistanceLoss,
    TokenFeatureLoss,
)
from serkd_mm.models.losses.check_count import check_images

# A right angle against a straight line, legs 3 and 4 against 1 and 1.
RIGHT_ANGLE = torch.tensor([[[3.0, 0.0], [0.0, 0.0], [0.0, 4.0]]])
LINE = torch.tensor([[[1.0, 0.0, 0.0], [2.0, 0.0, 0.0], [3.0, 0.0, 0.0]]])


def huber(difference: float) -> float:
    size = abs(difference)
    return size**2 / 2 if size < 1 else size - 0.5


def distance_by_hand() -> float:
    """Distances 3, 4, 5 (mean 4) against 1, 1, 2 (mean 4 / 3)."""
    pairs = ((3, 1), (4, 1), (5, 2))
    of_one_order = sum(huber(s / 4 - t / (4 / 3)) for s, t in pairs)
    return 2 * of_one_order / 9


def angle_by_hand() -> float:
    """Cosines at each vertex; the pair (i, i) has cosine 1 on both sides."""
    vertices = ((3 / 5, 1), (0, -1), (4 / 5, 1))
    return sum(2 * huber(s - t) for s, t in vertices) / 27


def build(name: str, **settings: float | str) -> nn.Module:
    return MODELS.build(dict(type=name, _scope_='mmrazor', **settings))


@pytest.mark.parametrize('impl', ['auto', 'reference', 'chunked'])
def test_the_distance_loss_has_the_value_worked_out_by_hand(impl: str) -> None:
    loss = build('TokenDistanceLoss', impl=impl)(RIGHT_ANGLE, LINE)

    assert float(loss) == pytest.approx(distance_by_hand(), rel=1e-5)


@pytest.mark.parametrize('impl', ['auto', 'reference', 'chunked'])
def test_the_angle_loss_has_the_value_worked_out_by_hand(impl: str) -> None:
    loss = build('TokenAngleLoss', impl=impl)(RIGHT_ANGLE, LINE)

    assert float(loss) == pytest.approx(angle_by_hand(), rel=1e-5)


def test_settings_reach_the_distance_function() -> None:
    student, teacher = torch.randn(3, 5, 4), torch.randn(3, 5, 6)
    student[0] *= 10

    for normalize in ('image', 'batch'):
        loss = TokenDistanceLoss(normalize=normalize)(student, teacher)
        expected = functional.distance_loss(
            student, teacher, normalize=normalize
        )
        assert torch.equal(loss, expected)
    assert not torch.equal(
        loss, TokenDistanceLoss(normalize='image')(student, teacher)
    )


@pytest.mark.parametrize(
    ('cls', 'name'),
    [
        (TokenDistanceLoss, 'distance_loss'),
        (TokenAngleLoss, 'angle_loss'),
        (InstanceDistanceLoss, 'distance_loss'),
        (InstanceAngleLoss, 'angle_loss'),
    ],
)
def test_a_relation_is_computed_as_the_setting_says(
    cls: type[nn.Module], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    function, named = getattr(functional, name), []
    signature = inspect.signature(function)

    def noted(*args: Any, **kwargs: Any) -> Tensor:
        named.append(signature.bind(*args, **kwargs).arguments['impl'])
        return function(*args, **kwargs)

    monkeypatch.setattr(f'{cls.__module__}.{name}', noted)
    for impl in ('reference', 'chunked'):
        cls(impl=impl)(torch.randn(4, 3, 5), torch.randn(4, 3, 6))

    assert named == ['reference', 'chunked']


@pytest.mark.parametrize('cls', [TokenDistanceLoss, TokenAngleLoss])
@pytest.mark.parametrize('weight', [0.0, 0.5, 3.0])
def test_the_weight_scales_relation_loss_and_gradient(
    cls: type[nn.Module], weight: float
) -> None:
    teacher = torch.randn(2, 6, 3)
    student = torch.randn(2, 6, 4, requires_grad=True)
    plain, weighted = cls()(student, teacher), cls(weight)(student, teacher)

    torch.testing.assert_close(weighted, weight * plain)
    (grad,) = torch.autograd.grad(plain, student)
    (weighted_grad,) = torch.autograd.grad(weighted, student)
    torch.testing.assert_close(weighted_grad, weight * grad)
    assert grad.abs().sum() > 0


@pytest.mark.parametrize('cls', [TokenDistanceLoss, TokenAngleLoss])
def test_relation_losses_pass_the_errors_of_their_function_on(
    cls: type[nn.Module],
) -> None:
    with pytest.raises(ValueError, match=r'\(2, 6\) and \(2, 5\)') as error:
        cls()(torch.randn(2, 6, 4), torch.randn(2, 5, 4))
    assert 'grid_size' in str(error.value)


@pytest.mark.parametrize(
    ('name', 'settings', 'needed'),
    [
        ('TokenDistanceLoss', dict(normalize='image'), 3),
        ('TokenDistanceLoss', dict(normalize='batch'), 2),
        ('TokenAngleLoss', dict(impl='reference'), 3),
        ('TokenAngleLoss', dict(impl='chunked'), 3),
    ],
)
def test_as_many_tokens_as_have_a_relation_are_needed(
    name: str, settings: dict, needed: int
) -> None:
    loss = build(name, **settings)
    student, teacher = torch.randn(2, needed, 4), torch.randn(2, needed, 5)
    assert float(loss(student, teacher)) > 1e-4

    fewer = needed - 1
    with pytest.raises(
        ValueError, match=f'{name} needs K >= {needed} .* got K = {fewer} '
    ):
        loss(student[:, :fewer], teacher[:, :fewer])


def test_unknown_settings_are_refused_where_they_are_used() -> None:
    tokens = torch.randn(1, 3, 2)
    with pytest.raises(ValueError, match="got 'pair'"):
        TokenDistanceLoss(normalize='pair')(tokens, tokens)
    for cls in (TokenDistanceLoss, InstanceDistanceLoss):
        with pytest.raises(ValueError, match="got 'fast'"):
            cls(impl='fast')
    with pytest.raises(ValueError, match="'image', got 'batch'"):
        TokenDistanceLoss(normalize='batch', impl='triton')
    with pytest.raises(ValueError, match="'magic'"):
        TokenAngleLoss(impl='magic')(tokens, tokens)


# -- feature loss -----------------------------------------------------------


def feature_loss(weight: float = 1.0) -> TokenFeatureLoss:
    """Projection (x, y) -> (x + 2y + 1, -y)."""
    loss = TokenFeatureLoss(2, 2, loss_weight=weight)
    with torch.no_grad():
        loss.projection.weight.copy_(torch.tensor([[1.0, 2.0], [0.0, -1.0]]))
        loss.projection.bias.copy_(torch.tensor([1.0, 0.0]))
    return loss


STUDENT = torch.tensor([[[1.0, 1.0], [0.0, 2.0]]])
# Projected to (4, -1) and (5, -2): errors 1, 0, 3 and 2.
TEACHER = torch.tensor([[[3.0, -1.0], [2.0, 0.0]]])


@pytest.mark.parametrize('weight', [1.0, 0.25])
def test_the_feature_loss_has_the_value_worked_out_by_hand(
    weight: float,
) -> None:
    loss = feature_loss(weight)(STUDENT, TEACHER)

    assert float(loss) == pytest.approx(weight * (1 + 0 + 9 + 4) / 4)


def test_the_projection_learns_what_the_teacher_computes() -> None:
    student = torch.randn(8, 9, 4)
    teacher = student @ torch.randn(4, 6) + torch.randn(6)
    loss = TokenFeatureLoss(4, 6)
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.5)
    values = []
    for _ in range(200):
        value = loss(student, teacher)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(float(value))

    assert values[0] > 1
    assert values[-1] < 1e-3


def test_the_feature_loss_trains_the_student_and_never_the_teacher() -> None:
    student = STUDENT.clone().requires_grad_()
    teacher = TEACHER.clone().requires_grad_()

    feature_loss()(student, teacher).backward()

    assert student.grad is not None
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


@pytest.mark.parametrize(
    ('student', 'teacher', 'advice'),
    [
        ((1, 4, 3), (1, 4, 6), 'set student_channels=3'),
        ((1, 4, 5), (1, 4, 7), 'set teacher_channels=7'),
    ],
)
def test_a_wrong_width_says_what_to_set(
    student: tuple, teacher: tuple, advice: str
) -> None:
    with pytest.raises(ValueError, match=advice):
        TokenFeatureLoss(5, 6)(torch.zeros(student), torch.zeros(teacher))


def test_the_feature_loss_takes_no_maps() -> None:
    maps = torch.randn(2, 6, 4, 6)
    with pytest.raises(ValueError, match=r'student tokens must .*\(B, N, C\)'):
        TokenFeatureLoss(6, 6)(maps, maps)


def test_other_token_counts_are_refused_with_both_shapes() -> None:
    with pytest.raises(ValueError, match='same token grid') as error:
        TokenFeatureLoss(5, 6)(torch.zeros(2, 4, 5), torch.zeros(2, 9, 6))
    assert '(2, 4, 5) and (2, 9, 6)' in str(error.value)


# -- mixed precision --------------------------------------------------------


@pytest.mark.parametrize(
    'loss', [InstanceDistanceLoss, InstanceAngleLoss], ids=lambda c: c.__name__
)
def test_losses_between_images_speak_of_images(loss: type) -> None:
    with pytest.raises(
        ValueError, match='the student recorded 1 and the teacher 4'
    ):
        loss()(torch.randn(1, 8), torch.randn(4, 8))
    many = torch.randn(257, 8)
    with pytest.raises(
        ValueError, match=r"\(impl='triton'\) takes up to 256 images per proc"
    ):
        loss(impl='triton')(many, many)
    as_many_as_fit = many[None, :256]
    check_images(loss(), as_many_as_fit, as_many_as_fit, 'triton')


def losses() -> list[tuple[nn.Module, int]]:
    return [
        (TokenFeatureLoss(16, 8), 8),
        (TokenDistanceLoss(), 16),
        (TokenAngleLoss(), 16),
    ]


@pytest.mark.parametrize('index', range(3))
def test_losses_are_float32_and_finite_under_autocast(index: int) -> None:
    loss, width = losses()[index]
    # Strongly correlated tokens, whose distances bfloat16 would lose.
    student = (10 + 0.1 * torch.randn(2, 9, 16)).requires_grad_()
    teacher = 10 + 0.1 * torch.randn(2, 9, width)
    plain = loss(student, teacher)

    with torch.autocast('cpu', dtype=torch.bfloat16):
        value = loss(student, teacher)
    value.backward()

    assert value.dtype == torch.float32
    assert math.isfinite(float(value))
    assert float(value) == pytest.approx(float(plain), rel=0.02)
    assert isinstance(student.grad, Tensor)
    assert torch.isfinite(student.grad).all()
