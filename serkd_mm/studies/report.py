# Copyright (c) The serkd_mm authors. All rights reserved.
"""The table of a study as Markdown, CSV and picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..benchmarks.report import Table, environment_table
from ..outputs import check_out_folder
from .fingerprint import file_digest
from .runs import FINISHED, Run, teacher_run
from .study import Study
from .summary import Row, Statistic, summarise


def write_report(
    study: Study,
    runs: Sequence[Run],
    out: Path,
    folder: Path,
    commands: Sequence[str],
) -> str:
    """Write a study's results.

    ``NAME.md`` holds the table, ``NAME.csv`` one line per experiment,
    ``NAME_runs.csv`` one per run and ``NAME.png`` every run as a dot.

    Args:
        study: The study.
        runs: Its runs, finished or not.
        out: Folder of the runs.
        folder: Where to write, made if missing.
        commands: What trains the runs, named under the table.

    Returns:
        The Markdown text.

    Raises:
        ValueError: If no run is finished, runs do not belong together, or
            nothing can be written there.
    """
    rows = summarise(study, runs)
    if not any(row.top1 for row in rows):
        raise ValueError(
            f'no run of study {study.name!r} in {out} is finished'
        )
    name, teacher = _teacher(study, runs, out)
    text = markdown(study, rows, name, commands)
    text += '\n' + environment_table(_environment(runs))
    check_out_folder(folder, 'table')
    (folder / f'{study.name}.md').write_text(text, encoding='utf-8')
    (folder / f'{study.name}.csv').write_text(
        _csv(summary_lines(study, rows)), encoding='utf-8'
    )
    (folder / f'{study.name}_runs.csv').write_text(
        _csv(run_lines(runs)), encoding='utf-8'
    )
    draw(study, rows, teacher, folder / f'{study.name}.png')
    return text


def markdown(
    study: Study, rows: Sequence[Row], teacher: str, commands: Sequence[str]
) -> str:
    """The table and what its columns are."""
    table = Table(study.title, [_cells(study, row) for row in rows])
    text = [
        'Top-1 of the last epoch (%): mean ± sample standard deviation over '
        'the seeds. No epoch was picked by its top-1.'
    ]
    if study.baseline:
        text.append(
            f'"vs {_label(study)}": mean ± sample standard deviation of the '
            'differences at equal seeds.'
        )
    if teacher:
        text.append(f'Teacher: {teacher}.')
    text += study.notes
    for row in rows:
        if row.unfinished:
            states = [f'seed {s}: {m}' for s, m in row.unfinished.items()]
            text.append(
                f'Missing: {row.experiment.name}, {"; ".join(states)}.'
            )
        if row.incomparable:
            seeds = ', '.join(map(str, row.incomparable))
            text.append(
                f'Not compared: {row.experiment.name}, seed {seeds}: trained '
                f'with another teacher or other options than {_label(study)}.'
            )
    text += [f'Command: `{command}`' for command in commands]
    lines = '\n'.join(f'- {line}' for line in text)
    return f'{table.markdown()}\n{lines}\n'


def summary_lines(study: Study, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One dict per experiment, numbers as they are."""
    return [
        dict(
            study=study.name,
            experiment=row.experiment.name,
            config=row.experiment.config.name,
            seeds=row.last.count,
            top1_mean=row.last.mean,
            top1_std=row.last.std,
            best_mean=Statistic.of(list(row.best.values())).mean,
            baseline=study.baseline,
            pairs=row.difference.count,
            difference_mean=row.difference.mean,
            difference_std=row.difference.std,
            seconds_mean=row.seconds.mean,
            paper=row.experiment.paper,
        )
        for row in rows
    ]


