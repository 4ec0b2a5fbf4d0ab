# Copyright (c) The serkd_mm authors. All rights reserved.
"""In what a run that was trained differs from what is asked for now."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from mmengine.config import Config

from .fingerprint import checkpoints_of, config_text, has_teacher
from .runs import Run

_ABSENT = object()
_LONGEST = 80


def why_other(
    run: Run, teacher: str | None, arguments: Sequence[str], processes: int
) -> str:
    """The first difference between a run and what is asked for now.

    Args:
        run: Run with a record whose fingerprint is another.
        teacher: Checkpoint of the teacher now.
        arguments: Arguments of ``train.py`` now.
        processes: Processes of a training now.
    """
    path, now = run.folder / 'config.py', run.config(teacher)
    if path.is_file():
        before = Config.fromfile(path)
        key, *values = first_difference(_plain(before), _plain(now))
        if key:
            return f'{key} is {_show(values[0])} there, {_show(values[1])} now'
    where = (run.record() or {}).get('environment', {})
    given = ' '.join(arguments)
    if where.get('arguments', given) != given:
        return (
            f'trained with {where["arguments"] or "no arguments"}, now with '
            f'{given or "none"}'
        )
    if where.get('processes', processes) != processes:
        return f'processes: {where["processes"]} there, {processes} now'
    if teacher is not None and has_teacher(now):
        return "the teacher's checkpoint holds something else"
    if checkpoints_of(now):
        return 'a checkpoint that the config names holds something else'
    return 'no key differs'


def first_difference(before: Any, now: Any) -> tuple[str, Any, Any]:
    """Key with dots and both values, the key empty if nothing differs.

    Example:
        >>> first_difference({'a': [{'b': 1}]}, {'a': [{'b': 2}]})
        ('a.0.b', 1, 2)
    """
    keys: list = []
    if isinstance(before, dict) and isinstance(now, dict):
        keys = list(dict.fromkeys([*now, *before]))
    lists = isinstance(before, list) and isinstance(now, list)
    if lists and len(before) == len(now):
        before, now = dict(enumerate(before)), dict(enumerate(now))
        keys = list(now)
    for key in keys:
        values = before.get(key, _ABSENT), now.get(key, _ABSENT)
        if values[0] != values[1]:
            inner, *both = first_difference(*values)
            return '.'.join(filter(None, (str(key), inner))), both[0], both[1]
    return '', before, now


def _plain(cfg: Config) -> Any:
    if 'teacher_ckpt' in cfg.model:  # it counts by what it holds
        cfg.model.teacher_ckpt = None
    return json.loads(config_text(cfg))


def _show(value: Any) -> str:
    text = 'not set' if value is _ABSENT else repr(value)
    return text if len(text) <= _LONGEST else f'{text[:_LONGEST]}...'
