# Copyright (c) The serkd_mm authors. All rights reserved.
"""The size of images that a pipeline puts out, without reading any."""

from __future__ import annotations

from typing import Any

import numpy as np
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope
from torch import Tensor

from .data_checks import leaf_configs
from .run_config import unscoped_type

# Two images of other sizes and ratios: what both become is the output size.
_PROBES = ((500, 375), (333, 640))


def pipeline_of(dataset: Any) -> list[dict]:
    """Transforms of a dataset, of the first where there are several.

    Wrappers, such as RepeatDataset or ConcatDataset, are looked through.

    Args:
        dataset: Config of a dataset; of anything else nothing is known.

    Returns:
        Their configs, empty where the dataset has none.
    """
    leaves = leaf_configs('dataset', dataset)
    return next((leaf.get('pipeline') or [] for _, leaf in leaves), [])


def pipeline_size(pipeline: list[dict]) -> tuple[int, int]:
    """Size of the images that a pipeline puts out.

    It runs, without its loading, on two made-up images.

    Args:
        pipeline: Configs of its transforms.

    Returns:
        Height and width in pixels.

    Raises:
        ValueError: If it does not run, or does not fix the size.
    """
    steps = [
        step for step in pipeline if not unscoped_type(step).startswith('Load')
    ]
    try:
        sizes = {_output_size(steps, shape) for shape in _PROBES}
    except Exception as error:
        raise ValueError(
            f'its pipeline ends in {type(error).__name__}: {error}'
        ) from error
    if len(sizes) > 1:
        raise ValueError('its pipeline does not fix the size')
    return sizes.pop()


def _output_size(steps: list[dict], shape: tuple[int, int]) -> tuple[int, int]:
    image = np.random.RandomState(0).randint(0, 256, (*shape, 3), np.uint8)
    sample: dict[str, Any] = dict(
        img=image, img_shape=shape, ori_shape=shape, gt_label=0, img_path=''
    )
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        inputs = Compose([dict(step) for step in steps])(sample)['inputs']
    if not isinstance(inputs, Tensor):
        raise ValueError('several views of an image')
    return (int(inputs.shape[-2]), int(inputs.shape[-1]))
