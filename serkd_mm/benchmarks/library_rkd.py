# Copyright (c) The serkd_mm authors. All rights reserved.
"""RKD between images by the libraries that offer it, and by ours."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from mmrazor.models.losses import AngleWiseRKD, DistanceWiseRKD
from torch import Tensor

from ..models.losses import InstanceAngleLoss, InstanceDistanceLoss
from . import straightforward
from .libraries import HOST, OURS, TORCHDISTILL, installed
from .measure import Run, interleaved, peak_memory, timing_cells
from .relation import Loss, evaluate
from .report import Report, Table

# (images, student channels, teacher channels)
Shape = tuple[int, int, int]
SHAPES = [(128, 384, 768), (512, 384, 768)]
QUICK_SHAPES = [(8, 16, 24)]
# Of distances and angles; torchdistill's own example.
WEIGHTS = (1.0, 2.0)
ROUNDS = 7


def rkd_loss(variant: str) -> Loss:
    """RKD of a library: ``(B, Cs)`` and ``(B, Ct)`` to the weighted sum.

    Embeddings are brought to unit length first, which torchdistill leaves to
    its user.
    """
    distance, angle = WEIGHTS
    if variant == TORCHDISTILL:
        from torchdistill.losses.mid_level import RKDLoss

        loss = RKDLoss('.', '.', distance, angle, 'mean')
        return lambda student, teacher: loss(
            {'.': dict(output=F.normalize(student))},
            {'.': dict(output=F.normalize(teacher))},
        )
    types = {
        OURS: (InstanceDistanceLoss, InstanceAngleLoss),
        HOST: (DistanceWiseRKD, AngleWiseRKD),
    }[variant]
    losses = [make(loss_weight=w) for make, w in zip(types, WEIGHTS)]
    return lambda student, teacher: sum(
        (loss(student, teacher) for loss in losses), student.new_zeros(())
    )


def exact_rkd(student: Tensor, teacher: Tensor) -> Tensor:
    """The same from difference tensors."""
    sides = [F.normalize(side).unsqueeze(0) for side in (student, teacher)]
    distance, angle = WEIGHTS
    return distance * straightforward.distance_loss(
        *sides
    ) + angle * straightforward.angle_loss(*sides)


def prepare_rkd(variant: str, shape: Shape, device: str) -> Run:
    """One forward and backward over embeddings."""
    loss = rkd_loss(variant)
    student, teacher = _embeddings(shape, device)
    student.requires_grad_()

    def forward_backward() -> None:
        student.grad = None
        loss(student, teacher).backward()

    return forward_backward


def _embeddings(shape: Shape, device: str) -> list[Tensor]:
    """Student and teacher side, on any device the same."""
    generator = torch.Generator().manual_seed(0)
    num, *widths = shape
    return [
        torch.randn(num, c, generator=generator).to(device) for c in widths
    ]


def rkd_table(report: Report) -> Table:
    """Time, memory and errors of each library."""
    options = report.options
    names = [HOST, *installed(TORCHDISTILL), OURS]
    rows = []
    for shape in QUICK_SHAPES if options.quick else SHAPES:
        common: dict[str, Any] = dict(shape=shape, device=options.device)
        runs = {n: prepare_rkd(n, **common) for n in names}
        times = interleaved(runs, options.rounds(ROUNDS), options)
        runs.clear()
        report.data[f'RKD {shape} ms'] = times
        embeddings = _embeddings(shape, options.device)
        value, grad = evaluate(exact_rkd, [e.double() for e in embeddings])
        for name in names:
            memory = peak_memory(
                prepare_rkd,
                dict(common, variant=name),
                options,
                warm=dict(shape=(4, *shape[1:])),
            )
            found, slope = evaluate(rkd_loss(name), embeddings)
            rows.append({
                '(B, Cs, Ct)': str(shape),
                'variant': name,
                **timing_cells(times, name, name, OURS),
                'extra MiB': memory.extra,
                'error of value': float((found / value - 1).abs()),
                'error of gradient': float(
                    (slope - grad).abs().max() / grad.abs().max()
                ),
            })  # fmt: skip
    return Table('RKD between images, forward + backward', rows)
