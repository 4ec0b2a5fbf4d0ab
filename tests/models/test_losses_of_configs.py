# Copyright (c) The serkd_mm authors. All rights reserved.
"""The methods' losses, set as in our configs, beside their equations."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmrazor.registry import MODELS
from torch import Tensor, nn

from tests.references import (
    angle_loss_reference,
    distance_loss_reference,
    rkd_angle,
    rkd_distance,
)

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'


def loss_of(config: str, name: str) -> nn.Module:
    cfg = Config.fromfile(CONFIGS / config)
    settings = cfg.model.distiller.distill_losses[name]
    return MODELS.build(dict(settings, _scope_='mmrazor'))


def assert_same(
    loss: nn.Module, student: Tensor, expected: Tensor, teacher: Tensor
) -> None:
    """Value and gradient of a loss and of what it should be."""
    leaf = student.detach().clone().requires_grad_()
    actual = loss(preds_S=leaf, preds_T=teacher)
    actual.backward()
    (gradient,) = torch.autograd.grad(expected, student)

    torch.testing.assert_close(actual.double(), expected.double())
    torch.testing.assert_close(
        leaf.grad, gradient, rtol=1e-4, atol=1e-4 * float(gradient.abs().max())
    )


@pytest.mark.parametrize(
    'config',
    ['methods/rkd_deit-ti.py', 'cnn/rkd_resnet101_resnet18_8xb32_in1k.py'],
)
@pytest.mark.parametrize(
    ('name', 'weight', 'slow', 'authors'),
    [
        ('loss_distance', 25, distance_loss_reference, rkd_distance),
        ('loss_angle', 50, angle_loss_reference, rkd_angle),
    ],
)
def test_rkd_compares_all_images_of_the_batch(
    config: str, name: str, weight: int, slow: object, authors: object
) -> None:
    student = torch.randn(6, 5, requires_grad=True)
    teacher = torch.randn(6, 9)
    # Of unit length, as in MMRazor's configs.
    ours, theirs = (
        nn.functional.normalize(x, dim=1) for x in (student, teacher)
    )

    # The tokens of one image are here the images of one batch.
    expected = weight * slow(ours[None], theirs[None])
    torch.testing.assert_close(
        expected.float(), weight * authors(ours, theirs)
    )
    assert_same(loss_of(config, name), student, expected, teacher)


@pytest.mark.parametrize('name', ['loss_distance', 'loss_angle'])
def test_rkd_of_images_that_are_alike_keeps_its_digits_under_autocast(
    name: str,
) -> None:
    """MMRazor's own take the products in bfloat16.

    The gradient of their distances is off by about a tenth here, that of
    their angles by less than a hundredth.
    """
    student = (torch.randn(8, 32) + 4).requires_grad_()
    teacher = torch.randn(8, 64) + 4
    loss = loss_of('methods/rkd_deit-ti.py', name)
    expected = loss(student, teacher)
    (gradient,) = torch.autograd.grad(expected, student)

    with torch.autocast('cpu', dtype=torch.bfloat16):
        actual = loss(student, teacher)
    (under_autocast,) = torch.autograd.grad(actual, student)

    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(under_autocast, gradient)


def softened(logits: Tensor, tau: float) -> Tensor:
    """Probabilities of one image at a temperature."""
    powers = torch.stack([torch.exp(z / tau) for z in logits.double()])
    return powers / powers.sum()


@pytest.mark.parametrize(
    ('config', 'tau', 'weight'),
    [
        ('methods/kd_deit-ti.py', 1.0, 1.0),
        ('methods/soft_deit-ti.py', 3.0, 0.1),
        ('methods/soft_regnety-16gf_deit-ti.py', 3.0, 0.1),
        ('cnn/kd_resnet101_resnet18_8xb32_in1k.py', 1.0, 1.0),
    ],
)
def test_soft_distillation_is_the_divergence_of_both_sides(
    config: str, tau: float, weight: float
) -> None:
    student = (2 * torch.randn(4, 7)).requires_grad_()
    teacher = 2 * torch.randn(4, 7)

    expected = student.double().sum() * 0
    for ours, theirs in zip(student, teacher):
        p, q = softened(theirs, tau), softened(ours, tau)
        divergence = sum(a * (a.log() - b.log()) for a, b in zip(p, q))
        expected = expected + weight * tau**2 * divergence / len(student)

    assert_same(loss_of(config, 'loss_kd'), student, expected, teacher)


@pytest.mark.parametrize(
    'config', ['methods/hard_deit-ti.py', 'methods/cskd_deit-ti.py']
)
def test_hard_distillation_is_the_cross_entropy_of_the_decision(
    config: str,
) -> None:
    student = (2 * torch.randn(4, 7)).requires_grad_()
    teacher = 2 * torch.randn(4, 7)

    expected = student.double().sum() * 0
    for ours, theirs in zip(student, teacher):
        decision = max(range(7), key=lambda c: float(theirs[c]))
        expected = expected - softened(ours, 1.0)[decision].log()
    expected = 0.5 * expected / len(student)

    assert math.isfinite(float(expected))
    assert_same(loss_of(config, 'loss_kd'), student, expected, teacher)
