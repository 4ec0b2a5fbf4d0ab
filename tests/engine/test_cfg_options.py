# Copyright (c) The serkd_mm authors. All rights reserved.
"""Overrides of a config on the command line."""

from __future__ import annotations

import argparse
from typing import Any

import pytest
from mmengine.config import Config

from serkd_mm.engine.cfg_options import CfgOptions, merge_options


def parse(*arguments: str) -> dict[str, Any]:
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions)
    return parser.parse_args(['--cfg-options', *arguments]).cfg_options


@pytest.mark.parametrize(
    ('text', 'value'),
    [
        ('my runs (2)/best epoch.pth', 'my runs (2)/best epoch.pth'),
        ('"quoted path.pth"', 'quoted path.pth'),
        ('"a, (b/c.pth"', 'a, (b/c.pth'),
        ("'5'", '5'),
        ('"a","b"', ['a', 'b']),
        ('a=b', 'a=b'),
        ('0.5', 0.5),
        ('None', None),
        ('[1, 2]', [1, 2]),
        ('(a, b)', ('a', 'b')),
        ('[my runs/a, b]', ['my runs/a', 'b']),
        ("['a,b', 'c']", ['a,b', 'c']),
        ('a b,c', ['a b', 'c']),
        ('[(1, 2.5), ["]", x], []]', [(1, 2.5), [']', 'x'], []]),
        ('(1,)', (1,)),
        ("it's here, (2)/b", ["it's here", '(2)/b']),
        ('(a)/(b)', '(a)/(b)'),
        ('epoch(2.pth', 'epoch(2.pth'),
        ('', ''),
    ],
)
def test_values_are_what_was_written(text: str, value: Any) -> None:
    assert parse(f'model.key={text}') == {'model.key': value}


def test_several_options_add_up() -> None:
    found = parse('a=1', 'b=2', '--cfg-options', 'c=3', 'a=4')
    assert found == dict(a=4, b=2, c=3)


def test_a_pair_without_a_value_is_named(
    capsys: pytest.CaptureFixture,
) -> None:
    with pytest.raises(SystemExit):
        parse('train_cfg.max_epochs', '3')
    said = capsys.readouterr().err
    assert "--cfg-options takes key=value, got 'train_cfg.max_epochs'" in said


def test_a_value_without_a_key_is_named(
    capsys: pytest.CaptureFixture,
) -> None:
    with pytest.raises(SystemExit):
        parse('=3')
    assert "takes key=value, got '=3'" in capsys.readouterr().err


@pytest.mark.parametrize(
    'key', ['schedules.9.end', 'schedules.x', 'model.depth.x', 'model.depth.0']
)
def test_an_option_without_a_place_is_named(key: str) -> None:
    cfg = Config(dict(schedules=[dict(end=1)], model=dict(depth=3)))
    with pytest.raises(ValueError, match=rf'^option {key}=3 has no place'):
        merge_options(cfg, {key: 3})


def test_an_option_may_say_how_the_one_before_it_is_merged() -> None:
    cfg = Config(dict(head=dict(type='A', depth=3)))
    merge_options(cfg, {'head.type': 'B', 'head._delete_': True})
    assert cfg.head == dict(type='B')


def test_options_of_lists_and_new_keys_have_their_place() -> None:
    cfg = Config(dict(schedules=[dict(end=1), dict(end=2)]))
    merge_options(cfg, {'schedules.1.end': 3, 'new.key': 4})
    assert cfg.schedules == [dict(end=1), dict(end=3)]
    assert cfg.new.key == 4


@pytest.mark.parametrize(
    'pair',
    [
        "hooks=[dict(type='EMAHook',momentum=1)]",
        'k=[(1,2]',
        'k=[a,b',
        'k=1),2',
        "k={'b':1}",
        'k=[a, {}]',
    ],
)
def test_what_is_no_list_of_values_is_named(
    pair: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit):
        parse(pair)
    said = ' '.join(capsys.readouterr().err.split())
    assert f'cannot read {pair!r}: a value is a number' in said
    assert said.endswith('write dicts into a config file')
