# Copyright (c) The serkd_mm authors. All rights reserved.
"""What a benchmark found, as text, JSON and picture."""

from __future__ import annotations

import datetime
import importlib
import json
import platform
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Callable

import torch
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    LogLocator,
    NullFormatter,
)

from ..markdown import as_cell
from .measure import Options


@dataclass
class Goal:
    """A bound and what was measured.

    Attributes:
        what: The quantity.
        bound: The number to reach.
        measured: The number reached, None where it was not measured.
        unit: Written behind both.
        at_least: Whether larger is better.
        reason: Why it was not reached or not measured.
    """

    what: str
    bound: float
    measured: float | None
    unit: str = 'x'
    at_least: bool = True
    reason: str = ''

    @property
    def reached(self) -> bool:
        """Whether the bound holds; nan never does."""
        if self.measured is None:
            return False
        if self.at_least:
            return self.measured >= self.bound
        return self.measured <= self.bound

    def line(self, judged: bool = True) -> str:
        """One line for the reader."""
        sign = '>=' if self.at_least else '<='
        goal = f'goal: {sign} {self.bound:g}{self.unit} {self.what}'
        why = f', {self.reason}' if self.reason else ''
        if self.measured is None:
            return f'{goal}: not run{why}'
        verdict = 'reached' if self.reached else f'not reached{why}'
        if not judged:
            verdict = 'not judged at these sizes'
        return f'{goal}; measured {self.measured:.4g}{self.unit}: {verdict}'


# Why goals for GPUs are not measured elsewhere.
NO_CUDA = 'no CUDA device'


@dataclass
class Table:
    """Rows of named cells; the first row names the columns."""

    title: str
    rows: list[dict[str, Any]]

    def markdown(self) -> str:
        """The table as Markdown."""
        columns = list(self.rows[0])
        lines = [[*map(as_cell, columns)], ['---'] * len(columns)]
        lines += [
            [_cell(row.get(c, '')) for c in columns] for row in self.rows
        ]
        body = '\n'.join(f'| {" | ".join(line)} |' for line in lines)
        return f'### {self.title}\n\n{body}\n'


@dataclass
class Report:
    """All that one sub-command found.

    Attributes:
        name: The sub-command.
        options: What it was run with.
        tables: What is printed.
        goals: Bounds and whether they are reached.
        notes: How it was measured.
        data: Raw samples, for the JSON file.
        draw: Draws on a Matplotlib figure.
    """

    name: str
    options: Options
    tables: list[Table] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    draw: Callable[[Any], None] = lambda figure: None

    def save(self, out: Path, command: str) -> str:
        """Write the three files and return the text.

        Args:
            out: Folder, made if missing.
            command: The command that was run.

        Returns:
            The Markdown text.
        """
        where = environment(self.options, command)
        text = self.markdown(where)
        out.mkdir(parents=True, exist_ok=True)
        stem = f'{self.name}_{slug(where["device"])}'
        if self.options.quick:  # never in the place of true results
            stem += '_quick'
        (out / f'{stem}.md').write_text(text, encoding='utf-8')
        content = dict(
            benchmark=self.name,
            environment=where,
            options=asdict(self.options),
            tables=[asdict(table) for table in self.tables],
            goals=[
                dict(asdict(goal), reached=goal.reached) for goal in self.goals
            ],
            notes=self.notes,
            data=self.data,
        )
        (out / f'{stem}.json').write_text(json.dumps(content, indent=1) + '\n')
        self._plot(out / f'{stem}.png')
        return text

    def markdown(self, where: dict[str, Any]) -> str:
        """Title, environment, tables, goals and notes."""
        judged = not self.options.quick
        parts = [f'## {self.name}\n', environment_table(where)]
        parts += [table.markdown() for table in self.tables]
        lines = [f'- {goal.line(judged)}' for goal in self.goals]
        lines += ['', *(f'- {note}' for note in self.notes)]
        return '\n'.join([*parts, *lines]) + '\n'

    def _plot(self, path: Path) -> None:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 5.5), layout='constrained')
        self.draw(figure)
        figure.savefig(path, dpi=120)


def environment(options: Options, command: str) -> dict[str, Any]:
    """Hardware, versions, command and date."""
    found: dict[str, Any] = dict(
        device=device_name(options.device),
        threads=options.threads,
        python=platform.python_version(),
    )
    for name in (
        'torch', 'numpy', 'mmengine', 'mmpretrain', 'mmrazor', 'triton',
        'serkd_mm',
    ):  # fmt: skip
        try:
            found[name] = str(importlib.import_module(name).__version__)
        except ImportError:
            found[name] = 'none'
    now = datetime.datetime.now(datetime.timezone.utc)
    return dict(found, command=command, date=now.strftime('%Y-%m-%d'))


def environment_table(where: dict[str, Any]) -> str:
    """One line per entry of :func:`environment`."""
    rows = [dict(environment=key, value=where[key]) for key in where]
    return Table('Environment', rows).markdown()


def device_name(device: str) -> str:
    """Name of the GPU, or model of the CPU."""
    if device == 'cuda':
        return torch.cuda.get_device_name()
    try:
        text = Path('/proc/cpuinfo').read_text()
    except OSError:
        text = ''
    model = re.search(r'model name\s*:\s*(.+)', text)
    name = model.group(1) if model else platform.processor()
    return f'CPU {name or platform.machine()}'


def slug(text: str) -> str:
    """Letters and digits of a name, for a file.

    Example:
        >>> slug('NVIDIA H200 (SXM)')
        'nvidia-h200-sxm'
    """
    return re.sub(r'[^a-z0-9]+', '-', text.lower()).strip('-')


def bars(
    axis: Any, rows: list[dict[str, Any]], group: str, log: bool = False
) -> None:
    """Horizontal bars with quartiles, one per row."""
    value = 'median ms'
    labels = [f'{row[group]}: {row["variant"]}' for row in rows]
    middle = [row[value] for row in rows]
    spread = [
        [row[value] - row['q1'] for row in rows],
        [row['q3'] - row[value] for row in rows],
    ]
    kinds = list(dict.fromkeys(row['variant'] for row in rows))
    colors = [f'C{kinds.index(row["variant"])}' for row in rows]
    axis.barh(labels, middle, xerr=spread, color=colors)
    axis.invert_yaxis()
    if log:
        plain_log(axis, 'x')
        axis.set_xlim(left=1)
    axis.set_xlabel('ms (median, quartiles)')
    axis.tick_params(axis='y', labelsize=7)


def plain_log(
    axis: Any, name: str, ticks: Sequence[float] | None = None
) -> None:
    """Logarithmic axis with plain numbers, at 1, 2, 5, 10 or as given."""
    getattr(axis, f'set_{name}scale')('log')
    side = getattr(axis, f'{name}axis')
    if ticks is None:
        side.set_major_locator(LogLocator(subs=(1, 2, 5)))
    else:
        side.set_major_locator(FixedLocator(ticks))
    side.set_major_formatter(FuncFormatter(lambda value, _: f'{value:g}'))
    side.set_minor_formatter(NullFormatter())
    axis.tick_params(axis=name, labelsize=7)


def _cell(value: Any) -> str:
    if value is None:
        return '-'
    if isinstance(value, float):
        return f'{value:.4g}'
    return as_cell(str(value))
