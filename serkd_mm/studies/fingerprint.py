# Copyright (c) The serkd_mm authors. All rights reserved.
"""What decides the result of a run, as a hash."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmengine.config import Config

from ..engine.pretrained_checks import pretrained_inits
from ..paths import sha256_of

if TYPE_CHECKING:
    from .runs import Run

_ROOT = str(Path(__file__).resolve().parents[2])


def fingerprint(
    run: Run, teacher: str | None, arguments: Iterable[str] = ()
) -> str:
    """Hash of all that decides a run's result but the number of its seed.

    That is the config with its bases and options, what the seed is set to,
    what the teacher's checkpoint and others of this machine that the config
    names hold, and the further arguments. Where this package lies decides
    nothing.
    """
    cfg = run.experiment.load()
    digest = hashlib.sha256()
    if teacher is not None and has_teacher(cfg):
        cfg.model.teacher_ckpt = None
        digest = _hash_of(Path(teacher))
    digest.update(config_text(cfg).encode())
    decisive = [*(run.seed_keys if run.seed is not None else ()), *arguments]
    decisive += filter(None, map(file_digest, checkpoints_of(cfg)))
    digest.update('\0'.join(decisive).encode())
    return digest.hexdigest()[:16]


def has_teacher(cfg: Config) -> bool:
    """Whether the config distils from a teacher."""
    return 'teacher' in cfg.model


def checkpoints_of(cfg: Config) -> list[str]:
    """Paths and URLs of the checkpoints that a config names."""
    inits = pretrained_inits(cfg.model, 'model')
    named = [cfg.get('load_from'), cfg.model.get('teacher_ckpt')]
    named += [initial.get('checkpoint') for _, initial in inits]
    return [path for path in named if isinstance(path, str)]


def file_digest(path: str) -> str | None:
    """Hash of a file, None where it is none of this machine."""
    file = Path(path).expanduser()
    if not file.is_file():
        return None
    return _hash_of(file).hexdigest()[:16]


def _hash_of(file: Path) -> Any:
    """SHA-256 of a file, which a study asks for once per run and more."""
    status = file.stat()
    return _read_hash(file, status.st_mtime_ns, status.st_size).copy()


@functools.lru_cache(maxsize=8)
def _read_hash(file: Path, *version: int) -> Any:
    with file.open('rb') as opened:
        return sha256_of(opened)


def config_text(cfg: Config) -> str:
    """A config as JSON, wherever this package lies."""
    text = json.dumps(cfg.to_dict(), sort_keys=True, default=str)
    return text.replace(_ROOT, '')
