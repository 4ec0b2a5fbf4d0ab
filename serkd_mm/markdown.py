# Copyright (c) The serkd_mm authors. All rights reserved.
"""Texts inside of Markdown."""

from __future__ import annotations


def as_cell(text: str) -> str:
    r"""A text inside of a Markdown table.

    Example:
        >>> print(as_cell('a | b'))
        a \| b
    """
    return text.replace('|', r'\|')
