# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

import os.path as osp
from collections.abc import Iterable
from pathlib import Path
from typing import Any


class LateRemovals:
    """A file backend whose removals wait, and spare what is not its own.

    Everything else is that of the backend that it wraps.

    Args:
        backend: File backend of MMEngine.
        folder: Folder whose files it may remove. Files elsewhere, as those of
            the run that this one was resumed from, it does not see.
    """

    def __init__(self, backend: Any, folder: str) -> None:
        self._backend = backend
        self._folder = osp.realpath(folder)
        self._waiting: dict = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def isfile(self, path: str) -> bool:
        """Whether there is such a file of its own."""
        return self._owns(path) and self._backend.isfile(path)

    def isdir(self, path: str) -> bool:
        """Whether there is such a folder of its own."""
        return self._owns(path) and self._backend.isdir(path)

    def remove(self, path: str) -> None:
        """Remove a file later."""
        self._waiting[path] = self._backend.remove

    def rmtree(self, path: str) -> None:
        """Remove a folder later."""
        self._waiting[path] = self._backend.rmtree

    def forget(self) -> None:
        """Remove nothing of what waits."""
        self._waiting.clear()

    def remove_all_but(self, in_use: Iterable[str]) -> dict[str, OSError]:
        """Remove what waits.

        Args:
            in_use: Paths that are needed again by now.

        Returns:
            The error for each path that could not be removed.
        """
        waiting, self._waiting = self._waiting, {}
        errors = {}
        for path in waiting.keys() - set(in_use):
            try:
                waiting[path](path)
            except OSError as error:
                errors[path] = error
        return errors

    def _owns(self, path: str) -> bool:
        folder = Path(osp.realpath(osp.dirname(path)))
        return folder.is_relative_to(self._folder)
