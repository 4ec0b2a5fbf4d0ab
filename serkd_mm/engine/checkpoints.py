# Copyright (c) The serkd_mm authors. All rights reserved.
"""Which checkpoint of a run can be resumed from."""

from __future__ import annotations

import os
import os.path as osp
import re
import zipfile
from pathlib import Path
from typing import Any

from mmengine.runner import CheckpointLoader

# What MMEngine's resume cannot do without, or goes on without in silence.
_NEEDED = ('meta', 'state_dict', 'message_hub', 'optimizer')


class ResumeError(RuntimeError):
    """A checkpoint that training cannot go on from."""


def why_unreadable(path: str | Path) -> str | None:
    """Read a checkpoint as resuming does and say what is wrong with it.

    Args:
        path: Local file. A folder (as sharded checkpoints are) is not looked
            into.

    Returns:
        The reason, or None if the checkpoint is sound.
    """
    path = os.fspath(path)
    if os.path.isdir(path):
        return None
    if not os.path.isfile(path):
        return 'the file does not exist'
    if not os.path.getsize(path):
        return 'the file is empty'
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
            if damaged:
                return f'the checksum of its part {damaged!r} is wrong'
        checkpoint = CheckpointLoader.load_checkpoint(path, map_location='cpu')
    except MemoryError:
        raise
    except Exception as error:
        text = str(error).strip().splitlines() or ['']
        return f'{type(error).__name__}: {text[0]}'
    return _what_is_missing(checkpoint)


def _what_is_missing(checkpoint: Any) -> str | None:
    if not isinstance(checkpoint, dict):
        return f'it holds a {type(checkpoint).__name__}, not a dict'
    missing = [key for key in _NEEDED if key not in checkpoint]
    if missing:
        return (
            f'it has no {", ".join(missing)}, as a best checkpoint or one '
            'with save_optimizer=False has no optimizer; training can only '
            'start anew from its weights, with load_from and without resume'
        )
    return None


def choose_checkpoint(
    named: str | None, work_dir: str, folder: str, template: str
) -> tuple[str | None, dict[str, str]]:
    """The checkpoint that a run resumes from.

    Args:
        named: The one that the user asks for, or None for the latest.
        work_dir: Where ``last_checkpoint`` is.
        folder: Where the run's checkpoints are.
        template: Their names, with ``{}`` for the step.

    Returns:
        Its path, or None if the run has no checkpoint yet, and the reason
        for each newer one that was refused.

    Raises:
        ResumeError: If the named one cannot be read, or none of the run's.
    """
    if named is not None and '://' in named:
        return named, {}
    named = named and osp.expanduser(named)
    candidates = _candidates(work_dir, folder, template)
    remote = next((path for path in candidates if '://' in path), None)
    if named is None and remote:
        return remote, {}
    if named is not None:
        reason = why_unreadable(named)
        if reason is None:
            return named, {}
        other = remote or _first_readable(candidates)[0]
        raise ResumeError(
            f'cannot resume from {named}: {reason}. '
            + (
                'The work dir has no checkpoint that can be read'
                if other is None
                else 'The newest checkpoint of the work dir that can be read '
                f'is {other}'
            )
        )
    path, refused = _first_readable(candidates)
    if path is None and refused:
        reasons = '; '.join(f'{p}: {why}' for p, why in refused.items())
        raise ResumeError(
            'cannot resume, as none of the checkpoints can be read. Remove '
            f'them, or train without resume. {reasons}'
        )
    return path, refused


def latest_checkpoints(work_dir: str, folder: str | None = None) -> list[str]:
    """What ``last_checkpoint`` of a work dir may mean, the likeliest first.

    Args:
        work_dir: It may have been moved, or be a copy of another.
        folder: Where the run's checkpoints are, by default in the work dir.

    Returns:
        The name in it, and the file of that name in the work dir if there is
        one. The latter goes first where the name is of another folder than
        the run's. None of them need be there.
    """
    last = Path(work_dir, 'last_checkpoint')
    if not last.is_file():
        return []
    # What is no text names no file either.
    named = last.read_text(errors='replace').strip('\0 \n')
    if not named:
        return []
    inside = osp.join(work_dir, osp.basename(named))
    if inside == named or not osp.isfile(inside):
        return [named]
    known = is_in(work_dir, named) or is_in(folder or work_dir, named)
    return [named, inside] if known else [inside, named]


def is_in(folder: str, path: str) -> bool:
    """Whether a path is one of this folder, links followed."""
    return osp.realpath(osp.dirname(path)) == osp.realpath(folder)


def _candidates(work_dir: str, folder: str, template: str) -> list[str]:
    """What ``last_checkpoint`` names, then the others, the newest first."""
    first = latest_checkpoints(work_dir, folder)
    step = re.sub(r'\\{.*?\\}', r'\\d+', re.escape(template))
    others = [
        path
        for path in (Path(folder).iterdir() if osp.isdir(folder) else ())
        if re.fullmatch(step, path.name)
    ]
    # Of a link itself: what it is to may be gone.
    others.sort(key=lambda path: path.lstat().st_mtime_ns, reverse=True)
    return first + [str(path) for path in others if str(path) not in first]


def _first_readable(
    paths: list[str],
) -> tuple[str | None, dict[str, str]]:
    """The first checkpoint that can be read, and why others cannot."""
    refused: dict[str, str] = {}
    for path in paths:
        reason = why_unreadable(path)
        if reason is None:
            return path, refused
        refused[path] = reason
    return None, refused