def run_lines(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One dict per run."""
    keys = ('fingerprint', 'last', 'best', 'best_epoch', 'seconds', 'resumed')
    lines = []
    for run in runs:
        record = run.record() or {}
        where = record.get('environment', {})
        lines.append(
            dict(
                experiment=run.experiment.name,
                seed=run.seed,
                status=run.status,
                **{key: record.get(key) for key in keys},
                **{key: where.get(key) for key in ('device', 'torch', 'date')},
                options=record.get('given'),
            )
        )
    return lines


def draw(
    study: Study, rows: Sequence[Row], teacher: float | None, path: Path
) -> None:
    """Every run as a dot, mean and standard deviation as a bar.

    Beside the top-1, where there is a baseline, the differences to it at
    equal seeds.
    """
    from matplotlib.figure import Figure

    shown = [row for row in rows if row.top1]
    panels = 2 if study.baseline else 1
    figure = Figure(
        figsize=(3.2 + 3.4 * panels, 1.5 + 0.36 * len(shown)),
        layout='constrained',
    )
    figure.suptitle(study.title, fontsize=10, parse_math=False)
    axes = figure.subplots(1, panels, sharey=True, squeeze=False)[0]
    for position, row in enumerate(shown):
        _dots(axes[0], position, list(row.top1.values()), row.last)
        if study.baseline and row.experiment.name != study.baseline:
            values = list(row.differences.values())
            _dots(axes[1], position, values, row.difference)
    axes[0].set_xlabel('top-1 of the last epoch (%)')
    if teacher is not None:
        axes[0].axvline(
            teacher, color='#7f7f7f', lw=1, ls='--', label='teacher'
        )
        axes[0].legend(fontsize=8, loc='lower left')
    if study.baseline:
        axes[1].axvline(0, color='#d95f02', lw=1, ls=':')
        title = f'less {_label(study)} at the same seed'
        axes[1].set_xlabel(title, parse_math=False)
    labels = [row.experiment.label for row in shown]
    axes[0].set_yticks(range(len(shown)), labels, parse_math=False)
    axes[0].invert_yaxis()
    for panel in axes:
        panel.grid(alpha=0.3, axis='x')
    figure.savefig(path, dpi=150)


def _dots(
    panel: Any, position: int, values: Sequence[float], found: Statistic
) -> None:
    """Values a little below their mean and standard deviation."""
    if values:
        below = [position + 0.25] * len(values)
        panel.plot(values, below, 'o', ms=4, color='#9ecae1')
        panel.errorbar(
            found.mean,
            position,
            xerr=found.std,
            fmt='D',
            ms=4,
            capsize=4,
            color='#1b6ca8',
        )


def _cells(study: Study, row: Row) -> dict[str, Any]:
    cells: dict[str, Any] = {
        'experiment': row.experiment.label,
        'top-1': row.last.text(),
    }
    if study.baseline:
        own = row.experiment.name == study.baseline
        cells[f'vs {_label(study)}'] = '' if own else row.difference.text('+')
    cells['seeds'] = row.last.count
    seconds = row.seconds.mean
    cells['seconds'] = '' if seconds is None else f'{seconds:.0f}'
    if any(e.paper is not None for e in study.experiments):
        paper = row.experiment.paper
        cells['paper'] = '' if paper is None else f'{paper:g}'
    return cells


def _label(study: Study) -> str:
    (baseline,) = study.select([study.baseline or ''])
    return baseline.label


def _teacher(
    study: Study, runs: Sequence[Run], out: Path
) -> tuple[str, float | None]:
    """What the students learned from, and its top-1 if the study knows it."""
    records = [run.record() or {} for run in runs]
    names = {r['teacher'] for r in records if r.get('teacher')}
    digests = {r['teacher_digest'] for r in records if r.get('teacher_digest')}
    own = teacher_run(study, out)
    path = None if own is None else own.checkpoint()
    if (
        own is not None
        and path is not None
        and names <= {path.name}
        and digests <= {file_digest(str(path))}
    ):
        top1 = (own.record() or {}).get('last')
        if top1 is not None:
            return f'{own.experiment.config.stem}, top-1 {top1:.2f}', top1
    return ', '.join(sorted(names)), None


def _environment(runs: Sequence[Run]) -> dict[str, Any]:
    """Where the finished runs were trained; what differs is listed."""
    found: dict[str, list] = {}
    for run in runs:
        if run.status != FINISHED:
            continue
        record = run.record() or {}
        for key, value in record.get('environment', {}).items():
            values = found.setdefault(key, [])
            if value not in values:
                values.append(value)
    return {k: ', '.join(map(str, values)) for k, values in found.items()}


def _csv(lines: Sequence[dict[str, Any]]) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, list(lines[0]), lineterminator='\n')
    writer.writeheader()
    writer.writerows(lines)
    return file.getvalue()
