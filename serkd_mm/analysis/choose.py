# Copyright (c) The serkd_mm authors. All rights reserved.
"""Choose the tokens by which two networks are compared."""

from __future__ import annotations

import math

from .trace import NetworkTrace, TokenSource

# Cells of 2x2 tokens make at least 16 superpixels of a grid of this side.
_MIN_SIDE = 8

TokenPair = tuple[TokenSource, TokenSource]


def choose_tokens(
    student: NetworkTrace, teacher: NetworkTrace
) -> tuple[TokenPair, tuple[int, int]]:
    """Choose the tokens that are compared.

    Of equal grids the deepest that makes 16 superpixels of 2x2 tokens, or
    else the finest one. Without equal grids those nearest in size, on the
    coarser one of the two.

    Returns:
        Student's and teacher's tokens, and the grid to compare them on.

    Raises:
        ValueError: If the grids give less than four tokens.
    """
    pairs = [(s, t) for s in student.tokens for t in teacher.tokens]
    equal = [pair for pair in pairs if pair[0].hw == pair[1].hw]
    fine = [pair for pair in equal if min(pair[0].hw) >= _MIN_SIDE]
    if fine:
        chosen = min(fine, key=lambda pair: math.prod(pair[0].hw))
    elif equal:
        chosen = max(equal, key=lambda pair: math.prod(pair[0].hw))
    elif pairs:
        chosen = min(pairs, key=_mismatch)
    hw = (0, 0)
    if pairs:
        s, t = chosen
        hw = (min(s.hw[0], t.hw[0]), min(s.hw[1], t.hw[1]))
    if math.prod(hw) < 4:
        raise ValueError(
            'no token grids to compare: the student has '
            f'{_grids(student)}, the teacher {_grids(teacher)}, and the '
            'relations need at least four tokens'
        )
    return chosen, hw


def _mismatch(pair: TokenPair) -> tuple:
    """How unlike two grids are; of equally unlike ones the coarser."""
    counts = [math.prod(side.hw) for side in pair]
    too_coarse = min(min(side.hw) for side in pair) < _MIN_SIDE
    return too_coarse, abs(math.log(counts[0] / counts[1])), min(counts)


def _grids(trace: NetworkTrace) -> str:
    grids = [by(tokens.hw) for tokens in trace.tokens]
    return ', '.join(grids) or 'no output that is a map or a grid of tokens'


def grid_notes(tokens: TokenPair, hw: tuple[int, int]) -> list[str]:
    """A sentence for a side whose tokens change their grid."""
    return [
        f"No stage has the other's grid: the {side}'s {by(source.hw)} "
        f'tokens are resized to {by(hw)}, cell over cell.'
        for side, source in zip(('student', 'teacher'), tokens)
        if source.hw != hw
    ]


def by(pair: tuple[int, int]) -> str:
    """``14x14``."""
    return f'{pair[0]}x{pair[1]}'
