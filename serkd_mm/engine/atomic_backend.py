# Copyright (c) The serkd_mm authors. All rights reserved.
"""Files that are complete or absent."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

from ..compat import forget_file_backends

_SUFFIX = '.partial'


@register_backend('local', force=True, prefixes='')
class AtomicLocalBackend(LocalBackend):
    """MMEngine's local storage with writes that cannot be half done.

    Whatever MMEngine writes to a local file (checkpoints of every kind, also
    those of ``runner.save_checkpoint``, and whatever goes through
    ``mmengine.fileio``) is first written to a hidden file in the same folder,
    flushed to the disk, and then renamed. A process that is killed on the way
    leaves the old file, or none, under the name, and a hidden file that
    :func:`remove_partial_files` finds. A write that fails, on a full disk for
    example, raises and leaves nothing behind.
    """

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes to a file, all or nothing.

        Args:
            obj: What is written.
            filepath: File to write or to replace; its folder is made. A link
                stays a link. What is no regular file (``/dev/null``, a pipe)
                is written to directly.

        Raises:
            OSError: If the file cannot be written; an old one is untouched.
        """
        target = Path(os.path.realpath(filepath))
        if target.exists() and not target.is_file():
            super().put(obj, filepath)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f'.{target.name}.{os.getpid()}{_SUFFIX}')
        try:
            _write(partial, obj)
            if target.exists():
                shutil.copymode(target, partial)
            os.replace(partial, target)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        _sync_folder(target.parent)

    def put_text(
        self,
        obj: str,
        filepath: str | Path,
        encoding: str = 'utf-8',
    ) -> None:
        """Write text to a file, all or nothing; see :meth:`put`."""
        self.put(obj.encode(encoding), filepath)


forget_file_backends()


def remove_partial_files(folder: str | Path) -> list[Path]:
    """Remove what killed writers left in a folder.

    Args:
        folder: Folder that no other process writes to.

    Returns:
        The files that were removed.
    """
    partial = sorted(Path(folder).glob(f'.*{_SUFFIX}'))
    for path in partial:
        path.unlink(missing_ok=True)
    return partial


def _write(path: Path, data: bytes) -> None:
    with open(path, 'wb') as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut, where the system can."""
    if not hasattr(os, 'O_DIRECTORY'):
        return
    descriptor = os.open(folder, os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError:
        # Some network file systems cannot; the file itself is on the disk.
        pass
    finally:
        os.close(descriptor)
