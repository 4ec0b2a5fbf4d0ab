# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

from typing import Any

import mmcv
import numpy as np
from mmpretrain.datasets import BaseDataset
from mmpretrain.registry import DATASETS

SPLITS = ('train', 'val')


@DATASETS.register_module()
class Digits(BaseDataset):
    """Handwritten digits that ship inside scikit-learn.

    The 1,797 images of 8x8 pixels of the UCI Optical Recognition of
    Handwritten Digits test set, upscaled, as three equal channels. The split
    is fixed and stratified: of every class a fixed random 60 % train, the
    rest validates.

    Args:
        split: ``'train'`` (1,078 images) or ``'val'`` (719 images).
        samples_per_class: Size of the training subset per class, the first of
            the fixed order, so that smaller subsets lie within larger ones.
            None takes all.
        subset_seed: Seed of the order that the training subset is taken from,
            for another choice of images. None is the fixed order.
        image_size: Height and width to upscale to, in pixels.
        kwargs: Further arguments of :class:`mmpretrain.datasets.BaseDataset`.

    Raises:
        ImportError: If scikit-learn is not installed.
        ValueError: If ``split``, ``samples_per_class`` or ``image_size`` is
            out of range.
    """

    METAINFO = {'classes': tuple('0123456789')}

    def __init__(
        self,
        split: str = 'train',
        samples_per_class: int | None = None,
        subset_seed: int | None = None,
        image_size: int = 32,
        **kwargs: Any,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(
                f'split must be one of {list(SPLITS)}, got {split!r}'
            )
        for name, number in (
            ('samples_per_class', samples_per_class),
            ('image_size', image_size),
        ):
            whole = isinstance(number, int) and number >= 1
            if number is not None and not whole:
                raise ValueError(
                    f'{name} must be a whole number >= 1, got {number}'
                )
        self.split = split
        self.samples_per_class = samples_per_class
        self.subset_seed = subset_seed
        self.image_size = image_size
        super().__init__(ann_file='', test_mode=split == 'val', **kwargs)

    def load_data_list(self) -> list[dict]:
        """Load the images of the split.

        Returns:
            One dict per image: ``img`` (image_size, image_size, 3) uint8,
            ``gt_label`` int and ``img_path``,
            naming the index in scikit-learn's data set.
        """
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise ImportError(
                'the Digits dataset ships with scikit-learn; install it with '
                '"pip install scikit-learn"'
            ) from error
        images, labels = load_digits(return_X_y=True)
        images = (images.reshape(-1, 8, 8) * (255 / 16)).round()
        size = (self.image_size, self.image_size)
        return [
            dict(
                img=_upscale(images[index], size),
                gt_label=int(labels[index]),
                img_path=f'digits/{index}',
            )
            for index in self._split_indices(labels)
        ]

    def _split_indices(self, labels: np.ndarray) -> list[int]:
        """Indices of the split in ascending order."""
        rng = np.random.RandomState(0)
        chosen: list[int] = []
        for label in range(10):
            of_class = rng.permutation(np.flatnonzero(labels == label))
            cut = round(0.6 * len(of_class))
            if self.split == 'train':
                chosen += self._subset(of_class[:cut], label)
            else:
                chosen += of_class[cut:].tolist()
        return sorted(chosen)

    def _subset(self, of_class: np.ndarray, label: int) -> list[int]:
        if self.subset_seed is not None:
            rng = np.random.RandomState([self.subset_seed, label])
            of_class = rng.permutation(of_class)
        wanted = self.samples_per_class
        if wanted is not None and wanted > len(of_class):
            raise ValueError(
                f'samples_per_class must be at most {len(of_class)}, as many '
                f'as train of class {label}, got {wanted}'
            )
        return of_class[:wanted].tolist()


def _upscale(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    large = mmcv.imresize(image, size, interpolation='bicubic', backend='cv2')
    large = np.clip(large, 0, 255).round().astype(np.uint8)
    return np.repeat(large[:, :, None], 3, axis=2)
