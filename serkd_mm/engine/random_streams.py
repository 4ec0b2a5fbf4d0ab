# Copyright (c) The serkd_mm authors. All rights reserved.
"""Random numbers that depend on where training is, not on how it got there."""

from __future__ import annotations

import random

import numpy as np
import torch


def enter_stream(*name: int, devices: bool = True) -> None:
    """Start the named stream of random numbers.

    Sets the generators of Python, NumPy and PyTorch to a state that is a
    function of the name alone. Streams of different names are independent
    (NumPy's ``SeedSequence``).

    Args:
        name: Integers from 0 on, for example seed, purpose and iteration.
        devices: Whether to set the generators of CUDA and other devices too.

    Example:
        >>> enter_stream(0, 1)
        >>> first = torch.rand(2), random.random()
        >>> enter_stream(0, 2)
        >>> other = torch.rand(2)
        >>> enter_stream(0, 1)
        >>> torch.equal(torch.rand(2), first[0]), random.random() == first[1]
        (True, True)
    """
    words = np.random.SeedSequence(name).generate_state(3, np.uint64)
    python, numpy, pytorch = (int(word) for word in words)
    random.seed(python)
    np.random.seed((numpy >> 32, numpy & 0xFFFFFFFF))
    if devices:
        torch.manual_seed(pytorch)
    else:
        torch.default_generator.manual_seed(pytorch)
