# Copyright (c) The serkd_mm authors. All rights reserved.
"""Whether results can be written, found out before they are computed."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def check_out_folder(folder: str | Path, name: str) -> None:
    """Make a folder for results, or say that there will be none.

    Args:
        folder: Where files are to be written.
        name: Option that it comes from.

    Raises:
        ValueError: If it cannot be made, or nothing can be written there.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f'{name}: nothing can be written into {str(folder)!r} '
            f'({error.strerror}); name another folder'
        ) from error


def check_out_file(path: str | Path, name: str) -> None:
    """Make the folder of a file of results, or say that there will be none.

    Args:
        path: File that is to be written.
        name: Option that it comes from.

    Raises:
        ValueError: If it is a folder, or cannot be written into its own.
    """
    if Path(path).is_dir():
        raise ValueError(f'{name}: {str(path)!r} is a folder; name a file')
    if Path(path).exists() and not os.access(path, os.W_OK):
        raise ValueError(
            f'{name}: {str(path)!r} may not be written; name another file'
        )
    check_out_folder(Path(path).parent, name)
