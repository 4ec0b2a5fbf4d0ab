# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

from typing import Any

from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class ThroughputHook(Hook):
    """Logs ``train/images_per_second``, over all processes.

    Images of an iteration over its time with data loading, as
    :class:`mmengine.hooks.IterTimerHook` measured it just before: both have
    the same priority, and default hooks keep their order.
    """

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict | None = None,
    ) -> None:
        """Divide the images of the batch by the time of the iteration."""
        seconds = runner.message_hub.get_scalar('train/time').current()
        images = len(data_batch['inputs']) * get_world_size()
        runner.message_hub.update_scalar(
            'train/images_per_second', images / seconds
        )
