# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import numpy as np
import pytest
from mmpretrain.registry import DATASETS
from sklearn.datasets import load_digits

from serkd_mm.datasets import Digits


def paths(**settings: Any) -> list[str]:
    return [item['img_path'] for item in items(**settings)]


def items(**settings: Any) -> list[dict]:
    dataset = Digits(**settings)
    return [dataset.get_data_info(i) for i in range(len(dataset))]


def test_the_splits_are_disjoint_and_cover_all_images() -> None:
    train, val = set(paths(split='train')), set(paths(split='val'))

    assert not train & val
    assert train | val == {f'digits/{index}' for index in range(1797)}


def test_every_class_has_its_share_of_both_splits() -> None:
    train = Counter(item['gt_label'] for item in items(split='train'))
    val = Counter(item['gt_label'] for item in items(split='val'))

    assert sorted(train) == sorted(val) == list(range(10))
    for label in range(10):
        share = train[label] / (train[label] + val[label])
        assert share == pytest.approx(0.6, abs=0.005)


def test_the_split_is_the_same_every_time() -> None:
    np.random.seed(1)
    first = paths(split='train', samples_per_class=3)
    np.random.seed(2)

    assert paths(split='train', samples_per_class=3) == first


def test_smaller_subsets_lie_within_larger_ones() -> None:
    subsets = [
        set(paths(samples_per_class=count)) for count in (1, 5, 20, None)
    ]

    assert [len(subset) for subset in subsets[:3]] == [10, 50, 200]
    for smaller, larger in zip(subsets, subsets[1:]):
        assert smaller < larger


def test_a_seed_chooses_another_subset_of_the_same_split() -> None:
    subsets = [
        paths(samples_per_class=5, subset_seed=seed) for seed in (0, 1, None)
    ]

    again = paths(samples_per_class=5, subset_seed=1)
    assert again == subsets[1]
    train = set(paths(split='train'))
    # Of 107 images per class 5: two choices have few in common.
    for first, second in ((0, 1), (0, 2), (1, 2)):
        common = set(subsets[first]) & set(subsets[second])
        assert len(common) < 15
    assert all(set(subset) < train for subset in subsets)
    labels = Counter(
        item['gt_label'] for item in items(samples_per_class=5, subset_seed=1)
    )
    assert labels == dict.fromkeys(range(10), 5)
    assert paths(subset_seed=1) == paths(subset_seed=None)
    assert paths(split='val', subset_seed=1) == paths(split='val')


def test_a_subset_has_as_many_images_of_every_class() -> None:
    labels = Counter(item['gt_label'] for item in items(samples_per_class=5))

    assert labels == dict.fromkeys(range(10), 5)


def test_the_subset_size_does_not_touch_validation() -> None:
    assert paths(split='val', samples_per_class=1) == paths(split='val')


@pytest.mark.parametrize('size', [32, 8])
def test_images_are_those_of_scikit_learn_upscaled(size: int) -> None:
    originals, labels = load_digits(return_X_y=True)

    for item in items(samples_per_class=2, image_size=size):
        index = int(item['img_path'].split('/')[1])
        image = item['img']
        assert image.shape == (size, size, 3)
        assert image.dtype == np.uint8
        assert (image == image[:, :, :1]).all()
        assert item['gt_label'] == labels[index]
        original = originals[index].reshape(8, 8) * 255 / 16
        # Bicubic interpolation overshoots, so means over cells only.
        cell = size // 8
        small = image[:, :, 0].reshape(8, cell, 8, cell).mean((1, 3))
        assert np.corrcoef(small.ravel(), original.ravel())[0, 1] > 0.97
        assert image.max() > 200
        if cell == 1:
            assert (image[:, :, 0] == original.round()).all()


def test_the_dataset_is_built_from_a_config_and_packs() -> None:
    dataset = DATASETS.build(
        dict(type='Digits', split='val', pipeline=[dict(type='PackInputs')])
    )

    item = dataset[0]

    assert item['inputs'].shape == (3, 32, 32)
    assert int(item['data_samples'].gt_label) in range(10)
    classes = dataset.CLASSES
    assert classes == tuple('0123456789')


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(split='test'), r"\['train', 'val'\], got 'test'"),
        (dict(samples_per_class=0), '>= 1, got 0'),
        (dict(samples_per_class=-5), '>= 1, got -5'),
        (dict(samples_per_class=2.5), '>= 1, got 2.5'),
        (dict(samples_per_class=1000), 'at most 10[0-9], as many as train'),
        (dict(image_size=0), 'image_size must be a whole number >= 1, got 0'),
    ],
)
def test_settings_out_of_range_are_refused(
    settings: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        len(Digits(**settings))


def test_a_missing_scikit_learn_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, 'sklearn.datasets', None)

    with pytest.raises(ImportError, match='pip install scikit-learn'):
        Digits()


def test_the_splits_have_the_sizes_that_the_docstring_names() -> None:
    assert len(paths(split='train')) == 1078
    assert len(paths(split='val')) == 719
