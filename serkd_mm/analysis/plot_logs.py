# Copyright (c) The serkd_mm authors. All rights reserved.
"""Several training runs in one picture and one table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..engine.hooks.teacher_check_hook import TEACHER_TOP1
from ..markdown import as_cell
from ..number_text import number_text
from .logs import RunLog

COLUMNS = 3


def plot_runs(runs: Sequence[RunLog], path: Path | str | IO[bytes]) -> None:
    """Draw top-1, agreement, learning rate and every loss of the runs.

    Over the epochs, or the iterations where a run has none. A run that is not
    validated by top-1 shows its first metric.

    Args:
        runs: Logs, drawn in one colour each.
        path: Picture to write, whose suffix tells the format; a file object
            for a PNG.

    Raises:
        ValueError: If no run has logged a loss or a top-1 yet, or the suffix
            is of no format.
    """
    panels = [*dict.fromkeys(run.metric_title for run in runs)]
    panels += ['agreement', 'learning rate']
    panels += dict.fromkeys(name for run in runs for name in run.losses)
    panels = [p for p in panels if any(_points(run, p) for run in runs)]
    if not panels:
        names = ', '.join(str(run.folder) for run in runs)
        raise ValueError(f'nothing to draw: no loss or top-1 yet in {names}')
    rows = -(-len(panels) // COLUMNS)
    figure = Figure(
        figsize=(4.2 * COLUMNS, 2.9 * rows + 0.3 * len(runs)),
        layout='constrained',
    )
    grid = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axes, panel in zip(grid, panels):
        _draw(axes, panel, runs)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    handles, labels = grid[0].get_legend_handles_labels()
    legend = figure.legend(
        handles, labels, loc='outside upper left', fontsize=8
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    figure.savefig(path, dpi=130)


def markdown_table(runs: Sequence[RunLog]) -> str:
    """Summaries of the runs; a dash where a run has not logged a number."""
    rows = [run.summary() for run in runs]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [
        columns,
        ['---', *['---:'] * (len(columns) - 1)],
        *([_cell(row.get(c)) for c in columns] for row in rows),
    ]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines) + '\n'


def _draw(axes: Axes, panel: str, runs: Sequence[RunLog]) -> None:
    # A run that has only begun has no epochs yet.
    epochs = all(run.per_epoch() for run in runs if run.train)
    values: list[float] = []
    for index, run in enumerate(runs):
        points = _points(run, panel)
        # Training is logged by iteration, validation by epoch if there are.
        scale = 1 / (run.per_epoch() or 1.0) if epochs else 1.0
        if panel == run.metric_title:
            scale *= run.per_epoch() or 1.0
        x = [step * scale for step, _ in points]
        y = [value for _, value in points]
        values += y
        color = matplotlib.colormaps['tab10'](index % 10)
        marker = 'o' if len(points) < 30 else None
        # Without the blank, names that begin with _ have no legend.
        axes.plot(x, y, color=color, marker=marker, markersize=3,
                  linewidth=1.2, label=f' {run.folder}')  # fmt: skip
        teacher = run.val.get(TEACHER_TOP1)
        if panel == 'top-1' and teacher:
            axes.axhline(teacher[-1][1], color=color, linestyle='--',
                         linewidth=0.9)  # fmt: skip
    title = panel
    if panel == 'top-1':
        dashed = any(TEACHER_TOP1 in run.val for run in runs)
        title = 'top-1 (%)' + (', teacher dashed' if dashed else '')
    elif 'loss' in panel and 0 < 10 * min(values) < max(values):
        axes.set_yscale('log')
    axes.set_title(title, fontsize=9)
    axes.set_xlabel('epoch' if epochs else 'iteration', fontsize=8)
    axes.tick_params(labelsize=7, which='both')
    axes.grid(alpha=0.3)


def _points(run: RunLog, panel: str) -> list[tuple[float, float]]:
    if panel == run.metric_title:
        return run.validated
    return run.train.get('lr' if panel == 'learning rate' else panel, [])


def _cell(value: float | str | None) -> str:
    if value is None:
        return '-'
    if isinstance(value, str):
        return as_cell(value)
    return number_text(value)
