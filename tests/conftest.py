# Copyright (c) The serkd_mm authors. All rights reserved.
"""What every test starts from: one thread, one seed, a quiet logger."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope

import serkd_mm  # noqa: F401  (registers the package's classes)

# The tests run side by side, each process with one thread: this one and
# those that the tests start.
os.environ.setdefault('OMP_NUM_THREADS', '1')
torch.set_num_threads(int(os.environ['OMP_NUM_THREADS']))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        '--all-pairs',
        action='store_true',
        help='suggest, build and run all pairings of the model families, '
        'instead of one for each family and side (about half an hour)',
    )


@pytest.fixture
def logged(
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[ModuleType], list[str]]:
    """Collects what a module logs from now on, instead of logging it."""

    def collect(module: ModuleType) -> list[str]:
        said: list[str] = []
        monkeypatch.setattr(
            module, 'print_log', lambda message, **_: said.append(message)
        )
        return said

    return collect


@pytest.fixture(autouse=True)
def _reproducible() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _mmpretrain_scope() -> Iterator[None]:
    """The default scope of the package's configs."""
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        yield


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Warnings and errors only, while MMEngine's logger is the tests' own."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.WARNING)
    yield
    logger.setLevel(level)
