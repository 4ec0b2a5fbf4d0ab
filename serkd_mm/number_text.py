# Copyright (c) The serkd_mm authors. All rights reserved.
"""Numbers for the reader."""

from __future__ import annotations


def number_text(value: float, digits: int = 4) -> str:
    """A number in few digits, from a thousand on in whole numbers.

    Args:
        value: The number.
        digits: How many digits a smaller one has.

    Returns:
        ``0.1235``, ``99.5`` or ``375,300``.
    """
    text = f'{value:.{digits}g}'
    return f'{value:,.0f}' if abs(float(text)) >= 1000 else text
