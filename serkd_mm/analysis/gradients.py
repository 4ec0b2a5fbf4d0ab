# Copyright (c) The serkd_mm authors. All rights reserved.
"""How hard every loss pulls at what the student's recorders caught."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.model import BaseModel
from mmrazor.models.distillers import ConfigurableDistiller
from torch import Tensor, nn

from .findings import LossTerm, PairReport


def measure_losses(
    losses: dict[str, Tensor],
    distiller: ConfigurableDistiller,
    student: BaseModel,
    report: PairReport,
) -> None:
    """Note values, weights and the gradients at the student's tokens.

    Args:
        losses: Losses by their name in the log.
        distiller: The distiller, its records still there.
        student: The student.
        report: Takes what is found.
    """
    targets = _targets(distiller)
    idle = []
    for name, loss in losses.items():
        gradients = dict.fromkeys(targets, 0.0)
        if targets and loss.requires_grad:
            found = torch.autograd.grad(
                loss,
                list(targets.values()),
                retain_graph=True,
                allow_unused=True,
            )
            for recorder, gradient in zip(targets, found):
                if gradient is not None:
                    gradients[recorder] = float(gradient.norm())
        value = float(loss)
        if not math.isfinite(value):
            report.problem(_key(name), f'{name} is {value} on random images')
            continue
        endless = [k for k, v in gradients.items() if not math.isfinite(v)]
        if endless:
            report.problem(
                _key(name),
                f'{name} has no finite gradient at {", ".join(endless)} on '
                'random images',
            )
            continue
        if not any(gradients.values()):
            idle.append(name)
        module = _module(name, distiller, student)
        weight = getattr(module, 'loss_weight', None)
        report.losses.append(LossTerm(name, weight, value, gradients))
    if idle:
        report.notes.append(
            f'No gradient from {", ".join(idle)} at {", ".join(targets)} in '
            'the first step: weights in between are zero (a new head) or '
            'frozen, or it does not depend on them.'
        )


@contextmanager
def parameters_without_gradient(
    module: nn.Module,
) -> Iterator[dict[nn.Parameter, str]]:
    """Find the parameters that the losses of training steps do not reach.

    Args:
        module: What is trained in the context.

    Yields:
        Names of the trainable parameters, each until it gets a gradient.
    """
    missing = {
        parameter: name
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }

    def reach(parameter: nn.Parameter) -> None:
        missing.pop(parameter, None)

    handles = [p.register_post_accumulate_grad_hook(reach) for p in missing]
    try:
        yield missing
    finally:
        for handle in handles:
            handle.remove()


def scalar(loss: Tensor | list[Tensor]) -> Tensor:
    """A loss as MMEngine adds it up: means, summed over a list."""
    if isinstance(loss, Tensor):
        return loss.mean()
    return torch.stack([part.mean() for part in loss]).sum()


def _key(name: str) -> str:
    """Where the config has what computes a loss."""
    own = name.removeprefix('distill.')
    if own != name:
        return f'model.distiller.distill_losses.{own}'
    return 'model.architecture.head'


def _module(
    name: str, distiller: ConfigurableDistiller, student: BaseModel
) -> nn.Module | None:
    """What computes a loss."""
    own = name.removeprefix('distill.')
    if own in distiller.distill_losses:
        return distiller.distill_losses[own]
    return getattr(getattr(student, 'head', None), 'loss_module', None)


def _targets(distiller: ConfigurableDistiller) -> dict[str, Tensor]:
    """Student's recorded tokens; all that it records where none are."""
    records = {
        name: recorder.data_buffer[0]
        for name, recorder in distiller.student_recorders.recorders.items()
        if recorder.data_buffer
    }
    firsts = {
        name: value[0] if isinstance(value, (tuple, list)) else value
        for name, value in records.items()
    }
    learned = {
        name: value
        for name, value in firsts.items()
        if isinstance(value, Tensor) and value.requires_grad
    }
    tokens = {k: v for k, v in learned.items() if v.dim() > 2}
    return tokens or learned
