# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

from pathlib import Path


def own_folder(name: str) -> Path:
    """``configs`` or ``tools``, of the installed package or the checkout."""
    package = Path(__file__).resolve().parent
    installed = package / '.mim' / name
    return installed if installed.is_dir() else package.parent / name
