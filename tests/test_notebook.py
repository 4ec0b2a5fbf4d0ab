# Copyright (c) The serkd_mm authors. All rights reserved.
"""The notebook of demo/ is stored clean and runs from top to bottom."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = json.loads((ROOT / 'demo' / 'quickstart.ipynb').read_text())
CODE = [c for c in NOTEBOOK['cells'] if c['cell_type'] == 'code']


def test_the_notebook_has_the_form_of_nbformat_4():
    assert (NOTEBOOK['nbformat'], NOTEBOOK['nbformat_minor']) == (4, 5)
    assert NOTEBOOK['metadata']['kernelspec']['name'] == 'python3'
    ids = [cell['id'] for cell in NOTEBOOK['cells']]
    assert len(set(ids)) == len(ids)
    for cell in NOTEBOOK['cells']:
        wanted = {'cell_type', 'id', 'metadata', 'source'}
        if cell['cell_type'] == 'code':
            wanted |= {'execution_count', 'outputs'}
        else:
            assert cell['cell_type'] == 'markdown'
        assert set(cell) == wanted
        assert all(isinstance(line, str) for line in cell['source'])


def test_the_notebook_is_stored_without_outputs():
    assert [cell['outputs'] for cell in CODE] == [[]] * len(CODE)
    assert [cell['execution_count'] for cell in CODE] == [None] * len(CODE)


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    pytest.importorskip('sklearn')
    monkeypatch.setenv('EPOCHS', '2')
    monkeypatch.setenv('OUT', str(tmp_path))
    shown: list[int] = []
    monkeypatch.setattr(plt, 'show', lambda: shown.append(len(shown)))
    plt.switch_backend('agg')
    ran: dict = {'__name__': '__main__'}
    for cell in CODE:
        exec(compile(''.join(cell['source']), cell['id'], 'exec'), ran)
    plt.close('all')
    assert len(shown) == 2
    assert len(ran['predicted']) == len(ran['agreement']) == 8
    assert [run.folder.name for run in ran['runs']] == ['teacher', 'serkd']
    for run in ran['runs']:
        assert run.summary()['top-1 (last)'] is not None
