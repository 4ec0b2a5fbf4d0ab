# Copyright (c) The serkd_mm authors. All rights reserved.
"""Broken images end a run with their names, or are replaced and counted."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from mmpretrain.registry import DATASETS

from serkd_mm.datasets import BrokenImageError, SkipBrokenImages
from serkd_mm.engine.launch import build_runner, train

from ..jobs import free_port, run
from .images import write_folder

STUDENT = dict(
    type='ImageClassifier',
    backbone=dict(type='ResNet_CIFAR', depth=18, base_channels=2),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=2, in_channels=16),
)


def folder_config(root: Path, load: str = 'LoadCheckedImage') -> dict:
    pipeline = [
        dict(type=load),
        dict(type='Resize', scale=32),
        dict(type='PackInputs'),
    ]
    return dict(type='CustomDataset', data_root=str(root), pipeline=pipeline)


def skipping(root: Path, **settings: Any) -> SkipBrokenImages:
    dataset = dict(
        type='SkipBrokenImages', dataset=folder_config(root), **settings
    )
    return DATASETS.build(dataset)


def run_config(folder: Path, workers: int = 0, **dataset: Any) -> Config:
    """One epoch over the images of ``folder / 'train'``, 4 in a batch."""
    dataloader = dict(
        batch_size=4,
        num_workers=workers,
        dataset=dataset or folder_config(folder / 'train'),
        sampler=dict(type='DefaultSampler', shuffle=True),
        collate_fn=dict(type='default_collate'),
    )
    return Config(
        dict(
            default_scope='mmpretrain',
            custom_imports=dict(imports=['serkd_mm']),
            model=STUDENT,
            train_dataloader=dataloader,
            train_cfg=dict(by_epoch=True, max_epochs=2),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01)),
            work_dir=str(folder / 'work'),
            experiment_name=folder.name,
            randomness=dict(seed=0),
        )
    )


def logs(folder: Path) -> tuple[str, list[dict]]:
    (log,) = folder.glob('work/*/*.log')
    (scalars,) = folder.glob('work/*/vis_data/scalars.json')
    lines = scalars.read_text().splitlines()
    return log.read_text(), [json.loads(line) for line in lines]


# -- by default the run stops -----------------------------------------------


@pytest.mark.parametrize('workers', [0, 2])
def test_a_run_stops_with_the_name_of_the_broken_image(
    workers: int, tmp_path: Path
) -> None:
    broken = write_folder(tmp_path / 'train')[5]
    broken.write_bytes(b'')

    with pytest.raises(BrokenImageError) as error:
        train(run_config(tmp_path, workers))

    last = str(error.value).rstrip().splitlines()[-1]
    assert f'broken image {str(broken)!r}: the file is empty' in last


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('name', ['train', 'val'])
def test_the_hosts_loading_leads_to_the_one_that_names_images(
    name: str, workers: int, tmp_path: Path
) -> None:
    cfg = run_config(tmp_path, workers)
    cfg.val_dataloader = Config(cfg.to_dict()).train_dataloader
    cfg.update(val_cfg=dict(), val_evaluator=dict(type='Accuracy', topk=1))
    write_folder(tmp_path / 'train')
    paths = write_folder(tmp_path / 'host')
    cfg[f'{name}_dataloader'].dataset = folder_config(
        tmp_path / 'host', load='LoadImageFromFile'
    )
    paths[5].write_bytes(b'')

    with pytest.raises(Exception, match='LoadImageFromFile') as error:
        train(cfg)

    last = str(error.value).rstrip().splitlines()[-1]
    hint = "named, write dict(type='LoadCheckedImage') instead of LoadImageFr"
    assert hint in last
    assert f'[config: {name}_dataloader' in last


# -- by option it skips and counts ------------------------------------------


def test_the_next_image_that_is_whole_takes_the_place(tmp_path: Path) -> None:
    paths = write_folder(tmp_path)
    for index in (2, 7):
        paths[index].write_bytes(b'not an image')
    paths[3].write_bytes(b'')
    dataset = skipping(tmp_path)

    samples = [dataset[index]['data_samples'] for index in range(len(paths))]

    assert len(dataset) == len(paths) == 8
    shown = [paths.index(Path(sample.img_path)) for sample in samples]
    assert shown == [0, 1, 4, 4, 4, 5, 6, 0]
    assert [sample.get('replaces') for sample in samples] == [
        *(None, None, str(paths[2]), str(paths[3]), None, None, None),
        str(paths[7]),
    ]
    # Every fault is that of the file that is named.
    assert all('unknown format' in samples[i].fault for i in (2, 7))
    assert 'the file is empty' in samples[3].fault
    # Label and picture are of one image.
    assert [int(s.gt_label) for s in samples] == [0, 0, 1, 1, 1, 1, 1, 0]
    assert dataset.metainfo['classes'] == ('c0', 'c1')
    assert dataset.get_data_info(2)['img_path'] == str(paths[2])


def test_storage_that_is_gone_is_no_broken_image(tmp_path: Path) -> None:
    paths = write_folder(tmp_path)
    paths[1].write_bytes(b'')
    for path in paths[2:5]:
        path.write_bytes(b'not an image')
    with pytest.raises(BrokenImageError, match='4 images in a row') as error:
        skipping(tmp_path, max_in_a_row=3)[1]
    assert f'the first is {str(paths[1])!r}: the file is empty' in str(
        error.value
    )
    # Who reads it has the option already.
    assert '--skip-broken-images' not in str(error.value)
    assert skipping(tmp_path, max_in_a_row=4)[1] is not None
    paths[0].unlink()
    with pytest.raises(FileNotFoundError, match='0.jpg'):
        skipping_after_loss(tmp_path, paths[0])[0]


def skipping_after_loss(root: Path, lost: Path) -> SkipBrokenImages:
    """A dataset whose file goes after its annotation was made."""
    lost.write_bytes(b'')
    dataset = skipping(root)
    lost.unlink()
    return dataset


def test_a_pipeline_that_cannot_tell_broken_images_is_refused(
    tmp_path: Path,
) -> None:
    write_folder(tmp_path)
    repeated = dict(
        type='RepeatDataset',
        times=2,
        dataset=folder_config(tmp_path, load='LoadImageFromFile'),
    )
    with pytest.raises(ValueError, match='needs pipelines with LoadChecked'):
        DATASETS.build(dict(type='SkipBrokenImages', dataset=repeated))


def test_no_number_of_images_in_a_row_is_negative(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='max_in_a_row must be >= 0, got -1'):
        SkipBrokenImages(folder_config(tmp_path), max_in_a_row=-1)


@pytest.mark.parametrize('workers', [0, 2])
def test_every_epoch_says_what_was_replaced(
    workers: int, tmp_path: Path
) -> None:
    paths = write_folder(tmp_path / 'train')
    paths[1].write_bytes(paths[1].read_bytes()[:500])
    paths[6].write_bytes(b'')
    dataset = dict(
        type='SkipBrokenImages', dataset=folder_config(tmp_path / 'train')
    )

    train(run_config(tmp_path, workers, **dataset))

    text, scalars = logs(tmp_path)
    said = 'images were broken and replaced by the next of the dataset'
    first = f'; new ones: {paths[1]} by {paths[2]} ('
    assert f'Epoch(train) [1]: 2 of 8 {said}{first}' in text
    assert 'it is damaged or cut off' in text
    second = f'), {paths[6]} by {paths[7]} (the file is empty (0 bytes))\n'
    assert second in text
    # Counted again, named once, by whichever process found it.
    assert f'Epoch(train) [2]: 2 of 8 {said}\n' in text
    assert text.count(str(paths[1])) == text.count(str(paths[6])) == 1
    counts = [s['replaced_images'] for s in scalars if 'replaced_images' in s]
    assert counts == [2, 2]


def test_a_training_in_iterations_says_it_after_every_pass(
    tmp_path: Path,
) -> None:
    paths = write_folder(tmp_path / 'train')
    paths[1].write_bytes(b'')
    cfg = run_config(
        tmp_path,
        type='SkipBrokenImages',
        dataset=folder_config(tmp_path / 'train'),
    )
    cfg.train_cfg = dict(by_epoch=False, max_iters=5)  # two batches a pass

    train(cfg)

    text, scalars = logs(tmp_path)
    said = 'images were broken and replaced by the next of the dataset'
    assert f'Iter(train) [2]: 1 of 8 {said}; new ones: {paths[1]} by' in text
    assert f'Iter(train) [4]: 1 of 8 {said}\n' in text
    assert re.search(rf'Iter\(train\) \[5\]: [01] of 4 {said}', text)
    counts = [s['replaced_images'] for s in scalars if 'replaced_images' in s]
    assert counts[:2] == [1, 1]
    assert len(counts) == 3


def test_a_resumed_epoch_says_of_which_part_it_speaks(tmp_path: Path) -> None:
    write_folder(tmp_path / 'train')
    runner = build_runner(
        run_config(
            tmp_path,
            type='SkipBrokenImages',
            dataset=folder_config(tmp_path / 'train'),
        )
    )
    runner.train_loop._iter = 1  # as exact resuming has it
    runner.train()

    text = logs(tmp_path)[0]
    assert '[1]: 0 of 8 images since iteration 1 were broken' in text
    assert '[2]: 0 of 8 images since iteration 3 were broken' in text


def test_an_epoch_without_broken_images_says_so(tmp_path: Path) -> None:
    write_folder(tmp_path / 'train')
    inner = dict(
        type='SkipBrokenImages', dataset=folder_config(tmp_path / 'train')
    )

    train(run_config(tmp_path, type='RepeatDataset', times=1, dataset=inner))

    assert '[2]: 0 of 8 images were broken' in logs(tmp_path)[0]


@pytest.mark.parametrize(
    ('name', 'start'),
    [('val', train), ('test', lambda cfg: build_runner(cfg).test())],
)
def test_what_is_measured_has_every_image(
    name: str, start: Callable, tmp_path: Path
) -> None:
    write_folder(tmp_path / 'train')
    cfg = run_config(tmp_path)
    loader = Config(cfg.to_dict()).train_dataloader
    loader.dataset = dict(type='SkipBrokenImages', dataset=loader.dataset)
    cfg[f'{name}_dataloader'] = loader
    cfg[f'{name}_cfg'] = dict(fp16=False)
    cfg[f'{name}_evaluator'] = dict(type='Accuracy')

    match = f'{name}_dataloader.dataset is a Skip'
    with pytest.raises(ValueError, match=match):
        start(cfg)


@pytest.mark.slow
def test_two_ranks_with_workers_count_together(tmp_path: Path) -> None:
    paths = write_folder(tmp_path / 'train', each=8)
    for index in (0, 3, 9, 13, 15):
        paths[index].write_bytes(b'')
    cfg = run_config(tmp_path, workers=2)
    cfg.dump(tmp_path / 'config.py')

    code = run(
        *('dist_train.sh', 'config.py', 2, '--skip-broken-images'),
        cwd=tmp_path,
        PORT=free_port(),
    )

    text = (tmp_path / 'log.txt').read_text()
    assert code == 0, text[-3000:]
    # 16 images in 2 ranks x 2 steps x 4: as many steps as without faults.
    for epoch in (1, 2):
        assert f'Epoch(train) [{epoch}]: 5 of 16 images were broken' in text
    for index, other in ((0, 1), (3, 4), (9, 10), (13, 14), (15, 1)):
        assert f'{paths[index]} by {paths[other]}' in text
