# Copyright (c) The serkd_mm authors. All rights reserved.
"""Which tokens of two networks are compared."""

from __future__ import annotations

import pytest

from serkd_mm.analysis import NetworkTrace, TokenSource
from serkd_mm.analysis.choose import choose_tokens, grid_notes


def trace(*sides: int | tuple[int, int]) -> NetworkTrace:
    grids = [(s, s) if isinstance(s, int) else s for s in sides]
    tokens = [TokenSource(f'{hw}', hw, 8, 0, True) for hw in grids]
    return NetworkTrace(tuple(tokens), None, None)


CNN = trace(112, 56, 28, 14, 7)


@pytest.mark.parametrize(
    ('student', 'teacher', 'chosen', 'grid'),
    [
        # 7x7 gives 4x4 superpixels, whose last row holds half as much.
        (CNN, CNN, (14, 14), 14),
        (CNN, trace(14), (14, 14), 14),
        (trace(7), CNN, (7, 7), 7),
        (trace(8, 4, 2), trace(8, 4, 2), (8, 8), 8),
        (trace(4, 2), trace(4, 2), (4, 4), 4),
        (CNN, trace(16), (14, 16), 14),
        (trace(16), CNN, (16, 14), 14),
        (trace(14), trace(37), (14, 37), 14),
        # 300 pixels: patches of 16 leave a rest, strides of 16 do not.
        (trace(150, 75, 38, 19, 10), trace(18), (19, 18), 18),
        # The shallow grids differ least, and have tens of thousands of tokens.
        (trace(150, 75, 38, 19, 10), trace(149, 71, 35, 17, 8), (10, 8), 8),
        (trace(64, 32, 16, 8), trace(62, 29, 14, 6), (16, 14), 14),
        (trace(5, 2), trace(4, 1), (5, 4), 4),
        (trace(12), trace(96, 48, 24), (12, 24), 12),
    ],
)
def test_equal_grids_come_first_and_near_ones_next(
    student: NetworkTrace, teacher: NetworkTrace, chosen: tuple, grid: int
) -> None:
    pair, hw = choose_tokens(student, teacher)

    assert tuple(tokens.hw[0] for tokens in pair) == chosen
    assert hw == (grid, grid)


def test_the_common_grid_is_the_coarser_one_in_both_directions() -> None:
    pair, hw = choose_tokens(trace((14, 20)), trace((16, 18)))

    assert hw == (14, 18)
    notes = grid_notes(pair, hw)
    assert ["student's 14x20" in n for n in notes] == [True, False]
    assert "teacher's 16x18 tokens are resized to 14x18" in notes[1]


@pytest.mark.parametrize(
    ('student', 'teacher'),
    [(trace(), CNN), (CNN, trace()), (trace((1, 3)), CNN)],
)
def test_too_few_tokens_say_what_there_is(
    student: NetworkTrace, teacher: NetworkTrace
) -> None:
    with pytest.raises(ValueError, match='no token grids to compare') as error:
        choose_tokens(student, teacher)
    assert '112x112, 56x56, 28x28, 14x14, 7x7' in str(error.value)
