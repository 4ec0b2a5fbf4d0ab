# Copyright (c) The serkd_mm authors. All rights reserved.
"""How much the fast paths work on at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch

# Bytes of one tensor over what is worked on together. On a CPU a
# handful of them stay in the caches; elsewhere launches cost more than memory.
CPU_BYTES = 5 << 18
DEVICE_BYTES = 1 << 25


def pieces(count: int, size: int, device: torch.device) -> Iterator[slice]:
    """Slices of the images of a batch or the tokens of an image.

    Args:
        count: Number of images or tokens; each slice has one at least.
        size: Bytes of one in the tensor that is to stay in the caches.
        device: Where that is.

    Example:
        >>> list(pieces(5, 1 << 19, torch.device('cpu')))
        [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    limit = CPU_BYTES if device.type == 'cpu' else DEVICE_BYTES
    step = max(1, limit // size)
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))
