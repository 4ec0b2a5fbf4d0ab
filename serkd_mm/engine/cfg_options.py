# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

import argparse
import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import Config, DictAction

# One text, not a list that begins and ends with one.
_QUOTED = re.compile(r'(["\'])((?:(?!\1).)*)\1', re.DOTALL)
_DICT = re.compile(r'\{|dict\s*\(')
_KINDS = {'()': tuple, '[]': list}


class CfgOptions(DictAction):
    """Overrides of a config as ``key=value`` pairs, for argparse.

    Like MMEngine's action (0.10.7), which takes the spaces out of texts,
    those of paths too, and ends in a traceback where a ``=`` is missing, a
    bracket is not closed or a list holds a dict. What is in quotes is a text,
    commas and brackets included, in lists too.
    """

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Add the pairs to those of the namespace."""
        options = dict(getattr(namespace, self.dest, None) or {})
        for pair in values or ():
            key, equals, text = pair.partition('=')
            if not equals or not key.strip():
                parser.error(f'{option_string} takes key=value, got {pair!r}')
            try:
                options[key] = read_value(text)
            except (ValueError, RecursionError):
                parser.error(
                    f'{option_string} cannot read {pair!r}: a value is a '
                    'number, a text or a list or tuple of them, with all '
                    'brackets closed; write dicts into a config file'
                )
        setattr(namespace, self.dest, options)


def merge_options(cfg: Config, options: Mapping[str, Any]) -> None:
    """Put overrides into a config.

    Args:
        cfg: Config, changed in place.
        options: Values by their keys with dots, where a number is an item of
            a list.

    Raises:
        ValueError: If a key leads to no place in the config.
    """
    trial = copy.deepcopy(cfg)
    for key, value in options.items():
        try:
            trial.merge_from_dict({key: value})
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(
                f'option {key}={value!r} has no place in the config: a part '
                'of its key is an item that a list lacks, or lies in '
                'something that is neither a list nor a dict'
            ) from error
    # Together, since some say how others are merged (_delete_).
    cfg.merge_from_dict(dict(options))


def read_value(text: str) -> Any:
    """A number, a text, or a list or tuple of them.

    Raises:
        ValueError: If it is a dict, or brackets do not fit together.
    """
    text = text.strip()
    quoted = _QUOTED.fullmatch(text)
    if quoted:
        return quoted[2]
    if _DICT.match(text):
        raise ValueError('a dict')
    if ',' in text or text.startswith(('(', '[')):
        parts = _between_commas(text)
        if _is_enclosed(text):
            inner = _between_commas(text[1:-1])
            return _KINDS[text[0] + text[-1]](map(read_value, inner))
        if parts != [text]:
            return [read_value(part) for part in parts]
    return DictAction._parse_int_float_bool(text)


def _is_enclosed(text: str) -> bool:
    """Whether the last bracket closes the first; all are closed."""
    if text[0] + text[-1] not in _KINDS:
        return False
    try:
        _between_commas(text[1:-1])
    except ValueError:  # as in '(a)/(b)'
        return False
    return True


def _between_commas(text: str) -> list[str]:
    """Parts of a text between the commas outside of brackets and quotes.

    Raises:
        ValueError: If a bracket is not closed or was not open.
    """
    parts, opened = [''], ''
    at, begins = 0, True
    while at < len(text):
        # Quotes count where a value begins; elsewhere they are apostrophes.
        quoted = _QUOTED.match(text, at) if begins else None
        token = quoted[0] if quoted else text[at]
        at += len(token)
        begins = token in '([,' or (begins and token.isspace())
        if token == ',' and not opened:
            parts.append('')
            continue
        parts[-1] += token
        if token in ('(', '['):
            opened += token
        elif token in (')', ']'):
            if opened[-1:] + token not in _KINDS:
                raise ValueError(f'{token} was not open')
            opened = opened[:-1]
    if opened:
        raise ValueError(f'{opened} not closed')
    # A comma may stand behind the last one.
    return parts if parts[-1].strip() else parts[:-1]
