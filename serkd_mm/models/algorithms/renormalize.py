# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

import logging

import torch
from mmengine.logging import print_log
from torch import Tensor, nn


class Renormalize(nn.Module):
    """Turn a batch normalised for one network into another's normalisation.

    With ``x = (image - mean) / std`` of the source, returns
    ``(image - target_mean) / target_std`` as one multiply-add per channel.

    Args:
        scale: Factor per source channel, ``(3,)`` or ``(1,)``.
        shift: Summand per source channel, same shape.
        flip: Whether to reverse the channel order afterwards.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, scale: Tensor, shift: Tensor, flip: bool) -> None:
        super().__init__()
        self.flip = flip
        for name, value in (('scale', scale), ('shift', shift)):
            buffer = value.float().reshape(1, -1, 1, 1)
            self.register_buffer(name, buffer, persistent=False)

    @classmethod
    def between(
        cls, source: nn.Module | None, target: nn.Module | None
    ) -> Renormalize | None:
        """Build the change from one data preprocessor to another.

        Args:
            source: Preprocessor that made the batch.
            target: Preprocessor whose normalisation is wanted. One without
                ``mean`` and ``std`` (MMPretrain's default when a config names
                none) wants the batch as it is, or in RGB with ``to_rgb``.

        Returns:
            The module, or None where nothing has to change.
        """
        flip = converts_to_rgb(source) != converts_to_rgb(target)
        if not normalizes(target):
            if flip and converts_to_rgb(target):
                return cls(torch.ones(1), torch.zeros(1), flip)
            return None
        mean, std = _statistics(source)
        target_mean, target_std = _statistics(target)
        if flip:
            target_mean, target_std = target_mean.flip(0), target_std.flip(0)
        scale, shift = std / target_std, (mean - target_mean) / target_std
        unchanged = bool((scale == 1).all()) and bool((shift == 0).all())
        return None if unchanged and not flip else cls(scale, shift, flip)

    def forward(self, inputs: Tensor) -> Tensor:
        """Re-normalise a batch ``(B, C, H, W)``, out of place."""
        outputs = torch.addcmul(self.shift, inputs, self.scale)
        return outputs.flip(1) if self.flip else outputs


def _statistics(preprocessor: nn.Module | None) -> tuple[Tensor, Tensor]:
    """Mean and std in float64, ``(C,)``; 0 and 1 without normalisation."""
    if preprocessor is None or not normalizes(preprocessor):
        return torch.zeros(1).double(), torch.ones(1).double()
    mean, std = (
        getattr(preprocessor, name).flatten().double().cpu()
        for name in ('mean', 'std')
    )
    return mean, std


def normalizes(preprocessor: nn.Module | None) -> bool:
    """Whether a preprocessor has a mean and a standard deviation."""
    names = ('mean', 'std')
    return all(getattr(preprocessor, n, None) is not None for n in names)


def describe_normalization(preprocessor: nn.Module | None) -> str:
    """What a preprocessor makes of a batch, in a few words.

    Example:
        >>> describe_normalization(None)
        'mean [0], std [1], to_rgb=False'
    """
    mean, std = (
        ', '.join(f'{value:g}' for value in values.tolist())
        for values in _statistics(preprocessor)
    )
    return (
        f'mean [{mean}], std [{std}], to_rgb={converts_to_rgb(preprocessor)}'
    )


def converts_to_rgb(preprocessor: nn.Module | None) -> bool:
    """Whether a preprocessor takes BGR and makes RGB of it."""
    # MMPretrain's name and that of MMEngine's ImgDataPreprocessor.
    names = ('to_rgb', '_channel_conversion')
    return any(getattr(preprocessor, name, False) for name in names)


def find_renormalization(
    own: nn.Module | None, theirs: nn.Module | None
) -> Renormalize | None:
    """How the student's batch becomes the teacher's, said in the log.

    Args:
        own: The student's data preprocessor.
        theirs: The teacher's.

    Returns:
        The module, or None where they normalise alike.
    """
    renormalize = Renormalize.between(own, theirs)
    if normalizes(own) and not normalizes(theirs):
        print_log(
            "The teacher's data_preprocessor has no mean and std, so it gets "
            f"the student's normalisation: {describe_normalization(own)}. If "
            'it has learned from pixels of 0 to 255, set mean=[0, 0, 0] and '
            'std=[1, 1, 1] there.',
            logger='current',
        )
    if renormalize is None:
        return None
    print_log(
        'The teacher gets the batch in its own normalisation: '
        f'{describe_normalization(theirs)}; the student has '
        f'{describe_normalization(own)}.',
        logger='current',
    )
    if (getattr(own, 'pad_size_divisor', None) or 1) > 1:
        print_log(
            'data_preprocessor.pad_size_divisor pads images after they are '
            'normalised, so the padding has another value for the teacher '
            "than in the teacher's own normalisation; take the teacher's mean "
            'and std, or images that need no padding',
            logger='current',
            level=logging.WARNING,
        )
    return renormalize
