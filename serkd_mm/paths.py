# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, BinaryIO

CONFIG_PREFIX = 'serkd_mm::'


def is_missing(path: str) -> bool:
    """Whether a checkpoint's name is no URL and names no file.

    Args:
        path: Path, where ``~`` is the home folder, or URL.
    """
    return '://' not in path and not Path(path).expanduser().is_file()


def sha256_of(file: BinaryIO) -> Any:
    """SHA-256 of what is left of a file, which may not fit into memory."""
    digest = hashlib.sha256()
    for block in iter(lambda: file.read(1 << 20), b''):
        digest.update(block)
    return digest


def own_folder(name: str) -> Path:
    """``configs`` or ``tools``, of the installed package or the checkout."""
    package = Path(__file__).resolve().parent
    installed = package / '.mim' / name
    return installed if installed.is_dir() else package.parent / name


def own_config_path(name: str) -> str:
    """File of a config of this package, installed or in a checkout.

    Args:
        name: ``serkd_mm::`` and the path below the configs folder.

    Raises:
        FileNotFoundError: If there is no such config.
    """
    folder = own_folder('configs')
    path = folder / name[len(CONFIG_PREFIX) :]
    if not path.is_file():
        known = sorted(
            str(p.relative_to(folder))
            for p in folder.rglob('*.py')
            if '_base_' not in p.parts
        )
        raise FileNotFoundError(
            f'{name} is no config of serkd_mm; there are: {", ".join(known)}'
        )
    return str(path)
