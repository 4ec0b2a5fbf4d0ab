# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

from typing import Any

from mmengine.dataset import BaseDataset
from mmpretrain.registry import DATASETS

from .leaves import leaf_datasets
from .transforms import BrokenImageError, LoadCheckedImage


@DATASETS.register_module()
class SkipBrokenImages:
    """A training set whose broken images are replaced, counted and named.

    In place of an image that :class:`LoadCheckedImage` refuses stands the
    next one of the dataset that it loads, so batches stay full, all ranks
    make the same number of steps and the epoch has the length that it says.
    The sample carries the broken file's name and fault, which
    :class:`serkd_mm.engine.BrokenImagesHook` counts and logs over all workers
    and ranks. MMEngine's own way, a transform that returns None, draws a
    random other image without a word.

    Args:
        dataset: Dataset, or its config, whose pipeline loads images with
            :class:`LoadCheckedImage` and ends in ``PackInputs``.
        max_in_a_row: How many broken images in a row are passed over. One
            more ends training: then it is the storage that is broken.

    Raises:
        ValueError: If the pipeline has no :class:`LoadCheckedImage`, or
            ``max_in_a_row`` is negative.
    """

    def __init__(
        self, dataset: BaseDataset | dict, max_in_a_row: int = 10
    ) -> None:
        if max_in_a_row < 0:
            raise ValueError(f'max_in_a_row must be >= 0, got {max_in_a_row}')
        if isinstance(dataset, dict):
            dataset = DATASETS.build(dataset)
        self.dataset = dataset
        self.max_in_a_row = max_in_a_row
        for leaf in leaf_datasets(dataset):
            pipeline = getattr(leaf, 'pipeline', None)
            transforms = getattr(pipeline, 'transforms', ())
            if not any(isinstance(t, LoadCheckedImage) for t in transforms):
                names = [type(transform).__name__ for transform in transforms]
                raise ValueError(
                    'SkipBrokenImages needs pipelines with LoadCheckedImage, '
                    f'which tells broken images; {type(leaf).__name__} has '
                    f"{names}: write dict(type='LoadCheckedImage') instead "
                    'of LoadImageFromFile'
                )

    @property
    def metainfo(self) -> dict:
        """Meta information of the dataset."""
        return self.dataset.metainfo

    def full_init(self) -> None:
        """Load the dataset's annotation."""
        self.dataset.full_init()

    def get_data_info(self, idx: int) -> dict:
        """Annotation of an image, broken or not."""
        return self.dataset.get_data_info(idx)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, idx: int) -> dict[str, Any]:
        """Sample of an image or of the next one that is not broken.

        Raises:
            BrokenImageError: If there is none among the next
                ``max_in_a_row``.
        """
        faults: list[str] = []
        for step in range(self.max_in_a_row + 1):
            try:
                sample = self.dataset[(idx + step) % len(self)]
            except BrokenImageError as error:
                faults.append(error.fault)
                continue
            if faults:
                path = self.dataset.get_data_info(idx)['img_path']
                sample['data_samples'].set_metainfo(
                    dict(replaces=path, fault=faults[0])
                )
            return sample
        path = self.dataset.get_data_info(idx)['img_path']
        raise BrokenImageError(
            f'{self.max_in_a_row + 1} images in a row are broken, so the '
            f'storage may be; the first is {path!r}: {faults[0]}'
        )
