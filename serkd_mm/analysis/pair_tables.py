# Copyright (c) The serkd_mm authors. All rights reserved.
"""A check of a pair as tables for a terminal and as JSON."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..number_text import number_text
from .choose import by
from .findings import PairReport, Step

MAX_WIDTH = 100


def show_pair(report: PairReport, console: Console | None = None) -> None:
    """Print a report, at most 100 columns wide."""
    if console is None:
        width = min(shutil.get_terminal_size((88, 24)).columns, MAX_WIDTH)
        console = Console(width=width, highlight=False)
    size = by(report.size)
    console.print(
        Text(f'{report.config}: {report.batch_size} random images, {size}')
    )
    for table in _tables(report):
        if table.row_count:
            console.print()
            console.print(table)
    if report.notes:
        console.print('\nNotes')
    for note in report.notes:
        console.print(_entry('-', note))
    if report.fits:
        console.print('\nEverything fits.')
        return
    count = len(report.problems)
    plural = 's' if count > 1 else ''
    console.print(f'\n{count} PROBLEM{plural.upper()}, by the key to change')
    for problem in report.problems:
        console.print(_entry('!', f'{problem.key}\n{problem.message}'))


def save_pair(report: PairReport, path: Path) -> None:
    """Write a report as JSON."""
    content: dict[str, Any] = dict(fits=report.fits, **asdict(report))
    if report.step is not None:
        content['step'].update(
            images_per_second=report.step.images_per_second,
            epoch_seconds=report.step.epoch_seconds,
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + '\n')


def _tables(report: PairReport) -> Iterator[Table]:
    yield _networks(report)
    yield _records(report)
    yield _tokens(report)
    yield _losses(report)
    if report.step is not None:
        yield _step(report.step)


def _networks(report: PairReport) -> Table:
    table = _table('Networks', 'side', 'backbone', 'weights')
    table.columns[2].overflow = 'fold'
    table.add_column('parameters', justify='right')
    table.add_column('FLOPs', justify='right')
    for cost in report.networks:
        flops = 'unknown' if cost.flops is None else _metric(cost.flops)
        _row(
            table,
            cost.side,
            cost.name,
            cost.weights,
            _metric(cost.parameters),
            flops,
        )
    return table


def _records(report: PairReport) -> Table:
    table = _table('Recorded', 'side', 'recorder', 'source', 'shape')
    for record in report.records:
        _row(
            table,
            record.side,
            record.recorder,
            record.source,
            _shape(record.shape),
        )
    return table


def _tokens(report: PairReport) -> Table:
    table = _table('Connected', 'connector', 'of', 'prefix')
    for name in ('grid', 'superpixels', 'shape'):
        table.add_column(name)
    for tokens in report.tokens:
        grid, superpixels = tokens.grid, tokens.superpixels
        _row(
            table,
            tokens.connector,
            f'{tokens.side} {tokens.recorder}',
            '-' if tokens.prefix is None else str(tokens.prefix),
            by(grid) if grid else '-',
            f'{by(superpixels)} = {superpixels[0] * superpixels[1]}'
            if superpixels
            else '-',
            _shape(tokens.shape),
        )
    return table


def _losses(report: PairReport) -> Table:
    recorders = report.losses[0].gradients if report.losses else {}
    random = any(c.weights.startswith('RANDOM') for c in report.networks)
    with_random = ' with a RANDOM teacher' if random else ''
    title = f'Losses{with_random}; weights included, gradients as norms'
    table = _table(title, 'loss')
    for name in ('weight', 'value'):
        table.add_column(name, justify='right')
    for name in recorders:
        table.add_column(f'gradient at {name}', justify='right')
    for loss in report.losses:
        _row(
            table,
            loss.name,
            '-' if loss.weight is None else f'{loss.weight:.4g}',
            f'{loss.value:.4g}',
            *(f'{loss.gradients[name]:.3g}' for name in recorders),
        )
    return table


def _step(step: Step) -> Table:
    table = _table('Training, one process, without data loading', '', '')
    table.show_header = False
    memory = 'process' if step.device.startswith('CPU') else 'tensors'
    _row(table, 'device', step.device)
    _row(
        table,
        'step',
        f'{step.batch_size} images in {_short(step.milliseconds)} ms: '
        f'{_short(step.images_per_second)} images/s',
    )
    _row(table, 'peak memory', f'{step.memory_mib:,.0f} MiB ({memory})')
    seconds = step.epoch_seconds
    if seconds is None:
        _row(table, 'epoch', 'unknown number of images; give --images')
        return table
    _row(table, 'epoch', f'{step.images:,} images in {_duration(seconds)}')
    if step.epochs:
        total = _duration(step.epochs * seconds)
        _row(table, 'schedule', f'{step.epochs} epochs in {total}')
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(
        title=title,
        title_justify='left',
        title_style='bold',
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
    )
    for column in columns:
        table.add_column(column, overflow='fold')
    return table


def _row(table: Table, *cells: str) -> None:
    table.add_row(*(Text(cell) for cell in cells))


def _entry(mark: str, text: str) -> Table:
    """A list entry whose further lines are indented."""
    grid = Table.grid(padding=(0, 1))
    grid.add_row(mark, Text(text))
    return grid


def _shape(shape: tuple[int, ...] | str) -> str:
    return shape if isinstance(shape, str) else str(tuple(shape))


def _metric(number: int) -> str:
    """A count with three digits and a unit."""
    scaled, units = float(number), ['', 'k', 'M', 'G', 'T']
    while scaled >= 999.5 and len(units) > 1:
        scaled /= 1000
        units.pop(0)
    return f'{_short(scaled)} {units[0]}'.rstrip()


def _duration(seconds: float) -> str:
    for size, unit in ((86400, 'days'), (3600, 'h'), (60, 'min')):
        if seconds >= 2 * size:
            return f'{_short(seconds / size)} {unit}'
    return f'{_short(seconds)} s'


def _short(number: float) -> str:
    return number_text(number, 3)
