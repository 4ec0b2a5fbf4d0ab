# Copyright (c) The serkd_mm authors. All rights reserved.
"""What a study is, and how it is read from its file."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml
from mmengine.config import Config

from ..engine.cfg_options import merge_options

TEACHER = 'teacher'


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _list_of(kind: type) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, list) and all(type(item) is kind for item in value)
    )


# What the keys of a file hold, those of the study and of its experiments.
_TYPES: dict[str, tuple[Callable[[Any], bool], str]] = {
    'title': (lambda value: isinstance(value, str), 'text'),
    'experiments': (lambda value: isinstance(value, list), 'a list'),
    'seeds': (_list_of(int), 'a list of whole numbers'),
    'seed_keys': (_list_of(str), 'a list of config keys'),
    'notes': (_list_of(str), 'a list of lines'),
    'options': (lambda value: isinstance(value, dict), 'a mapping'),
    'config': (lambda value: isinstance(value, str), 'the path of a config'),
    'name': (lambda value: isinstance(value, str), 'text'),
    'label': (lambda value: isinstance(value, str), 'text'),
    'paper': (_is_number, 'a number'),
}


@dataclass(frozen=True)
class Experiment:
    """One row of a study's table.

    Attributes:
        name: Name on the command line and of the folder.
        config: The config to train.
        label: Name in tables, ``name`` if not given.
        options: Config keys with dots and their values, as
            ``--cfg-options`` takes them.
        paper: The paper's number, None where it has none.
    """

    name: str
    config: Path
    label: str = ''
    options: dict[str, Any] = field(default_factory=dict)
    paper: float | None = None

    def load(self) -> Config:
        """The config with the options of the experiment."""
        cfg = Config.fromfile(self.config)
        merge_options(cfg, self.options)
        return cfg


@dataclass(frozen=True)
class Study:
    """Experiments that are compared, each with the same seeds.

    Attributes:
        name: Name of its file.
        title: One line for the reader.
        experiments: Rows of the table.
        seeds: Seeds of every experiment.
        seed_keys: Config keys that are set to the seed.
        teacher: Trained once, first; its checkpoint is the ``teacher_ckpt``
            of every experiment that has one. None for the configs' own.
        baseline: Experiment that the others are compared with, seed by seed.
        options: Options of every experiment, not of the teacher.
        notes: Lines under the table.
    """

    name: str
    title: str
    experiments: tuple[Experiment, ...]
    seeds: tuple[int, ...] = (0,)
    seed_keys: tuple[str, ...] = ('randomness.seed',)
    teacher: Experiment | None = None
    baseline: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def select(self, names: Iterable[str] | None) -> tuple[Experiment, ...]:
        """Experiments of these names in the study's order, None for all.

        Raises:
            ValueError: If there is none of that name.
        """
        if names is None:
            return self.experiments
        known = [experiment.name for experiment in self.experiments]
        unknown = sorted(set(names) - set(known))
        if unknown:
            raise ValueError(
                f'study {self.name!r} has no experiment '
                f'{", ".join(map(repr, unknown))}; it has {", ".join(known)}'
            )
        return tuple(e for e in self.experiments if e.name in set(names))

    def with_options(self, options: dict[str, Any]) -> Study:
        """The study with further options of experiments and teacher.

        The teacher takes those whose block it has: not the options of a
        distiller, for example.
        """

        def extended(experiment: Experiment, new: dict) -> Experiment:
            return replace(experiment, options={**experiment.options, **new})

        teacher = self.teacher
        if teacher is not None and options:
            cfg = teacher.load()
            own = {k: v for k, v in options.items() if _has_block_of(cfg, k)}
            teacher = extended(teacher, own)
        return replace(
            self,
            experiments=tuple(extended(e, options) for e in self.experiments),
            teacher=teacher,
        )


def _has_block_of(cfg: Config, key: str) -> bool:
    """Whether a config has all of a key with dots but its end."""
    part: Any = cfg.to_dict()
    for name in key.split('.')[:-1]:
        try:
            part = part[int(name) if isinstance(part, list) else name]
        except (KeyError, IndexError, TypeError, ValueError):
            return False
    return isinstance(part, (dict, list))


def find_studies(folder: Path) -> dict[str, Path]:
    """Files of the studies in a folder by their names."""
    return {path.stem: path for path in sorted(folder.glob('*.yml'))}


def load_study(path: Path) -> Study:
    """Read a study.

    The file is YAML with the attributes of :class:`Study` but ``name``;
    ``experiments`` is a list and ``teacher`` one set of the attributes of
    :class:`Experiment`. Configs are relative to the file.

    Args:
        path: The file.

    Returns:
        The study, its name that of the file.

    Raises:
        FileNotFoundError: If the file or a config does not exist.
        ValueError: If it is no YAML, says something that a study does not
            have or that has another type, or contradicts itself.
    """
    where = f'study {path}'
    try:
        content = yaml.safe_load(path.read_text(encoding='utf-8'))
    except yaml.YAMLError as error:
        raise ValueError(f'{where} is no YAML: {error}') from error
    if not isinstance(content, dict):
        raise ValueError(f'{where} must be a mapping, got {content!r}')
    _check_keys(content, Study, where, required={'title', 'experiments'})
    options = content.get('options') or {}
    experiments = tuple(
        _experiment(entry, path, options=options)
        for entry in content['experiments'] or ()
    )
    teacher = content.get('teacher')
    study = Study(
        **{
            **content,
            'name': path.stem,
            'options': options,
            'experiments': experiments,
            'teacher': teacher and _experiment(teacher, path, name=TEACHER),
            'seeds': tuple(content.get('seeds', Study.seeds)),
            'seed_keys': tuple(content.get('seed_keys', Study.seed_keys)),
            'notes': tuple(content.get('notes', ())),
        }
    )
    _check(study, where)
    return study


def _experiment(entry: Any, path: Path, **defaults: Any) -> Experiment:
    where = f'an experiment of study {path}'
    if not isinstance(entry, dict):
        raise ValueError(f'{where} must be a mapping, got {entry!r}')
    options = {**defaults.pop('options', {}), **(entry.get('options') or {})}
    entry = {**defaults, **entry}
    _check_keys(entry, Experiment, where, required={'name', 'config'})
    config = (path.parent / entry['config']).resolve()
    if not config.is_file():
        raise FileNotFoundError(
            f'config {entry["config"]!r} of experiment {entry["name"]!r} in '
            f'study {path} does not exist; configs are relative to the file'
        )
    return Experiment(
        **{
            **entry,
            'config': config,
            'label': entry.get('label', entry['name']),
            'options': options,
        }
    )


def _check_keys(
    entry: dict, kind: type, where: str, required: set[str]
) -> None:
    known = {f.name for f in fields(kind)}
    if kind is Study:
        known.remove('name')  # that of the file
    unknown, missing = set(entry) - known, required - set(entry)
    if unknown or missing:
        raise ValueError(
            f'{where} has unknown keys {sorted(unknown)} and lacks '
            f'{sorted(missing)}; known keys are {sorted(known)}'
        )
    for key, value in entry.items():
        fits, wanted = _TYPES.get(key, (lambda _: True, ''))
        if not fits(value):
            raise ValueError(
                f'{key} of {where} must be {wanted}, got {value!r}'
            )


def _check(study: Study, where: str) -> None:
    names = [experiment.name for experiment in study.experiments]
    twice = sorted({name for name in names if names.count(name) > 1})
    # They are names of folders.
    odd = [n for n in names if not re.fullmatch(r'\w[\w.+-]*', str(n))]
    if not names or twice or odd or TEACHER in names:
        raise ValueError(
            f'{where} needs experiments with names of letters, digits, ".", '
            f'"+" and "-", each once and none {TEACHER!r}; got {names}'
        )
    if study.baseline is not None and study.baseline not in names:
        raise ValueError(
            f'baseline {study.baseline!r} of {where} is none of its '
            f'experiments: {names}'
        )
    if not study.seeds or len(set(study.seeds)) < len(study.seeds):
        raise ValueError(
            f'{where} needs seeds, each once; got {list(study.seeds)}'
        )
