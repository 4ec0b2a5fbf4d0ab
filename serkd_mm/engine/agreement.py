# Copyright (c) The serkd_mm authors. All rights reserved.
"""What one process of a job decides, and all of them do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.dist import broadcast_object_list, is_main_process


@contextmanager
def main_process_writes() -> Iterator[None]:
    """A block in which the main process writes files.

    An error of the system (a full disk, say) that only the main process sees
    is raised on all, after the block, so that none waits for it. Every
    process has to enter the block.

    Raises:
        OSError: On every process, where one was raised on the main one.
    """
    error: list = [None]
    try:
        yield
    except OSError as raised:
        if not is_main_process():
            raise
        error[0] = raised
    broadcast_object_list(error)
    if error[0] is not None:
        raise error[0]
