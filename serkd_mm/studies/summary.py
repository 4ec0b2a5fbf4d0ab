# Copyright (c) The serkd_mm authors. All rights reserved.
"""Mean, spread and paired difference over the seeds of a study."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .runs import FINISHED, Run
from .study import Experiment, Study


@dataclass(frozen=True)
class Statistic:
    """Mean and sample standard deviation.

    Attributes:
        count: Number of values.
        mean: Their mean, None without values.
        std: Their sample standard deviation (``count - 1`` degrees of
            freedom), None below two values.
    """

    count: int
    mean: float | None
    std: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Statistic:
        """Summarise values.

        Example:
            >>> Statistic.of([1.0, 2.0, 6.0]).mean
            3.0
        """
        return cls(
            len(values),
            statistics.fmean(values) if values else None,
            statistics.stdev(values) if len(values) > 1 else None,
        )

    def text(self, sign: str = '') -> str:
        """Mean ± standard deviation with two digits."""
        if self.mean is None:
            return ''
        spread = '' if self.std is None else f' ± {self.std:.2f}'
        return f'{self.mean:{sign}.2f}{spread}'


@dataclass(frozen=True)
class Row:
    """One experiment of a study, over its seeds.

    Attributes:
        experiment: The experiment.
        top1: Top-1 of the last epoch by seed.
        best: Best top-1 of any epoch by seed.
        seconds: Seconds of the runs that were trained in one go.
        differences: Top-1 less that of the baseline, at the seeds that both
            have under the same conditions.
        incomparable: Seeds that both have, under other conditions.
        unfinished: Seeds without result and the state of their runs.
    """

    experiment: Experiment
    top1: dict[int | None, float]
    best: dict[int | None, float]
    seconds: Statistic
    differences: dict[int | None, float]
    incomparable: list[int | None]
    unfinished: dict[int | None, str]

    @property
    def last(self) -> Statistic:
        """Top-1 of the last epoch over the seeds."""
        return Statistic.of(list(self.top1.values()))

    @property
    def difference(self) -> Statistic:
        """Differences to the baseline over the seeds."""
        return Statistic.of(list(self.differences.values()))


def summarise(study: Study, runs: Sequence[Run]) -> list[Row]:
    """Rows of a study in its order, from the records of its runs.

    Raises:
        ValueError: If the finished runs of one experiment had different
            configs, teachers or arguments.
    """
    records = {
        experiment.name: {
            run.seed: run.record() or {}
            for run in runs
            if run.experiment.name == experiment.name
        }
        for experiment in study.experiments
    }
    baseline = records[study.baseline] if study.baseline else {}
    return [
        _row(experiment, records[experiment.name], baseline)
        for experiment in study.experiments
        if records[experiment.name]
    ]


def commands_of(
    study: Study,
    runs: Sequence[Run],
    given: Mapping[Path, str] | None = None,
    named: str | None = None,
) -> list[str]:
    """The commands that train the finished runs again.

    Args:
        study: The study.
        runs: Its runs.
        given: Options that decided, by folder, for records without them.
        named: The study's file, if it is named by that.

    Returns:
        One for all runs of the same options. None at all if the options of a
        run are not known, as early records do not have them.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        record = run.record() or {}
        if record.get('status') != FINISHED:
            continue
        options = record.get('given', (given or {}).get(run.folder))
        if options is None:
            return []
        groups.setdefault(options, []).append(run)
    commands = []
    for options, group in groups.items():
        parts = ['python', 'tools/ablate.py', 'run', named or study.name]
        if len(groups) > 1:
            names = dict.fromkeys(run.experiment.name for run in group)
            parts += ['--only', *names]
        seeds = {run.seed for run in group}
        if not seeds <= set(study.seeds):
            parts += ['--seeds', *map(str, sorted(seeds, key=str))]
        commands.append(f'{shlex.join(parts)} {options}'.rstrip())
    return commands


def paired(
    values: Mapping[Any, float], baseline: Mapping[Any, float]
) -> dict[Any, float]:
    """Differences to the baseline at the seeds that both have.

    Example:
        >>> paired({0: 3.0, 1: 5.0, 2: 9.0}, {0: 2.0, 1: 2.0})
        {0: 1.0, 1: 3.0}
    """
    return {
        seed: value - baseline[seed]
        for seed, value in values.items()
        if seed in baseline
    }


def same_conditions(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two records allow to compare what they are records of.

    They do not if their teachers were different files or their options of the
    command line differ; what a record does not have speaks against nothing.
    """
    pairs = [
        (one.get('teacher_digest'), other.get('teacher_digest')),
        (_options(one), _options(other)),
    ]
    return all(None in pair or pair[0] == pair[1] for pair in pairs)


def _options(record: Mapping[str, Any]) -> list[str] | None:
    """Options that decided, but the teacher's name."""
    if record.get('given') is None:
        return None
    parts = shlex.split(record['given'])
    if '--teacher' in parts:
        start = parts.index('--teacher')
        del parts[start : start + 2]
    return parts


def _row(
    experiment: Experiment,
    records: dict[int | None, dict],
    baseline: dict[int | None, dict],
) -> Row:
    top1, theirs = _values(records, 'last'), _values(baseline, 'last')
    apart = [
        seed
        for seed in top1
        if seed in theirs
        and not same_conditions(records[seed], baseline[seed])
    ]
    finished = {s: r for s, r in records.items() if s in top1}
    if len({record['fingerprint'] for record in finished.values()}) > 1:
        raise ValueError(
            f'the runs of {experiment.name!r} had different configs, '
            f'teachers or arguments: '
            f'{ ({s: r["fingerprint"] for s, r in finished.items()}) }; move '
            'those that do not belong here away'
        )
    in_one_go = [r for r in finished.values() if not r['resumed']]
    return Row(
        experiment,
        top1,
        _values(records, 'best'),
        Statistic.of([record['seconds'] for record in in_one_go]),
        paired(top1, {s: v for s, v in theirs.items() if s not in apart}),
        apart,
        {
            seed: record.get('error') or record.get('status', 'open')
            for seed, record in records.items()
            if seed not in top1
        },
    )


def _values(records: dict[int | None, dict], key: str) -> dict:
    return {
        seed: record[key]
        for seed, record in records.items()
        if record.get('status') == FINISHED
    }
