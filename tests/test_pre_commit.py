# Copyright (c) The serkd_mm authors. All rights reserved.
"""The hooks before a commit check what tools/run_tests.sh checks."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
REPOS = yaml.safe_load((ROOT / '.pre-commit-config.yaml').read_text())['repos']
HOOKS = {hook['id']: hook for repo in REPOS for hook in repo['hooks']}
CONSTRAINTS = (ROOT / 'requirements' / 'constraints.txt').read_text()


def test_hooks_run_the_checks_of_the_tests() -> None:
    steps = (ROOT / 'tools' / 'run_tests.sh').read_text()
    checks = {
        'ruff-check': 'ruff check',
        'ruff-format': 'ruff format',
        'mypy': 'mypy',
    }
    for name, command in checks.items():
        assert f'-m {command}' in steps
        assert re.match(rf'{command}\b', HOOKS[name]['entry'])
    assert HOOKS.keys() >= {'trailing-whitespace', 'check-yaml'}


def test_every_hook_installs_one_pinned_package() -> None:
    for hook in HOOKS.values():
        (pin,) = hook['additional_dependencies']
        assert re.fullmatch(r'[\w-]+==[\d.]+', pin), hook['id']


def test_hooks_and_constraints_pin_one_version() -> None:
    for name, hook in HOOKS.items():
        (pin,) = hook['additional_dependencies']
        if not pin.startswith('pre-commit-hooks=='):
            line = rf'^{re.escape(pin)}(;|$)'
            assert re.search(line, CONSTRAINTS, flags=re.M), name
