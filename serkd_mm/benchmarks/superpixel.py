# Copyright (c) The serkd_mm authors. All rights reserved.
"""Superpixel tokens against the unfold/fold form of super token sampling."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from ..functional import superpixel
from . import straightforward
from .measure import (
    PROCESSES,
    Options,
    Run,
    interleaved,
    peak_memory,
    timing_cells,
)
from .report import Goal, Report, Table, bars

BASELINE = 'unfold/fold'
VARIANTS = (BASELINE, 'dense', 'local', 'auto')
# (B, side of the token map, C)
SHAPES = [
    (64, 14, 192),
    (64, 14, 768),
    (16, 28, 192),
    (16, 28, 768),
    (8, 56, 192),
    (4, 56, 768),
]
QUICK = [(2, 4, 8), (1, 8, 8)]
GRID_SIZE = (2, 2)
ROUNDS = 7
# One page, in MiB.
SMALL = 1 / 256


def run(options: Options) -> Report:
    """Time and memory of superpixel_tokens."""
    report = Report('superpixel', options)
    rows = []
    for shape in QUICK if options.quick else SHAPES:
        for differentiable in (True, False):
            rows += _compare(report, shape, differentiable)
    report.tables.append(Table('superpixel_tokens, forward + backward', rows))
    for row in rows:
        _add_goals(report, row)
    report.notes += [
        'One attention iteration in float32, cells of 2x2 tokens; tokens '
        '(B, N, C) in, superpixels (B, K, C) out. Ratio: median and '
        'quartiles of the ratio to unfold/fold in the same round.',
        "gradient through Q: 'yes' is the default of superpixel_tokens, "
        "'no' the public behaviour of super token sampling.",
        'Extra memory is the peak above the tokens and the gradient that '
        'comes from above, the gradient of the tokens included; on a CPU the '
        f'median of {PROCESSES} processes.',
    ]
    report.draw = partial(_draw, rows)
    return report


def prepare(
    variant: str,
    shape: tuple[int, int, int],
    differentiable: bool,
    device: str,
) -> Run:
    """Tokens of a shape and one forward and backward over them.

    Args:
        variant: Baseline, or what ``impl`` takes.
        shape: ``(B, side, C)``.
        differentiable: Whether gradients flow through the association.
        device: Where to.
    """
    batch, side, width = shape
    tokens = torch.randn(batch, side**2, width, device=device).requires_grad_()
    num = -(-side // GRID_SIZE[0]) * -(-side // GRID_SIZE[1])
    above = torch.randn(batch, num, width, device=device)
    function: Any = straightforward.superpixel_tokens
    if variant != BASELINE:
        function = partial(superpixel.superpixel_tokens, impl=variant)

    def forward_backward() -> None:
        tokens.grad = None
        function(
            tokens,
            (side, side),
            grid_size=GRID_SIZE,
            differentiable_assignment=differentiable,
        ).backward(above)

    return forward_backward


def _compare(
    report: Report, shape: tuple[int, int, int], differentiable: bool
) -> list[dict[str, Any]]:
    options = report.options
    rows: list[dict[str, Any]] = []
    name = f'({shape[0]}, {shape[1]}x{shape[1]}, {shape[2]})'
    arguments: dict[str, dict[str, Any]] = {
        variant: dict(
            variant=variant,
            shape=shape,
            differentiable=differentiable,
            device=options.device,
        )
        for variant in VARIANTS
    }
    runs = {v: prepare(**a) for v, a in arguments.items()}
    times = interleaved(runs, options.rounds(ROUNDS), options)
    runs.clear()
    through = 'yes' if differentiable else 'no'
    report.data[f'{name} gradient through Q: {through}, ms'] = times
    for variant in VARIANTS:
        memory = peak_memory(
            prepare, arguments[variant], options, dict(shape=(1, 4, 8))
        )
        rows.append({
            'shape': name,
            'gradient through Q': through,
            'variant': variant,
            **timing_cells(times, variant, BASELINE, variant),
            'extra MiB': memory.extra,
            'memory ratio': memory.extra
            / max(rows[0]['extra MiB'] if rows else memory.extra, SMALL),
        })  # fmt: skip
    return rows


def _add_goals(report: Report, row: dict[str, Any]) -> None:
    """Goals are those of ``impl='auto'``."""
    if row['variant'] != 'auto':
        return
    where = f'at {row["shape"]}, gradient through Q: '
    where += row['gradient through Q']
    bound = 4.0 if '14x14' in row['shape'] else 1.0
    speed = Goal(f'speed of auto over {BASELINE} {where}', bound, row['ratio'])
    memory = Goal(
        f'extra memory of auto over that of {BASELINE} {where}',
        1.0,
        row['memory ratio'],
        at_least=False,
    )
    report.goals += [speed, memory]


def _draw(rows: list[dict[str, Any]], figure: Any) -> None:
    axes = figure.subplots(1, 2)
    for axis, through in zip(axes, ('yes', 'no')):
        mine = [r for r in rows if r['gradient through Q'] == through]
        bars(axis, mine, 'shape', log=True)
        axis.set_title(f'gradient through Q: {through}')
