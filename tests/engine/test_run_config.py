# Copyright (c) The serkd_mm authors. All rights reserved.
"""The config inside a checkpoint is data."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

from serkd_mm.engine.run_config import check_registered, read_run_config

ROOT = Path(__file__).resolve().parents[2]


def read(text: str) -> Config:
    return read_run_config({'meta': {'cfg': text}}, 'run.pth')


def test_a_config_is_read_as_it_was_written() -> None:
    cfg = Config.fromfile(ROOT / 'configs' / 'quickstart' / 'serkd.py')
    assert read(cfg.pretty_text).to_dict() == cfg.to_dict()


@pytest.mark.parametrize('lazy', ['mmpretrain.models', 'mmpretrain'])
def test_registered_classes_may_be_built(lazy: str) -> None:
    cfg = Config.fromfile(ROOT / 'configs' / 'serkd_deit-s.py')
    cfg.model.architecture.type = f'{lazy}.ImageClassifier'
    check_registered(cfg.model.architecture, 'run.pth')


@pytest.mark.parametrize(
    'text',
    [
        'a = open({marker!r}, "w")',
        'a = dict(b=[open({marker!r}, "w")])',
        'open({marker!r}, "w")',
        'import antigravity',
        'a = b = 1',
        'a: int = 1',
        'a = {**{}}',
        'a = dict(**{})',
        'a = dict([("b", 1)], c=1)',
        'a = (lambda: 1)()',
        'a = "{0}".format(1)',
        'a = f"{open}"',
        'a = [x for x in ()]',
        'def a(): pass',
        'a.b = 1',
        'a = 1\x00',
        'a = (',
    ],
)
def test_anything_but_values_is_refused(text: str, tmp_path: Path) -> None:
    marker = tmp_path / 'ran'
    with pytest.raises(ValueError, match=r'run\.pth holds is more than valu'):
        read(text.replace('{marker!r}', repr(str(marker))))
    assert not marker.exists()


def test_modules_are_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "custom_imports = dict(imports=['serkd_mm', 'antigravity'])"
    monkeypatch.delitem(sys.modules, 'antigravity', raising=False)
    with pytest.raises(ValueError, match='imports antigravity; if you trust'):
        read(text)
    assert 'antigravity' not in sys.modules
    monkeypatch.setitem(sys.modules, 'antigravity', sys)
    assert read(text).custom_imports.imports[1] == 'antigravity'


@pytest.mark.parametrize(
    'name',
    [
        'subprocess.Popen',
        'os.system',
        'antigravity',
        'mmengine.fileio.load',
        'mmengine.load',
        'torch.hub.load',
        'mmpretrain.models.absent',
        'builtins.eval',
    ],
)
def test_what_is_not_registered_is_not_built(name: str) -> None:
    evil: Any = dict(type='ImageClassifier', head=[dict(type=name)])
    with pytest.raises(ValueError, match=f'builds {name!r}'):
        check_registered(evil, 'run.pth')


def test_a_checkpoint_without_config_is_named() -> None:
    with pytest.raises(ValueError, match=r'run\.pth does not hold the config'):
        read_run_config({'meta': {}}, 'run.pth')
