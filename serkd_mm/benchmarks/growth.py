# Copyright (c) The serkd_mm authors. All rights reserved.
"""How time and memory grow with the number of tokens and of images."""

from __future__ import annotations

from typing import Any, Callable

import numpy as np

from .measure import Run, interleaved, quartiles
from .report import Report, Table, plain_log

# (variant, (B, K, Cs, Ct)) -> what to time, and its extra MiB.
Prepared = Callable[[str, tuple[int, int, int, int]], tuple[Run, float]]

BASELINE = 'straightforward'
TOKENS = [16, 36, 49, 64, 100, 144, 196, 256]
IMAGES = [1, 2, 4, 8, 16, 32, 64]
WIDTHS = (192, 768)
ROUNDS = 3
# Resident memory comes in pages and pools: less is noise.
SMALLEST_MIB = 2.0


def add_growth(report: Report, prepared: Prepared, fast: list[str]) -> None:
    """Add tables and picture of the growth to a report.

    Args:
        report: Report to add to.
        prepared: Makes what is measured.
        fast: The variants beside the baseline.
    """
    quick = report.options.quick
    widths = (8, 16) if quick else WIDTHS
    tokens, images = ([4, 9], [1, 2]) if quick else (TOKENS, IMAGES)
    batch, num = (1, 9) if quick else (4, 49)
    rows = [
        *_study(report, prepared, fast, 'K', [(batch, k) for k in tokens]),
        *_study(report, prepared, fast, 'B', [(b, num) for b in images]),
    ]
    title = f'Growth of angle_loss, (Cs, Ct) = {widths}'
    report.tables.append(Table(title, rows))
    report.tables.append(Table('Fitted exponents', _exponents(rows)))
    report.notes.append(
        f'Growth: over K at B = {batch}, over B at K = {num}, '
        f'{ROUNDS} rounds at most; exponents are '
        'slopes of a least-squares line through the logarithms of all '
        f'points (memory: of those of {SMALLEST_MIB:g} MiB and more).'
    )
    report.draw = lambda figure: _draw(figure, rows)


def _study(
    report: Report,
    prepared: Prepared,
    fast: list[str],
    over: str,
    points: list[tuple[int, int]],
) -> list[dict[str, Any]]:
    options, rows = report.options, []
    widths = (8, 16) if options.quick else WIDTHS
    for batch, num in points:
        found = {
            name: prepared(name, (batch, num, *widths))
            for name in (BASELINE, *fast)
        }
        runs = {name: run for name, (run, _) in found.items()}
        repeats = min(options.rounds(ROUNDS), ROUNDS)
        times = interleaved(runs, repeats, options)
        for name, (_, memory) in found.items():
            rows.append({
                'over': over,
                'B': batch,
                'K': num,
                'variant': name,
                'median ms': quartiles(times[name])['median'],
                'extra MiB': memory,
            })  # fmt: skip
    return rows


def exponent(x: list[float], y: list[float]) -> float | None:
    """Slope of a least-squares line through logarithms, if there is one.

    Example:
        >>> round(exponent([1, 2, 4], [3, 12, 48]), 6)
        2.0
    """
    if len(x) < 2:
        return None
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def _exponents(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for over in ('K', 'B'):
        for name in dict.fromkeys(row['variant'] for row in rows):
            mine = _select(rows, over, name)
            large = [r for r in mine if r['extra MiB'] >= SMALLEST_MIB]
            found.append({
                'over': over,
                'variant': name,
                'exponent of time': exponent(
                    [r[over] for r in mine], [r['median ms'] for r in mine]
                ),
                'exponent of memory': exponent(
                    [r[over] for r in large], [r['extra MiB'] for r in large]
                ),
            })  # fmt: skip
    return found


def _select(rows: list[dict], over: str, name: str) -> list[dict]:
    return [r for r in rows if r['over'] == over and r['variant'] == name]


def _draw(figure: Any, rows: list[dict[str, Any]]) -> None:
    axes = figure.subplots(2, 2)
    names = list(dict.fromkeys(row['variant'] for row in rows))
    fitted = {
        (row['over'], row['variant']): {
            'median ms': row['exponent of time'],
            'extra MiB': row['exponent of memory'],
        }
        for row in _exponents(rows)
    }
    for line, value in zip(axes, ('median ms', 'extra MiB')):
        for axis, over in zip(line, ('K', 'B')):
            for name in names:
                mine = [r for r in _select(rows, over, name) if r[value] > 0]
                x, y = [r[over] for r in mine], [r[value] for r in mine]
                slope = fitted[over, name][value]
                power = '' if slope is None else f': {over}^{slope:.2f}'
                axis.plot(x, y, 'o-', label=name + power)
            plain_log(axis, 'x', [r[over] for r in _select(rows, over, name)])
            plain_log(axis, 'y')
            axis.set(xlabel=over, ylabel=value)
            axis.grid(alpha=0.3)
            axis.legend(fontsize=7)
    figure.suptitle('Angle loss, forward + backward')
