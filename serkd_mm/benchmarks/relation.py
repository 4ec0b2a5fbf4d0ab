# Copyright (c) The serkd_mm authors. All rights reserved.
"""Relation losses against the forms that others write."""

from __future__ import annotations

from functools import partial
from typing import Any, Callable

import torch
from torch import Tensor

from ..functional import relation
from ..ops import select_impl
from ..ops.relation_fused import RELATIONS, distances
from . import straightforward
from .ceilings import against_ceilings
from .growth import add_growth
from .measure import (
    PROCESSES,
    Options,
    Run,
    available_memory,
    interleaved,
    peak_memory,
    quartiles,
    timing_cells,
)
from .report import NO_CUDA, Goal, Report, Table

Shape = tuple[int, int, int, int]
Loss = Callable[[Tensor, Tensor], Tensor]

BASELINE, PRODUCTS = 'straightforward', 'products'
SHAPES = [(128, 49, 192, 768), (128, 49, 384, 768), (8, 196, 192, 768)]
LARGE = (128, 196, 192, 768)
QUICK = [(2, 9, 8, 16), (2, 16, 8, 16), (1, 25, 8, 16)]
ROUNDS = 7


def run(options: Options) -> Report:
    """Time, memory, errors and growth of the relation losses."""
    report = Report('relation', options)
    shapes = QUICK if options.quick else SHAPES
    angle = _compare(report, 'angle_loss', shapes)
    _compare(report, 'distance_loss', shapes[1:2])
    large = (1, 36, 8, 16) if options.quick else LARGE
    memory = _memory('angle_loss', fastest(options), large, options).extra
    report.tables.append(Table('Large batch', [
        dict(shape=_name(large), variant=fastest(options),
             **{'extra MiB': memory}),
        dict(shape='K = 196', variant='difference tensors, float16 (paper)',
             **{'extra MiB': '17.73 GB'}),
    ]))  # fmt: skip
    report.tables.append(_errors(options))
    limits = against_ceilings(
        options, fastest(options), [shape[:2] for shape in shapes[1:]]
    )
    report.tables.append(limits)
    _goals(report, angle, shapes[1:], limits.rows, memory)
    _cuda_goals(report, limits.rows[0]['measured / least'])
    # The reference is left out: its K^3 cosines tell nothing new.
    fast = [v for v in variants(options)[1:] if v != 'reference']
    add_growth(report, partial(_prepared, options), fast)
    report.notes += [
        'Forward and backward of the student side in float32; shapes are '
        '(B, K, Cs, Ct), tokens are normal. A timing is the mean of as many '
        f'calls as last {options.shortest:g} ms, all variants once a round. '
        'Ratio: median and quartiles of the ratio to straightforward in the '
        'same round.',
        'straightforward: differences (B, K, K, C), for angles normalised and '
        'multiplied as the authors of relational knowledge distillation write '
        'it. products: distances as they write them, |a|^2 + |b|^2 - 2 ab, '
        "per image in one batched product. 'images at once' says whether "
        'memory forced a loop over parts of the batch.',
        'Ceilings: float32 matrix product in full precision, one instruction '
        'per multiply-add; in-place addition within the caches; copy beyond '
        'them. The least time is the largest of the three. On CUDA the sums '
        'are timed as a graph, without launches.',
        'Extra memory is the peak above the two token tensors, the gradient '
        f'included; on a CPU the median of {PROCESSES} processes.',
    ]
    return report


def prepare(
    loss: str, variant: str, shape: Shape, device: str, images: int
) -> Run:
    """Tokens of a shape and one forward and backward over them.

    Args:
        loss: ``'angle_loss'`` or ``'distance_loss'``.
        variant: Straightforward, from products (distances alone), or what
            ``impl`` takes.
        shape: ``(B, K, Cs, Ct)``.
        device: Where to.
        images: How many images at once.
    """
    function = select(loss, variant)
    batch, num, *widths = shape
    tokens = [torch.randn(batch, num, c, device=device) for c in widths]
    student, teacher = tokens[0].requires_grad_(), tokens[1]

    def forward_backward() -> None:
        student.grad = None
        for s, t in zip(student.split(images), teacher.split(images)):
            (function(s, t) * (len(s) / batch)).backward()

    return forward_backward


def select(loss: str, variant: str) -> Loss:
    """The function of a variant."""
    if variant == BASELINE:
        return getattr(straightforward, loss)
    if variant == PRODUCTS:
        return partial(straightforward.distance_loss, products=True)
    return partial(getattr(relation, loss), impl=variant)


def variants(options: Options, loss: str = 'angle_loss') -> list[str]:
    """Baseline first."""
    found = [BASELINE, 'reference', 'chunked']
    if loss == 'distance_loss':
        found.insert(1, PRODUCTS)
    return [*found, 'triton'] if fastest(options) == 'triton' else found


def fastest(options: Options) -> str:
    """What ``impl='auto'`` takes on this device."""
    tokens = torch.empty(1, 3, 1, device=options.device)
    return select_impl('auto', tokens)


