# Copyright (c) The serkd_mm authors. All rights reserved.
"""Every wrong mapping is named by its key, with what there is instead."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from .builders import build, distiller_config

MAPPING = 'loss_forward_mappings.loss_kd'


def mapped(change: dict[str, Any], drop: tuple[str, ...] = ()) -> nn.Module:
    """A model whose student's logits are mapped in another way."""
    cfg = distiller_config(losses=('loss_kd',))
    record = cfg['loss_forward_mappings']['loss_kd']['preds_S']
    record.update(change)
    for key in drop:
        del record[key]
    return build(distiller=cfg)


RECORDS = {
    'missing recorder': (
        dict(recorder='logit'),
        (),
        f"{MAPPING}.preds_S.recorder 'logit' is not in student_recorders; "
        "did you mean 'logits'? There are ['tokens', 'logits']",
    ),
    'missing connector': (
        dict(connector='student_token'),
        (),
        f"{MAPPING}.preds_S.connector 'student_token' is not in "
        "connectors; did you mean 'student_tokens'? There are ['student_",
    ),
    'unlike any connector': (
        dict(connector='xyz'),
        (),
        f"{MAPPING}.preds_S.connector 'xyz' is not in connectors. There are",
    ),
    'misspelt setting': (
        dict(conector='student_tokens'),
        (),
        f"{MAPPING}.preds_S.conector 'conector' is no setting; did you mean "
        "'connector'? There are ['recorder', 'from_student', ",
    ),
    'no recorder': ({}, ('recorder',), f"{MAPPING}.preds_S lacks 'recorder'"),
    'no side': (
        {},
        ('from_student',),
        f"{MAPPING}.preds_S lacks 'from_student'",
    ),
    'side of a wrong type': (
        dict(from_student='yes'),
        (),
        f"{MAPPING}.preds_S.from_student must be of type bool, got 'yes'",
    ),
    'index of a wrong type': (
        dict(record_idx=0.5),
        (),
        f'{MAPPING}.preds_S.record_idx must be of type int, got 0.5',
    ),
    'index that is a boolean': (
        dict(data_idx=True),
        (),
        f'{MAPPING}.preds_S.data_idx must be of type int, got True',
    ),
    'item of a connector that there is not': (
        dict(connector_idx=0),
        (),
        f'{MAPPING}.preds_S.connector_idx=0 picks an item of what a connector '
        'gives, and there is no connector; data_idx picks',
    ),
    'no name': (
        dict(recorder=None),
        (),
        f'{MAPPING}.preds_S.recorder must be of type str, got None',
    ),
}


@pytest.mark.parametrize('mistake', list(RECORDS))
def test_a_wrong_record_is_named(mistake: str) -> None:
    change, drop, message = RECORDS[mistake]
    with pytest.raises((TypeError, ValueError)) as error:
        mapped(change, drop)
    assert str(error.value).startswith(message)


def test_an_unset_connector_is_none() -> None:
    settings = dict(connector=None, connector_idx=None, data_idx=None)
    assert mapped(settings) is not None


MAPPINGS = {
    'a loss that is not there': (
        dict(loss_dk=dict()),
        "loss_forward_mappings.loss_dk 'loss_dk' is not in distill_losses; "
        "did you mean 'loss_kd'? There are ['loss_kd']",
    ),
    'an argument that is not there': (
        dict(preds_X=dict(recorder='logits', from_student=True)),
        f"{MAPPING}.preds_X 'preds_X' is no argument of KLDivergence",
    ),
    'an argument too few': (
        dict(preds_T=None),
        f"{MAPPING} lacks 'preds_T', an argument of KLDivergence",
    ),
    'a record that is no dict': (
        dict(preds_S='logits'),
        f"{MAPPING}.preds_S must hold a dict, got str 'logits'",
    ),
}


@pytest.mark.parametrize('mistake', list(MAPPINGS))
def test_a_wrong_mapping_is_named(mistake: str) -> None:
    change, message = MAPPINGS[mistake]
    cfg = distiller_config(losses=('loss_kd',))
    mappings = cfg['loss_forward_mappings']
    if 'loss_dk' in change:
        mappings.update(change)
    else:
        mapping = {**mappings['loss_kd'], **change}
        mappings['loss_kd'] = {k: v for k, v in mapping.items() if v}

    with pytest.raises((TypeError, ValueError)) as error:
        build(distiller=cfg)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize('mappings', [[], ['loss_kd'], 'loss_kd'])
def test_mappings_that_are_no_dict_are_refused(mappings: Any) -> None:
    cfg = distiller_config(losses=('loss_kd',))
    cfg['loss_forward_mappings'] = mappings
    with pytest.raises((TypeError, ValueError), match='loss_forward_mappings'):
        build(distiller=cfg)


@pytest.mark.parametrize(
    ('key', 'value', 'named'),
    [
        ('student_recorders', [], 'student_recorders'),
        ('teacher_recorders', dict(logits='head.fc'), 'teacher_recorders.log'),
        (
            'connectors',
            dict(tokens=[dict(type='VisualTokens'), 3]),
            'connectors',
        ),
        ('connectors', dict(tokens=None), 'connectors.tokens'),
        ('distill_losses', dict(loss_kd=[dict()]), 'distill_losses.loss_kd'),
    ],
)
def test_parts_that_are_no_configs_are_named(
    key: str, value: Any, named: str
) -> None:
    with pytest.raises(TypeError, match=rf'^{named}.* must hold a dict, got'):
        build(distiller=distiller_config(**{key: value}))


@pytest.mark.parametrize('key', ['student_recorders', 'distill_losses'])
def test_parts_without_type_are_named(key: str) -> None:
    with pytest.raises(ValueError, match=rf"^{key}.tokens lacks 'type'"):
        build(distiller=distiller_config(**{key: dict(tokens=dict(tau=1))}))
