# Copyright (c) The serkd_mm authors. All rights reserved.
"""What a misspelt argument of a class may have meant."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Iterable
from types import FrameType
from typing import Any

from torch.utils.data import DataLoader

_UNEXPECTED = re.compile(r"got an unexpected keyword argument '(\w+)'$")


def near_argument(error: Exception, frames: Iterable[FrameType]) -> str:
    """Name the argument that is nearest to one that a class does not take.

    Later Pythons do so too, and their messages stay as they are.

    Args:
        error: Any error.
        frames: Those that it passed through, the outermost first.

    Returns:
        An addition to the message; empty if the error is another one, the
        argument did not come from a config, or nothing is near.
    """
    found = _UNEXPECTED.search(str(error))
    if not isinstance(error, TypeError) or not found:
        return ''
    name, (built, given) = found.group(1), _innermost(frames)
    return nearest(name, built) if name in given else ''


def nearest(name: str, built: Any) -> str:
    """The question whether another argument was meant, or nothing.

    Args:
        name: Argument that there is not.
        built: Class or function.
    """
    near = difflib.get_close_matches(name, sorted(_arguments(built)), n=1)
    return f'; did you mean {near[0]!r}?' if near else ''


def _innermost(frames: Iterable[FrameType]) -> tuple[Any, dict]:
    """What was being built last, and its arguments in the config."""
    for frame in reversed(list(frames)):
        values = frame.f_locals
        if frame.f_code.co_name == 'build_from_cfg':
            return values.get('obj_cls'), values.get('args') or {}
        if frame.f_code.co_name == 'build_dataloader':
            # Built without a registry.
            return DataLoader, values.get('dataloader_cfg') or {}
    return None, {}


def _arguments(built: Any) -> set[str]:
    """Keyword arguments of a function, or of a class and its bases.

    Bases count as far as classes hand over what they do not know.
    """
    if not inspect.isclass(built):
        return _named(built)[0]
    names: set[str] = set()
    for kind in inspect.getmro(built):
        if '__init__' in vars(kind):
            own, others = _named(vars(kind)['__init__'])
            names |= own - {'self'}
            if not others:
                break
    return names


def _named(function: Any) -> tuple[set[str], bool]:
    """Names of the arguments, and whether it takes any others."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return set(), False
    named = {
        p.name
        for p in parameters
        if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)
    }
    return named, any(p.kind is p.VAR_KEYWORD for p in parameters)
