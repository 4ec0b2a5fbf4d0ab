# Copyright (c) The serkd_mm authors. All rights reserved.
"""What training runs have logged."""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from ..engine.hooks.run_record_hook import ITERATION, RUN_RECORD
from ..engine.hooks.teacher_check_hook import TEACHER_TOP1

Series = list[tuple[float, float]]

SCALARS = 'vis_data/scalars.json'
TOP1 = 'accuracy/top1'
# What hooks log beside the metrics, first parts of the names.
_NO_METRICS = {
    'teacher',
    'weight',
    'superpixels',
    'replaced_images',
    'time',
    'data_time',
}
# With log_with_hierarchy=True; the loss of a validation is another one.
_HIERARCHY = re.compile('^(train/|val/(?!loss))')


@dataclass
class RunLog:
    """Scalars of a run, all its starts together.

    Attributes:
        folder: Work dir of the run.
        train: Name to (iteration, value), logged while training. What came
            before a resume with epochs of another length is counted anew, in
            these.
        val: Name to (epoch, or iteration in runs without epochs, value).
        record: What ``RunRecordHook`` wrote, of the last start.
        epoch_length: Iterations of an epoch, as the last start that logged a
            loss has recorded them.
    """

    folder: Path
    train: dict[str, Series] = field(default_factory=dict)
    val: dict[str, Series] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)
    epoch_length: float | None = None

    @property
    def losses(self) -> list[str]:
        """Names of the losses, the total first."""
        names = [name for name in self.train if 'loss' in name]
        return sorted(names, key=lambda name: name != 'loss')

    @property
    def metric(self) -> str:
        """What validation is drawn by: top-1, else the first metric."""
        names = [n for n in self.val if n.split('/')[0] not in _NO_METRICS]
        top1 = [name for name in names if name.split('/')[-1] == 'top1']
        return TOP1 if TOP1 in top1 else [*top1, *names, TOP1][0]

    @property
    def metric_title(self) -> str:
        """The metric for the reader."""
        top1 = self.metric.split('/')[-1] == 'top1'
        return 'top-1' if top1 else self.metric

    @property
    def validated(self) -> Series:
        """The metric of every validation."""
        return self.val.get(self.metric, [])

    def per_epoch(self) -> float | None:
        """Iterations of an epoch, None in runs without epochs."""
        epochs = self.train.get('epoch')
        if not epochs:
            return None
        # Logged iterations lie within their epochs.
        length = self.epoch_length or max(s / epoch for s, epoch in epochs)
        step, epoch = epochs[-1]
        beyond = step > length or any(at > 1 for at, _ in self.validated)
        # MMEngine's runs without epochs may log that they are in the first.
        endless = epoch == 1 and beyond
        return None if endless else length

    def summary(self) -> dict[str, float | str | None]:
        """The row of a table."""
        title, metric = self.metric_title, self.validated
        teacher = self.val.get(TEACHER_TOP1, [])
        steps = [series[-1][0] for series in self.train.values()]
        return {
            'run': str(self.folder),
            'iterations': round(max(steps)) if steps else None,
            f'{title} (last)': _last(metric),
            f'{title} (best)': max(
                (v for _, v in metric if not math.isnan(v)), default=None
            ),
            'teacher top-1': teacher[-1][1] if teacher else None,
            'agreement': _last(self.train.get('agreement')),
            'loss': _last(self.train.get('loss')),
            'images/s': _median(self.train.get('images_per_second')),
        }


def find_runs(paths: Iterable[Path | str]) -> list[RunLog]:
    """Logs of work dirs, or of the work dirs inside the given folders.

    Args:
        paths: Folders.

    Returns:
        One log per work dir, in the order given.

    Raises:
        FileNotFoundError: If a folder does not exist, or neither it nor a
            folder inside it holds scalars.
    """
    runs = []
    for path in map(Path, paths):
        if not path.is_dir():
            raise FileNotFoundError(f'{path} is no folder; give work dirs')
        folders = [path, *sorted(p for p in path.rglob('*') if p.is_dir())]
        found = [f for f in folders if any(f.glob(f'*/{SCALARS}'))]
        # A link to a run of this folder is no other run.
        own = {f.resolve() for f in found if not f.is_symlink()}
        found = [
            f for f in found if not f.is_symlink() or f.resolve() not in own
        ]
        if not found:
            raise FileNotFoundError(
                f'no run has logged below {path}: no folder there holds '
                f'TIMESTAMP/{SCALARS}; give the --work-dir of a training'
            )
        runs += [read_run(folder) for folder in found]
    return runs


