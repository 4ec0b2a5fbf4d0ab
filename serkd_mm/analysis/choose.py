# Copyright (c) The serkd_mm authors. All rights reserved.
"""Choose the tokens by which two networks are compared."""

from __future__ import annotations

import math

from .trace import NetworkTrace, TokenSource

# Cells of 2x2 tokens make at least 16 superpixels of a grid of this side.
_MIN_SIDE = 8
# Grids of one stride whose borders are cut or padded otherwise: 14 and 16,
# 17 and 19, 64 and 75.
_NEAR = 1.35

TokenPair = tuple[TokenSource, TokenSource]


def choose_tokens(
    student: NetworkTrace, teacher: NetworkTrace
) -> tuple[TokenPair, tuple[int, int]]:
    """Choose the tokens that are compared.

    Of equal grids the deepest that makes 16 superpixels of 2x2 tokens, or
    else the finest one. Without equal grids the same of those that differ by
    about a third at most in height and width, without these the two nearest in
    size, each on the coarser one of the two.

    Returns:
        Student's and teacher's tokens, and the grid to compare them on.

    Raises:
        ValueError: If the grids give less than four tokens.
    """
    pairs = [(s, t) for s in student.tokens for t in teacher.tokens]
    equal = [pair for pair in pairs if pair[0].hw == pair[1].hw]
    alike = equal or [pair for pair in pairs if _are_near(pair)]
    fine = [pair for pair in alike if min(_common(pair)) >= _MIN_SIDE]
    if fine:
        chosen = min(fine, key=_size)
    elif alike:
        chosen = max(alike, key=_size)
    elif pairs:
        chosen = min(pairs, key=_mismatch)
    hw = _common(chosen) if pairs else (0, 0)
    if math.prod(hw) < 4:
        raise ValueError(
            'no token grids to compare: the student has '
            f'{_grids(student)}, the teacher {_grids(teacher)}, and the '
            'relations need at least four tokens'
        )
    return chosen, hw


def _common(pair: TokenPair) -> tuple[int, int]:
    """The coarser grid of two, in each direction."""
    (height, width), (other_height, other_width) = (side.hw for side in pair)
    return min(height, other_height), min(width, other_width)


def _are_near(pair: TokenPair) -> bool:
    return all(max(c) <= _NEAR * min(c) for c in zip(*(s.hw for s in pair)))


def _size(pair: TokenPair) -> tuple[int, int]:
    """Tokens of the common grid, and of both: more of them, more rest."""
    return math.prod(_common(pair)), sum(math.prod(side.hw) for side in pair)


def _mismatch(pair: TokenPair) -> tuple:
    """How unlike two grids are; of equally unlike ones the coarser."""
    counts = [math.prod(side.hw) for side in pair]
    too_coarse = min(min(side.hw) for side in pair) < _MIN_SIDE
    return too_coarse, abs(math.log(counts[0] / counts[1])), min(counts)


def _grids(trace: NetworkTrace) -> str:
    grids = [by(tokens.hw) for tokens in trace.tokens]
    return ', '.join(grids) or 'no output that is a map or a grid of tokens'


def grid_notes(tokens: TokenPair, hw: tuple[int, int]) -> list[str]:
    """Sentences about grids: one that is resized, one too small to group."""
    notes = [
        f"No stage has the other's grid: the {side}'s {by(source.hw)} "
        f'tokens are resized to {by(hw)}, cell over cell.'
        for side, source in zip(('student', 'teacher'), tokens)
        if source.hw != hw
    ]
    if cell_of(hw) == 1:
        notes.append(
            f'Superpixels are single tokens: {by(hw)} are too few to be '
            'grouped.'
        )
    return notes


def cell_of(hw: tuple[int, int]) -> int:
    """Height and width of a superpixel's starting cell, in tokens."""
    return 2 if min(hw) >= 4 else 1


def by(pair: tuple[int, int]) -> str:
    """``14x14``."""
    return f'{pair[0]}x{pair[1]}'
