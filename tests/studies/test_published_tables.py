# Copyright (c) The serkd_mm authors. All rights reserved.
"""Published tables are those of the committed runs, cell by cell."""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from serkd_mm.studies import find_studies, load_study

ROOT = Path(__file__).resolve().parents[2]
RUNS = ROOT / 'resources' / 'studies'
STUDIES = find_studies(ROOT / 'configs' / 'studies')

# Page, which of its tables, and the study whose runs are in it.
TABLES = [
    ('README.md', 0, 'digits'),
    ('README.md', 1, 'cifar10'),
    ('docs/studies.md', 0, 'digits-5'),
    ('docs/studies.md', 1, 'cifar10'),
    ('docs/studies.md', 2, 'cifar10-short'),
    ('docs/studies.md', 3, 'cifar10-tokens'),
]

Scores = dict[str, dict[str, float]]


def read_runs(study: str) -> Scores:
    """Last top-1 of the finished runs by experiment and seed."""
    scores: Scores = defaultdict(dict)
    with (RUNS / f'{study}_runs.csv').open() as file:
        for row in csv.DictReader(file):
            assert row['status'] == 'finished'
            scores[row['experiment']][row['seed']] = float(row['last'])
    return dict(scores)


def read_tables(page: str) -> list[list[dict[str, str]]]:
    """Tables of experiments, a dict of cells by column for every row."""
    tables: list[list[dict[str, str]]] = []
    header: list[str] | None = None
    for line in (ROOT / page).read_text().splitlines():
        cells = [cell.strip() for cell in line.strip('|').split('|')]
        if not line.startswith('|'):
            header = None
        elif cells[0] == 'experiment':
            header = cells
            tables.append([])
        elif header is not None and not set(line) <= set('|-: '):
            tables[-1].append(dict(zip(header, cells)))
    return tables


def mean_and_spread(values: list[float], sign: str = '') -> str:
    return f'{np.mean(values):{sign}.2f} ± {np.std(values, ddof=1):.2f}'


def expected_cell(column: str, name: str, by_label: dict, runs: Scores) -> str:
    """What the runs of an experiment say in a column."""
    own = runs[name]
    if column == 'seeds':
        return str(len(own))
    if column == 'top-1':
        return mean_and_spread(list(own.values()))
    if column.startswith('seed '):
        return f'{own[column[len("seed ") :]]:.2f}'
    other = by_label[column[len('vs ') :]]
    if other == name:
        return ''
    assert own.keys() == runs[other].keys()
    return mean_and_spread(
        [own[seed] - runs[other][seed] for seed in own], sign='+'
    )


@pytest.mark.parametrize('page', sorted({page for page, *_ in TABLES}))
def test_no_table_is_left_out(page: str) -> None:
    known = [place for name, place, _ in TABLES if name == page]

    assert known == list(range(len(read_tables(page))))


@pytest.mark.parametrize(('page', 'place', 'study'), TABLES)
def test_a_table_is_that_of_its_runs(
    page: str, place: int, study: str
) -> None:
    rows = read_tables(page)[place]
    runs = read_runs(study)
    experiments = load_study(STUDIES[study]).experiments
    by_label = {e.label: e.name for e in experiments}

    names = [by_label[row['experiment']] for row in rows]
    assert sorted(names) == sorted(runs)
    for name, row in zip(names, rows):
        for column, cell in list(row.items())[1:]:
            assert cell == expected_cell(column, name, by_label, runs), name


@pytest.mark.parametrize(
    ('folder', 'studies'),
    [('digits', ['digits', 'digits-5']), ('cifar10', ['cifar10'])],
)
def test_the_table_of_configs_has_the_same_numbers(
    folder: str, studies: list[str]
) -> None:
    table = (ROOT / 'configs' / 'README.md').read_text()
    for number, study in enumerate(studies, start=2):
        runs = read_runs(study)
        for experiment in load_study(STUDIES[study]).experiments:
            (row,) = re.findall(
                rf'^\| \[[\w-]+\]\({folder}/{experiment.config.name}\) .*$',
                table,
                flags=re.M,
            )
            cell = row.strip('| ').split(' | ')[number]
            measured = runs.get(experiment.name)
            if measured is None:
                assert cell == 'not run', row
            else:
                text = mean_and_spread(list(measured.values()))
                assert re.match(rf'{text}(?![\d.])', cell), row
