# Copyright (c) The serkd_mm authors. All rights reserved.
"""What can be wrong with folders of images, said before anything is built."""

from __future__ import annotations

import os
import os.path as osp
from collections.abc import Iterable, Iterator
from typing import Any

from mmengine.config import Config
from mmpretrain.datasets import BaseDataset
from mmpretrain.registry import DATASETS

from .run_config import unscoped_type

# Datasets of MMPretrain that read a folder and cannot download it.
FOLDER_DATASETS = ('CustomDataset', 'ImageNet', 'ImageNet21k')


def check_data(cfg: Config, names: Iterable[str]) -> None:
    """Name the key of a folder, annotation or class that is not there.

    Args:
        cfg: Config of the runner.
        names: Data loaders to look at; those that are None are left out.

    Raises:
        FileNotFoundError: If a folder or an annotation is missing.
        TypeError: If a dataset is no dict or a pipeline no list.
        ValueError: If a pipeline packs nothing, a folder or an annotation is
            empty, its labels are no
            numbers below the head's number of classes, or classes differ
            between folder and annotation, between two data loaders or between
            data and head.
    """
    head_classes = _head_classes(cfg)
    first: tuple[str, list[str]] | None = None
    for name in names:
        for key, dataset in leaf_configs(
            f'{name}.dataset', _dataset(cfg, name)
        ):
            _check_pipeline(key, dataset)
            count = _class_count(dataset)
            in_folder = unscoped_type(dataset) in FOLDER_DATASETS
            if in_folder and not _remote(dataset):
                folders = _check_folder(key, dataset, head_classes)
                if folders:
                    first = first or (key, folders)
                    _check_same(*first, key, folders)
                    count = _check_count(key, count, len(folders))
            if count and head_classes and count != head_classes:
                raise ValueError(
                    f'{key} has {count} classes, but the head of the network '
                    f'has num_classes={head_classes}; set num_classes of '
                    "student and teacher to the data's"
                )


def _check_count(key: str, named: int | None, found: int) -> int:
    if named is not None and named != found:
        raise ValueError(
            f'{key} names {named} classes, but its folder holds {found} class '
            f'folders; set {key}.data_root to the folder of all classes, or '
            "take type='CustomDataset' and classes of your own"
        )
    return found


def _dataset(cfg: Config, name: str) -> Any:
    dataloader = cfg.get(name)
    if not isinstance(dataloader, dict):
        return None
    for key, value in (
        ('dataset', dataloader.get('dataset')),
        ('sampler', dataloader.get('sampler', {})),
    ):
        if value is None or isinstance(value, (bool, int, float, str, list)):
            raise TypeError(
                f'{name}.{key} must be the config of a {key}, a dict, got '
                f'{value!r}'
            )
    return dataloader['dataset']


def _check_pipeline(key: str, dataset: dict) -> None:
    """MMPretrain's datasets hand over what the last transform packs."""
    kind = dataset.get('type')
    cls = DATASETS.get(kind) if isinstance(kind, str) else kind
    if not (isinstance(cls, type) and issubclass(cls, BaseDataset)):
        return
    pipeline = dataset.get('pipeline') or []
    if not isinstance(pipeline, (list, tuple)):
        raise TypeError(f'{key}.pipeline must be a list, got {pipeline!r}')
    for transform in pipeline:
        kind = transform.get('type') if isinstance(transform, dict) else None
        if not isinstance(kind, str) or 'Pack' in kind:
            return
    raise ValueError(
        f'{key}.pipeline lacks the transform that packs images and labels; '
        "end it with dict(type='PackInputs')"
    )


def leaf_configs(key: str, dataset: Any) -> Iterator[tuple[str, dict]]:
    """Configs of the datasets inside wrappers, with their keys.

    Args:
        key: Config key of the dataset.
        dataset: Its config; anything else has no leaves.
    """
    if not isinstance(dataset, dict):
        return
    if 'datasets' in dataset and isinstance(dataset['datasets'], list):
        for index, part in enumerate(dataset['datasets']):
            yield from leaf_configs(f'{key}.datasets.{index}', part)
    elif 'dataset' in dataset:
        yield from leaf_configs(f'{key}.dataset', dataset['dataset'])
    else:
        yield key, dataset


def _remote(dataset: dict) -> bool:
    root = str(dataset.get('data_root') or '')
    return '://' in root or bool(dataset.get('backend_args'))


def _head_classes(cfg: Config) -> int | None:
    model = cfg.get('model')
    if not isinstance(model, dict):
        return None
    model = model.get('architecture', model)
    head = model.get('head') if isinstance(model, dict) else None
    count = head.get('num_classes') if isinstance(head, dict) else None
    return count if isinstance(count, int) else None


