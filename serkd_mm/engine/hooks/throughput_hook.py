# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

from collections import deque
from typing import Any

from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class ThroughputHook(Hook):
    """Logs ``train/images_per_second``, over all processes.

    Images of the last iterations, as many as the log takes the mean time of,
    over their time with data loading, as
    :class:`mmengine.hooks.IterTimerHook` measured it just before: both have
    the same priority, and default hooks keep their order. It is no mean of
    rates, in which waiting for data would hardly count.
    """

    def __init__(self) -> None:
        self._images: deque[int] = deque()
        self._seconds: deque[float] = deque()

    def before_train(self, runner: Runner) -> None:
        """Begin with no iterations."""
        window = runner.log_processor.window_size
        self._images = deque(maxlen=window)
        self._seconds = deque(maxlen=window)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict | None = None,
    ) -> None:
        """Divide the images of the last batches by the time they took."""
        hub = runner.message_hub
        self._seconds.append(hub.get_scalar('train/time').current())
        self._images.append(len(data_batch['inputs']) * get_world_size())
        rate = sum(self._images) / sum(self._seconds)
        hub.update_scalar('train/images_per_second', rate)
