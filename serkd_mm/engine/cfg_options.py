# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Any

from mmengine.config import DictAction

# One text, not a list that begins and ends with one.
_QUOTED = re.compile(r'(["\'])((?:(?!\1).)*)\1', re.DOTALL)


class CfgOptions(DictAction):
    """Overrides of a config as ``key=value`` pairs, for argparse.

    Like MMEngine's action (0.10.7), which takes the spaces out of texts,
    those of paths too, and ends in a traceback where a ``=`` is missing, a
    bracket is not closed or a list holds a dict. What is in quotes is a text,
    commas and brackets included.
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
            if not equals:
                parser.error(f'{option_string} takes key=value, got {pair!r}')
            quoted = _QUOTED.fullmatch(text)
            if quoted:
                options[key] = quoted[2]
                continue
            try:
                value = self._parse_iterable(text)
            except (AssertionError, RecursionError):
                parser.error(
                    f'{option_string} cannot read {pair!r}: a value is a '
                    'number, a text or a list or tuple of them, with all '
                    'brackets closed; write dicts into a config file'
                )
            if isinstance(value, str):
                value = text.strip('\'"')
            options[key] = value
        setattr(namespace, self.dest, options)
