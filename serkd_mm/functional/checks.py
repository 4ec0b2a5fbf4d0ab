# Copyright (c) The serkd_mm authors. All rights reserved.
"""What the functions of this package refuse."""

from __future__ import annotations

from torch import Tensor


def check_tokens(name: str, tokens: Tensor, axes: str = '(B, N, C)') -> None:
    """Refuse what are no tokens.

    Args:
        name: What an error calls them.
        tokens: Tokens of a batch of images.
        axes: What an error calls their axes.

    Raises:
        TypeError: If they are no floating point tensor.
        ValueError: If they have not three axes or are empty.
    """
    check_floating(name, tokens)
    if tokens.dim() != 3 or tokens.numel() == 0:
        raise ValueError(
            f'{name} must be a non-empty {axes} tensor, got shape '
            f'{tuple(tokens.shape)}'
        )


def check_floating(name: str, tensor: Tensor) -> None:
    """Refuse integers, and what is no tensor.

    Raises:
        TypeError: If the tensor is not floating point.
    """
    if not isinstance(tensor, Tensor):
        cure = ''
        if isinstance(tensor, (tuple, list)):
            cure = (
                '; in loss_forward_mappings, data_idx names an item of a '
                'record and connector_idx one of what a connector gives '
                '(connector_idx=0: the tokens of a TokenMap)'
            )
        raise TypeError(
            f'{name} must be a tensor, got {type(tensor).__name__}{cure}'
        )
    if not tensor.is_floating_point():
        raise TypeError(f'{name} must be floating point, got {tensor.dtype}')


def check_logits(student: Tensor, teacher: Tensor) -> None:
    """Refuse logits that are no floating point tensors.

    Raises:
        TypeError: If a side is something else.
    """
    for name, logits in (('student', student), ('teacher', teacher)):
        check_floating(f'{name} logits', logits)


def check_number(name: str, value: float) -> None:
    """Refuse what is no number.

    Raises:
        TypeError: If it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f'{name} must be a number, got {value!r}')


def check_share(name: str, value: float) -> None:
    """Refuse what is no share of a whole.

    Raises:
        TypeError: If it is no number.
        ValueError: If it is not in [0, 1].
    """
    check_number(name, value)
    if not 0 <= value <= 1:
        raise ValueError(f'{name} must lie in [0, 1], got {value!r}')


def check_tau(tau: float) -> None:
    """Refuse what is no temperature.

    Raises:
        TypeError: If it is no number.
        ValueError: If it is not positive and finite.
    """
    check_number('tau', tau)
    if not 0 < tau < float('inf'):
        raise ValueError(f'tau must be a positive number, got {tau!r}')
