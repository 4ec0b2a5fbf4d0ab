# Copyright (c) The serkd_mm authors. All rights reserved.
"""Size and number of images are known without reading any."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from mmpretrain.datasets import CustomDataset

from serkd_mm.analysis import read_config
from serkd_mm.analysis.images import dataset_length, input_size

CROP = dict(type='RandomResizedCrop', scale=96)
FLIP = dict(type='RandomFlip', prob=0.5)
LOAD, PACK = dict(type='LoadImageFromFile'), dict(type='PackInputs')


def config(steps: list, backbone: Any = None, **dataset: Any) -> Config:
    head = dict(num_classes=1000)
    return Config(
        dict(
            model=dict(backbone=backbone or {}, head=head),
            train_dataloader=dict(dataset=dict(pipeline=steps, **dataset)),
        )
    )


@pytest.mark.parametrize(
    ('name', 'size', 'images'),
    [
        ('serkd_mm::serkd_deit-ti.py', 224, 1_281_167),
        ('serkd_mm::cifar10/serkd_resnet56_vit-nano.py', 32, 50_000),
        # 50 images, 20 times; and all of them.
        ('serkd_mm::quickstart/serkd.py', 32, 1_000),
        ('serkd_mm::quickstart/teacher.py', 32, 1_078),
        ('mmpretrain::efficientnet/efficientnet-b3_8xb32_in1k.py', 300, None),
    ],
)
def test_a_config_tells_both(name: str, size: int, images: int | None) -> None:
    cfg = read_config(name)

    assert input_size(cfg) == (size, size)
    assert dataset_length(cfg) == (images or 1_281_167)


def test_the_pipeline_says_more_than_the_network() -> None:
    backbone = dict(img_size=224)

    assert input_size(config([LOAD, CROP, FLIP, PACK], backbone)) == (96, 96)
    tall = dict(type='RandomResizedCrop', scale=(128, 64))
    assert input_size(config([LOAD, tall, PACK], backbone)) == (128, 64)


def test_a_pipeline_that_keeps_the_size_leaves_it_to_the_network() -> None:
    cfg = config([LOAD, FLIP, PACK], dict(img_size=48))

    assert input_size(cfg) == (48, 48)
    cfg.model.backbone.img_size = (48, 64)
    assert input_size(cfg) == (48, 64)


@pytest.mark.parametrize(
    ('steps', 'reason'),
    [
        ([LOAD, FLIP, PACK], 'does not fix the size'),
        ([], 'has no train_dataloader'),
        ([LOAD, CROP, dict(type='NoSuchStep'), PACK], 'NoSuchStep'),
        (
            [
                LOAD,
                dict(type='MultiView', num_views=2, transforms=[[CROP]]),
                PACK,
            ],
            'several views',
        ),
    ],
)
def test_a_size_that_nothing_tells_is_asked_for(
    steps: list, reason: str
) -> None:
    with pytest.raises(ValueError, match='give --size') as error:
        input_size(config(steps))
    assert reason in str(error.value)


def test_folders_of_other_images_are_counted(tmp_path: Path) -> None:
    for name in ('a/1.png', 'a/2.png', 'b/1.png'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    folder = dict(type='CustomDataset', data_root=str(tmp_path))
    cfg = config([LOAD], **folder)

    assert len(CustomDataset(data_root=str(tmp_path))) == 3
    assert dataset_length(cfg) == 3
    cfg.train_dataloader.dataset.data_root = str(tmp_path / 'no')
    assert dataset_length(cfg) is None


@pytest.mark.parametrize(
    'part',
    [
        dict(type='ImageNet', ann_file='meta/train_1percent.txt'),
        dict(type='ImageNet', data_prefix='some'),
        dict(type='CIFAR10', test_mode=True),
    ],
)
def test_a_part_of_a_well_known_dataset_is_another_one(part: dict) -> None:
    assert dataset_length(config([LOAD], **part)) is None


def test_imagenets_class_with_other_classes_is_another_dataset() -> None:
    cfg = config([LOAD], type='ImageNet', data_root='no', split='train')

    assert dataset_length(cfg) == 1_281_167
    cfg.model.head.num_classes = 100
    assert dataset_length(cfg) is None
    cfg.train_dataloader.dataset.type = 'mmpretrain.ImageNet'
    assert dataset_length(cfg) is None


@pytest.mark.parametrize(
    ('wrapper', 'images'),
    [
        (dict(type='KFoldDataset', num_splits=10, test_mode=True), 5_000),
        (dict(type='KFoldDataset', num_splits=7, fold=6), 42_857),
        (dict(type='ClassBalancedDataset', oversample_thr=0.1), None),
        (dict(type='SkipBrokenImages'), 50_000),
        (dict(type='RepeatDataset', times=2), 100_000),
    ],
)
def test_wrappers_change_the_number(wrapper: dict, images: int | None) -> None:
    inner = dict(type='CIFAR10', pipeline=[LOAD, CROP, PACK])
    cfg = config([], dataset=inner, **wrapper)

    assert dataset_length(cfg) == images
    assert input_size(cfg) == (96, 96)


def test_datasets_in_a_row_add_up() -> None:
    parts = [dict(type=t, pipeline=[CROP, PACK]) for t in ('CIFAR10', 'MNIST')]
    cfg = config([], type='ConcatDataset', datasets=parts)

    assert dataset_length(cfg) == 110_000
    assert input_size(cfg) == (96, 96)
    cfg.train_dataloader.dataset.datasets[0].indices = 100
    assert dataset_length(cfg) is None


def test_repeated_datasets_count_as_often() -> None:
    cfg = config([LOAD], type='CIFAR10')
    inner = cfg.train_dataloader.dataset
    cfg.train_dataloader.dataset = dict(
        type='RepeatDataset', times=3, dataset=inner
    )

    assert dataset_length(cfg) == 150_000
