# Copyright (c) The serkd_mm authors. All rights reserved.
"""What a config says about its images, without reading any."""

from __future__ import annotations

from pathlib import Path

from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.registry import DATASETS

from ..engine.pipeline_size import pipeline_of, pipeline_size
from ..engine.run_config import unscoped_type

# Training images of datasets that everybody has in the same form.
TRAINING_IMAGES = {
    'CIFAR10': 50_000,
    'CIFAR100': 50_000,
    'FashionMNIST': 60_000,
    'ImageNet': 1_281_167,
    'MNIST': 60_000,
}


def input_size(cfg: Config) -> tuple[int, int]:
    """Size of the images that the training pipeline puts out.

    Where it keeps the size of its images, the network's own ``img_size`` is
    taken.

    Returns:
        Height and width in pixels.

    Raises:
        ValueError: If neither tells.
    """
    pipeline = training_pipeline(cfg)
    reason = 'it has no train_dataloader.dataset.pipeline'
    if pipeline:
        try:
            return pipeline_size(pipeline)
        except ValueError as error:
            reason = str(error)
    model = cfg.get('model') or {}
    backbone = model.get('architecture', model).get('backbone') or {}
    size = backbone.get('img_size')
    if size is None:
        raise ValueError(
            f'the config does not tell the input size: {reason}, and its '
            'backbone has no img_size; give --size'
        )
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def dataset_length(cfg: Config) -> int | None:
    """Number of images of a training epoch.

    That of a well-known dataset is known; any other dataset is asked where
    its files are there.

    Returns:
        The number, or None if it cannot be known without the data.
    """
    dataset = (cfg.get('train_dataloader') or {}).get('dataset')
    return None if dataset is None else _length(dataset, cfg)


def _length(dataset: dict, cfg: Config) -> int | None:
    """Number of images of a dataset, wrapped or not."""
    if 'datasets' in dataset:
        lengths = [_length(part, cfg) for part in dataset['datasets']]
        known = [length for length in lengths if length is not None]
        return sum(known) if len(known) == len(lengths) else None
    if 'dataset' in dataset:
        length = _length(dataset['dataset'], cfg)
        return None if length is None else _wrapped(dataset, length)
    return _leaf_length(dataset, cfg)


def _wrapped(wrapper: dict, length: int) -> int | None:
    """Number of images of a wrapper around a dataset of a length."""
    kind = unscoped_type(wrapper)
    if kind == 'SkipBrokenImages':
        return length
    if kind == 'RepeatDataset':
        return wrapper['times'] * length
    if kind == 'KFoldDataset':
        fold, folds = wrapper.get('fold', 0), wrapper.get('num_splits', 5)
        own = length * (fold + 1) // folds - length * fold // folds
        return own if wrapper.get('test_mode') else length - own
    return None


def _leaf_length(dataset: dict, cfg: Config) -> int | None:
    kind = unscoped_type(dataset)
    if kind in TRAINING_IMAGES and _is_whole(dataset, cfg):
        return TRAINING_IMAGES[kind]
    root = dataset.get('data_root') or ''
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        own = getattr(DATASETS.get(kind), '__module__', '')
        if not own.startswith('serkd_mm') and not Path(root or '/-').is_dir():
            return None
        return len(DATASETS.build(dict(dataset)))


def _is_whole(dataset: dict, cfg: Config) -> bool:
    """Whether this is the dataset's whole training set.

    ImageNet's class is also used for folders of other images.
    """
    others = ('indices', 'ann_file', 'data_prefix', 'test_mode')
    if any(dataset.get(key) for key in others):
        return False
    if dataset.get('split', 'train') != 'train':
        return False
    model = cfg.get('model') or {}
    head = model.get('architecture', model).get('head') or {}
    return (
        unscoped_type(dataset) != 'ImageNet' or head.get('num_classes') == 1000
    )


def training_pipeline(cfg: Config) -> list[dict]:
    """Transforms of the training set, of the first where there are several."""
    return pipeline_of((cfg.get('train_dataloader') or {}).get('dataset'))