def read_run(folder: Path) -> RunLog:
    """Log of one work dir.

    A start takes the place of what earlier ones logged from its first
    iteration on: resumed runs go on in one line, and a run that was begun
    anew forgets the old one.
    """
    run = RunLog(folder)
    for start in starts(folder):
        new, first = _read_start(start, run.train.get('loss', []))
        _count_anew(run, new.epoch_length, first)
        # Validation counts epochs; those that ended before the start stay.
        validated = new.validated[0][0] if new.validated else first
        begun = first / (run.per_epoch() or 1.0)
        _cut(run.train, first)
        _cut(run.val, min(begun, validated))
        for kept, added in ((run.train, new.train), (run.val, new.val)):
            for name, series in added.items():
                kept.setdefault(name, []).extend(series)
        run.record = new.record or run.record
    return run


def starts(folder: Path, file: str = SCALARS) -> list[Path]:
    """Folders of the starts of a run, in the order in which they began.

    Where a start has not recorded that, their names order them all, which
    are local times.

    Args:
        folder: Work dir of the run.
        file: What the starts have in their folders.

    Returns:
        The folders.
    """
    found = sorted(
        folder / path.relative_to(folder).parts[0]
        for path in folder.glob(f'*/{file}')
    )
    began: dict[Path, Any] = {s: _record(s).get('started') for s in found}
    if None in began.values():
        return found
    return sorted(found, key=lambda start: began[start])


def _record(start: Path) -> dict[str, Any]:
    path = start / RUN_RECORD
    if path.is_file():
        # A damaged one says nothing, as damaged lines of scalars.
        with contextlib.suppress(ValueError):
            return json.loads(path.read_text())
    return {}


def _read_start(start: Path, before: Series) -> tuple[RunLog, float]:
    """What a start has logged, and its first iteration.

    Args:
        start: Folder of the start.
        before: The loss that earlier starts have logged.
    """
    run = RunLog(start, record=_record(start))
    lines = _lines(start / SCALARS)
    first = min((s['step'] for s in lines if 'loss' in s), default=math.inf)
    last = max((step for step, _ in before if step < first), default=0)
    if first < math.inf:
        run.epoch_length = run.record.get('iterations_per_epoch')
    for scalars in lines:
        step = scalars.pop('step')
        iteration = scalars.pop(ITERATION, last)
        training = 'loss' in scalars
        if training:
            last = step
        elif step == 0:
            # MMEngine counts no epochs in runs of iterations, by default.
            step = iteration
        for name, value in scalars.items():
            if isinstance(value, (int, float)):
                kept = run.train if training else run.val
                kept.setdefault(name, []).append((step, value))
    return run, first


def _lines(path: Path) -> list[dict[str, Any]]:
    """Scalars of every step, but for damaged lines, as of killed runs."""
    found = []
    for line in path.read_text('utf-8', errors='replace').splitlines():
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return [
        {_HIERARCHY.sub('', name): value for name, value in scalars.items()}
        for scalars in found
        if isinstance(scalars, dict) and 'step' in scalars
    ]


def _count_anew(run: RunLog, length: float | None, first: float) -> None:
    """Count a run's iterations in the epochs of a start that goes on with it.

    Args:
        run: The run so far; changed in place.
        length: Iterations of an epoch of the start, None if it has none.
        first: First iteration of the start.
    """
    before = run.per_epoch() and run.epoch_length
    # Else it does not go on with it, but begins anew.
    if before and length and first > run.train['epoch'][0][0]:
        for name, points in run.train.items():
            run.train[name] = [(s * length / before, v) for s, v in points]
    run.epoch_length = length or run.epoch_length


def _cut(series: dict[str, Series], first: float) -> None:
    """Drop what was logged at the first step and later."""
    for name, points in list(series.items()):
        series[name] = [point for point in points if point[0] < first]
        if not series[name]:
            del series[name]


def _last(series: Series | None) -> float | None:
    return series[-1][1] if series else None


def _median(series: Series | None) -> float | None:
    return median([value for _, value in series]) if series else None