def _class_count(dataset: dict) -> int | None:
    """Number of classes that a dataset's config or type names."""
    kind = dataset.get('type')
    cls = DATASETS.get(kind) if isinstance(kind, str) else kind
    known = dict(getattr(cls, 'METAINFO', None) or {})
    metainfo = dataset.get('metainfo')
    known.update(metainfo if isinstance(metainfo, dict) else {})
    classes = dataset.get('classes') or known.get('classes')
    return len(classes) if isinstance(classes, (list, tuple)) else None


def _check_folder(
    key: str, dataset: dict, head_classes: int | None
) -> list[str]:
    """Check a folder of images.

    Returns:
        Names of its class folders; empty where the classes are not theirs.
    """
    root = osp.expanduser(dataset.get('data_root') or '.')
    prefix = dataset.get('data_prefix') or dataset.get('split') or ''
    if isinstance(prefix, dict):
        prefix = prefix.get('img_path') or ''
    folder = osp.join(root, osp.expanduser(prefix))
    for path, name in ((root, 'data_root'), (folder, 'data_prefix')):
        if not osp.isdir(path):
            raise FileNotFoundError(
                f'{key}.{name} {path!r} is not a folder; put the images '
                f'there or set {key}.{name} (train, val and test have one '
                'each)'
            )
    classes = sorted(e.name for e in os.scandir(folder) if e.is_dir())
    annotation = _annotation(key, dataset, root)
    if not dataset.get('with_label', True) or dataset.get('split') == 'test':
        return []
    if annotation is not None:
        _check_annotation(key, annotation, folder, classes, head_classes)
        return []
    tree = os.walk(folder, followlinks=True)  # as datasets do
    if not any(files for _, _, files in tree):
        raise ValueError(
            f'{key}: the folder {folder!r} is empty; put one folder of '
            f'images per class there, or set {key}.data_root'
        )
    return classes


def _annotation(key: str, dataset: dict, root: str) -> str | None:
    """Path of the annotation; None without one."""
    ann_file = dataset.get('ann_file')
    if ann_file:
        path = osp.expanduser(osp.join(root, ann_file))
        if not osp.isfile(path):
            raise FileNotFoundError(
                f'{key}.ann_file: {path!r} is not a file; set {key}.ann_file, '
                f'or leave it out for a folder per class'
            )
        return path
    split = dataset.get('split')
    path = osp.expanduser(osp.join(root, 'meta', f'{split}.txt'))
    is_imagenet = unscoped_type(dataset) == 'ImageNet'
    return path if is_imagenet and split and osp.isfile(path) else None


def _check_annotation(
    key: str,
    path: str,
    folder: str,
    folders: list[str],
    head_classes: int | None,
) -> None:
    names, labels = set(), set()
    # Undecodable bytes are characters that no folder has.
    with open(path, encoding='utf-8', errors='replace') as file:
        for number, line in enumerate(file, 1):
            image, _, label = line.strip().rpartition(' ')
            if not image or not label.isdigit():
                raise ValueError(
                    f'{key}: line {number} of {path!r} is {line.strip()!r}, '
                    "expected 'folder/image.jpg label', the label a number "
                    'from 0'
                )
            labels.add(int(label))
            if '/' in image:
                names.add(image.split('/', 1)[0])
    if not labels:
        raise ValueError(f'{key}: the annotation {path!r} is empty')
    if head_classes and max(labels) >= head_classes:
        raise ValueError(
            f'{key}: {path!r} has the label {max(labels)}, but the head of '
            f'the network has num_classes={head_classes}'
        )
    missing = sorted(names - set(folders))
    if missing:
        raise ValueError(
            f'{key}: {path!r} names {len(missing)} class folders that are not '
            f'in {folder!r}: {_few(missing)}; there are {len(folders)} '
            f'({_few(folders)}): put the missing ones there or correct the '
            'annotation'
        )


def _check_same(
    one: str, ours: list[str], other: str, theirs: list[str]
) -> None:
    """Labels are positions among sorted folders, so these must be equal."""
    if ours == theirs:
        return
    differences = ''.join(
        f'; only in {key}: {_few(sorted(set(names) - set(others)))}'
        for key, names, others in ((one, ours, theirs), (other, theirs, ours))
        if set(names) - set(others)
    )
    raise ValueError(
        f'{one} has {len(ours)} class folders and {other} other ones, '
        f'{len(theirs)}{differences}; a label is the position of a folder '
        'among the sorted names, so both need the same folders'
    )


def _few(names: list[str], count: int = 3) -> str:
    more = ', ...' if len(names) > count else ''
    return ', '.join(names[:count]) + more
