# Copyright (c) The serkd_mm authors. All rights reserved.
"""Fast paths of functions in :mod:`serkd_mm.functional`."""

from __future__ import annotations

import functools
import warnings

import torch
from torch import Tensor

from .. import compat
from .distance_chunked import distance_loss_chunked
from .relation_chunked import angle_loss_chunked
from .relation_triton import (
    MAX_TOKENS,
    angle_loss_triton,
    distance_loss_triton,
    without_kernels,
)
from .triton_build import compiler_found, triton_installed

IMPLS = ('auto', 'reference', 'chunked', 'triton')
NORMALIZE = ('image', 'batch')

__all__ = [
    'IMPLS',
    'MAX_TOKENS',
    'angle_loss_chunked',
    'angle_loss_triton',
    'check_distance_impl',
    'check_impl',
    'distance_loss_chunked',
    'distance_loss_triton',
    'select_impl',
    'without_kernels',
]


def check_impl(impl: str) -> None:
    """Refuse an unknown implementation of a relation loss.

    Raises:
        ValueError: If ``impl`` is none.
    """
    if impl not in IMPLS:
        raise ValueError(f'impl must be one of {list(IMPLS)}, got {impl!r}')


def check_distance_impl(impl: str, normalize: str) -> None:
    """Refuse unknown settings of the distance loss, and pairs of them.

    Raises:
        ValueError: If one is unknown, or ``impl`` does not take ``normalize``.
    """
    if normalize not in NORMALIZE:
        raise ValueError(
            f'normalize must be one of {list(NORMALIZE)}, got {normalize!r}'
        )
    check_impl(impl)
    if impl in ('chunked', 'triton') and normalize != 'image':
        raise ValueError(
            f"impl={impl!r} takes normalize='image', got {normalize!r}; use "
            "impl='reference'"
        )


def select_impl(
    impl: str, student: Tensor, teacher: Tensor | None = None
) -> str:
    """Implementation of a relation loss to use for these tokens.

    ``'auto'`` is ``'triton'`` for CUDA tensors (ROCm's are) of up to 256
    tokens that are computed in float32, where Triton, a C compiler and
    Python's header are installed and the device is one that Triton compiles
    for (capability 7.0), else ``'chunked'``; under the transforms of
    ``torch.func``, which take neither of them, ``'reference'``. Where only
    software is missing for ``'triton'``, a warning says once what it is. Any
    other valid name is returned as it is: an explicit choice that cannot run
    raises where it is called.

    Args:
        impl: ``'auto'``, ``'reference'``, ``'chunked'`` or ``'triton'``.
        student: Student tokens, ``(B, K, Cs)``.
        teacher: Teacher tokens; a float64 side makes the loss float64.

    Raises:
        RuntimeError: If ``impl`` cannot be under a transform that is calling.
        ValueError: If ``impl`` is unknown.

    Example:
        >>> import torch
        >>> select_impl('auto', torch.zeros(2, 49, 192))
        'chunked'
    """
    check_impl(impl)
    if impl == 'reference':
        return impl
    if _in_torch_func():
        if impl == 'auto':
            return 'reference'
        raise RuntimeError(
            f'impl={impl!r} takes no transform of torch.func; use '
            "impl='auto' or 'reference'"
        )
    if impl != 'auto':
        return impl
    sides = (student,) if teacher is None else (student, teacher)
    fits = (
        all(side.is_cuda for side in sides)
        and all(side.dtype != torch.float64 for side in sides)
        and student.shape[1] <= MAX_TOKENS
        and torch.cuda.get_device_properties(student.device).major >= 7
    )
    if not fits:
        return 'chunked'
    if triton_installed() and compiler_found():
        return 'triton'
    if not compat.is_compiling():
        _say_what_triton_needs()
    return 'chunked'


@functools.cache
def _say_what_triton_needs() -> None:
    needed = (
        "a C compiler (gcc, clang or what CC names) and Python's header "
        'Python.h, which it builds its launcher with'
        if triton_installed()
        else 'the package triton, 3.0 or newer'
    )
    warnings.warn(
        "impl='auto' computes relation losses by 'chunked' on this GPU: "
        f"'triton' needs {needed}",
        stacklevel=2,
    )


def _in_torch_func() -> bool:
    """Whether a transform of ``torch.func`` is calling, ``grad`` or ``vmap``.

    Its answer would break a graph of ``torch.compile``, whose own transforms
    are not looked for.
    """
    if compat.is_compiling():
        return False
    return torch._C._are_functorch_transforms_active()
