# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pickle import UnpicklingError

# Files that are missing or something else, and values that cannot be meant.
MISTAKES = (FileNotFoundError, ValueError, UnpicklingError)


@contextlib.contextmanager
def one_line_errors(
    kinds: tuple[type[Exception], ...] = MISTAKES,
) -> Iterator[None]:
    """End a tool with one line for what its user can put right.

    Args:
        kinds: Errors that are such mistakes. Around code of others, which
            raises the usual ones for its own faults too, fewer.
    """
    try:
        yield
    except kinds as error:
        raise SystemExit(f'error: {error}') from None
