# Copyright (c) The serkd_mm authors. All rights reserved.
"""Mappings of a distiller that name what is not there."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from inspect import Parameter, signature
from typing import Any

from mmrazor.registry import TASK_UTILS
from torch import nn

from ...near_names import did_you_mean

# Arguments of ConfigurableDistiller.get_record, and their types.
RECORD = dict(
    recorder=str,
    from_student=bool,
    record_idx=int,
    data_idx=int,
    connector=str,
    connector_idx=int,
)
BLOCKS = (
    'student_recorders',
    'teacher_recorders',
    'distill_deliveries',
    'connectors',
    'distill_losses',
)
# What MMRazor adds to the types of recorders.
_RECORDER = 'Recorder'


def check_blocks(blocks: Mapping[str, Any]) -> None:
    """Refuse recorders, connectors and losses that are no configs.

    Args:
        blocks: Arguments of the distiller.

    Raises:
        TypeError: If an argument is no dict of dicts, for connectors of dicts
            and lists of dicts.
        ValueError: If one of these has no ``type``, or a recorder one that
            there is not.
    """
    for key in BLOCKS:
        entries = blocks.get(key)
        if entries is None:
            continue
        _check_dict(key, entries)
        for name, entry in entries.items():
            chain = isinstance(entry, list) and key == 'connectors'
            for part in entry if chain else [entry]:
                _check_dict(f'{key}.{name}', part)
                if 'type' not in part:
                    raise ValueError(
                        f"{key}.{name} lacks 'type', the name of a registered "
                        f'class, got {part}'
                    )
                if key.endswith('recorders'):
                    _check_recorder(f'{key}.{name}.type', part['type'])


def _check_recorder(key: str, kind: Any) -> None:
    known = [
        name.removesuffix(_RECORDER)
        for name in TASK_UTILS.module_dict
        if name.endswith(_RECORDER)
    ]
    if TASK_UTILS.get(f'{kind}{_RECORDER}') is None:
        unknown = _unknown('no recorder of MMRazor', kind, known)
        raise ValueError(f'{key} {unknown}')


def check_mappings(
    mappings: Mapping[str, Any],
    losses: nn.ModuleDict,
    recorders: Mapping[bool, Collection[str]],
    connectors: Collection[str],
) -> None:
    """Refuse mappings that could not be followed.

    Args:
        mappings: ``loss_forward_mappings`` of the config.
        losses: Built losses.
        recorders: Names of the recorders, the student's under True.
        connectors: Names of the connectors.

    Raises:
        TypeError: If something has another type than it needs.
        ValueError: If a mapping names a loss, an argument, a recorder, a
            connector or a setting that does not exist, or leaves one out
            that is needed.
    """
    _check_dict('loss_forward_mappings', mappings)
    for loss, mapping in mappings.items():
        key = f'loss_forward_mappings.{loss}'
        if loss not in losses:
            raise ValueError(
                f'{key} {_unknown("not in distill_losses", loss, losses)}'
            )
        _check_dict(key, mapping)
        _check_arguments(key, mapping, losses[loss])
        for argument, record in mapping.items():
            _check_record(f'{key}.{argument}', record, recorders, connectors)


def _check_arguments(key: str, mapping: dict, loss: nn.Module) -> None:
    parameters = signature(loss.forward).parameters
    if any(p.kind == Parameter.VAR_KEYWORD for p in parameters.values()):
        return
    owner = f'argument of {type(loss).__name__}'
    for argument in mapping:
        if argument not in parameters:
            unknown = _unknown(f'no {owner}', argument, parameters)
            raise ValueError(f'{key}.{argument} {unknown}')
    for name, parameter in parameters.items():
        needed = parameter.default is Parameter.empty
        positional = parameter.kind == Parameter.VAR_POSITIONAL
        if needed and not positional and name not in mapping:
            raise ValueError(
                f'{key} lacks {name!r}, an {owner} without default; map it to '
                'a recorder'
            )


def _check_record(
    key: str,
    record: Any,
    recorders: Mapping[bool, Collection[str]],
    connectors: Collection[str],
) -> None:
    _check_dict(key, record)
    for name, value in record.items():
        if name not in RECORD:
            raise ValueError(
                f'{key}.{name} {_unknown("no setting", name, RECORD)}'
            )
        optional = value is None and name not in ('recorder', 'from_student')
        wanted = RECORD[name]
        if not optional and type(value) is not wanted:
            raise TypeError(
                f'{key}.{name} must be of type {wanted.__name__}, got '
                f'{value!r}'
            )
    for name in ('recorder', 'from_student'):
        if name not in record:
            raise ValueError(
                f'{key} lacks {name!r}, expected at least '
                f"dict(recorder='...', from_student=True), got {record}"
            )
    side = 'student' if record['from_student'] else 'teacher'
    known = recorders[record['from_student']]
    name = record['recorder']
    if name not in known:
        unknown = _unknown(f'not in {side}_recorders', name, known)
        raise ValueError(f'{key}.recorder {unknown}')
    connector = record.get('connector')
    if connector and connector not in connectors:
        unknown = _unknown('not in connectors', connector, connectors)
        raise ValueError(f'{key}.connector {unknown}')
    if not connector and record.get('connector_idx') is not None:
        raise ValueError(
            f'{key}.connector_idx={record["connector_idx"]} picks an item of '
            'what a connector gives, and there is no connector; data_idx '
            'picks an item of the record'
        )


def _check_dict(key: str, value: Any) -> None:
    if not isinstance(value, dict):
        raise TypeError(
            f'{key} must hold a dict, got {type(value).__name__} {value!r}'
        )


def _unknown(what: str, name: str, known: Iterable[str]) -> str:
    names = {other: other for other in known}
    meant = did_you_mean(str(name), names)
    return f'{name!r} is {what}{meant or "."} There are {list(names)}'
