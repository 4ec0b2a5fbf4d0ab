# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pickle import UnpicklingError


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """End a tool with one line for what its user can put right.

    Files that are missing or something else, and values that cannot be meant.
    """
    try:
        yield
    except (FileNotFoundError, ValueError, UnpicklingError) as error:
        raise SystemExit(f'error: {error}') from None
