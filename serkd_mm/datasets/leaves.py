# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def leaf_datasets(dataset: Any) -> Iterator[Any]:
    """Datasets inside wrappers, such as RepeatDataset or ConcatDataset.

    Args:
        dataset: A dataset, wrapped any number of times or not at all.
    """
    parts = getattr(dataset, 'datasets', None)
    if parts is None and hasattr(dataset, 'dataset'):
        parts = [dataset.dataset]
    if parts is None:
        yield dataset
    else:
        for part in parts:
            yield from leaf_datasets(part)
