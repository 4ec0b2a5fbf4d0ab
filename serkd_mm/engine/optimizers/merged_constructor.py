# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

from typing import Any

from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

# What MMEngine's default constructor reads.
PARAMWISE_KEYS = (
    'bias_decay_mult',
    'bias_lr_mult',
    'bypass_duplicate',
    'custom_keys',
    'dcn_offset_lr_mult',
    'dwconv_decay_mult',
    'flat_decay_mult',
    'norm_decay_mult',
)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class MergedOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """The default constructor with equal parameter groups merged.

    With a ``paramwise_cfg`` MMEngine makes a group of every parameter, and
    PyTorch's optimizers, which work on all tensors of a group at once, work
    on one at a time. A DeiT has over 150 groups but two distinct settings.

    Args:
        optim_wrapper_cfg: As of
            :class:`mmengine.optim.DefaultOptimWrapperConstructor`.
        paramwise_cfg: Likewise; that one passes over keys of others.

    Raises:
        ValueError: If ``paramwise_cfg`` has a key that has no effect here.
    """

    def __init__(
        self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None
    ) -> None:
        super().__init__(optim_wrapper_cfg, paramwise_cfg)
        unknown = sorted({*(paramwise_cfg or ())} - {*PARAMWISE_KEYS})
        if unknown:
            raise ValueError(
                f'optim_wrapper.paramwise_cfg.{unknown[0]} has no effect in '
                f'{type(self).__name__}, which knows '
                f'{", ".join(PARAMWISE_KEYS)}; set optim_wrapper.constructor '
                'to the one that takes it, such as '
                "'LearningRateDecayOptimWrapperConstructor' for "
                'layer_decay_rate'
            )

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
