# Copyright (c) The serkd_mm authors. All rights reserved.
"""The hooks before a commit check what tools/run_tests.sh checks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
REPOS = yaml.safe_load((ROOT / '.pre-commit-config.yaml').read_text())['repos']
PINS = dict(
    re.findall(
        r'^(ruff|mypy)==([\d.]+)',
        (ROOT / 'requirements' / 'constraints.txt').read_text(),
        flags=re.M,
    )
)


@pytest.mark.parametrize('tool', ['ruff', 'mypy'])
def test_hooks_and_constraints_pin_one_version(tool):
    (repo,) = [repo for repo in REPOS if tool in repo['repo']]
    assert repo['rev'] == f'v{PINS[tool]}'


def test_hooks_run_the_checks_of_the_tests():
    hooks = {hook['id'] for repo in REPOS for hook in repo['hooks']}
    assert hooks >= {
        'ruff-check',
        'ruff-format',
        'mypy',
        'trailing-whitespace',
        'check-yaml',
    }
