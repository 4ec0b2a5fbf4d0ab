# Copyright (c) The serkd_mm authors. All rights reserved.
"""Triton kernels, imported and built when the first of them is called."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import shutil
import sysconfig
from pathlib import Path
from typing import Any

from torch import Tensor


def _major_version() -> int:
    """That of the module: its package has other names on ROCm and Windows."""
    found = importlib.util.find_spec('triton')
    if found is None or found.origin is None:
        return 0
    text = Path(found.origin).read_text(encoding='utf-8')
    version = re.search(r"^__version__ = '(\d+)", text, re.MULTILINE)
    return int(version[1]) if version else 0


_INSTALLED = _major_version() >= 3

# Triton builds its launcher when a kernel is first used.
_COMPILER = Path(sysconfig.get_path('include'), 'Python.h').is_file() and any(
    [os.environ.get('CC'), shutil.which('gcc'), shutil.which('clang')]
)


def triton_installed() -> bool:
    """Whether Triton 3 or newer is there, without importing it."""
    return _INSTALLED


def compiler_found() -> bool:
    """Whether there are the C compiler and header that Triton asks for."""
    return _COMPILER


def jit(function: Any, unspecialized: list[str]) -> tuple[Any, bool]:
    """Make a kernel of a function, whose module then has Triton as ``tl``.

    Launches name ``enable_fp_fusion``, whose default differs between versions
    of Triton, and with it the bits of the result.

    Args:
        function: What a program of the kernel does.
        unspecialized: Numbers that get no build of their own for 1 and for
            multiples of 16.

    Returns:
        The kernel, and whether Triton's interpreter runs it.
    """
    triton = importlib.import_module('triton')
    function.__globals__['tl'] = importlib.import_module('triton.language')
    kernel = triton.jit(do_not_specialize=unspecialized)(function)
    return kernel, type(kernel).__name__ == 'InterpretedFunction'


def check_device(tensor: Tensor, interpreted: bool) -> None:
    """Refuse a tensor that no kernel can read.

    Raises:
        RuntimeError: If it is not on a CUDA device and there is no
            interpreter.
    """
    if not tensor.is_cuda and not interpreted:
        raise RuntimeError(
            "impl='triton' needs tensors on a CUDA device, got "
            f"{tensor.device}; use impl='chunked'"
        )
