# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

import contextlib
import logging
import os
from typing import Any

from mmengine.logging import print_log
from mmengine.registry import VISBACKENDS
from mmengine.visualization import LocalVisBackend


@VISBACKENDS.register_module()
class TolerantVisBackend(LocalVisBackend):
    """MMEngine's local record of scalars, whose loss ends no run.

    On a full disk ``LocalVisBackend`` ends training at the next line of
    scalars, before :class:`AtomicCheckpointHook` can say what happens to the
    checkpoint and decide. Here such a line is left out, the first with a
    warning.

    Args:
        args: See :class:`mmengine.visualization.LocalVisBackend`.
        kwargs: See there.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._warned = False

    def _dump(self, value_dict: dict, file_path: str, *args: Any) -> None:
        old = os.path.exists(file_path)
        size = os.path.getsize(file_path) if old else 0
        try:
            super()._dump(value_dict, file_path, *args)
        except OSError as error:
            # No half lines.
            with contextlib.suppress(OSError):
                os.truncate(file_path, size)
            if not self._warned:
                self._warned = True
                print_log(
                    f'Scalars are missing from {file_path}: {error}',
                    logger='current',
                    level=logging.WARNING,
                )
