# Copyright (c) The serkd_mm authors. All rights reserved.
"""The studies that come with the configs say what configs and README say."""

from __future__ import annotations

import copy
import functools
import re
from pathlib import Path

import pytest
from mmengine.config import Config

from serkd_mm.studies import Experiment, find_studies, load_study

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
STUDIES = {
    name: load_study(path)
    for name, path in find_studies(CONFIGS / 'studies').items()
}
ROWS = [
    pytest.param(name, experiment, id=f'{name}-{experiment.name}')
    for name, study in STUDIES.items()
    for experiment in study.experiments
]


# The head's default.
LOSS = {'type': 'CrossEntropyLoss'}


@functools.cache
def base(path: Path) -> Config:
    return Config.fromfile(path)


def load(experiment: Experiment) -> Config:
    """What ``experiment.load`` returns, every file read once."""
    cfg = copy.deepcopy(base(experiment.config))
    cfg.merge_from_dict(experiment.options)
    return cfg


def relative(experiment: Experiment) -> str:
    return str(experiment.config.relative_to(CONFIGS))


def table_rows() -> list[str]:
    text = (CONFIGS / 'README.md').read_text()
    return [line for line in text.splitlines() if line.startswith('|')]


def test_every_table_of_the_paper_is_a_study() -> None:
    tables = {'table2', 'table5', 'table6', 'table7', 'table8'}
    assert {
        'cnn',
        'iterations',
        'methods',
        'digits',
        'cifar10',
    } | tables <= set(STUDIES)
    assert len(STUDIES['table7'].experiments) == 24


def test_every_config_is_an_experiment() -> None:
    known = {relative(experiment.values[1]) for experiment in ROWS}
    known |= {
        relative(study.teacher) for study in STUDIES.values() if study.teacher
    }
    leaves = {
        str(path.relative_to(CONFIGS))
        for path in CONFIGS.rglob('*.py')
        if not {'_base_', 'quickstart'} & set(path.parts)
    }
    # The method on all labels; the study has a tenth of them.
    assert leaves - known == {'cifar10/serkd_resnet56_vit-nano.py'}


@pytest.mark.parametrize(('study', 'experiment'), ROWS)
def test_the_readme_has_the_row_with_the_papers_number(
    study: str, experiment: Experiment
) -> None:
    rows = [row for row in table_rows() if f']({relative(experiment)})' in row]
    assert rows
    if experiment.paper is not None:
        number = re.compile(rf'\b{re.escape(f"{experiment.paper:g}")}\b')
        assert any(number.search(row) for row in rows)


@pytest.mark.parametrize(
    ('study', 'experiment'), [row for row in ROWS if row.values[1].options]
)
def test_options_change_what_the_config_has(
    study: str, experiment: Experiment
) -> None:
    cfg = base(experiment.config)

    for key, value in experiment.options.items():
        *parents, last = key.split('.')
        node = cfg
        for parent in parents:
            node = node[int(parent) if isinstance(node, list) else parent]
        assert last in node, key
        assert node[last] != value, key


@pytest.mark.parametrize(
    ('study', 'experiment'),
    [row for row in ROWS if row.values[1].name.endswith('_deit-s')],
)
def test_the_small_student_is_small_throughout(
    study: str, experiment: Experiment
) -> None:
    model = load(experiment).model

    student = model.get('architecture', model)
    assert student.backbone.arch == 'deit-small'
    assert student.head.in_channels == 384
    if 'distiller' in model:
        # Nothing is left of the width of DeiT-Ti.
        text = str(model.distiller)
        assert '192' not in text
        assert text.count("'student_channels': ") == text.count(
            "'student_channels': 384"
        )


@pytest.mark.parametrize(
    'experiment',
    STUDIES['table7'].experiments + STUDIES['table8'].experiments,
    ids=lambda experiment: experiment.name,
)
def test_the_names_of_weights_and_grids_are_true(
    experiment: Experiment,
) -> None:
    distiller = load(experiment).model.distiller
    losses = distiller.distill_losses
    named = re.findall(
        r'(kd|feature|distance|angle)-([\d.]+)', experiment.name
    )

    assert all(
        losses[f'loss_{part}'].loss_weight == float(weight)
        for part, weight in named
    )
    (grid,) = re.findall(r'grid-(\d)', experiment.name) or [None]
    if grid is not None:
        assert tuple(
            distiller.connectors.student_superpixels[1].grid_size
        ) == (
            int(grid),
            int(grid),
        )
        assert losses.loss_distance.loss_weight == 0.5
        angle = 0.5 if 'angle-0.5' in experiment.name else 1.0
        assert losses.loss_angle.loss_weight == angle
    else:
        assert named


# -- methods that are compared differ in their losses alone -----------------


@pytest.mark.parametrize(
    'name',
    [
        'digits',
        'digits-5',
        'cifar10',
        'cifar10-short',
        'cifar10-simple',
        'cifar10-tokens',
    ],
)
def test_the_methods_of_a_study_share_all_but_their_losses(name: str) -> None:
    configs = {
        experiment.name: load(experiment).to_dict()
        for experiment in STUDIES[name].experiments
    }
    # Without SeRKD, one that is read beside another.
    of = 'cifar10-short' if name == 'cifar10-simple' else name
    (serkd,) = (e for e in STUDIES[of].experiments if e.name == 'serkd')
    reference = load(serkd).to_dict()

    for method, cfg in configs.items():
        assert cfg.keys() == reference.keys(), method
        for key, value in cfg.items():
            if key != 'model':
                assert value == reference[key], (method, key)
        student = cfg['model'].get('architecture', cfg['model'])
        other = reference['model']['architecture']
        assert student['backbone'] == other['backbone'], method
        assert student['train_cfg'] == other['train_cfg'], method
        head, reference_head = dict(student['head']), dict(other['head'])
        for settings in (head, reference_head):
            # Hard distillation weighs the labels, a student alone has them
            # for both of its heads.
            settings.pop('label_dist_head', None)
            settings['loss'] = {**settings.get('loss', LOSS)}
            settings['loss'].pop('loss_weight', None)
        assert head == reference_head, method
        for key in ('teacher', 'teacher_ckpt'):
            if key in cfg['model']:
                assert cfg['model'][key] == reference['model'][key]
