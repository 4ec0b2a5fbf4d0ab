# Copyright (c) The serkd_mm authors. All rights reserved.
"""Python source of nested values, in the style of the configs."""

from __future__ import annotations

import keyword
import re
from typing import Any

WIDTH = 79
_STEP = '    '


class Reference(str):
    """Source code that stands as it is, such as ``_base_.model``."""


def assignment(name: str, value: Any) -> str:
    """``name = value`` on one line if it fits, else one entry per line.

    Dicts are written as calls of ``dict``, long strings in several pieces.

    Example:
        >>> print(assignment('head', dict(type='Head', loss=Reference('x'))))
        head = dict(type='Head', loss=x)
    """
    source = _source(value, '', len(name) + 3)
    if isinstance(value, str) and '\n' in source:
        # Outside of brackets, each piece would be a statement.
        pieces = _pieces(value, _STEP, len(_STEP))
        source = f'(\n{_STEP}{pieces}\n)'
    return f'{name} = {source}'


def _source(value: Any, indent: str, used: int, after: int = 0) -> str:
    """Source of a value.

    Args:
        value: What to write.
        indent: White space in front of its line.
        used: Characters in front of it on its line, indent included.
        after: Characters behind it on its line.
    """
    line = _one_line(value)
    if used + len(line) + after <= WIDTH:
        return line
    if isinstance(value, str) and not isinstance(value, Reference):
        return _pieces(value, indent, used)
    if not isinstance(value, (dict, list, tuple)) or not value:
        return line
    inner = indent + _STEP
    if isinstance(value, dict):
        opening, closing = _brackets(value)
        entries = []
        for key, item in value.items():
            name = _key(key, value)
            source = _source(item, inner, len(inner + name), 1)
            entries.append(name + source)
    else:
        opening, closing = ('[', ']') if isinstance(value, list) else '()'
        entries = [_source(item, inner, len(inner), 1) for item in value]
    lines = [f'{inner}{entry},' for entry in entries]
    return '\n'.join([opening, *lines, indent + closing])


def _one_line(value: Any) -> str:
    if isinstance(value, Reference):
        return str(value)
    if isinstance(value, dict):
        opening, closing = _brackets(value)
        entries = [
            _key(key, value) + _one_line(item) for key, item in value.items()
        ]
        return opening + ', '.join(entries) + closing
    if isinstance(value, list):
        return f'[{", ".join(map(_one_line, value))}]'
    if isinstance(value, tuple):
        comma = ',' if len(value) == 1 else ''
        return f'({", ".join(map(_one_line, value))}{comma})'
    return repr(value)


def _brackets(value: dict) -> tuple[str, str]:
    return ('dict(', ')') if _is_call(value) else ('{', '}')


def _key(key: Any, value: dict) -> str:
    return f'{key}=' if _is_call(value) else f'{key!r}: '


def _is_call(value: dict) -> bool:
    return all(
        isinstance(k, str) and k.isidentifier() and not keyword.iskeyword(k)
        for k in value
    )


def _pieces(text: str, indent: str, used: int) -> str:
    """A long string in several lines, cut behind slashes."""
    lines, room = [''], WIDTH - used - 2
    for part in re.findall(r'[^/]*/+|[^/]+', text):
        if lines[-1] and len(lines[-1]) + len(part) > room:
            lines.append('')
            room = WIDTH - len(indent) - 3
        lines[-1] += part
    return f'\n{indent}'.join(map(repr, lines))
