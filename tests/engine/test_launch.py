# Copyright (c) The serkd_mm authors. All rights reserved.
"""A missing folder of images is named by the key that names it."""

from __future__ import annotations

from pathlib import Path

import pytest
from mmengine.config import Config

from serkd_mm.engine.launch import check_data_folders


def config(**dataset) -> Config:
    images = dict(type='ImageNet', data_root='nowhere', **dataset)
    wrapped = dict(type='RepeatDataset', times=2, dataset=images)
    return Config(
        dict(
            train_dataloader=dict(dataset=wrapped),
            val_dataloader=None,
            test_dataloader=dict(dataset=images),
        )
    )


@pytest.mark.parametrize(
    ('name', 'key'),
    [
        ('train_dataloader', 'train_dataloader.dataset.dataset.data_root'),
        ('test_dataloader', 'test_dataloader.dataset.data_root'),
    ],
)
def test_the_key_of_a_missing_folder_is_named(name: str, key: str) -> None:
    with pytest.raises(FileNotFoundError, match=rf"^{key} 'nowhere'"):
        check_data_folders(config(), [name])


def test_what_is_not_asked_for_may_be_missing(tmp_path: Path) -> None:
    cfg = config()
    cfg.test_dataloader.dataset.data_root = str(tmp_path)
    check_data_folders(cfg, ['val_dataloader', 'test_dataloader'])


def test_remote_images_are_not_looked_for() -> None:
    cfg = config(backend_args=dict(backend='petrel'))
    check_data_folders(cfg, ['train_dataloader', 'test_dataloader'])
