# Copyright (c) The serkd_mm authors. All rights reserved.
"""Positions with which attention can be a convolution."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from serkd_mm.functional import nearest_offsets, position_scores


def test_nine_offsets_are_the_places_of_a_3x3_kernel() -> None:
    offsets = nearest_offsets(9).int().tolist()

    window = [[y, x] for y in (-1, 0, 1) for x in (-1, 0, 1)]
    assert sorted(offsets) == window
    assert offsets[0] == [0, 0]
    assert nearest_offsets(1).tolist() == [[0, 0]]


def test_the_scores_are_those_worked_out_by_hand() -> None:
    # One row of three places, one head that looks one place to the right.
    scores = position_scores(
        (1, 3), torch.tensor([0.5]), torch.tensor([[0.0, 1.0]])
    )

    # -0.5 (d^2 - 2 d) for d = there - here.
    by_offset = {-2: -4.0, -1: -1.5, 0: 0.0, 1: 0.5, 2: 0.0}
    expected = [[by_offset[j - i] for j in range(3)] for i in range(3)]
    assert scores.tolist() == [expected]


def test_a_head_prefers_the_place_of_its_center() -> None:
    centers = nearest_offsets(9)
    scores = position_scores((5, 6), torch.full((9,), 2.0), centers)

    for h, (row, col) in enumerate(centers.int().tolist()):
        for y in range(1, 4):
            for x in range(1, 5):
                best = int(scores[h, y * 6 + x].argmax())
                assert best == (y + row) * 6 + x + col


def test_sharpness_zero_leaves_attention_to_the_content() -> None:
    scores = position_scores((3, 4), torch.zeros(2), torch.randn(2, 2))

    assert torch.equal(scores, torch.zeros(2, 12, 12))


def test_attention_of_nine_sharp_heads_is_a_convolution() -> None:
    """The theorem that the form of the positions comes from."""
    height, width, channels = 5, 6, 4
    maps = torch.randn(2, channels, height, width).double()
    kernel = torch.randn(7, channels, 3, 3).double()
    offsets = nearest_offsets(9).double()
    scores = position_scores(
        (height, width), torch.full((9,), 50.0).double(), offsets
    )

    tokens = maps.flatten(2).transpose(1, 2)
    attended = scores.softmax(-1) @ tokens.unsqueeze(1)
    # Every head's share of the output projection is a place of the kernel.
    taps = torch.stack(
        [kernel[:, :, 1 + y, 1 + x] for y, x in offsets.int().tolist()]
    )
    output = torch.einsum('bhnc,hoc->bon', attended, taps)

    expected = F.conv2d(maps, kernel)
    inside = output.unflatten(2, (height, width))[:, :, 1:-1, 1:-1]
    torch.testing.assert_close(inside, expected)


def test_the_gradient_is_the_numerical_one() -> None:
    sharpness = torch.rand(3).double().requires_grad_()
    centers = torch.randn(3, 2).double().requires_grad_()

    assert torch.autograd.gradcheck(
        lambda a, c: position_scores((2, 3), a, c), (sharpness, centers)
    )


@pytest.mark.parametrize(
    ('sharpness', 'centers'), [((3,), (2, 2)), ((3,), (3,)), ((1, 3), (3, 2))]
)
def test_heads_that_differ_in_number_are_refused(
    sharpness: tuple, centers: tuple
) -> None:
    with pytest.raises(ValueError, match=r'\(heads,\) and \(heads, 2\)') as e:
        position_scores((2, 2), torch.zeros(sharpness), torch.zeros(centers))
    assert f'{sharpness} and {centers}' in str(e.value)


@pytest.mark.parametrize('count', [0, -1])
def test_no_offsets_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f'positive integer, got {count}'):
        nearest_offsets(count)
