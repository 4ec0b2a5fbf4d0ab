# Copyright (c) The serkd_mm authors. All rights reserved.
"""What messages leave out: which name was meant, what was asserted."""

from __future__ import annotations

import difflib
import inspect
import re
import traceback
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from mmengine.registry import Registry
from torch.utils.data import DataLoader

_UNREGISTERED = re.compile(r'is not in the \S+::\S+ registry')
_UNEXPECTED = re.compile(r"got an unexpected keyword argument '(\w+)'$")


def frames_of(error: BaseException) -> Iterator[FrameType]:
    """Frames from the outermost to that of the error's first cause."""
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame
        trace = trace.tb_next
    # The host's call_hook hides the context, which knows the hook.
    cause = error.__cause__ or error.__context__
    if cause is not None:
        yield from frames_of(cause)


def near_name(error: Exception) -> str:
    """Name what is nearest to a type or an argument that there is not.

    Later Pythons do so for arguments, and their messages stay as they are.

    Args:
        error: Any error that was raised.

    Returns:
        An addition to the message; empty if the error is another one, the
        name did not come from a config, or nothing is near.
    """
    if isinstance(error, KeyError) and _UNREGISTERED.search(str(error)):
        return _near_type(list(frames_of(error))[-1])
    found = _UNEXPECTED.search(str(error))
    if not isinstance(error, TypeError) or not found:
        return ''
    name, (built, given) = found.group(1), _innermost(frames_of(error))
    return nearest(name, built) if name in given else ''


def asserted(error: Exception) -> str:
    """What an assertion without a message asks for; empty for other errors.

    Args:
        error: Any error that was raised.
    """
    if not isinstance(error, AssertionError) or str(error):
        return ''
    place = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f'{Path(place.filename).name}, line {place.lineno}, has '
        f'{" ".join((place.line or "").split())!r}'
    )


def _near_type(frame: FrameType) -> str:
    """The question whether another registered type was meant, or nothing."""
    registry, name = (frame.f_locals.get(n) for n in ('registry', 'obj_type'))
    if not isinstance(registry, Registry) or not isinstance(name, str):
        return ''
    # Those that are found without a scope; behind one, those of others.
    chain = [registry]
    while chain[-1].parent is not None:
        chain.append(chain[-1].parent)
    known = {
        other: f'{child.scope}.{other}'
        for child in chain[-1].children.values()
        for other in child.module_dict
    }
    for reached in chain:
        known.update((other, other) for other in reached.module_dict)
    return did_you_mean(name.rpartition('.')[2], known)


def nearest(name: str, built: Any) -> str:
    """The question whether another argument was meant, or nothing.

    Args:
        name: Argument that there is not.
        built: Class or function.
    """
    known = sorted(_arguments(built))
    return did_you_mean(name, dict(zip(known, known)))


def did_you_mean(name: str, known: Mapping[str, str]) -> str:
    """The question that ends a message about an unknown name, or nothing.

    Args:
        name: What was given.
        known: Names to compare it with, and how the question calls them.
    """
    near = difflib.get_close_matches(name, known, n=1)
    return f'; did you mean {known[near[0]]!r}?' if near else ''


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
