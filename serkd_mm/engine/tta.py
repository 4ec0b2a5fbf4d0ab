# Copyright (c) The serkd_mm authors. All rights reserved.
"""Predictions averaged over changed copies of every image."""

from __future__ import annotations

import copy

from mmengine.config import Config
from mmengine.hooks import PrepareTTAHook


def average_over_copies(cfg: Config) -> PrepareTTAHook:
    """Let a test average class scores over copies of every image.

    As with MMPretrain's ``tools/test.py --tta``, the config's ``tta_pipeline``
    and ``tta_model`` say how. Without them an image and its mirror image have
    their scores averaged.

    Args:
        cfg: Config of the test; its pipeline is replaced.

    Returns:
        Hook for the runner, which has the model average.

    Raises:
        ValueError: If the config has no ``tta_pipeline`` and none can be made
            of its test pipeline.
    """
    dataset = cfg.test_dataloader.dataset
    pipeline = cfg.get('tta_pipeline')
    if pipeline is None:
        steps = copy.deepcopy(dataset.get('pipeline'))
        if not steps:
            raise ValueError(
                'test_dataloader.dataset has no pipeline to add a mirror '
                'image to; write a tta_pipeline into the config'
            )
        mirrored = [dict(type='RandomFlip', prob=p) for p in (0.0, 1.0)]
        copies = dict(type='TestTimeAug', transforms=[mirrored, [steps[-1]]])
        pipeline = [*steps[:-1], copies]
    dataset.pipeline = pipeline
    tta_model = cfg.get('tta_model') or dict(type='AverageClsScoreTTA')
    return PrepareTTAHook(dict(tta_model))
