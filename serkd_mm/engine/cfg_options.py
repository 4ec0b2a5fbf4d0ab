# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from mmengine.config import DictAction


class CfgOptions(DictAction):
    """Overrides of a config as ``key=value`` pairs, for argparse.

    Like MMEngine's action (0.10.7), which takes the spaces out of texts,
    those of paths too, and ends in a traceback where a ``=`` is missing.
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
            value = self._parse_iterable(text)
            if isinstance(value, str):
                value = text.strip('\'"')
            options[key] = value
        setattr(namespace, self.dest, options)