def images_at_once(variant: str, shape: Shape, device: str) -> int:
    """Images whose differences fit into half of the memory."""
    batch, num, student, teacher = shape
    if variant != BASELINE:
        return batch
    if device == 'cuda':  # what earlier variants have let go of
        torch.cuda.empty_cache()
    # Live at a time: about 7 tensors of the student or 3 of the teacher.
    image = 4 * num**2 * max(7 * student, 3 * teacher)
    return max(1, min(batch, available_memory(device) // 2 // image))


def _arguments(
    loss: str, variant: str, shape: Shape, options: Options
) -> dict[str, Any]:
    return dict(
        loss=loss,
        variant=variant,
        shape=shape,
        device=options.device,
        images=images_at_once(variant, shape, options.device),
    )


def _prepared(
    options: Options, variant: str, shape: Shape
) -> tuple[Run, float]:
    """Angle loss of a shape, ready to be timed, and its extra MiB."""
    run = prepare(**_arguments('angle_loss', variant, shape, options))
    return run, _memory('angle_loss', variant, shape, options).extra


def _memory(loss: str, variant: str, shape: Shape, options: Options) -> Any:
    arguments = _arguments(loss, variant, shape, options)
    warm = dict(shape=(1, 4, *shape[2:]))
    return peak_memory(prepare, arguments, options, warm)


def _compare(report: Report, loss: str, shapes: list[Shape]) -> dict:
    """Add the table of a loss; returns the rows by shape and variant."""
    options, rows, found = report.options, [], {}
    for shape in shapes:
        names = variants(options, loss)
        arguments = {n: _arguments(loss, n, shape, options) for n in names}
        runs = {name: prepare(**arguments[name]) for name in names}
        repeats = options.rounds(ROUNDS)
        times = interleaved(runs, repeats, options)
        runs.clear()
        report.data[f'{loss} {_name(shape)} ms'] = times
        for name in names:
            memory = _memory(loss, name, shape, options)
            row = _row(shape, name, times, memory.extra)
            row['images at once'] = arguments[name]['images']
            rows.append(row)
            found[shape, name] = row
    report.tables.append(Table(f'{loss}, forward + backward', rows))
    return found


def _row(shape: Shape, name: str, times: dict, memory: float) -> dict:
    return {
        'shape': _name(shape),
        'variant': name,
        **timing_cells(times, name, BASELINE, name),
        'extra MiB': memory,
    }


def _goals(
    report: Report,
    rows: dict,
    shapes: list[Shape],
    limits: list[dict[str, Any]],
    large: float,
) -> None:
    """Bounds of speed at some shapes, whose limits are given, and memory."""
    options, fast = report.options, fastest(report.options)
    bounds = [40.0] if options.device == 'cuda' else [80.0, 25.0]
    for shape, bound, least in zip(shapes, bounds, limits):
        goal = Goal(
            f'speed of {fast} over {BASELINE} at {_name(shape)}',
            bound,
            rows[shape, fast]['ratio'],
        )
        goal.reason = (
            f'{distance_milliseconds(shape, options):.3g} ms for the '
            f'distances and {least["measured ms"]:.3g} ms for the sums over '
            f'triples (at least {_least(least):.3g} ms) are in its time'
        )
        report.goals.append(goal)
    middle = rows[shapes[0], fast]
    for name, bound, memory in (
        (middle['shape'], 64.0, middle['extra MiB']),
        (_name(LARGE), 1024.0, large),
    ):
        what = f'extra memory of {fast} at {name}'
        goal = Goal(what, bound, memory, unit=' MiB', at_least=False)
        report.goals.append(goal)


def _cuda_goals(report: Report, over_least: float) -> None:
    kernel = 'time of the triton kernel over what binds it on its device'
    if report.options.device == 'cuda':
        goal = Goal(kernel, 2.0, over_least, at_least=False)
        if fastest(report.options) != 'triton':
            goal.measured = None
            goal.reason = 'Triton or the C compiler that it needs is missing'
        report.goals.append(goal)
        return
    speed = f'speed of triton over {BASELINE} at {_name(SHAPES[1])}, CUDA'
    report.goals += [
        Goal(speed, 40.0, None, reason=NO_CUDA),
        Goal(kernel, 2.0, None, at_least=False, reason=NO_CUDA),
    ]


def distance_milliseconds(shape: Shape, options: Options) -> float:
    """Median time of both sides' distances in a fast path."""
    batch, num, *widths = shape
    student, teacher = (
        torch.randn(batch, num, c, device=options.device) for c in widths
    )
    measure = RELATIONS[f'angle_{fastest(options)}'].measure

    def both() -> None:
        distances((student, teacher), torch.float32, measure)

    times = interleaved({'distances': both}, options.rounds(15), options)
    return quartiles(times['distances'])['median']


def _least(limit: dict[str, Any]) -> float:
    return limit['measured ms'] / limit['measured / least']


def _errors(options: Options) -> Table:
    """Deviations from float64 difference tensors."""
    shape = (2, 9, 8, 16) if options.quick else (4, 49, 384, 768)
    generator = torch.Generator().manual_seed(0)
    batch, num, *widths = shape
    tokens = [
        torch.randn(batch, num, c, generator=generator).to(options.device)
        for c in widths
    ]
    rows = []
    for loss in ('angle_loss', 'distance_loss'):
        exact = [t.double() for t in tokens]
        value, grad = evaluate(select(loss, BASELINE), exact)
        for name in variants(options, loss):
            found, slope = evaluate(select(loss, name), tokens)
            rows.append({
                'loss': loss,
                'variant': name,
                'relative error of value': float((found / value - 1).abs()),
                'largest error of gradient over largest entry': float(
                    (slope - grad).abs().max() / grad.abs().max()
                ),
            })  # fmt: skip
    title = f'float32 against float64 difference tensors at {_name(shape)}'
    return Table(title, rows)


def evaluate(loss: Loss, sides: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Value and gradient of the student's side, the first, as float64."""
    student = sides[0].clone().requires_grad_()
    value = loss(student, sides[1])
    (grad,) = torch.autograd.grad(value, student)
    return value.detach().double(), grad.double()


def _name(shape: Shape) -> str:
    return f'({", ".join(map(str, shape))})'
