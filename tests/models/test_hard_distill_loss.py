# Copyright (c) The serkd_mm authors. All rights reserved.
"""Hard distillation against the cross-entropy worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from mmrazor.registry import MODELS
from torch import nn

STUDENT = [[1.0, 2.0, 0.5], [-1.0, 0.0, 3.0]]
TEACHER = [[9.0, -4.0, 0.0], [1.0, 2.0, 1.5]]
# What the teacher decides, first of equal ones.
DECISIONS = [0, 1]


def build(loss_weight: float = 1.0) -> nn.Module:
    return MODELS.build(
        dict(
            type='HardDistillLoss', _scope_='mmrazor', loss_weight=loss_weight
        )
    )


def by_hand() -> float:
    losses = [
        math.log(sum(math.exp(z) for z in row)) - row[label]
        for row, label in zip(STUDENT, DECISIONS)
    ]
    return sum(losses) / len(losses)


@pytest.mark.parametrize('weight', [1.0, 0.5])
def test_the_value_is_the_one_worked_out_by_hand(weight: float) -> None:
    loss = build(weight)(torch.tensor(STUDENT), torch.tensor(TEACHER))

    assert float(loss) == pytest.approx(weight * by_hand(), rel=1e-6)


def test_only_the_teachers_decision_matters() -> None:
    student, teacher = torch.randn(4, 7), torch.randn(4, 7)
    decided = 100 * nn.functional.one_hot(teacher.argmax(1), 7).float()

    loss = build()

    assert torch.equal(loss(student, teacher), loss(student, decided))


def test_the_gradient_is_softmax_less_the_decision() -> None:
    student = torch.tensor(STUDENT, requires_grad=True)
    teacher = torch.tensor(TEACHER, requires_grad=True)

    (3 * build()(student, teacher)).backward()

    target = nn.functional.one_hot(torch.tensor(DECISIONS), 3)
    expected = 3 * (student.detach().softmax(1) - target) / 2
    torch.testing.assert_close(student.grad, expected)
    assert teacher.grad is None


def test_it_stays_in_float32_under_autocast() -> None:
    student = torch.randn(4, 7)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        loss = build()(student.bfloat16(), torch.randn(4, 7).bfloat16())

    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)


@pytest.mark.parametrize(
    ('student', 'teacher'),
    [((2, 10), (2, 1000)), ((2, 10), (3, 10)), ((2, 10, 4), (2, 10, 4))],
)
def test_other_classes_are_refused_with_both_shapes(
    student: tuple, teacher: tuple
) -> None:
    with pytest.raises(ValueError, match='the same classes') as error:
        build()(torch.zeros(student), torch.zeros(teacher))
    assert f'{student} and {teacher}' in str(error.value)


def test_no_images_have_no_loss() -> None:
    with pytest.raises(ValueError, match=r'one image at least.*\(0, 10\)'):
        build()(torch.zeros(0, 10), torch.zeros(0, 10))
