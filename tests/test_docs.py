# Copyright (c) The serkd_mm authors. All rights reserved.
"""The pages of docs/ and tools/ say what is there, and their code runs."""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import HOOKS
from mmrazor.registry import MODELS

import serkd_mm.functional
import serkd_mm.models
from serkd_mm import cli
from serkd_mm.engine.forward_dump import Replay

from .pages import ROOT, links, python_block, run_page

DOCS = ROOT / 'docs'
PAPER = DOCS / 'paper_to_code.md'
PAGES = [
    *sorted(DOCS.glob('*.md')),
    ROOT / 'tools' / 'README.md',
    ROOT / 'CONTRIBUTING.md',
]


@pytest.fixture
def example_parts() -> Iterator[None]:
    """What the page on own parts registers is gone after the test."""
    before = set(MODELS.module_dict)
    yield
    for name in set(MODELS.module_dict) - before:
        del MODELS.module_dict[name]
    sys.modules.pop('my_parts', None)


def test_the_code_of_the_paper_page_runs(tmp_path):
    assert 'loss' in run_page(PAPER, tmp_path)


def test_own_parts_are_trained_with(tmp_path, monkeypatch, example_parts):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    ran = run_page(DOCS / 'add_your_own.md', tmp_path)
    assert {'my_parts.py', 'my_config.py'} <= {
        path.name for path in tmp_path.iterdir()
    }
    assert ran['losses']['distill.loss_affinity'] > 0
    center = ran['model'].distiller.connectors['student_center']
    tokens = serkd_mm.models.connectors.TokenMap(
        ran['torch'].arange(16.0).view(1, 16, 1), (4, 4)
    )
    inner = center[1](tokens)
    assert inner.hw == (2, 2)
    assert inner.tokens.flatten().tolist() == [5, 6, 9, 10]
    # In a process of its own, as a reader's test would.
    block = python_block('from my_parts import', DOCS / 'add_your_own.md')
    subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', block],
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': str(DOCS.parent)},
        check=True,
    )


def test_the_page_on_long_runs_names_what_is_there():
    page = DOCS / 'long_runs.md'
    names = re.findall(r'found\.(\w+)', python_block('replay(', page))
    assert set(names) == {'losses', 'img_paths', 'loss'} < set(Replay._fields)
    hooks: dict = {}
    exec(python_block('default_hooks', page), hooks)
    built = {k: HOOKS.build(v) for k, v in hooks['default_hooks'].items()}
    defaults = get_config('serkd_mm::serkd_deit-s.py').default_hooks
    assert {k: type(hook).__name__ for k, hook in built.items()} == {
        k: defaults[k].type for k in built
    }


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_every_linked_file_exists(page):
    assert [path for path in links(page) if not path.exists()] == []


def test_every_tool_is_in_a_table_of_the_tools():
    page = ROOT / 'tools' / 'README.md'
    rows = table(page, 'Tool') + table(page, 'Script')
    listed = [re.match(r'\[(.+?)\]\((.+?)\)$', row[0]) for row in rows]
    assert all(name and name[1] == name[2] for name in listed)
    names = [name[1] for name in listed if name]
    there = {path.name for path in page.parent.iterdir() if path.is_file()}
    assert sorted(names) == sorted(there - {page.name})
    for name, row in zip(names, rows):
        assert f'tools/{name} ' in row[2].replace('`', ' ')


def test_every_tool_that_serkd_runs_is_in_the_first_table():
    rows = table(ROOT / 'tools' / 'README.md', 'Tool')
    names = {tool for tool, *_ in cli.COMMANDS.values()}
    assert {row[0].split('.py]')[0][1:] for row in rows} == names


def table(page: Path, first: str) -> list[list[str]]:
    """Cells of the rows below the heading that starts with a column."""
    lines = page.read_text().splitlines()
    start = next(
        i for i, line in enumerate(lines) if line.startswith(f'| {first} |')
    )
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith('|'):
            break
        rows.append([cell.strip() for cell in line.strip('|').split('|')])
    return rows


def test_every_name_in_the_table_of_equations_is_there():
    for row in table(PAPER, 'Equation'):
        function, name, key = (cell.strip('`') for cell in row[2:5])
        if row[2].startswith('`'):
            assert hasattr(serkd_mm.functional, function)
        cls = MODELS.get(name)
        assert cls is not None, name
        if key.startswith('loss_') and 'each' not in key:
            distiller = get_config('serkd_mm::serkd_deit-s.py').model.distiller
            assert distiller.distill_losses[key].type == name


def test_values_in_the_table_are_those_of_the_config():
    cfg = get_config('serkd_mm::serkd_deit-s.py')
    rows = table(PAPER, 'Config key')
    assert len(rows) > 10
    for key, value, *_ in rows:
        found = look_up(cfg, key.strip('`').replace('D.', 'model.distiller.'))
        assert found == ast.literal_eval(value.strip('`')), key


def test_defaults_in_the_table_are_those_of_the_classes():
    rows = table(PAPER, 'Setting')
    assert rows
    for setting, value, *_ in rows:
        name, argument = setting.strip('`').split('.')
        default = inspect.signature(MODELS.get(name)).parameters[argument]
        assert default.default == ast.literal_eval(value.strip('`')), setting


def look_up(cfg: Config, key: str) -> object:
    """A value of a config by its dotted key; numbers index lists."""
    found = cfg
    for part in key.split('.'):
        found = found[int(part) if part.isdigit() else part]
    return found
