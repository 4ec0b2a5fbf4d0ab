# Copyright (c) The serkd_mm authors. All rights reserved.
"""Predictions averaged over changed copies of every image."""

from __future__ import annotations

import copy

from mmengine.config import Config
from mmengine.hooks import PrepareTTAHook

from .data_checks import leaf_configs


def average_over_copies(cfg: Config) -> PrepareTTAHook:
    """Let a test average class scores over copies of every image.

    As with MMPretrain's ``tools/test.py --tta``, the config's ``tta_pipeline``
    and ``tta_model`` say how. Without them an image and its mirror image have
    their scores averaged.

    Args:
        cfg: Config of the test; the pipelines of its dataset, of all those
            inside a wrapper, are replaced.

    Returns:
        Hook for the runner, which has the model average.

    Raises:
        ValueError: If the config has no ``tta_pipeline`` and none can be made
            of a test pipeline.
    """
    own = cfg.get('tta_pipeline')
    dataset = cfg.test_dataloader.dataset
    for key, leaf in leaf_configs('test_dataloader.dataset', dataset):
        leaf['pipeline'] = own or _with_mirror_image(key, leaf)
    tta_model = cfg.get('tta_model') or dict(type='AverageClsScoreTTA')
    return PrepareTTAHook(dict(tta_model))


def _with_mirror_image(key: str, dataset: dict) -> list[dict]:
    """The pipeline of a dataset, with a mirror image of every image."""
    steps = copy.deepcopy(dataset.get('pipeline'))
    if not steps:
        raise ValueError(
            f'{key} has no pipeline to add a mirror image to; write a '
            'tta_pipeline into the config'
        )
    mirrored = [dict(type='RandomFlip', prob=p) for p in (0.0, 1.0)]
    copies = dict(type='TestTimeAug', transforms=[mirrored, [steps[-1]]])
    return [*steps[:-1], copies]
