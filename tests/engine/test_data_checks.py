# Copyright (c) The serkd_mm authors. All rights reserved.
"""What is wrong with a data set is said with the key that is to change."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

from serkd_mm.engine.data_checks import check_data

from ..datasets.images import write_folder

BOTH = ('train_dataloader', 'val_dataloader')
DATASET = r'train_dataloader\.dataset\.dataset'


def config(num_classes: int | None = None, **dataset: Any) -> Config:
    """Three loaders of one folder, the one for training within a wrapper."""
    pipeline = [dict(type='LoadCheckedImage'), dict(type='PackInputs')]
    images = dict(type='ImageNet', data_root='nowhere', pipeline=pipeline)
    images.update(dataset)
    wrapped = dict(type='RepeatDataset', times=2, dataset=images)
    head = dict(type='LinearClsHead', num_classes=num_classes)
    return Config(
        dict(
            model=dict(architecture=dict(head=head)),
            train_dataloader=dict(dataset=wrapped),
            val_dataloader=dict(dataset=images),
            test_dataloader=dict(dataset=images),
        )
    )


def folder(root: Path, **dataset: Any) -> Config:
    kind = dict(type='CustomDataset', data_root=str(root))
    return config(**{**kind, **dataset})


def refused(cfg: Config, message: str, error: type = ValueError) -> str:
    with pytest.raises(error, match=message) as raised:
        check_data(cfg, BOTH)
    return str(raised.value)


# -- folders ----------------------------------------------------------------


@pytest.mark.parametrize(
    ('name', 'key'),
    [
        ('train_dataloader', 'train_dataloader.dataset.dataset.data_root'),
        ('test_dataloader', 'test_dataloader.dataset.data_root'),
    ],
)
def test_the_key_of_a_missing_folder_is_named(name: str, key: str) -> None:
    with pytest.raises(FileNotFoundError, match=rf"^{key} 'nowhere'"):
        check_data(config(), [name])


def test_a_dataset_may_be_named_with_its_scope() -> None:
    with pytest.raises(FileNotFoundError, match="data_root 'nowhere'"):
        check_data(config(type='mmpretrain.ImageNet'), BOTH)


@pytest.mark.parametrize(
    'prefix',
    [
        dict(split='train', type='ImageNet'),
        dict(data_prefix='train'),
        dict(data_prefix=dict(img_path='train')),
    ],
)
def test_the_key_of_a_missing_prefix_is_named(
    prefix: dict, tmp_path: Path
) -> None:
    cfg = folder(tmp_path, **prefix)
    text = refused(cfg, rf'^{DATASET}\.data_prefix', FileNotFoundError)
    assert str(tmp_path / 'train') in text


def test_every_dataset_of_a_concatenation_is_looked_at() -> None:
    cfg = config()
    images = cfg.val_dataloader.dataset
    cfg.train_dataloader.dataset = dict(
        type='ConcatDataset', datasets=[images | dict(type='Digits'), images]
    )
    key = r'^train_dataloader\.dataset\.datasets\.1\.data_root'
    refused(cfg, key, FileNotFoundError)


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / 'c0').mkdir()
    text = refused(folder(tmp_path), rf'^{DATASET}: the folder .* is empty')
    assert f'set {DATASET.replace(chr(92), "")}.data_root' in text


def test_class_folders_may_be_links(tmp_path: Path) -> None:
    write_folder(tmp_path / 'all')
    subset = tmp_path / 'subset'
    subset.mkdir()
    for real in (tmp_path / 'all').iterdir():
        (subset / real.name).symlink_to(real)

    check_data(folder(subset), BOTH)


def test_what_is_not_asked_for_may_be_missing(tmp_path: Path) -> None:
    write_folder(tmp_path)
    cfg = config()
    cfg.val_dataloader = None
    cfg.test_dataloader.dataset = folder(tmp_path).test_dataloader.dataset
    check_data(cfg, ['val_dataloader', 'test_dataloader'])


def test_remote_images_are_not_looked_for() -> None:
    check_data(config(backend_args=dict(backend='petrel')), BOTH)
    check_data(config(data_root='s3://bucket/images'), BOTH)


# -- pipelines --------------------------------------------------------------


@pytest.mark.parametrize(
    'pipeline', [None, [], [dict(type='LoadCheckedImage')]]
)
def test_a_pipeline_that_packs_nothing_is_named(pipeline: list | None) -> None:
    text = refused(
        config(type='Digits', pipeline=pipeline), rf'^{DATASET}\.pipeline'
    )
    assert "dict(type='PackInputs')" in text


def test_a_pipeline_that_is_no_list_is_named() -> None:
    cfg = config(type='Digits', pipeline=3)
    refused(cfg, rf'^{DATASET}\.pipeline must be a list', TypeError)


@pytest.mark.parametrize('key', ['dataset', 'sampler'])
@pytest.mark.parametrize('value', [None, True, 3, 'Digits', []])
def test_a_part_of_a_loader_that_is_no_config_is_named(
    key: str, value: Any
) -> None:
    cfg = config(type='Digits')
    cfg.train_dataloader[key] = value
    refused(cfg, rf'^train_dataloader\.{key} must be the config', TypeError)


def test_datasets_of_other_libraries_pack_as_they_like() -> None:
    check_data(config(type=dict, pipeline=None), BOTH)


# -- annotations ------------------------------------------------------------


def annotated(root: Path, *lines: str, **dataset: Any) -> Config:
    write_folder(root)
    text = ''.join(f'{line}\n' for line in lines)
    (root / 'list.txt').write_text(text, encoding='utf-8')
    return folder(root, ann_file='list.txt', **dataset)


def test_an_annotation_of_the_folder_passes(tmp_path: Path) -> None:
    # Part of the folders, as in lists of subsets.
    check_data(annotated(tmp_path, 'c1/0.jpg 0', 'c1/1.jpg 0'), BOTH)
    check_data(annotated(tmp_path, '0.jpg 0', 'one 2.jpg 1'), BOTH)
    unlabelled = annotated(tmp_path, 'c0/0.jpg', with_label=False)
    check_data(unlabelled, BOTH)


def test_a_missing_annotation_is_named(tmp_path: Path) -> None:
    cfg = annotated(tmp_path, 'c0/0.jpg 0')
    (tmp_path / 'list.txt').unlink()
    refused(cfg, rf'^{DATASET}\.ann_file: .*list\.txt', FileNotFoundError)


def test_class_folders_that_differ_from_the_annotation_are_named(
    tmp_path: Path,
) -> None:
    cfg = annotated(tmp_path, 'c0/0.jpg 0', 'cat/0.jpg 1', 'dog/0.jpg 2')
    text = refused(cfg, rf'^{DATASET}: .*list.txt.* names 2 class folders')
    assert 'cat, dog; there are 2 (c0, c1)' in text


def test_imagenets_own_annotation_is_compared_too(tmp_path: Path) -> None:
    write_folder(tmp_path / 'train')
    (tmp_path / 'meta').mkdir()
    (tmp_path / 'meta' / 'train.txt').write_text('n01440764/0.jpg 0\n')
    cfg = config(data_root=str(tmp_path), split='train')
    refused(cfg, 'names 1 class folders .*n01440764')


@pytest.mark.parametrize('line', ['c0/0.jpg', 'c0/0.jpg cat', 'c0/0.jpg -1'])
def test_a_line_that_is_no_annotation_is_quoted(
    line: str, tmp_path: Path
) -> None:
    cfg = annotated(tmp_path, 'c0/0.jpg 0', line)
    text = refused(cfg, rf'^{DATASET}: line 2 of .*list\.txt')
    assert repr(line) in text


def test_an_annotation_is_utf_8_under_any_locale(tmp_path: Path) -> None:
    cfg = annotated(tmp_path, 'größe.jpg 0')
    cfg.dump(tmp_path / 'config.py')
    program = (
        'from mmengine.config import Config; '
        'from serkd_mm.engine.data_checks import check_data; '
        f'check_data(Config.fromfile({str(tmp_path / "config.py")!r}), '
        f'{BOTH!r})'
    )
    locale = dict(LC_ALL='C', PYTHONUTF8='0', PYTHONCOERCECLOCALE='0')

    subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', program],
        env={**os.environ, **locale},
        check=True,
    )


def test_an_empty_annotation_is_named(tmp_path: Path) -> None:
    refused(annotated(tmp_path), 'list.txt.* is empty')


# -- classes ----------------------------------------------------------------


def test_labels_beyond_the_heads_classes_are_refused(tmp_path: Path) -> None:
    cfg = annotated(tmp_path, 'c0/0.jpg 0', 'c1/0.jpg 2', num_classes=2)
    refused(cfg, 'has the label 2, but .* num_classes=2')


def test_class_counts_of_data_and_head_must_agree(tmp_path: Path) -> None:
    write_folder(tmp_path, classes=3)
    check_data(folder(tmp_path, num_classes=3), BOTH)
    cfg = folder(tmp_path, num_classes=1000)
    refused(cfg, rf'^{DATASET} has 3 classes, .* num_classes=1000')
    cfg = config(num_classes=4, type='Digits')
    refused(cfg, rf'^{DATASET} has 10 classes, .* num_classes=4')


@pytest.mark.parametrize(
    'classes',
    [dict(type='ImageNet'), dict(metainfo=dict(classes=['a', 'b', 'c']))],
)
def test_class_folders_and_named_classes_must_agree(
    classes: dict, tmp_path: Path
) -> None:
    write_folder(tmp_path)
    refused(folder(tmp_path, **classes), r'names \d+ classes, .* holds 2')


def test_training_and_validation_need_the_same_class_folders(
    tmp_path: Path,
) -> None:
    write_folder(tmp_path / 'train', classes=3)
    write_folder(tmp_path / 'val', classes=3)
    cfg = folder(tmp_path, data_prefix='train')
    cfg.val_dataloader.dataset.data_prefix = 'val'
    check_data(cfg, BOTH)

    # Labels would shift: c2 is class 2 in one folder, 1 in the other.
    shutil.rmtree(tmp_path / 'val' / 'c1')
    text = refused(cfg, rf'^{DATASET} has 3 class folders and val_dataloader')
    assert f'only in {DATASET.replace(chr(92), "")}: c1;' in text
