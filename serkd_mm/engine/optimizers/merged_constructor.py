# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

from typing import Any

from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class MergedOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """The default constructor with equal parameter groups merged.

    With a ``paramwise_cfg`` MMEngine makes a group of every parameter, and
    PyTorch's optimizers, which work on all tensors of a group at once, work
    on one at a time. A DeiT has over 150 groups but two distinct settings.

    Arguments are those of
    :class:`mmengine.optim.DefaultOptimWrapperConstructor`.
    """

    def add_params(
        self,
        params: list[dict],
        module: nn.Module,
        prefix: str = '',
        is_dcn_module: Any = None,
    ) -> None:
        """Add the groups of a module; those of the whole model merged."""
        super().add_params(params, module, prefix, is_dcn_module)
        if not prefix:
            params[:] = merge_groups(params)


def merge_groups(groups: list[dict]) -> list[dict]:
    """Merge parameter groups that differ in their parameters alone.

    Args:
        groups: Groups as optimizers take them.

    Returns:
        Groups in the order of their first appearance, parameters in theirs.

    Example:
        >>> merge_groups(
        ...     [
        ...         {'params': [1], 'lr': 0.1},
        ...         {'params': [2]},
        ...         {'params': [3], 'lr': 0.1},
        ...     ]
        ... )
        [{'lr': 0.1, 'params': [1, 3]}, {'params': [2]}]
    """
    merged: dict[str, dict] = {}
    for group in groups:
        settings = {k: v for k, v in group.items() if k != 'params'}
        key = repr(sorted(settings.items()))
        merged.setdefault(key, {**settings, 'params': []})
        merged[key]['params'] += group['params']
    return list(merged.values())
