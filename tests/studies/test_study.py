# Copyright (c) The serkd_mm authors. All rights reserved.
"""What a study's file may say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from serkd_mm.studies import find_studies, load_study

from .fakes import write_config, write_study


def test_a_study_has_the_experiments_of_its_file(tmp_path: Path) -> None:
    for name in ('a', 'b', 'big'):
        write_config(tmp_path, name)

    study = write_study(
        tmp_path,
        'a',
        experiments=[
            {'name': 'a', 'config': 'a.py'},
            {
                'name': 'other',
                'config': 'b.py',
                'label': 'B',
                'options': {'train_cfg.max_epochs': 5},
                'paper': 76.8,
            },
        ],
        teacher={'config': 'big.py'},
        baseline='a',
    )

    first, second = study.experiments
    assert (first.name, first.label, first.paper) == ('a', 'a', None)
    assert (second.label, second.paper) == ('B', 76.8)
    assert first.load().train_cfg.max_epochs == 2
    assert second.load().train_cfg.max_epochs == 5
    assert study.teacher is not None
    assert study.teacher.config == tmp_path / 'big.py'
    assert (study.name, study.baseline) == ('fake', 'a')
    assert study.seeds == (1, 2)
    assert find_studies(tmp_path) == {'fake': tmp_path / 'fake.yml'}


def test_options_reach_experiments_and_teacher(tmp_path: Path) -> None:
    for name in ('a', 'big'):
        write_config(tmp_path, name)
    study = write_study(
        tmp_path,
        experiments=[
            {'name': 'a', 'config': 'a.py', 'options': {'top1': [1.0]}}
        ],
        teacher={'config': 'big.py'},
    )

    study = study.with_options(
        {'train_cfg.max_epochs': 1, 'model.distiller.losses.kd.tau': 2.0}
    )

    assert study.experiments[0].load().train_cfg.max_epochs == 1
    assert study.experiments[0].load().top1 == [1.0]
    assert study.teacher is not None
    assert study.teacher.load().train_cfg.max_epochs == 1
    # It has no distiller that could take one of its options.
    assert study.experiments[0].load().model.distiller.losses.kd.tau == 2.0
    assert 'distiller' not in study.teacher.load().model


def test_options_of_the_study_are_those_of_every_experiment(
    tmp_path: Path,
) -> None:
    write_config(tmp_path, 'a')
    study = write_study(
        tmp_path,
        options={'lr': 1, 'top1': [1.0]},
        experiments=[
            {'name': 'a', 'config': 'a.py', 'options': {'lr': 2}},
            {'name': 'b', 'config': 'a.py'},
        ],
        teacher={'config': 'a.py'},
    )

    assert [e.load().lr for e in study.experiments] == [2, 1]
    assert [e.load().top1 for e in study.experiments] == [[1.0], [1.0]]
    assert study.teacher is not None
    assert study.teacher.load().top1 == [50.0, 60.0]


ENTRY = {'name': 'a', 'config': 'a.py'}


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'seed': [1]}, r"unknown keys \['seed'\].*known keys are .*'seeds'"),
        ({'experiments': [{'name': 'a'}]}, r"lacks \['config'\]"),
        ({'experiments': [{**ENTRY, 'epochs': 3}]}, r"keys \['epochs'\]"),
        ({'experiments': ['a.py']}, "mapping, got 'a.py'"),
        ({'experiments': [ENTRY, ENTRY]}, r"each once.*got \['a', 'a'\]"),
        ({'experiments': []}, r'got \[\]'),
        ({'experiments': [{**ENTRY, 'name': '../a'}]}, r"got \['../a'\]"),
        ({'experiments': [{**ENTRY, 'name': 'teacher'}]}, "none 'teacher'"),
        ({'baseline': 'kd'}, r"baseline 'kd' .* none of .*\['a'\]"),
        ({'seeds': []}, r'needs seeds, each once; got \[\]'),
        ({'seeds': [1, 1]}, r'each once; got \[1, 1\]'),
        ({'seeds': 3}, 'seeds of study .* a list of whole numbers, got 3'),
        ({'seed_keys': 'seed'}, "a list of config keys, got 'seed'"),
        ({'notes': 'text'}, "notes of .* a list of lines, got 'text'"),
        ({'options': ['a']}, r"options of .* a mapping, got \['a'\]"),
        ({'title': 3}, 'title of .* must be text, got 3'),
        ({'name': 'other'}, r"has unknown keys \['name'\]"),
        (
            {'experiments': [{**ENTRY, 'name': 5}]},
            'name of an experiment of .* must be text, got 5',
        ),
        (
            {'experiments': [{**ENTRY, 'paper': '76.8'}]},
            "paper of an experiment of .* a number, got '76.8'",
        ),
    ],
)
def test_a_mistake_in_the_file_is_named(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    write_config(tmp_path, 'a')

    with pytest.raises(ValueError, match=message):
        write_study(tmp_path, 'a', **settings)


def test_a_config_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"'absent.py' of exp.*'abs"):
        write_study(tmp_path, 'absent')


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / 'list.yml'
    path.write_text('- kd\n')
    with pytest.raises(ValueError, match=r"mapping, got \['kd'\]"):
        load_study(path)
    path.write_text('title: [\n')
    with pytest.raises(ValueError, match='list.yml is no YAML: '):
        load_study(path)


def test_an_unknown_experiment_is_named_with_the_known(tmp_path: Path) -> None:
    write_config(tmp_path, 'a')
    study = write_study(tmp_path, 'a')

    with pytest.raises(ValueError, match="no experiment 'b'; it has a$"):
        study.select(['b', 'a'])
