# Copyright (c) The serkd_mm authors. All rights reserved.
"""The random number generators of a process, all of them at once."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch


def get_random_state() -> dict[str, Any]:
    """States of Python, NumPy, PyTorch, and of the CUDA device in use.

    Returns:
        A dict for :func:`set_random_state`. ``cuda`` is there if the process
        has used CUDA; nothing is waited for on the device.
    """
    state = dict(
        python=random.getstate(),
        numpy=np.random.get_state(),
        torch=torch.get_rng_state(),
    )
    if torch.cuda.is_initialized():
        state['cuda'] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Put the generators into a state of :func:`get_random_state`."""
    random.setstate(state['python'])
    np.random.set_state(state['numpy'])
    torch.set_rng_state(state['torch'])
    if 'cuda' in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state['cuda'])


@contextlib.contextmanager
def kept_random_state() -> Iterator[None]:
    """Leave the generators afterwards as they were before.

    Example:
        >>> torch.manual_seed(0).initial_seed()
        0
        >>> with kept_random_state():
        ...     inside = torch.rand(3)
        >>> torch.equal(torch.rand(3), inside)
        True
    """
    state = get_random_state()
    try:
        yield
    finally:
        set_random_state(state)
